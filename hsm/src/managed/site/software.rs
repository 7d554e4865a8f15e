//! What needs a key's public part alone, and so no token: verifying a signature, and encrypting by RSA-OAEP.
//!
//! Invariant: whatever does not verify or fit is an answer and never a panic, since callers send it.

use std::fmt;

use aws_lc_rs::rsa::{
    OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256, OaepAlgorithm, OaepPublicEncryptingKey,
    PublicEncryptingKey,
};
use cryptoki::mechanism::{
    Mechanism, MechanismType,
    rsa::{PkcsMgfType, PkcsOaepParams, PkcsOaepSource},
};
use keyhaven_types::SignatureScheme;

use crate::{Error, spki::PublicKey};

/// The hash of RSA-OAEP and of its MGF1 (RFC 8017, section 7.1). Who encrypts must know which one the tokens of the key's
/// sites open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum OaepHash {
    /// SHA-256.
    Sha256,
    /// SHA-1, the one that SoftHSM2 has. OAEP does not rest on the collision resistance of its hash.
    Sha1,
}

impl OaepHash {
    /// Each of them, the better first.
    pub const ALL: [Self; 2] = [Self::Sha256, Self::Sha1];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha1 => "sha1",
        }
    }

    pub(super) fn mechanism(self) -> Mechanism<'static> {
        let (hash, mgf) = match self {
            Self::Sha256 => (MechanismType::SHA256, PkcsMgfType::MGF1_SHA256),
            Self::Sha1 => (MechanismType::SHA1, PkcsMgfType::MGF1_SHA1),
        };
        Mechanism::RsaPkcsOaep(PkcsOaepParams::new(hash, mgf, PkcsOaepSource::empty()))
    }

    fn algorithm(self) -> &'static OaepAlgorithm {
        match self {
            Self::Sha256 => &OAEP_SHA256_MGF1SHA256,
            Self::Sha1 => &OAEP_SHA1_MGF1SHA1,
        }
    }
}

impl fmt::Display for OaepHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Whether a signature over `message`, as TLS has it, verifies with a public key (DER SubjectPublicKeyInfo). A scheme of
/// another kind of key does not.
pub fn verifies(spki: &[u8], scheme: SignatureScheme, message: &[u8], signature: &[u8]) -> bool {
    PublicKey::parse(spki).is_ok_and(|public| public.verifies(scheme, message, signature))
}

/// Encrypts to a public RSA key (DER SubjectPublicKeyInfo), with an empty label.
///
/// # Errors
/// [`Error::UnsupportedKey`] when it is no RSA key of 2,048 to 4,096 bits; [`Error::Input`] when the plaintext is too long
/// for it: at most the modulus's bytes less two and twice the hash's.
pub fn oaep_encrypt(spki: &[u8], hash: OaepHash, plaintext: &[u8]) -> Result<Vec<u8>, Error> {
    let unsupported = || Error::UnsupportedKey {
        key: "a public key".to_owned(),
        reason: "it is no RSA key of 2048 to 4096 bits".to_owned(),
    };
    let key = PublicKey::parse(spki).ok();
    key.filter(|key| key.modulus().is_some())
        .ok_or_else(unsupported)?;
    let key = PublicEncryptingKey::from_der(spki).map_err(|_| unsupported())?;
    let key = OaepPublicEncryptingKey::new(key).map_err(|_| unsupported())?;
    let input = |reason| Error::Input {
        operation: "encrypting by RSA-OAEP",
        reason,
    };
    if plaintext.len() > key.max_plaintext_size(hash.algorithm()) {
        return Err(input("the plaintext is too long for the key"));
    }
    let mut out = vec![0; key.ciphertext_size()];
    let len = key
        .encrypt(hash.algorithm(), plaintext, &mut out, None)
        .map_err(|_| input("the plaintext cannot be encrypted"))?
        .len();
    out.truncate(len);
    Ok(out)
}
