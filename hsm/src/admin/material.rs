//! The bytes of a private key on its way into a token.
//!
//! Filled by the parsers of key files, consumed by the import. Whether the numbers fit together is checked by the
//! parser, who knows the file; here they are only carried. Invariant: private numbers are wiped on drop and have
//! no `Debug`.

use std::fmt;

use keyhaven_types::KeyAlgorithm;
use zeroize::Zeroizing;

use super::public;

/// A private key with its public part. Integers are big-endian without leading zeros.
pub enum KeyMaterial {
    /// RSA with two primes.
    Rsa(RsaMaterial),
    /// ECDSA.
    Ec(EcMaterial),
    /// Ed25519.
    Ed25519(Ed25519Material),
}

/// The numbers of an RSA key (RFC 8017, section 3.2).
pub struct RsaMaterial {
    /// n
    pub modulus: Vec<u8>,
    /// e
    pub public_exponent: Vec<u8>,
    /// d
    pub private_exponent: Zeroizing<Vec<u8>>,
    /// p
    pub prime1: Zeroizing<Vec<u8>>,
    /// q
    pub prime2: Zeroizing<Vec<u8>>,
    /// d mod (p - 1)
    pub exponent1: Zeroizing<Vec<u8>>,
    /// d mod (q - 1)
    pub exponent2: Zeroizing<Vec<u8>>,
    /// q^-1 mod p
    pub coefficient: Zeroizing<Vec<u8>>,
}

/// The curves of imported ECDSA keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Curve {
    /// secp256r1
    P256,
    /// secp384r1
    P384,
}

/// An ECDSA key.
pub struct EcMaterial {
    /// Its curve.
    pub curve: Curve,
    /// The scalar, as long as the curve's order.
    pub scalar: Zeroizing<Vec<u8>>,
    /// The public point, uncompressed.
    pub point: Vec<u8>,
}

/// An Ed25519 key.
pub struct Ed25519Material {
    /// The seed (RFC 8032, section 5.1.5).
    pub seed: Zeroizing<Vec<u8>>,
    /// The public key.
    pub public: Vec<u8>,
}

impl KeyMaterial {
    /// What kind of key it is.
    pub fn algorithm(&self) -> KeyAlgorithm {
        match self {
            Self::Rsa(rsa) => KeyAlgorithm::Rsa(public::bit_length(&rsa.modulus)),
            Self::Ec(ec) => ec.curve.algorithm(),
            Self::Ed25519(_) => KeyAlgorithm::Ed25519,
        }
    }

    /// The public part, as SubjectPublicKeyInfo in DER.
    pub fn spki(&self) -> Vec<u8> {
        match self {
            Self::Rsa(rsa) => public::rsa_spki(&rsa.modulus, &rsa.public_exponent),
            Self::Ec(ec) => public::ec_spki(ec.curve, &ec.point),
            Self::Ed25519(ed) => public::ed25519_spki(&ed.public),
        }
    }
}

impl Curve {
    /// The kind of key on this curve.
    pub fn algorithm(self) -> KeyAlgorithm {
        match self {
            Self::P256 => KeyAlgorithm::EcdsaP256,
            Self::P384 => KeyAlgorithm::EcdsaP384,
        }
    }

    /// The length of a scalar and of a coordinate in bytes.
    pub fn field_len(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
        }
    }
}

impl fmt::Debug for KeyMaterial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyMaterial({})", self.algorithm())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_tells_the_kind_and_no_number() {
        let key = KeyMaterial::Ed25519(Ed25519Material {
            seed: Zeroizing::new(vec![0xab; 32]),
            public: vec![0xcd; 32],
        });
        assert_eq!(format!("{key:?}"), "KeyMaterial(Ed25519)");
    }
}
