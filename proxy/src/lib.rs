//! The thin TLS frontend: passes handshake messages to a signer, receives session keys, moves records.
//!
//! Leaves to the signer everything that needs a private key or a secret before the session keys, and to the backend
//! what the bytes mean. Three invariants: no type here can hold a private key or a traffic secret; nothing
//! reaches the backend before the client's Finished has opened the lock or was accepted by the signer; a key never
//! protects two records with one nonce.

#[cfg(all(feature = "danger-skip-finished-check", not(debug_assertions)))]
compile_error!(
    "`danger-skip-finished-check` deletes a check to show in a test that nothing depends on it; it builds in the \
     dev profile only"
);

pub mod config;

mod server;

mod backend;
mod client;
mod connection;
mod crowd;
mod handshake;
mod proxy_protocol;
mod pump;
mod report;
mod signers;
mod suite;

pub mod flight;
pub mod record;
pub mod session;

pub use server::{Server, ServerError};
