//! A session that is closed once, and only in the module's life in which it was opened.
//!
//! Invariant: after a restart of the module, whose session numbers start anew, an old session is never closed or
//! used: its number may be another one's by then.

use std::ops::Deref;

use cryptoki::{session::Session, slot::Slot};

use crate::{Error, Module};

/// An open read-write session.
pub(crate) struct OpenSession {
    session: Option<Session>,
    module: Module,
    epoch: u64,
}

impl OpenSession {
    /// Opens a session; read-write, since some modules derive in no other kind.
    pub(crate) fn open(module: &Module, slot: Slot) -> Result<Self, Error> {
        let _inside = module.enter()?;
        let session = module
            .pkcs11()
            .open_rw_session(slot)
            .map_err(|source| Error::token("opening a session", source))?;
        Ok(Self {
            session: Some(session),
            epoch: module.epoch(),
            module: module.clone(),
        })
    }
}

impl Deref for OpenSession {
    type Target = Session;

    fn deref(&self) -> &Session {
        self.session
            .as_ref()
            .expect("taken by drop alone, after which nobody can ask")
    }
}

impl Drop for OpenSession {
    fn drop(&mut self) {
        let inside = self.module.enter();
        let session = self.session.take();
        if inside.is_err() || self.module.epoch() != self.epoch {
            // Dropping it would close whatever session has its number now.
            std::mem::forget(session);
        }
    }
}
