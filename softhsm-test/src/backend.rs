//! What differs from module to module, and what most of them have in common.
//!
//! [`Backend`] is the difference; its defaults are what OpenSC's `pkcs11-tool` does with a module that needs nothing
//! special. Keys are made by the tools that operators use, never by the code under test.

mod craton;
mod kryoptic;
mod nss;
mod p11kit;
mod softhsm;
mod tpm2;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::helper::Helpers;
use crate::kind::ModuleKind;
use crate::public_key::listed_point;
use crate::token::TokenError;
use crate::tools::{percent, run};

/// The backend of a kind of module.
pub(crate) fn backend(kind: ModuleKind) -> &'static dyn Backend {
    match kind {
        ModuleKind::SoftHsm2 => &softhsm::SoftHsm2,
        ModuleKind::Kryoptic => &kryoptic::Kryoptic { modern: false },
        ModuleKind::KryopticModern => &kryoptic::Kryoptic { modern: true },
        ModuleKind::Nss => &nss::Nss,
        ModuleKind::Tpm2 => &tpm2::Tpm2,
        ModuleKind::P11Kit => &p11kit::P11Kit,
        ModuleKind::Craton => &craton::Craton,
    }
}

/// Where a token is and how one gets in.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) kind: ModuleKind,
    pub(crate) dir: PathBuf,
    pub(crate) module: PathBuf,
    pub(crate) label: String,
    pub(crate) pin: String,
}

impl Place {
    /// What a process needs in its environment to see this token.
    pub(crate) fn env(&self) -> Vec<(&'static str, OsString)> {
        let mut env = backend(self.kind).env(&self.dir);
        env.push(("XDG_RUNTIME_DIR", self.dir.clone().into_os_string()));
        env
    }

    /// A program that sees this token.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.envs(self.env());
        command
    }

    /// `pkcs11-tool` with the module, not logged in.
    pub(crate) fn bare_pkcs11_tool(&self) -> Command {
        let mut command = self.command("pkcs11-tool");
        command.arg("--module").arg(&self.module);
        command
    }

    /// `pkcs11-tool`, logged in to this token.
    pub(crate) fn pkcs11_tool(&self) -> Command {
        let mut command = self.bare_pkcs11_tool();
        command.args(["--token-label", &self.label, "--login", "--pin", &self.pin]);
        command
    }

    /// Initialises the token in slot 0 with `pkcs11-tool`.
    pub(crate) fn init_first_slot(&self) -> Result<(), TokenError> {
        let so_pin = backend(self.kind).so_pin();
        run(self
            .bare_pkcs11_tool()
            .args(["--init-token", "--slot", "0", "--label", &self.label])
            .args(["--so-pin", so_pin]))?;
        run(self
            .bare_pkcs11_tool()
            .args(["--slot", "0", "--login", "--login-type", "so"])
            .args(["--so-pin", so_pin, "--init-pin", "--new-pin", &self.pin]))
        .map(drop)
    }

    /// What this kind of module cannot do, as an error.
    pub(crate) fn cannot(&self, what: &'static str) -> TokenError {
        TokenError::Unsupported {
            kind: self.kind,
            what,
        }
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> Result<(), TokenError> {
        let path = self.dir.join(name);
        crate::tools::write_private(&path, text).map_err(|source| TokenError::File { path, source })
    }

    pub(crate) fn make_dir(&self, name: &str) -> Result<PathBuf, TokenError> {
        let path = self.dir.join(name);
        match std::fs::create_dir(&path) {
            Ok(()) => Ok(path),
            Err(source) => Err(TokenError::File { path, source }),
        }
    }
}

/// One kind of module.
pub(crate) trait Backend: Sync {
    /// Prepares the token in its folder, where nothing is yet but its label and PIN.
    fn create(&self, place: &Place) -> Result<Helpers, TokenError>;

    /// What a process needs in its environment to see the token in `dir`.
    fn env(&self, dir: &Path) -> Vec<(&'static str, OsString)>;

    /// The file or folder that holds the token, by its name in the token's folder.
    fn storage(&self) -> &'static str;

    /// The key types that [`Backend::generate_key`] makes.
    fn key_types(&self) -> &'static [&'static str];

    /// The label of a token for which `asked` was asked.
    fn label(&self, asked: &str) -> String {
        asked.to_owned()
    }

    /// A PIN of this module's taste with these eight digits in it.
    fn pin(&self, digits: &str) -> String {
        digits.to_owned()
    }

    fn so_pin(&self) -> &'static str {
        "87654321"
    }

    /// What C_Initialize wants in `pReserved`.
    fn init_args(&self, _dir: &Path) -> Option<String> {
        None
    }

    /// One more token in the same folder.
    fn add_token(&self, place: &Place, _label: &str) -> Result<(), TokenError> {
        Err(place.cannot("hold a second token"))
    }

    fn generate_key(
        &self,
        place: &Place,
        key_type: &str,
        label: &str,
        id: &str,
    ) -> Result<(), TokenError> {
        run(place
            .pkcs11_tool()
            .args(["--keypairgen", "--key-type", key_type])
            .args(["--label", label, "--id", id])
            .args(["--usage-sign", "--sensitive", "--private"]))
        .map(drop)
    }

    fn public_key(&self, place: &Place, label: &str) -> Result<Vec<u8>, TokenError> {
        let listed = run(place
            .pkcs11_tool()
            .args(["--list-objects", "--type", "pubkey"]))?;
        match listed_point(&String::from_utf8_lossy(&listed), label) {
            // `pkcs11-tool` writes only some of these.
            Some((prefix, point)) => Ok([prefix, &point].concat()),
            None => run(place.pkcs11_tool().args([
                "--read-object",
                "--type",
                "pubkey",
                "--label",
                label,
            ])),
        }
    }

    fn key_uri(&self, _place: &Place, label: &str) -> Result<String, TokenError> {
        Ok(format!("pkcs11:object={};type=private", percent(label)))
    }

    fn import_pem(
        &self,
        place: &Place,
        _pem: &Path,
        _label: &str,
        _id: &str,
    ) -> Result<(), TokenError> {
        Err(place.cannot("import a key file with a tool of its own"))
    }

    fn delete_key(&self, place: &Place, label: &str) -> Result<(), TokenError> {
        for kind in ["privkey", "pubkey"] {
            run(place
                .pkcs11_tool()
                .args(["--delete-object", "--type", kind, "--label", label]))?;
        }
        Ok(())
    }
}
