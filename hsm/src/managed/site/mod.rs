//! A site's token: keys of classes that came at enrolment, and managed keys unwrapped under them to be used.
//!
//! Which key may be used now, and how many stay unwrapped, is decided in `kms`. Invariant: nothing is unwrapped in a login
//! in which the module was not seen to enforce what the role of a site rests on, and no managed key is used that is not
//! the one that its record speaks of.

mod bench;
mod data_key;
mod enrol;
mod gcm;
mod keks;
mod key;
mod operate;
mod proof;
mod role;
mod software;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};

use cryptoki::object::ObjectHandle;
use cryptoki_sys::CK_MECHANISM_TYPE;
use keyhaven_types::{KekId, KeyKind, Operation, SignatureScheme};

use self::{
    bench::{Bench, Transport},
    keks::Kek,
    proof::Proven,
};
use super::{PublicPart, Spec, central::find};
use crate::{Error, Token, Worker, generation::Generation, quirks::Quirks, session::OpenSession};

pub use self::{
    enrol::Enrolment,
    keks::KekName,
    key::ManagedKey,
    software::{OaepHash, oaep_encrypt, verifies},
};

/// A site's token. Clones are the same token.
#[derive(Clone)]
pub struct SiteToken(Arc<Inner>);

struct Inner {
    token: Token,
    proven: Proven,
    keks: Mutex<Arc<Keks>>,
    /// Held while somebody looks: after a loss the first one proves the role for all who need it.
    looking: Mutex<()>,
}

/// The keys of classes in one login.
struct Keks {
    login: u64,
    found: Vec<Kek>,
}

impl SiteToken {
    /// Sees that the module enforces what a site rests on, finds out what it can do with managed keys, and finds the keys
    /// of classes; there may be none. Takes up to seconds, since RSA pairs are made to be thrown away.
    ///
    /// # Errors
    /// [`Error::RoleRefused`] when the module does not enforce it, whatever keys it has; failures of the token.
    pub fn open(token: &Token) -> Result<Self, Error> {
        let generation = token.generation()?;
        let _inside = token.enter(&generation)?;
        let failed = |error| token.failed(&generation, error);
        let session = token.open_session(&generation)?;
        let transport = transport(token, &session).map_err(failed)?;
        let keks = look(token, &generation, &transport).map_err(failed)?;
        let proven = proof::run(token, &generation, &transport).map_err(failed)?;
        Ok(Self(Arc::new(Inner {
            token: token.clone(),
            proven,
            keks: Mutex::new(Arc::new(keks)),
            looking: Mutex::new(()),
        })))
    }

    /// The token.
    pub fn token(&self) -> &Token {
        &self.0.token
    }

    /// The keys of classes that were in the token when it was last looked at: see [`SiteToken::refresh`].
    pub fn holds(&self) -> Vec<KekName> {
        let keks = self.known();
        keks.found.iter().map(|kek| kek.name.clone()).collect()
    }

    /// Looks again for keys of classes, which enrolments bring while the site is at work. One search and some calls for
    /// each key. A key whose attributes are not those of an enrolment is left out, and the log says so.
    ///
    /// # Errors
    /// Failures of the token.
    pub fn refresh(&self, worker: &Worker) -> Result<Vec<KekName>, Error> {
        worker.twice(self.token(), |own| {
            self.find_again(&own.owner.generation, &own.session)
                .map(drop)
        })?;
        Ok(self.holds())
    }

    /// Unwraps a managed key under the key of its class, to an object of the login, and sees that it is the one that its
    /// record speaks of.
    ///
    /// # Errors
    /// [`Error::KekNotFound`] when the token has no such key for this purpose; [`Error::Blob`] when the blob does not open
    /// under it; [`Error::Substituted`] when it is another key, which is destroyed; [`Error::UnsupportedKey`]; failures of the token.
    pub fn unwrap(
        &self,
        worker: &Worker,
        spec: &Spec,
        public: &PublicPart,
        kek: KekId,
        blob: &[u8],
    ) -> Result<ManagedKey, Error> {
        ManagedKey::unwrap(self, worker, spec, public, kek, blob)
    }

    /// What was proven in this token for each kind of key. What larger RSA keys do goes by the proof of a smaller one and
    /// the module's word on the sizes that it takes.
    pub fn mechanisms(&self) -> Vec<(KeyKind, Operation)> {
        self.0.proven.mechanisms.clone()
    }

    /// The hash with which this token opens RSA-OAEP; nothing when it opens none.
    pub fn oaep_hash(&self) -> Option<OaepHash> {
        self.0.proven.oaep
    }

    /// The schemes by which keys of this kind were seen to sign.
    pub(super) fn schemes(&self, kind: KeyKind) -> Vec<SignatureScheme> {
        self.0.proven.schemes(kind)
    }

    fn quirks(&self) -> &'static Quirks {
        self.token().quirks()
    }

    fn kwp(&self) -> CK_MECHANISM_TYPE {
        find::kwp(self.quirks())
    }

    /// The key of a class, of this purpose; looked for again if it is not known.
    fn kek(
        &self,
        generation: &Generation,
        session: &OpenSession,
        spec: &Spec,
        id: KekId,
    ) -> Result<ObjectHandle, Error> {
        let fits = |kek: &&Kek| kek.name.id == id && kek.name.purpose == spec.purpose;
        let known = self.known();
        if known.login == generation.number
            && let Some(kek) = known.found.iter().find(fits)
        {
            return Ok(kek.handle);
        }
        let keks = self.find_again(generation, session)?;
        let found = keks.found.iter().find(fits).map(|kek| kek.handle);
        found.ok_or_else(|| Error::KekNotFound {
            token: self.token().info().label.clone(),
            kek: format!("class key {id} for {}", spec.purpose),
        })
    }

    /// In a new login the module's role is proven first: it may be another one by now.
    fn find_again(
        &self,
        generation: &Generation,
        session: &OpenSession,
    ) -> Result<Arc<Keks>, Error> {
        let _looking = self
            .0
            .looking
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let keks = if self.known().login == generation.number {
            Keks {
                login: generation.number,
                found: keks::find(session, self.quirks(), self.kwp())?,
            }
        } else {
            let session = self.token().open_session(generation)?;
            look(
                self.token(),
                generation,
                &transport(self.token(), &session)?,
            )?
        };
        let keks = Arc::new(keks);
        *self.0.keks.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&keks);
        Ok(keks)
    }

    fn known(&self) -> Arc<Keks> {
        Arc::clone(&self.0.keks.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl std::fmt::Debug for SiteToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SiteToken({:?})", self.0.token)
    }
}

fn transport<'a>(token: &Token, session: &'a OpenSession) -> Result<Transport<'a>, Error> {
    Transport::new(session).map_err(|error| match error {
        error if role::is_away(&error) => error,
        error => {
            let why = error.of(&token.info().label).in_full();
            refused(token, vec![format!("make transport pairs ({why})")])
        }
    })
}

/// Proves the role and finds the keys, in a session for this alone: what is refused may leave something active in it.
fn look(token: &Token, generation: &Generation, transport: &Transport<'_>) -> Result<Keks, Error> {
    let session = token.open_session(generation)?;
    let quirks = token.quirks();
    let failed = role::run(
        &Bench::new(&session, quirks, transport),
        &token.info().label,
    )?;
    if !failed.is_empty() {
        return Err(refused(token, failed));
    }
    Ok(Keks {
        login: generation.number,
        found: keks::find(&session, quirks, find::kwp(quirks))?,
    })
}

fn refused(token: &Token, failed: Vec<String>) -> Error {
    Error::RoleRefused {
        role: "a site",
        module: token.quirks().name.to_owned(),
        failed,
    }
}
