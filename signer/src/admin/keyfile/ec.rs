//! Elliptic-curve keys: SEC1 structures (RFC 5915) for ECDSA, and Ed25519 seeds (RFC 8410).
//!
//! The public part is computed, and compared with the one in the file if there is one. Invariant: a key that leaves
//! this file is on a served curve, and its point is the one of its scalar.

use ed25519_dalek::SigningKey;
use keyhaven_hsm::admin::{Curve, EcMaterial, Ed25519Material, KeyMaterial};
use p256::elliptic_curve::sec1::ToSec1Point;
use pkcs8::{ObjectIdentifier, der::Decode};
use sec1::EcPrivateKey;
use zeroize::Zeroizing;

use super::KeyFileError;

/// Reads an ECPrivateKey. Inside PKCS#8 the curve is named outside of it.
pub(super) fn parse_sec1(
    bytes: &[u8],
    outer_curve: Option<ObjectIdentifier>,
) -> Result<KeyMaterial, KeyFileError> {
    let key = EcPrivateKey::from_der(bytes).map_err(|_| {
        // The parser takes named curves alone; whole parameters are a sequence of their own.
        if outer_curve.is_none() && contains_prime_field(bytes) {
            KeyFileError::ExplicitCurve
        } else {
            KeyFileError::Structure {
                format: "SEC1",
                reason: "it is not an ECPrivateKey",
            }
        }
    })?;
    let inner_curve = key
        .parameters
        .as_ref()
        .and_then(|named| named.named_curve());
    let named = match (outer_curve, inner_curve) {
        (Some(outer), Some(inner)) if outer != inner => {
            return Err(KeyFileError::Inconsistent {
                what: "two names of the curve",
            });
        }
        (Some(named), _) | (None, Some(named)) => named,
        (None, None) => {
            return Err(KeyFileError::Structure {
                format: "SEC1",
                reason: "it does not say which curve it is on",
            });
        }
    };
    let curve = curve_of(named)?;
    let scalar = padded(key.private_key, curve.field_len())?;
    let point = match curve {
        Curve::P256 => point_p256(&scalar, key.public_key),
        Curve::P384 => point_p384(&scalar, key.public_key),
    }?;
    Ok(KeyMaterial::Ec(EcMaterial {
        curve,
        scalar,
        point,
    }))
}

/// Takes an Ed25519 seed, and the public key if the file has it.
pub(super) fn ed25519(seed: &[u8], public: Option<&[u8]>) -> Result<KeyMaterial, KeyFileError> {
    let seed: Zeroizing<[u8; 32]> =
        Zeroizing::new(seed.try_into().map_err(|_| KeyFileError::Structure {
            format: "Ed25519 key",
            reason: "its seed has not 32 bytes",
        })?);
    let computed = SigningKey::from_bytes(&seed).verifying_key().to_bytes();
    if public.is_some_and(|public| public != computed) {
        return Err(KeyFileError::Inconsistent {
            what: "private and the public part",
        });
    }
    Ok(KeyMaterial::Ed25519(Ed25519Material {
        seed: Zeroizing::new(seed.to_vec()),
        public: computed.to_vec(),
    }))
}

fn curve_of(named: ObjectIdentifier) -> Result<Curve, KeyFileError> {
    let name = match named.to_string().as_str() {
        "1.2.840.10045.3.1.7" => return Ok(Curve::P256),
        "1.3.132.0.34" => return Ok(Curve::P384),
        "1.3.132.0.10" => "secp256k1".to_owned(),
        "1.3.132.0.35" => "P-521 (secp521r1)".to_owned(),
        "1.3.132.0.33" => "P-224 (secp224r1)".to_owned(),
        "1.2.840.10045.3.1.1" => "P-192 (secp192r1)".to_owned(),
        "1.3.36.3.3.2.8.1.1.7" => "brainpoolP256r1".to_owned(),
        "1.3.36.3.3.2.8.1.1.11" => "brainpoolP384r1".to_owned(),
        "1.3.36.3.3.2.8.1.1.13" => "brainpoolP512r1".to_owned(),
        other => format!("curve {other}"),
    };
    Err(KeyFileError::Algorithm { name })
}

/// The scalar in the curve's length: some programs leave its leading zeros out, none may add any.
fn padded(scalar: &[u8], len: usize) -> Result<Zeroizing<Vec<u8>>, KeyFileError> {
    let missing = len
        .checked_sub(scalar.len())
        .ok_or(KeyFileError::Inconsistent {
            what: "length of the private number and the curve",
        })?;
    let mut padded = Zeroizing::new(vec![0; len]);
    padded[missing..].copy_from_slice(scalar);
    Ok(padded)
}

fn point_p256(scalar: &[u8], public: Option<&[u8]>) -> Result<Vec<u8>, KeyFileError> {
    let key = p256::SecretKey::from_slice(scalar).map_err(|_| out_of_range())?;
    let computed = key.public_key();
    match public.map(p256::PublicKey::from_sec1_bytes) {
        Some(Ok(given)) if given == computed => {}
        None => {}
        Some(_) => return Err(other_point()),
    }
    Ok(computed.to_sec1_point(false).as_bytes().to_vec())
}

fn point_p384(scalar: &[u8], public: Option<&[u8]>) -> Result<Vec<u8>, KeyFileError> {
    let key = p384::SecretKey::from_slice(scalar).map_err(|_| out_of_range())?;
    let computed = key.public_key();
    match public.map(p384::PublicKey::from_sec1_bytes) {
        Some(Ok(given)) if given == computed => {}
        None => {}
        Some(_) => return Err(other_point()),
    }
    Ok(computed.to_sec1_point(false).as_bytes().to_vec())
}

fn out_of_range() -> KeyFileError {
    KeyFileError::Inconsistent {
        what: "private number and the order of its curve",
    }
}

fn other_point() -> KeyFileError {
    KeyFileError::Inconsistent {
        what: "private number and the public point",
    }
}

/// id-prime-field, 1.2.840.10045.1.1: it stands in explicit parameters alone.
pub(super) fn contains_prime_field(bytes: &[u8]) -> bool {
    const PRIME_FIELD: &[u8] = &[0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x01, 0x01];
    bytes
        .windows(PRIME_FIELD.len())
        .any(|window| window == PRIME_FIELD)
}
