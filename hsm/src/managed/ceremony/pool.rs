//! Trusted keys: born in the officer's session, made private by the user, compared with what was asked for.
//!
//! Invariant: of each key one object is left, private and locked, or none.

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use cryptoki::{mechanism::Mechanism, object::ObjectHandle};
use keyhaven_types::{KekId, Purpose};

use super::{Ceremony, Result};
use crate::{
    Error,
    managed::{
        KekInfo,
        central::find,
        scoped::Scoped,
        template::{self, pool_label, root_label},
    },
    raw::Item,
    session::OpenSession,
};

/// A key to be made: its name for messages and its template.
struct Wanted {
    name: String,
    template: Vec<Item>,
}

impl Ceremony {
    /// Root keys of these purposes.
    pub(super) fn make_roots(&self, purposes: &[Purpose]) -> Result<()> {
        let quirks = self.login.quirks();
        let wanted = purposes
            .iter()
            .map(|&purpose| Wanted {
                name: root_label(purpose),
                template: template::root_kek(quirks, purpose, find::kwp(quirks)),
            })
            .collect();
        self.make(wanted)
    }

    /// Keys for classes, with random ids.
    pub(super) fn make_class_keks(&self, purpose: Purpose, count: usize) -> Result<Vec<KekInfo>> {
        let kwp = find::kwp(self.login.quirks());
        let mut made = Vec::new();
        let mut wanted = Vec::new();
        for _ in 0..count {
            let mut id = [0; 16];
            SystemRandom::new()
                .fill(&mut id)
                .map_err(|_| Error::answer(MAKE, "no random number"))?;
            let id = KekId(id);
            let label = pool_label(purpose);
            wanted.push(Wanted {
                name: id.to_string(),
                template: template::class_kek(purpose, kwp, id),
            });
            made.push(KekInfo { id, purpose, label });
        }
        self.make(wanted)?;
        Ok(made)
    }

    /// All or none of them.
    fn make(&self, wanted: Vec<Wanted>) -> Result<()> {
        // Whatever happens, what the officer has made goes when this ends.
        let born: Vec<Scoped<'_>> = self.login.as_officer(|session| {
            let born = wanted.iter().map(|key| bear(session, key));
            Ok(born.collect::<Result<_, Error>>()?)
        })?;
        self.login.as_user(|session| {
            let mut settled = Vec::new();
            let outcome = born.iter().zip(&wanted).try_for_each(|(born, key)| {
                let copy = settle(session, born.handle())?;
                settled.push(copy);
                find::check(session, copy, &key.name, &key.template)
            });
            if outcome.is_err() {
                for key in settled {
                    drop(Scoped::new(session, key));
                }
            }
            Ok(outcome?)
        })
    }
}

fn bear<'a>(session: &'a OpenSession, key: &Wanted) -> Result<Scoped<'a>, Error> {
    session
        .raw()
        .and_then(|raw| raw.generate_key(session, &Mechanism::AesKeyGen, &key.template))
        .map(|handle| Scoped::new(session, handle))
        .map_err(|source| Error::token(MAKE, source))
}

fn settle(session: &OpenSession, born: ObjectHandle) -> Result<ObjectHandle, Error> {
    session
        .raw()
        .and_then(|raw| raw.copy_object(session, born, &template::settled()))
        .map_err(|source| Error::token("making a trusted key private", source))
}

const MAKE: &str = "making a trusted key";
