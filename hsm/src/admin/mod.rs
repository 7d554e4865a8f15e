//! Administration of a token: initialise it, make, import, list and delete its keys, keep certificates by them.
//!
//! For operators and tests, never for a daemon's path: it works on one read-write session of its own and needs no
//! worker. It parses no key file and asks nobody anything; both are left to `signer-admin`. Invariant: every
//! object that it makes comes from the one table in `template`.

mod certificate;
mod error;
mod keys;
mod material;
mod object;
mod proof;
pub(crate) mod public;
mod session;
mod survey;
mod template;
mod token;

#[cfg(test)]
mod tests;

pub use certificate::CertificateEntry;
pub use error::AdminError;
pub use material::{Curve, EcMaterial, Ed25519Material, KeyMaterial, RsaMaterial};
pub use object::{KeyEntry, KeyFlags, KeyName};
pub use session::AdminSession;
pub use survey::{
    Bound, LibraryFacts, MechanismFacts, Mechanisms, SlotFacts, Survey, TokenFacts, survey,
};
pub use token::{InitTarget, init_token, token_fits};
