//! Public keys between PKCS#11 attributes and SubjectPublicKeyInfo.
//!
//! Encodes a little DER and reads the few shapes that tokens give; certificates are read by x509-parser. Invariant:
//! bytes from a token end in an `Option`, never in a panic.

use keyhaven_types::KeyAlgorithm;

use super::material::Curve;

/// CKA_EC_PARAMS of the curves, and the parameters in an SPKI.
pub(crate) const P256_PARAMS: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
pub(crate) const P384_PARAMS: &[u8] = &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22];
/// 1.3.101.112, as SoftHSM2 and PKCS#11 3.x name edwards25519.
pub(crate) const ED25519_PARAMS: &[u8] = &[0x06, 0x03, 0x2b, 0x65, 0x70];
/// PrintableString "edwards25519", the other spelling of PKCS#11 3.0.
const ED25519_NAME: &[u8] = b"\x13\x0cedwards25519";

/// rsaEncryption with NULL parameters.
const RSA_ALGORITHM: &[u8] = &[
    0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00,
];
/// id-ecPublicKey.
const EC_ALGORITHM_OID: &[u8] = &[0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;

/// The public part of an RSA key.
pub(crate) fn rsa_spki(modulus: &[u8], exponent: &[u8]) -> Vec<u8> {
    let numbers = [unsigned(modulus), unsigned(exponent)].concat();
    spki(RSA_ALGORITHM, &tlv(SEQUENCE, &numbers))
}

/// The public part of an ECDSA key; the point is uncompressed.
pub(crate) fn ec_spki(curve: Curve, point: &[u8]) -> Vec<u8> {
    let parameters = match curve {
        Curve::P256 => P256_PARAMS,
        Curve::P384 => P384_PARAMS,
    };
    let algorithm = tlv(SEQUENCE, &[EC_ALGORITHM_OID, parameters].concat());
    spki(&algorithm, point)
}

/// The public part of an Ed25519 key.
pub(crate) fn ed25519_spki(public: &[u8]) -> Vec<u8> {
    spki(&tlv(SEQUENCE, ED25519_PARAMS), public)
}

/// Which kind of elliptic-curve key CKA_EC_PARAMS speaks of, if it is one that is served.
pub(crate) fn algorithm_of_params(params: &[u8]) -> Option<KeyAlgorithm> {
    match params {
        P256_PARAMS => Some(KeyAlgorithm::EcdsaP256),
        P384_PARAMS => Some(KeyAlgorithm::EcdsaP384),
        ED25519_PARAMS | ED25519_NAME => Some(KeyAlgorithm::Ed25519),
        _ => None,
    }
}

/// The SPKI for CKA_EC_PARAMS and CKA_EC_POINT; the point may stand in an OCTET STRING, as the standard wants, or
/// bare, as some tokens give it.
pub(crate) fn spki_of_point(params: &[u8], point: &[u8]) -> Option<Vec<u8>> {
    let algorithm = algorithm_of_params(params)?;
    let (curve, len) = match algorithm {
        KeyAlgorithm::EcdsaP256 => (Some(Curve::P256), 65),
        KeyAlgorithm::EcdsaP384 => (Some(Curve::P384), 97),
        KeyAlgorithm::Ed25519 => (None, 32),
        KeyAlgorithm::Rsa(_) => return None,
    };
    let bare = match point {
        [OCTET_STRING, n, rest @ ..] if rest.len() == len && usize::from(*n) == len => rest,
        _ if point.len() == len => point,
        _ => return None,
    };
    match curve {
        Some(curve) => (bare.first() == Some(&4)).then(|| ec_spki(curve, bare)),
        None => Some(ed25519_spki(bare)),
    }
}

/// CKA_EC_POINT as the standard wants it: the point in an OCTET STRING.
pub(crate) fn ec_point(point: &[u8]) -> Vec<u8> {
    tlv(OCTET_STRING, point)
}

/// The number of bits of a big-endian integer. Beyond 65535 it says 65535, which no check lets pass.
pub(crate) fn bit_length(number: &[u8]) -> u16 {
    let significant = strip_zeros(number);
    let bits = match significant.first() {
        Some(first) => significant.len() * 8 - first.leading_zeros() as usize,
        None => 0,
    };
    u16::try_from(bits).unwrap_or(u16::MAX)
}

/// A big-endian integer without leading zeros.
pub(crate) fn strip_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros..]
}

fn spki(algorithm: &[u8], key: &[u8]) -> Vec<u8> {
    let bits = tlv(BIT_STRING, &[&[0], key].concat());
    tlv(SEQUENCE, &[algorithm, &bits].concat())
}

fn unsigned(number: &[u8]) -> Vec<u8> {
    let number = strip_zeros(number);
    match number.first() {
        Some(first) if first & 0x80 == 0 => tlv(INTEGER, number),
        _ => tlv(INTEGER, &[&[0], number].concat()),
    }
}

fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    let len = content.len();
    if let (Ok(short), true) = (u8::try_from(len), len < 0x80) {
        out.push(short);
    } else {
        let bytes = len.to_be_bytes();
        let significant = strip_zeros(&bytes);
        // At most eight bytes of length.
        out.push(0x80 | significant.len() as u8);
        out.extend_from_slice(significant);
    }
    out.extend_from_slice(content);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_counted_from_the_first_one() {
        assert_eq!(bit_length(&[0, 0x80, 0]), 16);
        assert_eq!(bit_length(&[0x01]), 1);
        assert_eq!(bit_length(&[0]), 0);
        assert_eq!(bit_length(&[0xff; 9000]), u16::MAX);
    }

    #[test]
    fn points_are_taken_wrapped_and_bare() {
        let mut point = vec![4];
        point.extend([7; 64]);
        let wrapped = ec_point(&point);
        assert_eq!(
            spki_of_point(P256_PARAMS, &point),
            spki_of_point(P256_PARAMS, &wrapped)
        );
        let spki = spki_of_point(P256_PARAMS, &wrapped).unwrap();
        let (rest, parsed) = <x509_parser::x509::SubjectPublicKeyInfo<'_> as x509_parser::prelude::FromDer<_>>::from_der(&spki).unwrap();
        assert!(rest.is_empty());
        assert_eq!(&*parsed.subject_public_key.data, &point[..]);
    }

    #[test]
    fn odd_points_are_no_key() {
        for point in [&[][..], &[4], &[4, 65], &[2; 65], &[4; 66]] {
            assert_eq!(spki_of_point(P256_PARAMS, point), None);
        }
        assert_eq!(spki_of_point(b"\x06\x01\x01", &[4; 65]), None);
    }

    #[test]
    fn rsa_numbers_stay_positive() {
        let spki = rsa_spki(&[0x80; 256], &[1, 0, 1]);
        let (_, parsed) = <x509_parser::x509::SubjectPublicKeyInfo<'_> as x509_parser::prelude::FromDer<_>>::from_der(&spki).unwrap();
        let x509_parser::public_key::PublicKey::RSA(rsa) = parsed.parsed().unwrap() else {
            panic!("not RSA");
        };
        assert_eq!(rsa.key_size(), 2048);
    }
}
