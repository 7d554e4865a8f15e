//! The lookup service: which servers can do an operation with a key, fastest first.

use keyhaven_types::{Identity, Name, Operation};
use serde::{Deserialize, Serialize};

use super::replication::KeyRef;

/// Asks who can.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lookup {
    /// With which key.
    pub key: KeyRef,
    /// What.
    pub operation: Operation,
    /// For whom, when one server asks another in order to answer; nobody else may say this.
    pub caller: Option<Identity>,
}

/// Who can. Nobody for a key that does not exist, or that the caller has no grant for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// Capable servers, the fastest first.
    pub servers: Vec<Server>,
    /// The revision of the table that this was answered from.
    pub revision: u64,
    /// How long ago the answering server last had word from central, in milliseconds; none: not since its start.
    pub central_ms_ago: Option<u64>,
    /// How long the answer holds, in milliseconds.
    pub good_for_ms: u64,
}

/// A capable server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    /// Its site.
    pub site: Name,
    /// Who it is.
    pub identity: Identity,
    /// Where it listens.
    pub address: String,
    /// Where it is.
    pub region: Name,
    /// The estimated time of response as seen from the answering server, in microseconds.
    pub estimate_us: u64,
    /// How old the newest measurement behind the estimate is, in milliseconds; none: nothing was measured yet.
    pub measured_ms_ago: Option<u64>,
    /// Whether it is the answering server itself.
    pub is_self: bool,
}
