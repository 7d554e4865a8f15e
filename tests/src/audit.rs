//! What signer and proxy wrote down of one handshake.
//!
//! A handshake is found by its client's address. Waits until the line is there.

use std::net::SocketAddr;

use keyhaven_types::CustodyLevel;
use serde_json::Value;

use crate::daemon::field;
use crate::rawtls::{Client12, Client13};
use crate::running::Site;

/// A client of whose handshake there is a line.
pub trait Audited {
    /// Where it came from.
    fn from(&self) -> SocketAddr;
}

impl Audited for Client13 {
    fn from(&self) -> SocketAddr {
        self.stream.local_addr().expect("a socket has an address")
    }
}

impl Audited for Client12 {
    fn from(&self) -> SocketAddr {
        self.stream.local_addr().expect("a socket has an address")
    }
}

impl Audited for SocketAddr {
    fn from(&self) -> SocketAddr {
        *self
    }
}

/// The signer's line that a handshake was proven.
#[derive(Clone, Debug)]
pub struct Proven(Value);

impl Proven {
    /// The line of this client's handshake.
    pub fn of(site: &Site, client: &impl Audited) -> Proven {
        Self::since(site, 0, client)
    }

    /// The same among the lines of the signer's log from this one on: after thousands of connections an earlier client
    /// may have had the same port.
    pub fn since(site: &Site, first: usize, client: &impl Audited) -> Proven {
        let from = client.from().to_string();
        let line = site
            .signer
            .wait_from(first, "the handshake's line", |line| {
                field(line, "event").as_deref() == Some("proven")
                    && field(line, "client").as_deref() == Some(&from)
            });
        Proven(line)
    }

    /// A field.
    pub fn field(&self, name: &str) -> Option<String> {
        field(&self.0, name)
    }

    /// The level.
    ///
    /// # Panics
    /// When the line has none.
    pub fn level(&self) -> CustodyLevel {
        let level = self.field("custody").and_then(|text| text.parse().ok());
        level.unwrap_or_else(|| panic!("no level: {}", self.0))
    }

    /// Whether a session was resumed.
    pub fn is_resumed(&self) -> bool {
        self.field("resumed").as_deref() == Some("true")
    }
}
