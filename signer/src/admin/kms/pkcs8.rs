//! A key's numbers as PKCS#8 (RFC 5208), the form in which keys travel wrapped.
//!
//! Invariant: every buffer that held a private number is wiped.

use keyhaven_hsm::admin::{Curve, KeyMaterial};
use zeroize::Zeroizing;

type Der = Zeroizing<Vec<u8>>;

/// PrivateKeyInfo, DER.
pub(super) fn encode(key: &KeyMaterial) -> Der {
    match key {
        KeyMaterial::Rsa(rsa) => {
            let numbers = [
                rsa.modulus.as_slice(),
                &rsa.public_exponent,
                &rsa.private_exponent,
                &rsa.prime1,
                &rsa.prime2,
                &rsa.exponent1,
                &rsa.exponent2,
                &rsa.coefficient,
            ];
            let mut body = vec![integer(&[0])];
            body.extend(numbers.map(integer));
            info(RSA_ENCRYPTION, &tagged(SEQUENCE, &body))
        }
        KeyMaterial::Ec(ec) => {
            let algorithm = match ec.curve {
                Curve::P256 => EC_P256,
                Curve::P384 => EC_P384,
            };
            let body = [integer(&[1]), tagged(OCTET_STRING, &[plain(&ec.scalar)])];
            info(algorithm, &tagged(SEQUENCE, &body))
        }
        KeyMaterial::Ed25519(ed) => info(ED25519, &tagged(OCTET_STRING, &[plain(&ed.seed)])),
    }
}

fn info(algorithm: &[u8], key: &Der) -> Der {
    let parts = [
        integer(&[0]),
        plain(algorithm),
        tagged(OCTET_STRING, &[Zeroizing::new(key.to_vec())]),
    ];
    tagged(SEQUENCE, &parts)
}

/// A positive INTEGER, minimal.
fn integer(number: &[u8]) -> Der {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    let digits = &number[zeros..];
    let sign = digits.first().is_none_or(|first| *first >= 0x80);
    let mut content = Zeroizing::new(Vec::with_capacity(digits.len() + 1));
    if sign {
        content.push(0);
    }
    content.extend_from_slice(digits);
    tagged(INTEGER, &[content])
}

fn plain(bytes: &[u8]) -> Der {
    Zeroizing::new(bytes.to_vec())
}

/// One element: tag, length, and its parts one after the other, in a buffer that is made once.
fn tagged(tag: u8, parts: &[Der]) -> Der {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    let mut out = Zeroizing::new(Vec::with_capacity(len + 4));
    out.push(tag);
    match len {
        // No key that is taken is longer than 64 KiB.
        0x100.. => out.extend_from_slice(&[0x82, (len >> 8) as u8, len as u8]),
        0x80.. => out.extend_from_slice(&[0x81, len as u8]),
        _ => out.push(len as u8),
    }
    for part in parts {
        out.extend_from_slice(part);
    }
    out
}

const INTEGER: u8 = 0x02;
const OCTET_STRING: u8 = 0x04;
const SEQUENCE: u8 = 0x30;
/// AlgorithmIdentifiers (RFC 3279, RFC 5480, RFC 8410).
const RSA_ENCRYPTION: &[u8] = &[
    0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00,
];
const EC_P256: &[u8] = &[
    0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48,
    0xce, 0x3d, 0x03, 0x01, 0x07,
];
const EC_P384: &[u8] = &[
    0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b, 0x81, 0x04,
    0x00, 0x22,
];
const ED25519: &[u8] = &[0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70];

#[cfg(test)]
mod tests {
    use rcgen::{
        KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256,
    };

    use super::*;
    use crate::admin::keyfile;

    #[test]
    fn what_was_read_is_written_so_that_it_is_read_as_the_same() {
        for algorithm in [
            &PKCS_ECDSA_P256_SHA256,
            &PKCS_ECDSA_P384_SHA384,
            &PKCS_ED25519,
            &PKCS_RSA_SHA256,
        ] {
            let pair = KeyPair::generate_for(algorithm).unwrap();
            let read = keyfile::parse(&pair.serialize_der(), None).unwrap().key;
            let written = encode(&read);
            let again = keyfile::parse(&written, None).unwrap().key;
            assert_eq!(again.spki(), read.spki());
            assert_eq!(*encode(&again), *written);
        }
    }
}
