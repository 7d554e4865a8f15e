//! craton-hsm: one token in a store of its own.
//!
//! Wants PINs of several kinds of characters, and lets one process at a time open a store.

use std::ffi::OsString;
use std::path::Path;

use super::{Backend, Place};
use crate::helper::Helpers;
use crate::token::TokenError;

pub(super) struct Craton;

impl Backend for Craton {
    fn create(&self, place: &Place) -> Result<Helpers, TokenError> {
        let dir = place.dir.display();
        place.write(
            "craton.toml",
            &format!(
                "[token]\nlabel = \"{}\"\nstorage_path = \"{dir}/{}\"\npersist_objects = true\n\
                 max_sessions = 1000\nmax_rw_sessions = 1000\n\
                 [audit]\nenabled = false\nlog_path = \"{dir}/audit.log\"\n",
                place.label,
                self.storage(),
            ),
        )?;
        place.init_first_slot()?;
        Ok(Helpers::default())
    }

    fn env(&self, dir: &Path) -> Vec<(&'static str, OsString)> {
        vec![
            ("CRATON_HSM_CONFIG", dir.join("craton.toml").into()),
            // A build of ours has no maker's signature, without which the module does not start.
            ("CRATON_HSM_INTEGRITY_BYPASS", "unsafe-dev-only".into()),
        ]
    }

    fn storage(&self) -> &'static str {
        "store"
    }

    fn key_types(&self) -> &'static [&'static str] {
        // RSA is switched off in a plain build: its library's private operation is not free of timing leaks.
        &["EC:prime256v1", "EC:secp384r1", "EC:edwards25519"]
    }

    fn pin(&self, digits: &str) -> String {
        format!("Test-{digits}")
    }

    fn so_pin(&self) -> &'static str {
        "Test-87654321"
    }
}
