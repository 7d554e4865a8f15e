//! PKCS#11 tokens: module, URI, PIN, session threads, keys, signatures, derivations, self-tests.
//!
//! The only room that names cryptoki. It knows no client, no certificate chain and no TLS state: it is handed
//! messages, salts and peers' points. Invariant: a session is used by one thread, and no private key or shared
//! secret has a type here that holds its bytes.

pub mod admin;

mod copy;
mod derive;
mod error;
mod exchange;
mod fault;
mod gate;
mod generation;
mod hkdf;
mod hold;
mod hybrid;
mod kdf;
mod key;
pub mod managed;
mod module;
mod percent;
mod pin;
mod point;
mod profile;
mod proof;
mod queue;
mod quirks;
mod raw;
mod selftest;
mod session;
mod sign;
mod slot;
mod spki;
mod start_lock;
mod template;
mod tls12;
mod token;
mod uri;
mod vault;
mod worker;
mod workers;

pub use derive::{Finished12, Kept, Salt};
pub use error::Error;
pub use exchange::{ExchangeKey, TokenSecret};
pub use fault::{FaultClass, TokenFault};
pub use hold::HoldCheck;
pub use key::PrivateKey;
pub use module::{Module, TokenInfo};
pub use pin::{Pin, PinError, PinSource};
pub use profile::{Check, Profile};
pub use token::Token;
pub use uri::{ObjectClass, Uri, UriError};
pub use vault::{Opened, Vault, VaultPurpose};
pub use worker::Worker;
pub use workers::Workers;
