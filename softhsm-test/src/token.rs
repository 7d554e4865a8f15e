//! A token in a folder of its own.
//!
//! Leaves the use of the token to the test. Whoever made the folder removes it; a token that was attached to
//! (see [`crate::fresh_token!`]) is left as it is.

use std::ffi::OsString;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, io};

use tempfile::TempDir;

use crate::public_key::listed_point;
use crate::shim::Shim;
use crate::tools::{run, softhsm_module};

/// Why a token could not be prepared.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// SoftHSM2 is not installed.
    #[error("SoftHSM2 is not installed (apt-get install softhsm2 opensc)")]
    NoModule,
    /// A tool could not be started.
    #[error("cannot start {program} (apt-get install softhsm2 opensc openssl)")]
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
    /// A file of the token's folder could not be made or moved.
    #[error("cannot prepare {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A SoftHSM2 token in a folder of its own.
#[derive(Debug)]
pub struct TestToken {
    /// Holds the folder while this value lives; nothing when the folder is somebody else's.
    _owned: Option<TempDir>,
    dir: PathBuf,
    module: PathBuf,
    label: String,
    pin: String,
}

impl TestToken {
    /// Makes a folder with a configuration, an initialised token and its PIN file.
    pub fn new(label: &str) -> Result<TestToken, TokenError> {
        let owned = tempfile::Builder::new()
            .prefix("keyhaven-token-")
            .tempdir()
            .map_err(|source| TokenError::File {
                path: std::env::temp_dir(),
                source,
            })?;
        let dir = owned.path().to_path_buf();
        let token = TestToken {
            module: softhsm_module()?.to_path_buf(),
            label: label.to_owned(),
            pin: fresh_pin(&dir),
            _owned: Some(owned),
            dir,
        };
        token.write_files()?;
        token.init(label)?;
        Ok(token)
    }

    /// The token that another process made in `dir`. Its folder stays when this value is dropped.
    pub fn attach(dir: &Path) -> Result<TestToken, TokenError> {
        let read = |name: &str| {
            let path = dir.join(name);
            fs::read_to_string(&path).map_err(|source| TokenError::File { path, source })
        };
        Ok(TestToken {
            _owned: None,
            dir: dir.to_path_buf(),
            module: softhsm_module()?.to_path_buf(),
            label: read("label")?,
            pin: read("pin")?,
        })
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// `softhsm2.conf`.
    pub fn conf(&self) -> PathBuf {
        self.dir.join("softhsm2.conf")
    }

    /// The SoftHSM2 module.
    pub fn module(&self) -> &Path {
        &self.module
    }

    /// The token's label.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// `pkcs11:token=LABEL`, without a PIN source.
    pub fn uri(&self) -> String {
        format!("pkcs11:token={}", percent(&self.label))
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
        &self.pin
    }

    /// The SO PIN.
    pub fn so_pin(&self) -> &'static str {
        SO_PIN
    }

    /// The file that holds the PIN and nothing else; mode 0600.
    pub fn pin_file(&self) -> PathBuf {
        self.dir.join("pin")
    }

    /// What a process needs in its environment to see this token. What it leaves behind at run time, such as lock
    /// files, goes into the token's folder.
    pub fn env(&self) -> Vec<(&'static str, OsString)> {
        vec![
            ("SOFTHSM2_CONF", self.conf().into_os_string()),
            ("XDG_RUNTIME_DIR", self.dir.clone().into_os_string()),
        ]
    }

    /// The module that counts calls and injects faults, keeping its files in this token's folder.
    pub fn shim(&self) -> Shim {
        Shim::new(&self.dir)
    }

    /// Initialises one more token in the same folder, with the same PINs.
    pub fn init(&self, label: &str) -> Result<(), TokenError> {
        run(self
            .command("softhsm2-util")
            .args(["--init-token", "--free", "--label", label])
            .args(["--so-pin", SO_PIN, "--pin", &self.pin]))
        .map(drop)
    }

    /// Makes a key pair: `EC:prime256v1`, `EC:secp384r1`, `EC:edwards25519`, `rsa:2048`, `rsa:3072`, ….
    /// `id` is hexadecimal.
    pub fn generate_key(&self, key_type: &str, label: &str, id: &str) -> Result<(), TokenError> {
        run(self
            .pkcs11_tool()
            .args([
                "--keypairgen",
                "--key-type",
                key_type,
                "--label",
                label,
                "--id",
                id,
            ])
            .args(["--usage-sign", "--sensitive", "--private"]))
        .map(drop)
    }

    /// The public part of a key pair, as DER SubjectPublicKeyInfo.
    pub fn public_key(&self, label: &str) -> Result<Vec<u8>, TokenError> {
        let listed = run(self
            .pkcs11_tool()
            .args(["--list-objects", "--type", "pubkey"]))?;
        match listed_point(&String::from_utf8_lossy(&listed), label) {
            // `pkcs11-tool` writes only some of these.
            Some((prefix, point)) => Ok([prefix, &point].concat()),
            None => run(self.pkcs11_tool().args([
                "--read-object",
                "--type",
                "pubkey",
                "--label",
                label,
            ])),
        }
    }

    /// Imports a private key (PEM, PKCS#8, not encrypted) with its public part. `id` is hexadecimal.
    pub fn import_pem(&self, pem: &Path, label: &str, id: &str) -> Result<(), TokenError> {
        run(self
            .command("softhsm2-util")
            .arg("--import")
            .arg(pem)
            .args([
                "--token",
                &self.label,
                "--label",
                label,
                "--id",
                id,
                "--pin",
                &self.pin,
            ]))
        .map(drop)
    }

    /// Deletes a key pair.
    pub fn delete_key(&self, label: &str) -> Result<(), TokenError> {
        for kind in ["privkey", "pubkey"] {
            run(self
                .pkcs11_tool()
                .args(["--delete-object", "--type", kind, "--label", label]))?;
        }
        Ok(())
    }

    /// Takes the tokens away, as when a disk is gone.
    pub fn remove_dir(&self) -> Result<(), TokenError> {
        self.rename("tokens", "tokens.away")
    }

    /// Puts the tokens back after [`TestToken::remove_dir`].
    pub fn restore_dir(&self) -> Result<(), TokenError> {
        // SoftHSM2 may have made an empty folder in the meantime; anything else must not be lost.
        let _ = fs::remove_dir(self.dir.join("tokens"));
        self.rename("tokens.away", "tokens")
    }

    /// `pkcs11-tool`, logged in to this token, for what has no method here.
    pub fn pkcs11_tool(&self) -> Command {
        let mut command = self.command("pkcs11-tool");
        command.arg("--module").arg(&self.module);
        command.args(["--token-label", &self.label, "--login", "--pin", &self.pin]);
        command
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.envs(self.env());
        command
    }

    fn write_files(&self) -> Result<(), TokenError> {
        let tokens = self.dir.join("tokens");
        fs::create_dir(&tokens).map_err(|source| TokenError::File {
            path: tokens.clone(),
            source,
        })?;
        let conf = format!(
            "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\nslots.removable = false\n",
            tokens.display()
        );
        for (name, text) in [
            ("softhsm2.conf", &conf),
            ("label", &self.label),
            ("pin", &self.pin),
        ] {
            let path = self.dir.join(name);
            write_private(&path, text).map_err(|source| TokenError::File { path, source })?;
        }
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), TokenError> {
        let path = self.dir.join(from);
        fs::rename(&path, self.dir.join(to)).map_err(|source| TokenError::File { path, source })
    }
}

fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    io::Write::write_all(&mut file, text.as_bytes())
}

/// Eight digits that differ from token to token, so that a test cannot pass with another token's PIN. They
/// protect nothing.
fn fresh_pin(dir: &Path) -> String {
    use std::hash::BuildHasher;
    format!(
        "{:08}",
        std::hash::RandomState::new().hash_one(dir) % 100_000_000
    )
}

/// Percent-encodes all but the unreserved characters of RFC 3986.
fn percent(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            other => format!("%{other:02X}"),
        })
        .collect()
}

const SO_PIN: &str = "87654321";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_each_kind_of_key() {
        let token = TestToken::new("kinds of keys").unwrap();
        for (index, kind) in [
            "EC:prime256v1",
            "EC:secp384r1",
            "EC:edwards25519",
            "rsa:2048",
        ]
        .into_iter()
        .enumerate()
        {
            token
                .generate_key(kind, &format!("key {index}"), &format!("0{index}"))
                .unwrap();
        }
        let listed = run(token.pkcs11_tool().arg("--list-objects")).unwrap();
        let listed = String::from_utf8(listed).unwrap();
        assert_eq!(listed.matches("Private Key Object").count(), 4, "{listed}");
        assert_eq!(token.uri(), "pkcs11:token=kinds%20of%20keys");
        let lengths = [91, 120, 44, 294];
        for (index, length) in lengths.into_iter().enumerate() {
            assert_eq!(
                token.public_key(&format!("key {index}")).unwrap().len(),
                length
            );
        }
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
