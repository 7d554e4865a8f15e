//! A site's half of the KMS: it follows central, keeps a replica, and does operations with managed keys in its token.
//!
//! The core decides (`core`, `judge`, `lease`, `misses`), the shell moves bytes and time. Who connects is the signer's
//! business, where else a key could be used `lookup`'s. Invariant: nothing is done with a key unless central's word on it is fresh
//! enough, before and after.

mod clock;
mod parts;

mod core;
mod event;
mod judge;
mod lease;

mod replica;
mod table;
mod version;

mod inner;
mod shell;

mod fetch;
mod handshake;
mod keys;
mod misses;
mod serve;
mod work;

mod ages;
mod meter;

#[cfg(test)]
mod core_tests;
#[cfg(test)]
mod sim;
#[cfg(test)]
mod testing;

use std::{
    sync::{Arc, PoisonError, atomic::Ordering},
    time::Duration,
};

use keyhaven_types::{Identity, KeyId, Name, Operation, Role};
use keyhaven_wire::{
    ErrorCode, Reply,
    kms::{Fetch, Fetched, HeadMark, KeyRef, SiteStatus, Task, TaskError, TaskResult},
};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::DropGuard;

use self::{
    core::Core,
    inner::Inner,
    lease::LeaseView,
    replica::{Owner, Replica},
    serve::User,
};

pub use self::{
    clock::{Clock, Now, Source},
    parts::{BoxFuture, Endpoint, HandshakeKey, IntermediateParts, Peers, StartError},
    table::Table,
    version::Version,
};

/// A running intermediate. Clones are the same one; when the last is dropped, it ends.
#[derive(Clone)]
pub struct Intermediate(Arc<Running>);

struct Running {
    inner: Arc<Inner>,
    _ends_with_us: DropGuard,
}

impl Intermediate {
    /// Opens the replica and starts to follow central. It serves from the replica at once, as far as a lease goes. Call it
    /// inside a runtime.
    ///
    /// # Errors
    /// When the replica cannot be used, or the clocks cannot be read.
    pub fn start(parts: IntermediateParts) -> Result<Self, StartError> {
        if parts.central.is_empty() {
            return Err(StartError::NoCentral);
        }
        let now = parts.clock.look().map_err(StartError::Clock)?;
        let owner = Owner {
            site: parts.site.clone(),
            central: parts.central_key.fingerprint(),
        };
        // One half for the replica's pages, one for records.
        let cache_bytes = parts.cache_bytes / 2;
        let (replica, stored) = Replica::open(&parts.replica, &owner, cache_bytes)
            .map_err(|error| StartError::replica(&parts, error))?;
        let head = shell::stored_head(&parts.central_key, stored.head);
        let seen = head.as_ref().map_or(HeadMark::default(), |(mark, _)| *mark);
        let replica = Arc::new(replica);
        let table = Arc::new(Table::open(
            parts.central_key.clone(),
            Arc::clone(&replica),
            cache_bytes,
            stored.applied,
        ));
        table.set_head(seen, head.map(|(_, signed)| signed));
        let bound_min = table.bound_min_s().map(|s| Duration::from_secs(s.into()));
        let centrals = parts.central.len();
        let core = Core::new(
            centrals,
            seen,
            stored.applied,
            stored.lease,
            bound_min,
            &now,
        );
        let (inner, told) = Inner::new(parts, replica, table, &core, now);
        let (writes, to_write) = mpsc::channel(WRITES_MAX);
        let end = inner.end.clone();
        inner
            .tasks
            .spawn(shell::write(Arc::clone(&inner), to_write));
        inner.tasks.spawn(shell::drive(
            Arc::clone(&inner),
            core,
            told,
            writes,
            end.clone(),
        ));
        Ok(Self(Arc::new(Running {
            inner,
            _ends_with_us: end.drop_guard(),
        })))
    }

    /// Stops following and closes the replica. What still asks is refused.
    pub async fn stop(&self) {
        let inner = &self.0.inner;
        inner.end.cancel();
        inner.tasks.close();
        inner.tasks.wait().await;
        *inner.leases.write().unwrap_or_else(PoisonError::into_inner) = LeaseView::default();
        *inner.peers.write().unwrap_or_else(PoisonError::into_inner) = None;
        inner.keys.clear();
        inner.replica.close();
    }

    /// Its name at central.
    pub fn site(&self) -> &Name {
        &self.0.inner.site
    }

    /// Changes when records were applied.
    pub fn applied(&self) -> watch::Receiver<u64> {
        self.0.inner.applied.subscribe()
    }

    /// What the site knows.
    pub fn table(&self) -> Arc<Table> {
        Arc::clone(&self.0.inner.table)
    }

    /// Does operations for a caller in their order, each with its own audit line. `passed_from` is the site that passed
    /// them on, if one did.
    pub async fn operate(
        &self,
        caller: &Identity,
        tasks: &[Task],
        passed_from: Option<&Name>,
    ) -> Vec<TaskResult> {
        let mut results = Vec::with_capacity(tasks.len());
        for task in tasks {
            results.push(self.0.inner.one(caller, task, passed_from).await);
        }
        results
    }

    /// The keys with which a proxy may have handshakes run for a host name, one of each kind of key, current versions
    /// with certificates only.
    ///
    /// # Errors
    /// [`TaskError::Denied`] when there is none, or none that this proxy has a grant for; [`TaskError::State`],
    /// [`TaskError::Lease`], [`TaskError::NotHere`], [`TaskError::Busy`] and [`TaskError::Unavailable`] when there is one
    /// that cannot be used.
    pub async fn handshake_keys(
        &self,
        proxy: &Identity,
        server_name: &str,
    ) -> Result<Vec<HandshakeKey>, TaskError> {
        self.0.inner.for_handshakes(proxy, server_name).await
    }

    /// The first of [`Intermediate::handshake_keys`].
    ///
    /// # Errors
    /// As there.
    pub async fn handshake_key(
        &self,
        proxy: &Identity,
        server_name: &str,
    ) -> Result<HandshakeKey, TaskError> {
        let keys = self.handshake_keys(proxy, server_name).await?;
        keys.into_iter().next().ok_or(TaskError::Denied)
    }

    /// Whether an identity may do this with this version now: grant, state, lease. For what goes on after a key was
    /// had: rekeys, resumption, the end of a handshake. A version that was rotated out may go on, a revoked one may not.
    ///
    /// # Errors
    /// Why not.
    pub fn may_serve(
        &self,
        identity: &Identity,
        id: KeyId,
        version: u32,
        operation: Operation,
    ) -> Result<(), TaskError> {
        let user = User::Continuing(identity, operation);
        let admitted = self.0.inner.admit(user, &KeyRef::Id(id), Some(version));
        admitted.map(drop)
    }

    /// Answers another site that asks for a key: [`Reply::Fetched`] to an enrolled one, [`ErrorCode::Denied`] to others.
    pub async fn fetch_for(&self, peer: &Identity, fetch: &Fetch) -> Reply {
        let inner = &self.0.inner;
        let lease = inner.lease();
        let Some(site) = inner.table.site_of(peer) else {
            return Reply::Error(ErrorCode::Denied);
        };
        let Some(head) = inner.table.signed_head() else {
            return Reply::Error(ErrorCode::Unavailable);
        };
        if peer.role() != Role::Signer {
            return Reply::Error(ErrorCode::Denied);
        }
        let key = inner.granted(&fetch.caller, &fetch.key, fetch.operation);
        // Whoever has no fresh word from central does not know whom it has thrown out.
        let key = key.filter(|key| {
            let class = inner.table.class(&key.class);
            class.is_some_and(|class| {
                let bound = Duration::from_secs(class.bound_s.into());
                inner.is_fresh(lease, bound).is_ok()
            })
        });
        let entries = key.map(|key| inner.table.entries_for(&site, &key, &fetch.caller));
        Reply::Fetched(Fetched {
            entries: entries.unwrap_or_default(),
            head,
        })
    }

    /// How the site is.
    pub fn status(&self) -> SiteStatus {
        let inner = &self.0.inner;
        let age = inner.lease().age(&inner.now());
        SiteStatus {
            site: inner.site.clone(),
            seen: inner.table.head(),
            applied: inner.table.applied(),
            lease_age_ms: age.map(|age| age.as_millis().try_into().unwrap_or(u64::MAX)),
            mechanisms: inner.keys.token().mechanisms(),
            service_us: inner.meter.times(),
            waiting: inner.meter.at_work().saturating_sub(inner.threads),
            threads: inner.threads,
        }
    }

    /// How long ago central last answered anything; none: not since the start.
    pub fn central_heard(&self) -> Option<Duration> {
        let heard = self.0.inner.heard.lock();
        let heard = *heard.unwrap_or_else(PoisonError::into_inner);
        heard.map(|heard| heard.elapsed())
    }

    /// How many managed keys are unwrapped in the token for this site, or are being unwrapped.
    pub fn unwrapped(&self) -> usize {
        self.0.inner.keys.len()
    }

    /// How often everything unwrapped was thrown away, as when a site is thrown out: whoever keeps keys beside it does
    /// the same.
    pub fn forgotten(&self) -> u64 {
        self.0.inner.forgotten.load(Ordering::Relaxed)
    }

    /// How operations ended since the start, for metrics.
    pub fn outcomes(&self) -> Vec<(Operation, &'static str, u64)> {
        self.0.inner.meter.outcomes()
    }

    /// Notes how long an operation took in the token, for estimates; operations of [`Intermediate::operate`] are noted
    /// already.
    pub fn served(&self, operation: Operation, elapsed: Duration) {
        self.0.inner.meter.served(operation, elapsed);
    }

    /// HMAC-SHA-256 over a label by the current version of a managed key for tickets, in the token.
    ///
    /// # Errors
    /// As for operations; [`TaskError::State`] when it is no key for tickets.
    pub async fn ticket_mac(&self, name: &Name, label: &[u8]) -> Result<[u8; 32], TaskError> {
        self.0.inner.ticket_mac(name, label).await
    }

    /// Says how peers are reached, for keys that central does not give now.
    pub fn set_peers(&self, peers: Arc<dyn Peers>) {
        let mut known = self
            .0
            .inner
            .peers
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *known = Some(peers);
    }
}

/// What the core wants written: it waits for one thing at a time, but for leases.
const WRITES_MAX: usize = 16;
