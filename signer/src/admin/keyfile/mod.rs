//! Reads a private key from whatever file an operator has: PEM or DER; PKCS#8 (encrypted too), PKCS#1, SEC1, PKCS#12.
//!
//! Takes bytes and a password, gives numbers that fit together; files, prompts and tokens are left to the verbs.
//! Invariant: no input makes it panic, work without bound, or return a key whose parts contradict each other.

mod chain;
mod der;
mod ec;
mod error;
mod pem;
mod pkcs12;
mod pkcs8;
mod rsa;

pub use chain::order_chain;
pub use error::KeyFileError;
use keyhaven_hsm::admin::KeyMaterial;
pub use pem::certificates as certificates_of_pem;
use zeroize::Zeroizing;

use der::Shape;

/// The largest file that is read, in bytes.
pub const FILE_BYTES_MAX: usize = 1 << 20;

/// What a file holds.
#[derive(Debug)]
pub struct KeyFile {
    /// The private key, checked.
    pub key: KeyMaterial,
    /// The file's format, in words.
    pub format: &'static str,
    /// Whether a password keeps it; the empty one keeps nothing.
    pub sealed: bool,
    /// Certificates beside it, in the file's order.
    pub certificates: Vec<Vec<u8>>,
}

/// Parses a file. Without a password, an encrypted one ends in [`KeyFileError::PasswordNeeded`].
///
/// # Errors
/// [`KeyFileError`] says what the file is, and what to do about it.
pub fn parse(bytes: &[u8], password: Option<&str>) -> Result<KeyFile, KeyFileError> {
    if bytes.len() > FILE_BYTES_MAX {
        return Err(KeyFileError::TooLarge);
    }
    if pem::is_pem(bytes) {
        return parse_pem(bytes, password);
    }
    let mut certificates = Vec::new();
    let (key, format) = match der::shape(bytes)? {
        Shape::Pkcs8 => (pkcs8::parse(bytes)?, "PKCS#8, DER"),
        Shape::EncryptedPkcs8 => (
            pkcs8::parse_encrypted(bytes, password)?,
            "encrypted PKCS#8, DER",
        ),
        Shape::Pkcs1 => (rsa::parse(bytes)?, "PKCS#1, DER"),
        Shape::Sec1 => (ec::parse_sec1(bytes, None)?, "SEC1, DER"),
        Shape::Pkcs12 => {
            let (key, found) = pkcs12::parse(bytes, password)?;
            certificates = found;
            (key, "PKCS#12")
        }
        Shape::Certificate => {
            return Err(KeyFileError::NoKey {
                found: "a certificate".to_owned(),
            });
        }
    };
    Ok(KeyFile {
        key,
        format,
        sealed: is_sealed(format, password),
        certificates,
    })
}

fn parse_pem(bytes: &[u8], password: Option<&str>) -> Result<KeyFile, KeyFileError> {
    let mut key: Option<(KeyMaterial, &'static str)> = None;
    let mut certificates = Vec::new();
    let mut others = Vec::new();
    for section in pem::sections(bytes)? {
        let der: &Zeroizing<Vec<u8>> = &section.der;
        let found = match section.label.as_str() {
            "PRIVATE KEY" => (pkcs8::parse(der)?, "PKCS#8, PEM"),
            "ENCRYPTED PRIVATE KEY" => (
                pkcs8::parse_encrypted(der, password)?,
                "encrypted PKCS#8, PEM",
            ),
            "RSA PRIVATE KEY" => (rsa::parse(der)?, "PKCS#1, PEM"),
            "EC PRIVATE KEY" => (ec::parse_sec1(der, None)?, "SEC1, PEM"),
            "OPENSSH PRIVATE KEY" => return Err(KeyFileError::OpenSsh),
            "CERTIFICATE" | "X509 CERTIFICATE" => {
                certificates.push(der.to_vec());
                continue;
            }
            label if label.ends_with("PRIVATE KEY") => {
                return Err(KeyFileError::Algorithm {
                    name: label.trim_end_matches(" PRIVATE KEY").to_owned(),
                });
            }
            label => {
                others.push(label.to_owned());
                continue;
            }
        };
        if key.replace(found).is_some() {
            return Err(KeyFileError::SeveralKeys);
        }
    }
    let Some((key, format)) = key else {
        return Err(KeyFileError::NoKey {
            found: describe(certificates.len(), &others),
        });
    };
    Ok(KeyFile {
        key,
        format,
        sealed: is_sealed(format, password),
        certificates,
    })
}

fn is_sealed(format: &str, password: Option<&str>) -> bool {
    let takes_password = format.starts_with("encrypted") || format == "PKCS#12";
    takes_password && password.is_some_and(|password| !password.is_empty())
}

fn describe(certificates: usize, others: &[String]) -> String {
    let mut parts = Vec::new();
    match certificates {
        0 => {}
        1 => parts.push("a certificate".to_owned()),
        n => parts.push(format!("{n} certificates")),
    }
    parts.extend(others.iter().take(4).map(|label| format!("`{label}`")));
    if parts.is_empty() {
        "nothing".to_owned()
    } else {
        parts.join(", ")
    }
}
