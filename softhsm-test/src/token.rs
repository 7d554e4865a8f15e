//! A token in a folder of its own.
//!
//! Leaves the use of the token to the test, and what differs from module to module to `backend`. Whoever made the
//! folder removes it and ends the token's processes; a token that was attached to (see [`crate::fresh_token!`]) is
//! left as it is.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, io};

use tempfile::TempDir;

use crate::backend::{Backend, Place, backend};
use crate::helper::Helpers;
use crate::kind::ModuleKind;
use crate::shim::Shim;
use crate::tools::percent;

/// Why a token could not be prepared.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// The module is not on this machine.
    #[error("there is no {kind} module ({remedy})")]
    NoModule {
        /// The module.
        kind: ModuleKind,
        /// How to get it.
        remedy: &'static str,
    },
    /// A tool could not be started.
    #[error("cannot start {program} (`cargo xtask test` installs what tests need)")]
    Start {
        /// The program.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// A tool failed.
    #[error("{program} ended with {status}: {said}")]
    Tool {
        /// The program.
        program: String,
        /// Its exit status.
        status: String,
        /// What it said.
        said: String,
    },
    /// A process that the token needs did not become ready in time.
    #[error("{program} did not become ready: {said}")]
    NotReady {
        /// The program.
        program: &'static str,
        /// What it said.
        said: String,
    },
    /// The module cannot do this, or no tool can do it with the module.
    #[error("no tool can make {kind} {what}")]
    Unsupported {
        /// The module.
        kind: ModuleKind,
        /// What it cannot do.
        what: &'static str,
    },
    /// A file of the token's folder could not be made or moved.
    #[error("cannot prepare {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A token in a folder of its own.
#[derive(Debug)]
pub struct TestToken {
    /// The token's processes, which end before their folder goes.
    _helpers: Helpers,
    /// Holds the folder while this value lives; nothing when the folder is somebody else's.
    _owned: Option<TempDir>,
    place: Place,
}

impl TestToken {
    /// A fresh SoftHSM2 token: a folder with a configuration, an initialised token and its PIN file.
    pub fn new(label: &str) -> Result<TestToken, TokenError> {
        TestToken::of(ModuleKind::SoftHsm2, label)
    }

    /// A fresh token of any kind. NSS gives its token a label of its own; see [`TestToken::label`].
    pub fn of(kind: ModuleKind, label: &str) -> Result<TestToken, TokenError> {
        let module = kind.module()?;
        let owned = tempfile::Builder::new()
            .prefix("keyhaven-token-")
            .tempdir()
            .map_err(|source| TokenError::File {
                path: std::env::temp_dir(),
                source,
            })?;
        let dir = owned.path().to_path_buf();
        let place = Place {
            kind,
            module,
            label: backend(kind).label(label),
            pin: backend(kind).pin(&fresh_digits(&dir)),
            dir,
        };
        place.write("kind", kind.as_str())?;
        place.write("label", &place.label)?;
        place.write("pin", &place.pin)?;
        Ok(TestToken {
            _helpers: backend(kind).create(&place)?,
            _owned: Some(owned),
            place,
        })
    }

    /// The token that another process made in `dir`. Its folder stays when this value is dropped.
    pub fn attach(dir: &Path) -> Result<TestToken, TokenError> {
        let read = |name: &str| {
            let path = dir.join(name);
            fs::read_to_string(&path).map_err(|source| TokenError::File { path, source })
        };
        let kind: ModuleKind = read("kind")?.parse().map_err(|unknown| TokenError::File {
            path: dir.join("kind"),
            source: io::Error::new(io::ErrorKind::InvalidData, unknown),
        })?;
        Ok(TestToken {
            _helpers: Helpers::default(),
            _owned: None,
            place: Place {
                kind,
                dir: dir.to_path_buf(),
                module: kind.module()?,
                label: read("label")?,
                pin: read("pin")?,
            },
        })
    }

    /// Which module it is a token of.
    pub fn kind(&self) -> ModuleKind {
        self.place.kind
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.place.dir
    }

    /// `softhsm2.conf`, where the kind has one.
    pub fn conf(&self) -> PathBuf {
        self.place.dir.join("softhsm2.conf")
    }

    /// The module's file.
    pub fn module(&self) -> &Path {
        &self.place.module
    }

    /// The token's label.
    pub fn label(&self) -> &str {
        &self.place.label
    }

    /// `pkcs11:token=LABEL`, without a PIN source.
    pub fn uri(&self) -> String {
        format!("pkcs11:token={}", percent(self.label()))
    }

    /// `pkcs11:token=LABEL?pin-source=file:/…/pin`.
    pub fn uri_with_pin(&self) -> String {
        format!(
            "{}?pin-source=file:{}",
            self.uri(),
            self.pin_file().display()
        )
    }

    /// The PIN.
    pub fn pin(&self) -> &str {
        &self.place.pin
    }

    /// The SO PIN.
    pub fn so_pin(&self) -> &'static str {
        self.backend().so_pin()
    }

    /// The file that holds the PIN and nothing else; mode 0600.
    pub fn pin_file(&self) -> PathBuf {
        self.place.dir.join("pin")
    }

    /// What a process needs in its environment to see this token. What it leaves behind at run time, such as lock
    /// files, goes into the token's folder.
    pub fn env(&self) -> Vec<(&'static str, OsString)> {
        self.place.env()
    }

    /// What C_Initialize wants in `pReserved`, for the modules that want something (NSS).
    pub fn init_args(&self) -> Option<String> {
        self.backend().init_args(self.dir())
    }

    /// The module that counts calls and injects faults before this token's own, keeping its files in this token's
    /// folder.
    pub fn shim(&self) -> Shim {
        Shim::of(self.dir(), self.module())
    }

    /// The key types that [`TestToken::generate_key`] can make here.
    pub fn key_types(&self) -> &'static [&'static str] {
        self.backend().key_types()
    }

    /// Initialises one more token in the same folder, with the same PINs.
    pub fn init(&self, label: &str) -> Result<(), TokenError> {
        self.backend().add_token(&self.place, label)
    }

    /// Makes a key pair: `EC:prime256v1`, `EC:secp384r1`, `EC:edwards25519`, `rsa:2048`, `rsa:3072`, …; see
    /// [`TestToken::key_types`]. `id` is hexadecimal. NSS gives its keys ids of its own, and no label: find the key
    /// with [`TestToken::key_uri`].
    pub fn generate_key(&self, key_type: &str, label: &str, id: &str) -> Result<(), TokenError> {
        self.backend()
            .generate_key(&self.place, key_type, label, id)
    }

    /// The public part of a key pair, as DER SubjectPublicKeyInfo.
    pub fn public_key(&self, label: &str) -> Result<Vec<u8>, TokenError> {
        self.backend().public_key(&self.place, label)
    }

    /// The URI of the private key that was made with this label: `pkcs11:object=LABEL;type=private`, or by id where
    /// the module's keys have no label.
    ///
    /// # Panics
    /// When it goes by id and no such key was made.
    pub fn key_uri(&self, label: &str) -> String {
        match self.backend().key_uri(&self.place, label) {
            Ok(uri) => uri,
            Err(error) => panic!("no key {label}: {error}"),
        }
    }

    /// Imports a private key (PEM, PKCS#8, not encrypted) with its public part, where SoftHSM2 is behind the
    /// module. `id` is hexadecimal.
    pub fn import_pem(&self, pem: &Path, label: &str, id: &str) -> Result<(), TokenError> {
        self.backend().import_pem(&self.place, pem, label, id)
    }

    /// Deletes a key pair.
    pub fn delete_key(&self, label: &str) -> Result<(), TokenError> {
        self.backend().delete_key(&self.place, label)
    }

    /// Takes the tokens away, as when a disk is gone. A module that holds a database open does not notice.
    pub fn remove_dir(&self) -> Result<(), TokenError> {
        let name = self.backend().storage();
        self.rename(name, &format!("{name}.away"))
    }

    /// Puts the tokens back after [`TestToken::remove_dir`].
    pub fn restore_dir(&self) -> Result<(), TokenError> {
        let name = self.backend().storage();
        // SoftHSM2 may have made an empty folder in the meantime; anything else must not be lost.
        let _ = fs::remove_dir(self.dir().join(name));
        self.rename(&format!("{name}.away"), name)
    }

    /// `pkcs11-tool`, logged in to this token, for what has no method here. It cannot start NSS.
    pub fn pkcs11_tool(&self) -> Command {
        self.place.pkcs11_tool()
    }

    fn backend(&self) -> &'static dyn Backend {
        backend(self.place.kind)
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), TokenError> {
        let path = self.dir().join(from);
        fs::rename(&path, self.dir().join(to)).map_err(|source| TokenError::File { path, source })
    }
}

/// Eight digits that differ from token to token, so that a test cannot pass with another token's PIN. They
/// protect nothing.
fn fresh_digits(dir: &Path) -> String {
    use std::hash::BuildHasher;
    format!(
        "{:08}",
        std::hash::RandomState::new().hash_one(dir) % 100_000_000
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::run;

    #[test]
    fn holds_each_kind_of_key() {
        let token = TestToken::new("kinds of keys").unwrap();
        for (index, kind) in token.key_types().iter().enumerate() {
            token
                .generate_key(kind, &format!("key {index}"), &format!("0{index}"))
                .unwrap();
        }
        let listed = run(token.pkcs11_tool().arg("--list-objects")).unwrap();
        let listed = String::from_utf8(listed).unwrap();
        assert_eq!(listed.matches("Private Key Object").count(), 4, "{listed}");
        assert_eq!(token.uri(), "pkcs11:token=kinds%20of%20keys");
    }

    #[test]
    fn imports_deletes_goes_and_comes_back() {
        let token = TestToken::new("t").unwrap();
        let pem = token.dir().join("key.pem");
        for (index, args) in [
            &["EC", "-pkeyopt", "ec_paramgen_curve:P-256"][..],
            &["RSA", "-pkeyopt", "rsa_keygen_bits:2048"][..],
            &["ED25519"][..],
        ]
        .into_iter()
        .enumerate()
        {
            let label = format!("k{index}");
            run(Command::new("openssl")
                .args(["genpkey", "-algorithm"])
                .args(args)
                .arg("-out")
                .arg(&pem))
            .unwrap();
            token
                .import_pem(&pem, &label, &format!("0{index}"))
                .unwrap();
        }
        token.delete_key("k0").unwrap();
        token.remove_dir().unwrap();
        assert!(run(token.pkcs11_tool().arg("--list-objects")).is_err());
        token.restore_dir().unwrap();
        let listed =
            String::from_utf8(run(token.pkcs11_tool().arg("--list-objects")).unwrap()).unwrap();
        assert_eq!(listed.matches("Private Key Object").count(), 2, "{listed}");
    }

    #[test]
    fn is_removed_when_dropped() {
        let token = TestToken::new("t").unwrap();
        let dir = token.dir().to_path_buf();
        drop(TestToken::attach(&dir).unwrap());
        assert!(dir.exists());
        drop(token);
        assert!(!dir.exists());
    }
}
