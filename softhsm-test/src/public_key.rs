//! Public keys out of what `pkcs11-tool` lists.
//!
//! Knows the three kinds of elliptic curve keys that the tests use; RSA keys `pkcs11-tool` writes by itself.

/// The public value of the elliptic curve key with this label in what `pkcs11-tool` lists, and what stands before
/// it in its SubjectPublicKeyInfo.
pub(crate) fn listed_point(listed: &str, label: &str) -> Option<(&'static [u8], Vec<u8>)> {
    let mut objects = listed.split("Public Key Object");
    let has_label = |line: &str| line.trim().strip_prefix("label:").map(str::trim) == Some(label);
    let object = objects.find(|object| object.lines().any(has_label))?;
    let digits = object
        .split("EC_POINT:")
        .nth(1)?
        .split_whitespace()
        .next()?;
    let octets: Option<Vec<u8>> = (0..digits.len() / 2)
        .map(|at| u8::from_str_radix(digits.get(2 * at..2 * at + 2)?, 16).ok())
        .collect();
    let octets = octets?;
    let point = match octets.len() {
        // PKCS#11 3.0 wants an Edwards point as it is; older modules wrap it in an octet string as any other.
        32 => octets,
        _ => octets.get(2..)?.to_vec(),
    };
    let prefix = match point.len() {
        65 => P256_SPKI,
        97 => P384_SPKI,
        32 => ED25519_SPKI,
        _ => return None,
    };
    Some((prefix, point))
}

/// What stands before the point in a SubjectPublicKeyInfo (RFC 5480, RFC 8410).
const P256_SPKI: &[u8] = b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00";
const P384_SPKI: &[u8] =
    b"\x30\x76\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x22\x03\x62\x00";
const ED25519_SPKI: &[u8] = b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00";
