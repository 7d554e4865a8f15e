//! Handles of central's own keys in one login.
//!
//! Invariant: all of them were compared with what the ceremony makes when they were found.

use cryptoki::object::ObjectHandle;
use keyhaven_types::{KekId, Purpose};

use super::find;
use crate::{
    Error,
    managed::{KekInfo, template::root_label},
    quirks::Quirks,
    session::OpenSession,
    spki::PublicKey,
};

/// The keys.
pub(super) struct Keys {
    /// The login's number.
    pub(super) login: u64,
    pub(super) signing: ObjectHandle,
    roots: Vec<(Purpose, ObjectHandle)>,
    pub(super) pool: Vec<(KekInfo, ObjectHandle)>,
}

impl Keys {
    /// Looks for all of them, and gives the public part of the one that signs.
    pub(super) fn find(
        session: &OpenSession,
        quirks: &Quirks,
        login: u64,
    ) -> Result<(Self, PublicKey), Error> {
        let missing = |what: String| Error::KekNotFound {
            token: String::new(),
            kek: format!("{what}; hold the ceremony that makes central's keys"),
        };
        let (signing, spki) = find::signing(session)?
            .ok_or_else(|| missing(format!("key pair `{}`", find::SIGNING_LABEL)))?;
        let spki = PublicKey::parse(&spki).map_err(|reason| Error::UnsupportedKey {
            key: find::SIGNING_LABEL.to_owned(),
            reason,
        })?;
        let mut roots = Vec::new();
        for &purpose in Purpose::ALL {
            let root = find::root(session, quirks, purpose)?
                .ok_or_else(|| missing(format!("root key `{}`", root_label(purpose))))?;
            roots.push((purpose, root));
        }
        let keys = Self {
            login,
            signing,
            roots,
            pool: find::pool(session, quirks)?,
        };
        Ok((keys, spki))
    }

    pub(super) fn root(&self, purpose: Purpose) -> Result<ObjectHandle, Error> {
        let root = self.roots.iter().find(|(known, _)| *known == purpose);
        root.map(|&(_, key)| key).ok_or_else(|| Error::KekNotFound {
            token: String::new(),
            kek: format!("root key for {purpose}"),
        })
    }

    pub(super) fn class(&self, purpose: Purpose, id: KekId) -> Option<ObjectHandle> {
        self.pool
            .iter()
            .find(|(known, _)| known.id == id && known.purpose == purpose)
            .map(|&(_, key)| key)
    }
}
