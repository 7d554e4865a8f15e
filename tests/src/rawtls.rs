//! A small TLS client that does what a test says, right or wrong.
//!
//! Builds its own ClientHello, derives its own keys and encrypts whatever it is told to, so that a server can be
//! shown what no honest library sends. It checks neither certificates nor names and must serve tests alone.

mod flight12;
mod flight13;
mod group;
mod hash;
mod hello;
mod identity;
mod keys;
mod messages;
mod record;
mod secrets;
mod ticket;
mod tls12;
mod tls13;

pub use group::Group;
pub use hash::Hash;
pub use hello::Hello;
pub use identity::Identity;
pub use keys::RecordKeys;
pub use messages::{handshake_message, split_messages};
pub use record::{
    ALERT, APPLICATION_DATA, CHANGE_CIPHER_SPEC, HANDSHAKE, Incoming, Stop, read_record, record,
};
pub use secrets::Named;
pub use ticket::{Offered, Ticket};
pub use tls12::{Client12, Session12};
pub use tls13::Client13;
