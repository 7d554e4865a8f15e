//! Where the parts of a site stand in its folder, and who may use the folder.
//!
//! A folder is taken only when it is new, empty, or made by an earlier run, and by one run at a time.

use std::{
    fs::{self, File, TryLockError},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use crate::Error;

/// A site's folder, locked for this process.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// Holds the lock until this value is dropped.
    _lock: File,
}

impl Folder {
    /// Takes the folder and empties it of what an earlier run made.
    pub fn take(path: &Path) -> Result<Folder, Error> {
        let failed = |act, path: &Path| {
            let path = path.to_path_buf();
            move |source| Error::File { act, path, source }
        };
        fs::create_dir_all(path).map_err(failed("make", path))?;
        let path = path.canonicalize().map_err(failed("find", path))?;
        let marker = path.join(MARKER);
        let is_new = fs::read_dir(&path)
            .map_err(failed("read", &path))?
            .next()
            .is_none();
        if !is_new && !marker.exists() {
            return Err(Error::ForeignDir(path));
        }
        let lock = File::options()
            .create(true)
            .append(true)
            .open(&marker)
            .map_err(failed("write", &marker))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::DirInUse(path)),
            Err(TryLockError::Error(source)) => return Err(failed("lock", &marker)(source)),
        }
        for entry in CONTENTS {
            let entry = path.join(entry);
            let removed = if entry.is_dir() {
                fs::remove_dir_all(&entry)
            } else {
                fs::remove_file(&entry)
            };
            match removed {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                other => other.map_err(failed("remove", &entry))?,
            }
        }
        for folder in [TOKENS, PKI, LOGS, KMS] {
            make_private(&path.join(folder))?;
        }
        Ok(Folder { path, _lock: lock })
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the folder of a token.
    pub(super) fn token(&self, name: &str) -> Result<PathBuf, Error> {
        let path = self.path.join(TOKENS).join(name);
        make_private(&path)?;
        Ok(path)
    }

    /// A file of the private CA and its identities.
    pub fn pki(&self, name: &str) -> PathBuf {
        self.path.join(PKI).join(name)
    }

    /// The certificate signing request made in the token.
    pub fn csr(&self) -> PathBuf {
        self.path.join(CSR)
    }

    /// The site's certificate.
    pub fn certificate(&self) -> PathBuf {
        self.path.join(CERTIFICATE)
    }

    /// The CA that clients of the site trust.
    pub fn site_ca(&self) -> PathBuf {
        self.path.join(SITE_CA)
    }

    /// A daemon's configuration.
    pub fn config(&self, daemon: &str) -> PathBuf {
        self.path.join(format!("{daemon}.toml"))
    }

    /// A file of the KMS.
    pub fn kms(&self, name: &str) -> PathBuf {
        self.kms_dir().join(name)
    }

    /// The folder of the KMS: configurations, stores, requests.
    pub fn kms_dir(&self) -> PathBuf {
        self.path.join(KMS)
    }

    /// A daemon's log.
    pub fn log(&self, daemon: &str) -> PathBuf {
        self.path.join(LOGS).join(format!("{daemon}.log"))
    }
}

fn make_private(folder: &Path) -> Result<(), Error> {
    let mut private = fs::DirBuilder::new();
    private.mode(0o700);
    private.create(folder).map_err(|source| Error::File {
        act: "make",
        path: folder.to_path_buf(),
        source,
    })
}

const MARKER: &str = ".keyhaven-site";
const TOKENS: &str = "tokens";
const PKI: &str = "pki";
const LOGS: &str = "log";
const KMS: &str = "kms";
const CSR: &str = "demo.csr";
const CERTIFICATE: &str = "demo.pem";
const SITE_CA: &str = "site-ca.pem";

/// All that a run makes, and so all that the next run may remove.
const CONTENTS: &[&str] = &[
    TOKENS,
    PKI,
    LOGS,
    KMS,
    CSR,
    CERTIFICATE,
    SITE_CA,
    "signer.toml",
    "proxy.toml",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_made_anew_but_never_somebody_elses() {
        let dir = tempfile::tempdir().unwrap();
        let site = dir.path().join("site");
        let folder = Folder::take(&site).unwrap();
        let token = folder.token("main").unwrap();
        fs::write(token.join("pin"), "1234").unwrap();
        fs::write(site.join("kept"), "by its owner").unwrap();
        assert!(matches!(Folder::take(&site), Err(Error::DirInUse(_))));
        drop(folder);
        let folder = Folder::take(&site).unwrap();
        assert!(!token.exists());
        assert!(folder.csr().starts_with(&site));
        assert!(site.join("kept").exists());

        let foreign = dir.path().join("foreign");
        fs::create_dir(&foreign).unwrap();
        fs::write(foreign.join("pin"), "precious").unwrap();
        assert!(matches!(Folder::take(&foreign), Err(Error::ForeignDir(_))));
        assert_eq!(fs::read_to_string(foreign.join("pin")).unwrap(), "precious");
    }
}
