//! The shell of lookup: answers who can, and has operations done here or at a peer.
//!
//! Leaves decisions to the core beside it and operations to [`Local`]. Handshakes never come this way. Invariant: what
//! came from a peer is never passed on again.

use std::{
    sync::{Arc, Weak, atomic::Ordering::Relaxed},
    time::Duration,
};

use keyhaven_service::Credentials;
use keyhaven_types::{Identity, Role};
use keyhaven_wire::{
    ErrorCode, Reply,
    kms::{Batch, Fetch, Fetched, Lookup, PassedOn, SignedBatch},
};

use super::{
    answer::Question,
    ask,
    directory::Local,
    passing,
    shared::{Handle, Shared, lock},
    watch,
};
use crate::intermediate::{BoxFuture, Peers};

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

/// A running router. Clones are the same one; when the last is dropped, the connections to peers end.
#[derive(Clone)]
pub struct Router(Handle);

impl Router {
    /// Starts to ask peers how they are. Call it inside a runtime.
    pub fn start(parts: RouterParts) -> Self {
        let every = parts.interval.max(INTERVAL_MIN);
        let shared = Arc::new(Shared::new(RouterParts {
            interval: every,
            ..parts
        }));
        let end = shared.end.child_token();
        shared
            .tasks
            .spawn(watch::watch(Arc::downgrade(&shared), end, every));
        Self(shared)
    }

    /// Ends the connections to peers. What still comes is done here.
    pub async fn stop(&self) {
        self.0.end.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
        lock(&self.0.clients).clear();
    }

    /// Has operations done for the identity at the other end of the connection: [`Reply::Results`], or an error for the
    /// whole batch.
    pub async fn operate(&self, caller: &Identity, operate: Operate) -> Reply {
        let shared = Arc::clone(&self.0);
        match operate {
            Operate::Here(batch) => {
                let work = shared
                    .parts
                    .local
                    .operate(caller.clone(), batch.tasks, None);
                Reply::Results(work.await)
            }
            Operate::Anywhere(batch) => passing::anywhere(shared, caller, batch).await,
            Operate::Passed(passed) => passing::passed(shared, caller, passed).await,
        }
    }

    /// Says which servers can, for the identity at the other end of the connection. A server of the table may ask for
    /// somebody else; it gets what is known here, and nobody else is asked for it.
    pub async fn lookup(&self, caller: &Identity, lookup: &Lookup) -> Reply {
        let shared = &self.0;
        let directory = shared.parts.local.directory();
        let is_peer = caller.role() == Role::Signer && directory.site_of(caller).is_some();
        if lookup.caller.is_some() && !is_peer {
            return Reply::Error(ErrorCode::Denied);
        }
        shared.counted.lookups.fetch_add(1, Relaxed);
        let question = Question {
            caller: lookup.caller.as_ref().unwrap_or(caller),
            key: &lookup.key,
            version: None,
            operation: lookup.operation,
        };
        let found = shared.with_view(|view| view.answer(question));
        if !found.servers.is_empty() || lookup.caller.is_some() {
            return Reply::Found(found);
        }
        let elsewhere = ask::look_elsewhere(shared, caller, lookup).await;
        Reply::Found(elsewhere.unwrap_or(found))
    }

    /// What was done so far.
    pub fn counts(&self) -> Counts {
        self.0.counts()
    }

    /// How an intermediate reaches peers: for [`crate::intermediate::Intermediate::set_peers`].
    pub fn peers(&self) -> Arc<dyn Peers> {
        Arc::new(Reach(Arc::downgrade(&self.0)))
    }
}

/// An intermediate's way to peers. It does not keep the router, which keeps the intermediate.
struct Reach(Weak<Shared>);

impl Peers for Reach {
    fn fetch(&self, fetch: Fetch) -> BoxFuture<Option<Fetched>> {
        let shared = self.0.upgrade();
        Box::pin(async move { ask::fetch(&shared?, fetch).await })
    }
}

/// Peers are not asked more often than this.
const INTERVAL_MIN: Duration = Duration::from_millis(50);
