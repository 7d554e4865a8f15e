//! One token, logged in.

use std::sync::Arc;

use crate::{Error, Module, Pin, PrivateKey, Profile, TokenInfo, Uri};

/// A token with its login. Clones are the same token.
#[derive(Clone, Debug)]
pub struct Token(Arc<TokenInfo>);

impl Token {
    /// Opens the one token that fits and logs in once.
    pub fn open(module: &Module, uri: &Uri, pin: Pin) -> Result<Self, Error> {
        let _ = (module, uri, pin);
        Err(Error::Stopped)
    }
    /// What it says about itself.
    pub fn info(&self) -> &TokenInfo {
        &self.0
    }
    /// Finds the one private key and binds it to a public key.
    pub fn load_key(&self, uri: &Uri, spki_der: &[u8]) -> Result<PrivateKey, Error> {
        let _ = (uri, spki_der);
        Err(Error::Stopped)
    }
    /// Runs the self-tests.
    pub fn prove(&self) -> Result<Profile, Error> {
        Err(Error::Stopped)
    }
    /// A cheap operation that needs the login.
    pub fn health(&self) -> Result<(), Error> {
        Err(Error::Stopped)
    }
    /// Ephemeral objects made and not yet destroyed.
    pub fn live_ephemerals(&self) -> usize {
        0
    }
}
