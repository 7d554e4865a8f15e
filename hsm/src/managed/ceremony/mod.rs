//! What the security officer does at central's token: make its keys, trust them, and wrap some for a site.
//!
//! A process of its own, on a machine that is cut off: it knows both PINs and must not have the token open in any other
//! way, since a module keeps one login for a whole process. Only the officer can make keys that are CKA_TRUSTED, and
//! the officer can make no private ones; so a key is born public as an object of this process's session, and the user
//! copies it to what it is to be. Thus no key is ever in the token's files before it is private. Invariant: when an act
//! ends, whether well or not, no object that is trusted and public is left.

mod error;
mod login;
mod pool;
mod site;

use cryptoki::{
    mechanism::Mechanism,
    object::{Attribute, ObjectHandle},
};
use keyhaven_types::{Purpose, SignatureScheme};

pub use self::error::CeremonyError;

use self::login::Login;
use super::{KekInfo, central::find, template};
use crate::{Error, Module, Pin, Uri, session::OpenSession, sign};

type Result<T, E = CeremonyError> = std::result::Result<T, E>;

/// Central's token in the hands of its security officer.
#[derive(Debug)]
pub struct Ceremony {
    login: Login,
}

impl Ceremony {
    /// Finds the token, and tries both PINs once. What an earlier ceremony has left behind is destroyed.
    ///
    /// # Errors
    /// [`CeremonyError::SoPinRefused`] and those of [`crate::Token::open`]; [`CeremonyError::Occupied`] when this
    /// process has the token open.
    pub fn begin(module: &Module, uri: &Uri, so_pin: &Pin, user_pin: &Pin) -> Result<Self> {
        let login = Login::new(module, uri, so_pin, user_pin)?;
        let swept = login.as_user(sweep)?;
        for label in swept {
            tracing::warn!(
                label,
                "an unfinished ceremony had left a key; it was destroyed"
            );
        }
        login.as_officer(|_| Ok(()))?;
        Ok(Self { login })
    }

    /// Makes the key that signs records and the root key of each purpose, or those of them that are missing. Gives
    /// the public part of the key that signs, DER SubjectPublicKeyInfo.
    ///
    /// # Errors
    /// [`Error::UnsupportedKey`] when there is a key by one of these names that is not what it should be; failures of
    /// the token.
    pub fn make_central(&mut self) -> Result<Vec<u8>> {
        let quirks = self.login.quirks();
        let missing = self.login.as_user(|session| {
            let mut missing = Vec::new();
            for &purpose in Purpose::ALL {
                if find::root(session, quirks, purpose)?.is_none() {
                    missing.push(purpose);
                }
            }
            Ok(missing)
        })?;
        if !missing.is_empty() {
            self.make_roots(&missing)?;
        }
        self.login.as_user(|session| {
            if find::signing(session)?.is_none() {
                make_signing(session)?;
            }
            let (_, spki) = find::signing(session)?.ok_or(CeremonyError::NoSigningKey)?;
            Ok(spki)
        })
    }

    /// Makes so many keys (at most [`POOL_MAX`] at once) for classes with this purpose. Which class gets which, and in
    /// which epoch, is decided later and elsewhere.
    ///
    /// # Errors
    /// [`CeremonyError::PoolSize`]; failures of the token.
    pub fn make_pool(&mut self, purpose: Purpose, count: usize) -> Result<Vec<KekInfo>> {
        if !(1..=POOL_MAX).contains(&count) {
            return Err(CeremonyError::PoolSize { max: POOL_MAX });
        }
        self.make_class_keks(purpose, count)
    }

    /// The keys for classes that the token has.
    ///
    /// # Errors
    /// Failures of the token.
    pub fn pool(&self) -> Result<Vec<KekInfo>> {
        self.login.as_user(|session| {
            let found = find::pool(session, self.login.quirks())?;
            Ok(found.into_iter().map(|(info, _)| info).collect())
        })
    }

    /// Signs bytes with central's key, as [`super::CentralToken::sign_record`] does: ECDSA on P-256 with SHA-256, DER.
    ///
    /// # Errors
    /// [`CeremonyError::NoSigningKey`] before [`Ceremony::make_central`]; failures of the token.
    pub fn sign(&mut self, bytes: &[u8]) -> Result<Vec<u8>> {
        self.login.as_user(|session| {
            let (key, _) = find::signing(session)?.ok_or(CeremonyError::NoSigningKey)?;
            let scheme = SignatureScheme::EcdsaSecp256r1Sha256;
            Ok(sign::sign(session, key, scheme, bytes)?)
        })
    }

    /// Labels of objects that are trusted and public: none, unless a ceremony was broken off or somebody else has a
    /// security officer's PIN. Whatever was done to such a key since, it may not be used.
    ///
    /// # Errors
    /// Failures of the token.
    pub fn leftovers(&self) -> Result<Vec<String>> {
        self.login.as_user(|session| {
            let found = find_leftovers(session)?;
            Ok(found.into_iter().map(|(label, _)| label).collect())
        })
    }
}

fn find_leftovers(session: &OpenSession) -> Result<Vec<(String, ObjectHandle)>> {
    let template = [Attribute::Trusted(true), Attribute::Private(false)];
    let found = session
        .find_objects(&template)
        .map_err(|source| Error::token("looking for trusted objects", source))?;
    let named = |object| (find::label(session, object).unwrap_or_default(), object);
    Ok(found.into_iter().map(named).collect())
}

/// Destroys what has a name of ours; a trusted certificate of somebody else is not our business.
fn sweep(session: &OpenSession) -> Result<Vec<String>> {
    let mut swept = Vec::new();
    for (label, object) in find_leftovers(session)? {
        if label.starts_with(find::PREFIX) {
            session
                .destroy_object(object)
                .map_err(|source| Error::token("destroying a left key", source))?;
            swept.push(label);
        }
    }
    Ok(swept)
}

fn make_signing(session: &OpenSession) -> Result<()> {
    let (public, private) = template::signing(find::SIGNING_LABEL);
    session
        .raw()
        .and_then(|raw| raw.generate_pair(session, &Mechanism::EccKeyPairGen, &public, &private))
        .map_err(|source| Error::token("making the key that signs records", source))?;
    Ok(())
}

/// The most keys that are made in one act.
pub const POOL_MAX: usize = 256;

#[cfg(test)]
mod tests;
