//! SoftHSM2, the module of most tests.
//!
//! Makes its tokens and imports keys with `softhsm2-util`; the rest is as everywhere. A process reads
//! `SOFTHSM2_CONF` once.

use std::ffi::OsString;
use std::path::Path;

use super::{Backend, Place};
use crate::helper::Helpers;
use crate::token::TokenError;
use crate::tools::run;

pub(super) struct SoftHsm2;

impl Backend for SoftHsm2 {
    fn create(&self, place: &Place) -> Result<Helpers, TokenError> {
        let tokens = place.make_dir("tokens")?;
        place.write(
            "softhsm2.conf",
            &format!(
                "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\nslots.removable = false\n",
                tokens.display()
            ),
        )?;
        self.add_token(place, &place.label)?;
        Ok(Helpers::default())
    }

    fn env(&self, dir: &Path) -> Vec<(&'static str, OsString)> {
        vec![("SOFTHSM2_CONF", dir.join("softhsm2.conf").into_os_string())]
    }

    fn storage(&self) -> &'static str {
        "tokens"
    }

    fn key_types(&self) -> &'static [&'static str] {
        &[
            "EC:prime256v1",
            "EC:secp384r1",
            "EC:edwards25519",
            "rsa:2048",
        ]
    }

    fn add_token(&self, place: &Place, label: &str) -> Result<(), TokenError> {
        run(place
            .command("softhsm2-util")
            .args(["--init-token", "--free", "--label", label])
            .args(["--so-pin", self.so_pin(), "--pin", &place.pin]))
        .map(drop)
    }

    fn import_pem(
        &self,
        place: &Place,
        pem: &Path,
        label: &str,
        id: &str,
    ) -> Result<(), TokenError> {
        run(place
            .command("softhsm2-util")
            .arg("--import")
            .arg(pem)
            .args(["--token", &place.label, "--pin", &place.pin])
            .args(["--label", label, "--id", id]))
        .map(drop)
    }
}
