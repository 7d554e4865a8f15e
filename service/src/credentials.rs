//! What a daemon proves itself with: its certificate chain, its key, and the private CA.
//!
//! Reads three PEM files and holds them ready for `tls`. The key here is only the daemon's own identity on our
//! channel, never a site's key. Its bytes are wiped once the cryptographic library holds them.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use keyhaven_types::{Identity, Role};
use rustls::{RootCertStore, sign::CertifiedKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use zeroize::Zeroizing;

use crate::{
    identity::{PeerIdentityError, peer_identity},
    tls,
};

/// A daemon's own identity with the means to prove it, and the CA that others must come from.
#[derive(Clone)]
pub struct Credentials(Arc<Parts>);

struct Parts {
    identity: Identity,
    key: Arc<CertifiedKey>,
    roots: Arc<RootCertStore>,
    warnings: Vec<String>,
}

/// Which of the three files an error is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CredentialsFile {
    /// The certificate chain.
    Certificate,
    /// The private key.
    Key,
    /// The CA.
    Ca,
}

/// Why credentials were not loaded.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// A file cannot be read.
    #[error("cannot read the {file} file {}", path.display())]
    Read {
        /// Which file.
        file: CredentialsFile,
        /// Where it was looked for.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file has no usable PEM section of the kind that is expected.
    #[error("the {file} file {} holds no {expected}", path.display())]
    Pem {
        /// Which file.
        file: CredentialsFile,
        /// Where.
        path: PathBuf,
        /// What was looked for.
        expected: &'static str,
    },
    /// The certificate is nobody's.
    #[error("the certificate {} names no identity", path.display())]
    Identity {
        /// Where.
        path: PathBuf,
        /// Why.
        source: PeerIdentityError,
    },
    /// The key cannot be used, or is not the certificate's.
    #[error("the key {} does not serve the certificate", path.display())]
    Key {
        /// Where.
        path: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// The CA cannot be used.
    #[error("the CA file {} holds a certificate that cannot be a trust anchor", path.display())]
    Ca {
        /// Where.
        path: PathBuf,
        /// Why.
        source: rustls::Error,
    },
}

impl Credentials {
    /// Reads the PEM files: a chain with the leaf first, its key, and one or more CA certificates.
    pub fn load(certificate: &Path, key: &Path, ca: &Path) -> Result<Self, CredentialsError> {
        let chain = certificates(CredentialsFile::Certificate, certificate)?;
        let identity = peer_identity(&chain).map_err(|source| CredentialsError::Identity {
            path: certificate.to_owned(),
            source,
        })?;
        let mut warnings = Vec::new();
        let key_der = private_key(key, &mut warnings)?;
        let certified =
            CertifiedKey::from_der(chain, key_der, &tls::provider()).map_err(|source| {
                CredentialsError::Key {
                    path: key.to_owned(),
                    source,
                }
            })?;
        let mut roots = RootCertStore::empty();
        for anchor in certificates(CredentialsFile::Ca, ca)? {
            roots.add(anchor).map_err(|source| CredentialsError::Ca {
                path: ca.to_owned(),
                source,
            })?;
        }
        let roots = Arc::new(roots);
        if let Err(refusal) = tls::check_own(&certified.cert, &roots, identity.role()) {
            warnings.push(format!(
                "others will refuse the certificate {}: {refusal}; issue a new one from the CA in {}",
                certificate.display(),
                ca.display()
            ));
        }
        Ok(Self(Arc::new(Parts {
            identity,
            key: Arc::new(certified),
            roots,
            warnings,
        })))
    }

    /// Who the certificate says we are.
    pub fn identity(&self) -> &Identity {
        &self.0.identity
    }

    /// What an operator should mend although it does not stop the daemon, a sentence each.
    pub fn warnings(&self) -> &[String] {
        &self.0.warnings
    }

    pub(crate) fn key(&self) -> Arc<CertifiedKey> {
        self.0.key.clone()
    }

    pub(crate) fn roots(&self) -> Arc<RootCertStore> {
        self.0.roots.clone()
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Credentials")
            .field(&self.0.identity)
            .finish()
    }
}

impl CredentialsError {
    /// The file that the error is about.
    pub fn file(&self) -> CredentialsFile {
        match self {
            Self::Read { file, .. } | Self::Pem { file, .. } => *file,
            Self::Identity { .. } => CredentialsFile::Certificate,
            Self::Key { .. } => CredentialsFile::Key,
            Self::Ca { .. } => CredentialsFile::Ca,
        }
    }

    /// What to try.
    pub fn remedy(&self) -> String {
        match self {
            Self::Read { .. } => {
                "Check the path (relative paths start at the configuration file) and its permissions."
                    .to_owned()
            }
            Self::Pem { .. } => {
                "Give a PEM file; `openssl x509 -in FILE -noout -text` or `openssl pkey -in FILE -noout` tells \
                 what a file holds."
                    .to_owned()
            }
            Self::Identity { .. } => {
                "Issue a certificate with exactly one URI name, spiffe://DOMAIN/ROLE/NAME.".to_owned()
            }
            Self::Key { .. } => "Give the key that the certificate was made for.".to_owned(),
            Self::Ca { .. } => "Give the certificate of the private CA itself.".to_owned(),
        }
    }
}

impl fmt::Display for CredentialsFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Certificate => "certificate",
            Self::Key => "key",
            Self::Ca => "CA",
        })
    }
}

/// Whether a role proves itself as TLS server; the others are clients.
pub(crate) fn is_server(role: Role) -> bool {
    matches!(role, Role::Signer | Role::Central)
}

fn read(file: CredentialsFile, path: &Path) -> Result<Vec<u8>, CredentialsError> {
    std::fs::read(path).map_err(|source| CredentialsError::Read {
        file,
        path: path.to_owned(),
        source,
    })
}

fn certificates(
    file: CredentialsFile,
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, CredentialsError> {
    let pem = read(file, path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => Err(CredentialsError::Pem {
            file,
            path: path.to_owned(),
            expected: "PEM certificate",
        }),
    }
}

/// The error says nothing of the file's contents: a half-good key file may hold most of a key.
fn private_key(
    path: &Path,
    warnings: &mut Vec<String>,
) -> Result<PrivateKeyDer<'static>, CredentialsError> {
    let pem = Zeroizing::new(read(CredentialsFile::Key, path)?);
    if readable_by_others(path) {
        warnings.push(format!(
            "the key file {} can be read by its group or by everyone. Run `chmod 600` on it.",
            path.display()
        ));
    }
    PrivateKeyDer::from_pem_slice(&pem).map_err(|_| CredentialsError::Pem {
        file: CredentialsFile::Key,
        path: path.to_owned(),
        expected: "unencrypted PEM private key",
    })
}

#[cfg(unix)]
fn readable_by_others(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o077 != 0)
}

#[cfg(not(unix))]
fn readable_by_others(_path: &Path) -> bool {
    false
}
