//! The object by which a private key is used in one login: a copy of it for the session, or the key in its place.
//!
//! Which key that is, and what it signs, is `key`'s business. Invariant: a copy lives as long as the value that stands
//! for it, and no longer: whoever has the login could go on signing with one that was left behind.

use std::sync::{Arc, Weak};

use cryptoki::{
    object::{Attribute, ObjectHandle},
    session::Session,
};

use crate::{
    Error, Token, Worker,
    generation::{Counted, Generation, Owner},
};

/// A key's object in one login. Dropping it destroys a copy, or what was unwrapped, on whatever thread.
pub(crate) struct Place {
    login: u64,
    handle: ObjectHandle,
    /// Where the copy was made, or the key unwrapped; nothing for the token's own object.
    copied: Option<(Token, Weak<Generation>)>,
}

impl Place {
    /// A session object with the same key: token objects are read and decrypted anew for each use, which costs up to
    /// twenty times the signature (NSS). It stays sensitive and not extractable. A module that refuses the copy signs
    /// with the token object.
    pub(crate) fn of(
        token: &Token,
        generation: &Arc<Generation>,
        anchor: &Session,
        object: ObjectHandle,
        label: &str,
    ) -> Result<Self, Error> {
        let login = generation.number;
        match anchor.copy_object(object, &[Attribute::Token(false)]) {
            Ok(handle) => {
                generation.copy_made();
                Ok(Self {
                    login,
                    handle,
                    copied: Some((token.clone(), Arc::downgrade(generation))),
                })
            }
            Err(error) => {
                let error = Error::token("copying a private key for the session", error);
                if error.is_unavailable() {
                    return Err(error);
                }
                // SoftHSM2 copies no object that may not be modified, as ours may not (security rule K5).
                tracing::debug!(key = label, error = %error, "the key is used in its place in the token");
                Ok(Self {
                    login,
                    handle: object,
                    copied: None,
                })
            }
        }
    }

    /// A key that was unwrapped to an object of the anchor session: it is destroyed as a copy is.
    pub(crate) fn unwrapped(
        token: &Token,
        generation: &Arc<Generation>,
        handle: ObjectHandle,
    ) -> Self {
        generation.copy_made();
        Self {
            login: generation.number,
            handle,
            copied: Some((token.clone(), Arc::downgrade(generation))),
        }
    }

    /// Whether this is the login that it belongs to.
    pub(crate) fn is_of(&self, generation: &Generation) -> bool {
        self.login == generation.number
    }

    pub(crate) fn handle(&self) -> ObjectHandle {
        self.handle
    }

    /// Destroys a copy at once, where no worker may ever come to do it.
    pub(crate) fn end(mut self, session: &Session) {
        let Some((_, generation)) = self.copied.take() else {
            return;
        };
        if let Some(generation) = generation.upgrade() {
            generation.copy_gone();
        }
        let destroyed = session.destroy_object(self.handle);
        let destroyed = destroyed.map_err(|source| Error::token("destroying a key's copy", source));
        // With a lost login it is gone anyway.
        if let Err(error) = destroyed
            && !error.is_unavailable()
        {
            tracing::error!(%error, "a copy of a private key stays in the token's memory");
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some((token, generation)) = self.copied.take() else {
            return;
        };
        let Some(generation) = generation.upgrade() else {
            return;
        };
        generation.copy_gone();
        // The objects of a lost login are gone, or go with their sessions.
        if generation.is_broken() {
            return;
        }
        let copy = Counted::new(self.handle, &Owner::new(generation));
        if let Some(copy) = Worker::destroy_here(&token, copy) {
            token.throw_away(copy);
        }
    }
}
