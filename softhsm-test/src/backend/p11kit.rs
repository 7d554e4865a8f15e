//! SoftHSM2 behind p11-kit's remoting, as a token of another machine would be.
//!
//! Makes and imports behind the server's back; keys are made through it. One server serves one token.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::softhsm::SoftHsm2;
use super::{Backend, Place};
use crate::helper::{Helpers, listens};
use crate::kind::ModuleKind;
use crate::token::TokenError;
use crate::tools::percent;

pub(super) struct P11Kit;

impl Backend for P11Kit {
    fn create(&self, place: &Place) -> Result<Helpers, TokenError> {
        let mut helpers = SoftHsm2.create(place)?;
        let mut server = place.command("p11-kit");
        server.envs(SoftHsm2.env(&place.dir));
        server.args(["server", "--foreground", "--provider"]);
        server.arg(ModuleKind::SoftHsm2.module()?);
        server.arg("--name").arg(socket(&place.dir));
        server.arg(format!("pkcs11:token={}", percent(&place.label)));
        helpers.start(&place.dir, "p11-kit", &server, || {
            listens(&socket(&place.dir))
        })?;
        Ok(helpers)
    }

    fn env(&self, dir: &Path) -> Vec<(&'static str, OsString)> {
        let mut address = OsString::from("unix:path=");
        address.push(socket(dir));
        // SoftHSM2's own variable as well, for the tools that work behind the server's back.
        let mut env = SoftHsm2.env(dir);
        env.push(("P11_KIT_SERVER_ADDRESS", address));
        env
    }

    fn storage(&self) -> &'static str {
        SoftHsm2.storage()
    }

    fn key_types(&self) -> &'static [&'static str] {
        &["EC:prime256v1", "EC:secp384r1", "rsa:2048"]
    }

    fn import_pem(
        &self,
        place: &Place,
        pem: &Path,
        label: &str,
        id: &str,
    ) -> Result<(), TokenError> {
        SoftHsm2.import_pem(place, pem, label, id)
    }
}

fn socket(dir: &Path) -> PathBuf {
    dir.join("p11-kit.sock")
}
