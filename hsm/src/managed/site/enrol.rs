//! A site's enrolment: a transport pair for one delivery of class keys, and the delivery.
//!
//! Who vouches for what was delivered, and the files that go back and forth, are the caller's business. The transport
//! pair must not outlive the delivery: a blob for it could be unwrapped again without the template that binds a class's
//! key. Invariant: the private part is an object of this value's own session, and all keys of a delivery come in or none.

use std::sync::Arc;

use cryptoki::{mechanism::Mechanism, object::ObjectHandle};

use super::keks::{self, KekName};
use crate::{
    Error, Token,
    generation::Generation,
    managed::{central::find, part, scoped::Scoped, template},
    raw::{Item, Way},
    session::OpenSession,
};

/// A transport pair that waits for a delivery. Dropping it closes the session that the private part lives in.
pub struct Enrolment {
    token: Token,
    generation: Arc<Generation>,
    session: OpenSession,
    pub(super) private: ObjectHandle,
    spki: Vec<u8>,
}

impl Enrolment {
    /// Makes the pair. Takes up to seconds.
    ///
    /// # Errors
    /// Failures of the token.
    pub fn begin(token: &Token) -> Result<Self, Error> {
        let generation = token.generation()?;
        let session = token.open_session(&generation)?;
        let made = {
            let _inside = token.enter(&generation)?;
            make(&session, &template::transport_public())
                .map_err(|error| token.failed(&generation, error))?
        };
        Ok(Self {
            token: token.clone(),
            generation,
            session,
            private: made.0,
            spki: made.1,
        })
    }

    /// The public part, DER SubjectPublicKeyInfo: RSA with 3072 bits, for RSA-OAEP with SHA-1 and MGF1 with SHA-1.
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// Brings the keys into the token, each with what came wrapped for it, and sees that each is held to its purpose. The
    /// transport pair is gone afterwards, whatever came of it. Callers check first that central vouches for the delivery.
    ///
    /// # Errors
    /// [`Error::KekPresent`] when the token has one by the same id or name; [`Error::Blob`] when one does not open;
    /// [`Error::UnsupportedKey`] when the token does not hold one to its purpose; failures of the token. None of the keys is there then.
    pub fn receive(self, keks: &[(KekName, Vec<u8>)]) -> Result<(), Error> {
        let _inside = self.token.enter(&self.generation)?;
        let mut made = Vec::new();
        let received = self.receive_all(keks, &mut made);
        if received.is_err() {
            for key in made {
                let destroyed = self.session.destroy_object(key);
                let destroyed = destroyed.map_err(|source| Error::token(TAKE_BACK, source));
                if let Err(error) = destroyed {
                    tracing::error!(%error, "a class's key of a failed delivery stays in the token");
                }
            }
        }
        let ended = self.session.destroy_object(self.private);
        let ended = ended.map_err(|source| Error::token("ending a transport pair", source));
        received
            .and(ended)
            .map_err(|error| self.token.failed(&self.generation, error))
    }

    fn receive_all(
        &self,
        keks: &[(KekName, Vec<u8>)],
        made: &mut Vec<ObjectHandle>,
    ) -> Result<(), Error> {
        let there = keks::named(&self.session)?;
        let mut names: Vec<&KekName> = there.iter().map(|kek| &kek.name).collect();
        for (name, _) in keks {
            if names
                .iter()
                .any(|other| other.id == name.id || other.label() == name.label())
            {
                return Err(Error::KekPresent {
                    token: self.token.info().label.clone(),
                    kek: format!("{} ({})", name.label(), name.id),
                });
            }
            names.push(name);
        }
        keks.iter()
            .try_for_each(|(name, wrapped)| self.receive_one(name, wrapped, made))
    }

    fn receive_one(
        &self,
        name: &KekName,
        wrapped: &[u8],
        made: &mut Vec<ObjectHandle>,
    ) -> Result<(), Error> {
        let quirks = self.token.quirks();
        let kwp = find::kwp(quirks);
        let label = name.label();
        let template = template::site_kek(quirks, name.purpose, kwp, &label, name.id);
        let oaep = template::oaep();
        let session = &self.session;
        let key = session
            .raw()
            .and_then(|raw| {
                raw.unwrap_to(session, Way::Known(&oaep), self.private, wrapped, &template)
            })
            .map_err(|source| part::blame(session, "unwrapping a class's key", source))?;
        made.push(key);
        match keks::unfit(session, quirks, kwp, name.purpose, key)? {
            None => Ok(()),
            Some(reason) => Err(Error::UnsupportedKey { key: label, reason }),
        }
    }
}

impl std::fmt::Debug for Enrolment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Enrolment({:?})", self.token)
    }
}

/// A transport pair as session objects: the private part, and the public one as DER SubjectPublicKeyInfo.
pub(super) fn make(
    session: &OpenSession,
    template: &[Item],
) -> Result<(ObjectHandle, Vec<u8>), Error> {
    let (public, private) = session
        .raw()
        .and_then(|raw| {
            raw.generate_pair(
                session,
                &Mechanism::RsaPkcsKeyPairGen,
                template,
                &template::transport_private(),
            )
        })
        .map_err(|source| Error::token(MAKE, source))?;
    let public = Scoped::new(session, public);
    let spki = part::read_rsa(session, public.handle())
        .and_then(|spki| spki.ok_or_else(|| Error::answer(MAKE, "no public part")));
    if spki.is_err() {
        drop(Scoped::new(session, private));
    }
    Ok((private, spki?))
}

const MAKE: &str = "making a transport pair";
const TAKE_BACK: &str = "destroying a key of a failed delivery";
