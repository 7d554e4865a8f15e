//! The site's token and key, made by the real `signer-admin`.
//!
//! Holds no PIN longer than it takes to write it: programs read it from its file.

use std::process::Command;

use super::{Folder, SERVER_NAMES, write_file, write_private};
use crate::{Error, cargo::Programs, command};

/// What kind of key the site has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// ECDSA on P-256.
    Ec,
    /// RSA with 2048 bits.
    Rsa,
    /// Ed25519.
    Ed25519,
}

impl Algorithm {
    /// The name that `signer-admin key generate` knows.
    fn admin_name(self) -> &'static str {
        match self {
            Self::Ec => "ec-p256",
            Self::Rsa => "rsa-2048",
            Self::Ed25519 => "ed25519",
        }
    }
}

/// A SoftHSM2 token with one key in it.
#[derive(Debug)]
pub struct Token<'a> {
    folder: &'a Folder,
    programs: &'a Programs,
}

impl<'a> Token<'a> {
    /// Initialises a token and makes the key in it.
    pub fn create(
        folder: &'a Folder,
        programs: &'a Programs,
        algorithm: Algorithm,
    ) -> Result<Token<'a>, Error> {
        let token = Token { folder, programs };
        write_file(
            folder.softhsm_conf(),
            format!(
                "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\nslots.removable = false\n",
                folder.tokens().display()
            ),
        )?;
        write_private(folder.pin(), digits()?)?;
        write_private(folder.so_pin(), digits()?)?;
        token.admin(|admin| {
            admin.args(["token", "init", "--label", TOKEN_LABEL]);
            admin
                .arg("--pin-source")
                .arg(format!("file:{}", folder.pin().display()));
            admin
                .arg("--so-pin-source")
                .arg(format!("file:{}", folder.so_pin().display()));
        })?;
        token.admin(|admin| {
            admin.args(["key", "generate", "--token", &token.uri()]);
            admin.args(["--label", KEY_LABEL, "--algorithm", algorithm.admin_name()]);
        })?;
        Ok(token)
    }

    /// The token's URI with the place of its PIN.
    pub fn uri(&self) -> String {
        format!(
            "pkcs11:token={TOKEN_LABEL}?pin-source=file:{}",
            self.folder.pin().display()
        )
    }

    /// A certificate signing request, signed in the token.
    pub fn signing_request(&self) -> Result<String, Error> {
        let path = self.folder.csr();
        self.admin(|admin| {
            admin.args(["key", "csr", "--token", &self.uri(), "--label", KEY_LABEL]);
            admin.args(["--dns", &SERVER_NAMES.join(",")]);
            admin.arg("--out").arg(&path);
        })?;
        std::fs::read_to_string(&path).map_err(|source| Error::File {
            act: "read",
            path,
            source,
        })
    }

    fn admin(&self, arguments: impl FnOnce(&mut Command)) -> Result<Vec<u8>, Error> {
        let mut admin = Command::new(self.programs.path("signer-admin"));
        admin.env("SOFTHSM2_CONF", self.folder.softhsm_conf());
        arguments(&mut admin);
        command::capture(&mut admin)
    }
}

/// The key's URI, without the place of the PIN.
pub fn key_uri() -> String {
    format!("pkcs11:token={TOKEN_LABEL};object={KEY_LABEL};type=private")
}

/// The label of the token.
pub(super) const TOKEN_LABEL: &str = "keyhaven";
/// The label of the key.
pub(super) const KEY_LABEL: &str = "demo";

/// Twelve random digits for a PIN.
fn digits() -> Result<String, Error> {
    let mut bytes = [0; 12];
    rustls::crypto::aws_lc_rs::default_provider()
        .secure_random
        .fill(&mut bytes)
        .map_err(|_| Error::Output {
            program: "the random generator".to_owned(),
            why: "it gave nothing".to_owned(),
        })?;
    // Low digits are a little likelier, which does not matter for a token that holds a demo's key.
    Ok(bytes
        .iter()
        .map(|byte| char::from(b'0' + byte % 10))
        .collect())
}
