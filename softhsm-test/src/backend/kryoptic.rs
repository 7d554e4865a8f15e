//! kryoptic: one token in an SQLite file.
//!
//! Needs a PIN of eight characters or more, and locks it after some ten wrong ones.

use std::ffi::OsString;
use std::path::Path;

use super::{Backend, Place};
use crate::helper::Helpers;
use crate::token::TokenError;

pub(super) struct Kryoptic {
    /// On an OpenSSL of its own, newer than the system's.
    pub(super) modern: bool,
}

impl Backend for Kryoptic {
    fn create(&self, place: &Place) -> Result<Helpers, TokenError> {
        place.write(
            "kryoptic.conf",
            &format!(
                "[[slots]]\nslot = 0\ndbtype = \"sqlite\"\ndbargs = \"{}\"\n",
                place.dir.join(self.storage()).display()
            ),
        )?;
        place.init_first_slot()?;
        Ok(Helpers::default())
    }

    fn env(&self, dir: &Path) -> Vec<(&'static str, OsString)> {
        vec![("KRYOPTIC_CONF", dir.join("kryoptic.conf").into_os_string())]
    }

    fn storage(&self) -> &'static str {
        "token.sql"
    }

    fn key_types(&self) -> &'static [&'static str] {
        if self.modern {
            &[
                "EC:prime256v1",
                "EC:secp384r1",
                "EC:edwards25519",
                "rsa:2048",
            ]
        } else {
            &["EC:prime256v1", "EC:secp384r1", "rsa:2048"]
        }
    }
}
