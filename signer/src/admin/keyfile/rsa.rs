//! PKCS#1 RSA private keys (RFC 8017, appendix A.1.2).
//!
//! The numbers are read here; that they fit together (n = pq, d and e, the CRT values) is computed by aws-lc.
//! Invariant: a key that leaves this file has 2048 to 4096 bits, two primes, and consistent numbers.

use aws_lc_rs::signature::RsaKeyPair;
use keyhaven_hsm::admin::{KeyMaterial, RsaMaterial};
use keyhaven_types::KeyAlgorithm;
use zeroize::Zeroizing;

use super::{KeyFileError, der};

/// Reads and checks an RSAPrivateKey.
pub(super) fn parse(bytes: &[u8]) -> Result<KeyMaterial, KeyFileError> {
    let (version, material) = numbers(bytes).ok_or(KeyFileError::Structure {
        format: "PKCS#1",
        reason: "it is not a sequence of nine numbers",
    })?;
    if version != 0 {
        return Err(KeyFileError::RsaMultiPrime);
    }
    let exponent_ok = matches!(material.public_exponent.as_slice(), [.., last] if last & 1 == 1)
        && (material.public_exponent.len() > 1 || material.public_exponent[0] >= 3);
    let key = KeyMaterial::Rsa(material);
    match key.algorithm() {
        KeyAlgorithm::Rsa(2048..=4096) => {}
        KeyAlgorithm::Rsa(bits) => return Err(KeyFileError::RsaSize { bits }),
        _ => return Err(KeyFileError::Unknown),
    }
    if !exponent_ok {
        return Err(KeyFileError::RsaExponent);
    }
    RsaKeyPair::from_der(bytes).map_err(|_| KeyFileError::Inconsistent {
        what: "numbers of the RSA key",
    })?;
    Ok(key)
}

fn numbers(bytes: &[u8]) -> Option<(u8, RsaMaterial)> {
    let (outer, rest) = der::element(bytes)?;
    if outer.tag != der::SEQUENCE || !rest.is_empty() {
        return None;
    }
    let mut rest = outer.content;
    let version = *der::unsigned(&mut rest)?.last()?;
    let mut public = || der::unsigned(&mut rest).map(<[u8]>::to_vec);
    let (modulus, public_exponent) = (public()?, public()?);
    let mut private = || der::unsigned(&mut rest).map(|number| Zeroizing::new(number.to_vec()));
    let material = RsaMaterial {
        modulus,
        public_exponent,
        private_exponent: private()?,
        prime1: private()?,
        prime2: private()?,
        exponent1: private()?,
        exponent2: private()?,
        coefficient: private()?,
    };
    // More follows only in a multi-prime key, whose version says so.
    (rest.is_empty() || version != 0).then_some((version, material))
}
