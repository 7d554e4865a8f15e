//! A TLS server handshake whose secrets live in a token. The only room that names rustls' handshake API.
//!
//! rustls runs the protocol; this room stands in for its cryptography. Where rustls expects secret bytes it
//! is given opaque handles, which are resolved in the token. Everything here runs synchronously on one of the
//! `hsm` room's worker threads; who may use which key is decided before, by the caller.
//!
//! One invariant: whatever fails inside a derivation that rustls believes infallible, nothing of that
//! handshake leaves this room but an alert.

mod client_hello;
mod connection;
mod context;
mod engine;
mod error;
mod exchange;
mod finished;
mod guard;
mod keys;
mod provider;
mod rekey;
mod schedule;
mod signing;
mod site;
mod tickets;

pub use client_hello::{ClientHello, ClientHelloError};
pub use engine::{Established, Expect, Handshake, Released, Step, StepResult};
pub use error::{Failure, Refusal};
pub use keys::{SessionKey, alert_record};
pub use rekey::{RekeyBinding, RekeyError, RekeyFacts, Rekeyed, SealKey, Sealer};
pub use site::{Authorities, ClientAuth, Site, SiteError, SiteKey, SiteSpec, TicketSpec};
pub use tickets::TicketKey;
