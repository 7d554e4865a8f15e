//! A TLS server handshake whose secrets live in a token. The only room that names rustls' handshake API.
//!
//! rustls runs the protocol; this room stands in for its cryptography. Where rustls expects secret bytes it
//! is given opaque handles, which are resolved in the token. Everything here runs synchronously on one of the
//! `hsm` room's worker threads; who may use which key is decided before, by the caller.
//!
//! One invariant: whatever fails inside a derivation that rustls believes infallible, nothing of that
//! handshake leaves this room but an alert.

mod client_auth;
mod client_hello;
mod clock;
mod connection;
mod context;
mod custody;
mod engine;
mod error;
mod exchange;
mod finished;
mod guard;
mod hybrid;
mod keys;
mod offer;
mod provider;
mod random;
mod rekey;
mod resolver;
mod schedule12;
mod schedule13;
mod secrets;
mod signing;
mod site;
mod ticket_key;
mod tickets;

pub use client_hello::{ClientHello, ClientHelloError};
pub use clock::Clock;
pub use custody::Custody;
pub use engine::{
    Established, Expect, Handshake, RekeySecrets, Released, Step, StepResult, TrafficSecret,
};
pub use error::{Failure, Refusal};
pub use keys::{SessionKey, alert_record};
pub use rekey::{RekeyBinding, RekeyError, RekeyFacts, Rekeyed, SealKey, Sealer};
pub use site::{Authorities, ClientAuth, Site, SiteError, SiteKey, SiteSpec, TicketSpec};
pub use ticket_key::{TicketDays, TicketKey};
