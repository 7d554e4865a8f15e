//! PKCS#8 (RFC 5208, RFC 5958), plain and encrypted (RFC 8018).
//!
//! Opens the envelope and hands its content to `rsa` or `ec`. Invariant: the work that a file can ask for before
//! the password is known to be right has a bound.

use keyhaven_hsm::admin::KeyMaterial;
use pkcs8::{
    EncryptedPrivateKeyInfoRef, ObjectIdentifier, PrivateKeyInfoRef,
    der::{Decode, asn1::OctetStringRef},
    pkcs5::{EncryptionScheme, pbes2::Kdf},
};

use super::{KeyFileError, ec, rsa};

/// PBKDF2 iterations; people use up to a million.
const ITERATIONS_MAX: u32 = 5_000_000;
/// scrypt's N times r: 128 bytes of memory each, so 256 MiB.
const SCRYPT_BLOCKS_MAX: u64 = 1 << 21;
/// scrypt's p.
const SCRYPT_LANES_MAX: u16 = 16;

/// Reads a plain PrivateKeyInfo.
pub(super) fn parse(bytes: &[u8]) -> Result<KeyMaterial, KeyFileError> {
    let info =
        PrivateKeyInfoRef::try_from(bytes).map_err(|_| damaged("it is not a PrivateKeyInfo"))?;
    let content = info.private_key.as_bytes();
    match info.algorithm.oid.to_string().as_str() {
        "1.2.840.113549.1.1.1" => rsa::parse(content),
        "1.2.840.10045.2.1" => {
            let parameters = info
                .algorithm
                .parameters
                .ok_or_else(|| damaged("it does not say which curve it is on"))?;
            let curve = parameters
                .decode_as::<ObjectIdentifier>()
                .map_err(|_| KeyFileError::ExplicitCurve)?;
            ec::parse_sec1(content, Some(curve))
        }
        "1.3.101.112" => {
            let seed = <&OctetStringRef>::from_der(content)
                .map_err(|_| damaged("its Ed25519 seed is not an OCTET STRING"))?;
            let public = info.public_key.and_then(|bits| bits.as_bytes());
            ec::ed25519(seed.as_bytes(), public)
        }
        other => Err(KeyFileError::Algorithm {
            name: algorithm_name(other),
        }),
    }
}

/// Decrypts an EncryptedPrivateKeyInfo and reads what is in it.
pub(super) fn parse_encrypted(
    bytes: &[u8],
    password: Option<&str>,
) -> Result<KeyMaterial, KeyFileError> {
    let info = EncryptedPrivateKeyInfoRef::try_from(bytes).map_err(|_| {
        if super::der::shape(bytes) == Ok(super::Shape::EncryptedPkcs8) {
            // The frame is whole, so it is the scheme that is not known.
            KeyFileError::Encryption
        } else {
            damaged("it is not an EncryptedPrivateKeyInfo")
        }
    })?;
    check_cost(&info.encryption_algorithm)?;
    let password = password.ok_or(KeyFileError::PasswordNeeded)?;
    let plain = info.decrypt(password).map_err(|error| match error {
        pkcs8::Error::EncryptedPrivateKey(
            pkcs8::pkcs5::Error::UnsupportedAlgorithm { .. }
            | pkcs8::pkcs5::Error::NoPbes1CryptSupport,
        ) => KeyFileError::Encryption,
        // Padding can come out right by chance: then the structure is what is wrong.
        _ => KeyFileError::WrongPassword,
    })?;
    // Random bytes of a wrong password that begin like DER.
    if super::der::shape(plain.as_bytes()) != Ok(super::Shape::Pkcs8) {
        return Err(KeyFileError::WrongPassword);
    }
    parse(plain.as_bytes())
}

fn check_cost(scheme: &EncryptionScheme) -> Result<(), KeyFileError> {
    let too_expensive = |what| Err(KeyFileError::TooExpensive { what });
    let Some(parameters) = scheme.pbes2() else {
        return Err(KeyFileError::Encryption);
    };
    match &parameters.kdf {
        Kdf::Pbkdf2(kdf) if kdf.iteration_count > ITERATIONS_MAX => {
            too_expensive("more than five million PBKDF2 iterations")
        }
        Kdf::Scrypt(kdf) => {
            let blocks = kdf.cost_parameter.saturating_mul(u64::from(kdf.block_size));
            if blocks > SCRYPT_BLOCKS_MAX {
                too_expensive("scrypt with more than 256 MiB of memory")
            } else if kdf.parallelization > SCRYPT_LANES_MAX {
                too_expensive("scrypt with more than 16 lanes")
            } else {
                Ok(())
            }
        }
        _ => Ok(()),
    }
}

fn algorithm_name(oid: &str) -> String {
    match oid {
        "1.2.840.113549.1.1.10" => "RSASSA-PSS (restricted RSA)".to_owned(),
        "1.2.840.10040.4.1" => "DSA".to_owned(),
        "1.2.840.113549.1.3.1" | "1.2.840.10046.2.1" => "Diffie-Hellman".to_owned(),
        "1.3.101.110" => "X25519 (key agreement)".to_owned(),
        "1.3.101.111" => "X448 (key agreement)".to_owned(),
        "1.3.101.113" => "Ed448".to_owned(),
        "2.16.840.1.101.3.4.3.17" => "ML-DSA-44".to_owned(),
        "2.16.840.1.101.3.4.3.18" => "ML-DSA-65".to_owned(),
        "2.16.840.1.101.3.4.3.19" => "ML-DSA-87".to_owned(),
        other => format!("algorithm {other}"),
    }
}

fn damaged(reason: &'static str) -> KeyFileError {
    KeyFileError::Structure {
        format: "PKCS#8",
        reason,
    }
}
