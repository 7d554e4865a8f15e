//! One read-write session with the user logged in, for the time of one administrative act.
//!
//! Which token and whose PIN is decided by the caller; the login itself is `generation`'s, so a PIN is tried once
//! here as everywhere. Invariant: the session ends, and the login with it, when this value is dropped.

use std::sync::MutexGuard;

use cryptoki::{error::Error as CryptokiError, object::Attribute};

use super::error::AdminError;
use crate::{Error, Module, Pin, TokenInfo, Uri, generation::Generation, session::OpenSession};

/// A token, open for administration.
pub struct AdminSession {
    generation: Generation,
    info: TokenInfo,
    // Last: the library outlives the session.
    _module: Module,
}

impl AdminSession {
    /// Opens the one token that fits the URI and logs the user in.
    ///
    /// # Errors
    /// [`Error::TokenNotFound`], [`Error::TokenAmbiguous`], [`Error::UserPinNotSet`], [`Error::PinLocked`],
    /// [`Error::PinRefused`], or a failed call.
    pub fn open(module: &Module, uri: &Uri, pin: &Pin) -> Result<Self, AdminError> {
        let (generation, info) = Generation::open(module, uri, pin, 1)?;
        Ok(Self {
            generation,
            info,
            _module: module.clone(),
        })
    }

    /// What the token says about itself.
    pub fn info(&self) -> &TokenInfo {
        &self.info
    }

    /// How many session objects the token shows to this process. Which are whose is not told.
    ///
    /// # Errors
    /// A failed call.
    pub fn session_objects(&self) -> Result<usize, AdminError> {
        let template = [Attribute::Token(false)];
        let found = self.session().find_objects(&template);
        found
            .map(|objects| objects.len())
            .map_err(|error| self.fail("find objects", error))
    }

    /// The session. Not to be asked for again while the guard lives.
    pub(super) fn session(&self) -> MutexGuard<'_, OpenSession> {
        self.generation.anchor()
    }

    pub(super) fn fail(&self, operation: &'static str, error: CryptokiError) -> AdminError {
        Error::token(operation, error).of(&self.info.label).into()
    }
}

impl std::fmt::Debug for AdminSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AdminSession({})", self.info.label)
    }
}
