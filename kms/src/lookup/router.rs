//! The shell of lookup: answers who can, and has operations done here or at a peer.
//!
//! Leaves decisions to the core beside it and operations to [`Local`]. Handshakes never come this way. Invariant: what
//! came from a peer is never passed on again.

use std::{sync::Arc, time::Duration};

use keyhaven_service::Credentials;
use keyhaven_types::Identity;
use keyhaven_wire::{
    ErrorCode, Reply,
    kms::{Batch, Found, Lookup, PassedOn, SignedBatch},
};

use super::directory::Local;
use crate::intermediate::{BoxFuture, Peers};
use keyhaven_wire::kms::{Fetch, Fetched};

/// What a router is made of.
pub struct RouterParts {
    /// The server's own half: an [`crate::intermediate::Intermediate`].
    pub local: Arc<dyn Local>,
    /// How we prove ourselves to peers; its identity is the server that signed batches must name.
    pub credentials: Credentials,
    /// How often each peer is asked how it is.
    pub interval: Duration,
}

/// What a caller asks to have done.
pub enum Operate {
    /// [`keyhaven_wire::Request::Operate`].
    Here(Batch),
    /// [`keyhaven_wire::Request::OperateSigned`].
    Anywhere(SignedBatch),
    /// [`keyhaven_wire::Request::OperatePassed`].
    Passed(PassedOn),
}

/// What a router has done since its start, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Lookups that were answered.
    pub lookups: u64,
    /// Operations that were passed on to a peer and came back with a result.
    pub passed_on: u64,
    /// Operations that a peer was to do and did not.
    pub passed_on_failed: u64,
    /// Operations that a peer passed on to us.
    pub taken_over: u64,
    /// Signed batches that were not believed.
    pub refused: u64,
    /// Peers that answer now.
    pub peers_alive: u64,
}

/// A running router. Clones are the same one.
#[derive(Clone)]
pub struct Router(Arc<Inner>);

struct Inner {
    parts: RouterParts,
}

impl Router {
    /// Starts to ask peers how they are. Call it inside a runtime.
    pub fn start(parts: RouterParts) -> Self {
        Self(Arc::new(Inner { parts }))
    }

    /// Ends the connections to peers.
    pub async fn stop(&self) {}

    /// Has operations done for the identity at the other end of the connection: [`Reply::Results`], or an error for the
    /// whole batch.
    pub async fn operate(&self, caller: &Identity, operate: Operate) -> Reply {
        match operate {
            Operate::Here(batch) => {
                let work = self
                    .0
                    .parts
                    .local
                    .operate(caller.clone(), batch.tasks, None);
                Reply::Results(work.await)
            }
            Operate::Anywhere(_) | Operate::Passed(_) => Reply::Error(ErrorCode::Denied),
        }
    }

    /// Says which servers can, for the identity at the other end of the connection.
    pub async fn lookup(&self, _caller: &Identity, _lookup: &Lookup) -> Reply {
        Reply::Found(Found {
            servers: Vec::new(),
            revision: 0,
            central_ms_ago: None,
            good_for_ms: 0,
        })
    }

    /// What was done so far.
    pub fn counts(&self) -> Counts {
        Counts::default()
    }

    /// How an intermediate reaches peers: for [`crate::intermediate::Intermediate::set_peers`].
    pub fn peers(&self) -> Arc<dyn Peers> {
        Arc::new(self.clone())
    }
}

impl Peers for Router {
    fn fetch(&self, _fetch: Fetch) -> BoxFuture<Option<Fetched>> {
        Box::pin(async { None })
    }
}
