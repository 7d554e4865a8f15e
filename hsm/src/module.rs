//! A PKCS#11 module: found, loaded and initialised once per process.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::Serialize;

use crate::Error;

/// A loaded module. Clones are the same module.
#[derive(Clone, Debug)]
pub struct Module(Arc<PathBuf>);

impl Module {
    /// Loads and initialises; `None` looks for SoftHSM2.
    pub fn load(path: Option<&Path>) -> Result<Self, Error> {
        let _ = path;
        Err(Error::Stopped)
    }
    /// The library.
    pub fn path(&self) -> &Path {
        &self.0
    }
    /// The tokens in the module's slots.
    pub fn tokens(&self) -> Result<Vec<TokenInfo>, Error> {
        Err(Error::Stopped)
    }
}

/// What a token says about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TokenInfo {
    /// Label.
    pub label: String,
    /// Manufacturer.
    pub manufacturer: String,
    /// Model.
    pub model: String,
    /// Serial number.
    pub serial: String,
    /// Slot number, good until the next start.
    pub slot_id: u64,
    /// Whether C_InitToken was run.
    pub initialized: bool,
    /// Whether a user PIN is set.
    pub user_pin_set: bool,
    /// A wrong user PIN was given since the last good one.
    pub user_pin_count_low: bool,
    /// One more wrong user PIN locks it.
    pub user_pin_final_try: bool,
    /// The user PIN is locked.
    pub user_pin_locked: bool,
}
