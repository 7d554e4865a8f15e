//! An object that lives as long as one operation.
//!
//! What lives longer is `exchange::Ephemeral`'s. Invariant: the object is destroyed on every way out of the operation;
//! a session that is lost takes it along.

use cryptoki::object::ObjectHandle;

use crate::{Error, session::OpenSession};

/// A session object that is destroyed when this is dropped.
pub(crate) struct Scoped<'a> {
    session: &'a OpenSession,
    handle: ObjectHandle,
}

impl<'a> Scoped<'a> {
    pub(crate) fn new(session: &'a OpenSession, handle: ObjectHandle) -> Self {
        Self { session, handle }
    }

    pub(crate) fn handle(&self) -> ObjectHandle {
        self.handle
    }
}

impl Drop for Scoped<'_> {
    fn drop(&mut self) {
        let destroyed = self.session.destroy_object(self.handle);
        let destroyed =
            destroyed.map_err(|source| Error::token("destroying a passing object", source));
        // With a lost login it is gone anyway.
        if let Err(error) = destroyed
            && !error.is_unavailable()
        {
            tracing::error!(%error, "a passing object stays in the token's memory until its session ends");
        }
    }
}
