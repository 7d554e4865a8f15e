//! Between a site and central, and between sites: following, fetching, leases, news of peers.
//!
//! A site asks and is answered; a question about changes may wait at central until there are some. Nothing is pushed.

use keyhaven_types::{Identity, KeyId, KeyKind, Name, Operation};
use serde::{Deserialize, Serialize};

use super::records::{Entry, HeadMark, Signed};

/// Asks for what changed. Also tells central what the site has for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Follow {
    /// Every record up to this revision is on the site's disk; 0: it has nothing.
    pub after: u64,
    /// The latest head that the site has seen.
    pub seen: HeadMark,
    /// How long central may wait for something to tell, in milliseconds.
    pub wait_ms: u32,
    /// How many bytes of entries the answer may have.
    pub bytes_max: u32,
}

/// Records in the order of their revisions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    /// What changed.
    pub entries: Vec<Entry>,
    /// With these, the site has everything up to this revision.
    pub through: u64,
    /// The head as central last read it. When `through` is its revision, there is nothing more now.
    pub head: Signed,
}

/// How a caller names a key.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum KeyRef {
    /// By its id.
    Id(KeyId),
    /// By its name.
    Name(Name),
    /// By a host name that is served with it.
    ServerName(String),
}

/// Asks for one key at once: metadata that has not come yet, or a wrap that comes on demand. To central, or to a peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetch {
    /// Which.
    pub key: KeyRef,
    /// For whom: a key that it has no grant for is answered as one that does not exist.
    pub caller: Identity,
    /// What for.
    pub operation: Operation,
}

/// A key's records: the key, its versions with the wraps that are meant for the site, its class and its grants. Nothing
/// when there is no such key, or not for that caller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetched {
    /// The records.
    pub entries: Vec<Entry>,
    /// The head as the answering server last saw it.
    pub head: Signed,
}

/// Asks to go on serving.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRequest {
    /// Random, so that an answer belongs to this question.
    pub nonce: [u8; 16],
    /// The latest head that the site has seen.
    pub seen: HeadMark,
}

/// Lets a site go on serving from the moment it asked, for as long as each class's bound says, once it has applied
/// everything up to the head.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseGrant {
    /// As asked.
    pub nonce: [u8; 16],
    /// The head, read after the question came.
    pub head: Signed,
}

/// How a site is, as it says itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiteStatus {
    /// Its name.
    pub site: Name,
    /// The latest head that it has seen.
    pub seen: HeadMark,
    /// Every record up to this revision is applied.
    pub applied: u64,
    /// Milliseconds since it asked for the lease that it has; none without a lease.
    pub lease_age_ms: Option<u64>,
    /// What its token has proven.
    pub mechanisms: Vec<(KeyKind, Operation)>,
    /// Measured time of service in microseconds, by operation.
    pub service_us: Vec<(Operation, u32)>,
    /// Requests that wait for a token thread.
    pub waiting: u32,
    /// Its token threads.
    pub threads: u32,
}
