//! PKCS#12 archives (RFC 7292), modern and legacy, with the certificates in them.
//!
//! The archive is opened by p12-keystore, which bounds the work of its key derivations; the key inside is PKCS#8
//! and is read by `pkcs8`. Invariant: exactly one private key is taken, never the first of several.

use keyhaven_hsm::admin::KeyMaterial;
use p12_keystore::{Pkcs12Archive, error::Error};

use super::{KeyFileError, pkcs8};

/// Opens the archive. Its certificates come in its order.
pub(super) fn parse(
    bytes: &[u8],
    password: Option<&str>,
) -> Result<(KeyMaterial, Vec<Vec<u8>>), KeyFileError> {
    let password = password.ok_or(KeyFileError::PasswordNeeded)?;
    let archive = Pkcs12Archive::from_pkcs12(bytes, password).map_err(|error| match error {
        Error::MacError(_) | Error::UnpadError | Error::Pkcs5Error(_) => {
            KeyFileError::WrongPassword
        }
        Error::UnsupportedEncryptionScheme | Error::UnsupportedMacAlgorithm => {
            KeyFileError::Encryption
        }
        _ => KeyFileError::Structure {
            format: "PKCS#12",
            reason: "it cannot be read",
        },
    })?;
    let certificates: Vec<Vec<u8>> = archive
        .certs
        .iter()
        .map(|bag| bag.cert.as_der().to_vec())
        .collect();
    match &archive.keys[..] {
        [] => Err(KeyFileError::NoKey {
            found: super::describe(certificates.len(), &[]),
        }),
        [bag] => Ok((pkcs8::parse(bag.key.as_der())?, certificates)),
        _ => Err(KeyFileError::SeveralKeys),
    }
}
