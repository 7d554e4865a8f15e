//! PEM (RFC 7468) with the liberty that files in the wild take: text around sections, CRLF, any line length.
//!
//! What a section means is decided by the caller. Invariant: decoded bytes are wiped on drop, and nothing grows
//! beyond the file's size.

use base64::{Engine, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

use super::KeyFileError;

/// One section.
pub(super) struct Section {
    pub(super) label: String,
    pub(super) der: Zeroizing<Vec<u8>>,
}

const BEGIN: &[u8] = b"-----BEGIN ";
const END: &[u8] = b"-----END ";
const DASHES: &[u8] = b"-----";
const SECTIONS_MAX: usize = 64;

/// Whether a section begins anywhere.
pub(super) fn is_pem(bytes: &[u8]) -> bool {
    bytes.windows(BEGIN.len()).any(|window| window == BEGIN)
}

/// The certificates of a PEM file, in its order; of a DER file, the one that it is.
///
/// # Errors
/// A damaged section, or a file without a certificate.
pub fn certificates(bytes: &[u8]) -> Result<Vec<Vec<u8>>, KeyFileError> {
    let found: Vec<Vec<u8>> = if is_pem(bytes) {
        sections(bytes)?
            .into_iter()
            .filter(|section| matches!(section.label.as_str(), "CERTIFICATE" | "X509 CERTIFICATE"))
            .map(|section| section.der.to_vec())
            .collect()
    } else {
        vec![bytes.to_vec()]
    };
    let whole = |der: &Vec<u8>| matches!(x509_parser::parse_x509_certificate(der), Ok(([], _)));
    if found.is_empty() || !found.iter().all(whole) {
        return Err(KeyFileError::Structure {
            format: "X.509 certificate",
            reason: "it cannot be read, or there is none",
        });
    }
    Ok(found)
}

/// Every section of the file.
pub(super) fn sections(bytes: &[u8]) -> Result<Vec<Section>, KeyFileError> {
    let mut found = Vec::new();
    let mut lines = bytes.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    while let Some(line) = lines.next() {
        let Some(label) = label(line, BEGIN) else {
            continue;
        };
        if found.len() == SECTIONS_MAX {
            return Err(damaged(&label, "there are more than 64 sections"));
        }
        let mut text = Zeroizing::new(Vec::with_capacity(bytes.len()));
        loop {
            let Some(line) = lines.next() else {
                return Err(damaged(&label, "its END line is missing"));
            };
            if line.starts_with(END) {
                if self::label(line, END).as_ref() != Some(&label) {
                    return Err(damaged(&label, "its END line names another section"));
                }
                break;
            }
            if line.starts_with(BEGIN) {
                return Err(damaged(&label, "its END line is missing"));
            }
            if line.contains(&b':') {
                // Headers of RFC 1421: only the old encryption uses them.
                return Err(KeyFileError::OldEncryption);
            }
            text.extend(line.iter().filter(|byte| !byte.is_ascii_whitespace()));
        }
        let der = decode(&text).ok_or_else(|| damaged(&label, "its base64 is not valid"))?;
        found.push(Section { label, der });
    }
    Ok(found)
}

fn decode(text: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let mut out = Zeroizing::new(vec![0; text.len() / 4 * 3 + 3]);
    let len = STANDARD.decode_slice(text, &mut out).ok()?;
    out.truncate(len);
    Some(out)
}

/// The label of a BEGIN or END line.
fn label(line: &[u8], start: &[u8]) -> Option<String> {
    let label = line.strip_prefix(start)?.strip_suffix(DASHES)?;
    let plain = |byte: &u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || *byte == b' ';
    (label.len() <= 64 && label.iter().all(plain))
        .then(|| String::from_utf8_lossy(label).into_owned())
}

fn damaged(label: &str, reason: &'static str) -> KeyFileError {
    KeyFileError::Pem {
        label: label.to_owned(),
        reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_around_sections_and_crlf_are_taken() {
        let file = b"subject=x\r\n-----BEGIN A B-----\r\naGVs\r\nbG8=\r\n-----END A B-----\r\n\r\nmore\r\n";
        let found = sections(file).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].label, "A B");
        assert_eq!(&found[0].der[..], b"hello");
    }

    #[test]
    fn broken_frames_are_refused() {
        for file in [
            "-----BEGIN A-----\naGVs\n",
            "-----BEGIN A-----\naGVs\n-----END B-----\n",
            "-----BEGIN A-----\naGVs\n-----BEGIN A-----\n",
            "-----BEGIN A-----\na*Vs\n-----END A-----\n",
            "-----BEGIN A-----\naGV\n-----END A-----\n",
        ] {
            assert!(sections(file.as_bytes()).is_err(), "{file}");
        }
    }

    #[test]
    fn the_old_encryption_is_named() {
        let file = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: DES-EDE3-CBC,00\n\naGVs\n-----END RSA PRIVATE KEY-----\n";
        assert_eq!(
            sections(file.as_bytes()).err(),
            Some(KeyFileError::OldEncryption)
        );
    }
}
