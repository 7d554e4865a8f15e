//! Names of the suites and groups that a site offers, from their code points.
//!
//! Knows those that the product serves (RFC 8446, RFC 5289, RFC 7905); another one is shown as its number. Invariant:
//! TLS 1.3's suites are those with the first byte 0x13.

use keyhaven_types::{HashAlgorithm, NamedGroup, SignatureScheme};

/// The code point of X25519MLKEM768 (draft-ietf-tls-ecdhe-mlkem).
pub(super) const X25519_ML_KEM_768: u16 = 0x11ec;

/// Whether a suite is one of TLS 1.3.
pub(super) fn is_tls13(suite: u16) -> bool {
    suite >> 8 == 0x13
}

/// The suite's name in IANA's registry.
pub(super) fn suite(code: u16) -> String {
    let name = match code {
        0x1301 => "TLS_AES_128_GCM_SHA256",
        0x1302 => "TLS_AES_256_GCM_SHA384",
        0x1303 => "TLS_CHACHA20_POLY1305_SHA256",
        0xc02b => "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
        0xc02c => "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
        0xc02f => "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
        0xc030 => "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
        0xcca8 => "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
        0xcca9 => "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        _ => return format!("{code:#06x}"),
    };
    name.to_owned()
}

/// The group's name.
pub(super) fn group(code: u16) -> String {
    if code == X25519_ML_KEM_768 {
        return "x25519mlkem768".to_owned();
    }
    let known = NamedGroup::ALL.iter().find(|&&group| group as u16 == code);
    known.map_or_else(|| format!("{code:#06x}"), |group| group.as_str().to_owned())
}

/// The hash's name, for people.
pub(super) fn hash(hash: HashAlgorithm) -> &'static str {
    match hash {
        HashAlgorithm::Sha256 => "SHA-256",
        HashAlgorithm::Sha384 => "SHA-384",
    }
}

/// The schemes' names in IANA's registry, in one line.
pub(super) fn schemes(schemes: &[SignatureScheme]) -> String {
    let name = |scheme| {
        let value = serde_json::to_value(scheme).ok();
        value
            .as_ref()
            .and_then(serde_json::Value::as_str)
            .map_or_else(|| format!("{scheme:?}"), str::to_owned)
    };
    schemes.iter().map(name).collect::<Vec<_>>().join(", ")
}

/// The ciphers of the suites whose key schedule runs on this hash, in both versions.
pub(super) fn ciphers(hash: HashAlgorithm) -> &'static [&'static str] {
    match hash {
        HashAlgorithm::Sha256 => &["AES_128_GCM_SHA256", "CHACHA20_POLY1305_SHA256"],
        HashAlgorithm::Sha384 => &["AES_256_GCM_SHA384"],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_registry_and_a_stranger_is_a_number() {
        assert_eq!(suite(0x1301), "TLS_AES_128_GCM_SHA256");
        assert!(is_tls13(0x1303) && !is_tls13(0xc02b));
        assert_eq!(suite(0x00ff), "0x00ff");
        assert_eq!(group(0x001d), "x25519");
        assert_eq!(group(0x11ec), "x25519mlkem768");
        assert_eq!(group(0x1234), "0x1234");
        let two = [SignatureScheme::Ed25519, SignatureScheme::RsaPssRsaeSha256];
        assert_eq!(schemes(&two), "ed25519, rsa_pss_rsae_sha256");
    }
}
