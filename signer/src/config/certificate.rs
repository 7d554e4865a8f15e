//! The certificates of a site's keys: read, in order, in date, and naming what they serve.
//!
//! What is wrong with a certificate is said here, when the file is read; clients would say it less clearly. That
//! the key is the certificate's is proven later, in the token.

use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use keyhaven_service::config::Problems;
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use toml::Spanned;
use x509_parser::{
    certificate::Validity, extensions::GeneralName, parse_x509_certificate,
    prelude::X509Certificate, time::ASN1Time,
};

/// Reads a PEM chain.
pub(super) fn read_chain(
    path: &Path,
    at: &Spanned<PathBuf>,
    problems: &mut Problems,
) -> Option<Vec<CertificateDer<'static>>> {
    let chain = CertificateDer::pem_file_iter(path)
        .and_then(|certificates| certificates.collect::<Result<Vec<_>, _>>());
    match chain {
        Ok(chain) if chain.iter().map(|one| one.len()).sum::<usize>() > CHAIN_BYTES_MAX => {
            problems.add(
                at.span(),
                format!(
                    "the chain in {} has more than {CHAIN_BYTES_MAX} bytes",
                    path.display()
                ),
                "leave out what clients do not need: the root, and certificates of other chains",
            );
            None
        }
        Ok(chain) if !chain.is_empty() => Some(chain),
        Ok(_) => {
            problems.add(
                at.span(),
                format!("{} holds no certificate", path.display()),
                "it must be a PEM chain, leaf first",
            );
            None
        }
        Err(error) => {
            problems.add(
                at.span(),
                format!(
                    "cannot read the certificates in {}: {error}",
                    path.display()
                ),
                "it must be a readable PEM chain, leaf first",
            );
            None
        }
    }
}

/// What is needed of the first certificate.
pub(super) struct Leaf {
    /// SubjectPublicKeyInfo, DER.
    pub(super) spki: Vec<u8>,
    /// Serial number, in hexadecimal.
    pub(super) serial: String,
    /// When it ends.
    pub(super) not_after: SystemTime,
    names: Vec<String>,
}

impl Leaf {
    /// Reads the first certificate, and warns of what clients would refuse.
    pub(super) fn read(
        chain: &[CertificateDer<'_>],
        path: &Path,
        at: &Spanned<PathBuf>,
        problems: &mut Problems,
    ) -> Option<Self> {
        let mut parsed = Vec::new();
        for certificate in chain {
            let Ok((_, certificate)) = parse_x509_certificate(certificate) else {
                problems.add(
                    at.span(),
                    format!("a certificate in {} is not X.509", path.display()),
                    "it must be a PEM chain, leaf first",
                );
                return None;
            };
            parsed.push(certificate);
        }
        let leaf = parsed.first()?;
        warn_of_dates(leaf, path, at, problems);
        if parsed
            .windows(2)
            .any(|pair| pair[0].issuer() != pair[1].subject())
        {
            problems.warn(
                at.span(),
                format!("the chain in {} is not in order", path.display()),
                "put the leaf first, and behind each certificate the one that issued it",
            );
        }
        Some(Self {
            spki: leaf.public_key().raw.to_vec(),
            serial: leaf.raw_serial_as_string(),
            not_after: system_time(leaf.validity().not_after),
            names: dns_names(leaf),
        })
    }

    /// Clients refuse a certificate that does not name what they asked for.
    pub(super) fn warn_of_missing_names(
        &self,
        wanted: &[String],
        path: &Path,
        at: &Spanned<PathBuf>,
        problems: &mut Problems,
    ) {
        let missing: Vec<_> = wanted
            .iter()
            .filter(|name| !self.names.iter().any(|has| covers(has, name)))
            .map(String::as_str)
            .collect();
        if !missing.is_empty() {
            problems.warn(
                at.span(),
                format!(
                    "the certificate in {} does not name {}; it names {}",
                    path.display(),
                    missing.join(", "),
                    if self.names.is_empty() {
                        "nothing".to_owned()
                    } else {
                        self.names.join(", ")
                    }
                ),
                "have it issued with these names (openssl x509 -req drops a request's names without -copy_extensions copy)",
            );
        }
    }
}

fn warn_of_dates(
    leaf: &X509Certificate<'_>,
    path: &Path,
    at: &Spanned<PathBuf>,
    problems: &mut Problems,
) {
    let validity = leaf.validity();
    if !validity.is_valid() {
        problems.warn(
            at.span(),
            format!(
                "the certificate in {} is not valid now, but from {} until {}",
                path.display(),
                validity.not_before,
                validity.not_after
            ),
            "clients will refuse it: renew it",
        );
    } else if ends_soon(validity) {
        problems.warn(
            at.span(),
            format!(
                "the certificate in {} ends soon: on {}",
                path.display(),
                validity.not_after
            ),
            "renew it",
        );
    }
}

/// Within two weeks, or the last third of a short life.
fn ends_soon(validity: &Validity) -> bool {
    let whole = validity.not_after.timestamp() - validity.not_before.timestamp();
    let left = validity.not_after.timestamp() - ASN1Time::now().timestamp();
    left < SOON_S.min(whole / 3)
}

/// A certificate's time; what lies before 1970 is 1970.
pub(super) fn system_time(time: ASN1Time) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(time.timestamp()).unwrap_or(0))
}

fn dns_names(leaf: &X509Certificate<'_>) -> Vec<String> {
    let names = leaf.subject_alternative_name().ok().flatten();
    let names = names.map_or(&[][..], |extension| &extension.value.general_names);
    names
        .iter()
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
            _ => None,
        })
        .collect()
}

/// Whether a certificate's name covers a site's (RFC 6125, section 6.4.3: a wildcard is one whole label).
pub(crate) fn covers(has: &str, wanted: &str) -> bool {
    let has = has.to_ascii_lowercase();
    let parent = || wanted.split_once('.').map(|(_, parent)| parent);
    has == wanted
        || has
            .strip_prefix("*.")
            .is_some_and(|domain| Some(domain) == parent())
}

/// More does not fit into one reply to a proxy.
const CHAIN_BYTES_MAX: usize = 64 * 1024;
/// Two weeks.
const SOON_S: i64 = 14 * 86_400;

#[cfg(test)]
mod tests {
    use super::covers;

    #[test]
    fn a_wildcard_is_one_label() {
        assert!(covers("a.example.org", "a.example.org"));
        assert!(covers("*.example.org", "a.example.org"));
        assert!(covers("*.example.org", "*.example.org"));
        assert!(covers("WWW.example.org", "www.example.org"));
        assert!(!covers("*.example.org", "example.org"));
        assert!(!covers("*.example.org", "a.b.example.org"));
        assert!(!covers("a.example.org", "*.example.org"));
        assert!(!covers("localhost", "localghost"));
    }
}
