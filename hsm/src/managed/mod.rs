//! Managed keys in tokens: born and wrapped at central, unwrapped and used at the sites.
//!
//! Which key may be used by whom and until when is decided in `kms`; records and classes are not known here. `template`
//! has every attribute that a managed key or a key that wraps one gets, `kcv` binds secrets to their records.
//! Invariant: a managed key has the usages of its one purpose wherever it is an object, and leaves a token only
//! wrapped under a key that the security officer has marked as trusted.

mod central;
pub mod ceremony;
pub(crate) mod kcv;
pub(crate) mod part;
pub(crate) mod scoped;
mod selftest;
mod site;
pub(crate) mod template;

use keyhaven_types::{KekId, KeyId, KeyKind, Purpose};

pub use self::{
    central::{CentralToken, Made, Transport},
    ceremony::{Ceremony, CeremonyError},
    site::{Enrolment, KekName, ManagedKey, OaepHash, SiteToken, oaep_encrypt, verifies},
};
pub use crate::Error;

/// A key of central's token that wraps managed keys for a class. Which class has it, and in which epoch, is not the
/// token's knowledge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KekInfo {
    /// Its CKA_ID.
    pub id: KekId,
    /// What the keys are for that it wraps.
    pub purpose: Purpose,
    /// Its label.
    pub label: String,
}

/// What tells one key from all others without telling the key: the record has it, and every token that unwraps a
/// blob compares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublicPart {
    /// Of a pair: DER SubjectPublicKeyInfo.
    Spki(Vec<u8>),
    /// Of a secret: a key check value, the same in every token. It says nothing about the key but whether two are the
    /// same.
    Kcv([u8; 8]),
}

/// Which key it is about, as its record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spec {
    /// The key.
    pub id: KeyId,
    /// Its version, from 1.
    pub version: u32,
    /// The kind of its material.
    pub kind: KeyKind,
    /// The one thing that it is for.
    pub purpose: Purpose,
}

impl Spec {
    /// Whether such a key can be: a kind has the purposes that it can serve.
    ///
    /// # Errors
    /// [`Error::UnsupportedKey`].
    pub fn check(&self) -> Result<(), Error> {
        if self.kind.serves(self.purpose) {
            return Ok(());
        }
        Err(Error::UnsupportedKey {
            key: self.id.to_string(),
            reason: format!("a key of kind {} is not for {}", self.kind, self.purpose),
        })
    }
}
