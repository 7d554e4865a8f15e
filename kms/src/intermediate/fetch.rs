//! Looking further for what is not here: waiting for replication, asking central, asking peers.
//!
//! What does not exist and what a caller may not have go the same way, and central is asked for no key that the caller has no
//! grant for as far as is known here (security rule M6). Invariant: what comes is judged before anybody sees it.

use std::{
    sync::{PoisonError, atomic::Ordering},
    time::Duration,
};

use keyhaven_types::{Identity, KeyId, Operation};
use keyhaven_wire::{
    Reply, Request,
    kms::{Fetch, Fetched, KeyRef, TaskError},
};
use tokio::{task::spawn_blocking, time::timeout};

use std::sync::Arc;

use super::{
    event::Event,
    inner::Inner,
    judge,
    misses::Wanted,
    shell::{CALL_TIMEOUT, ask_lease},
    table::chain,
};

/// When the last question out of turn was asked, and what central said.
#[derive(Default)]
pub(super) struct Probe {
    number: u64,
    asked: Option<tokio::time::Instant>,
    revision: Option<u64>,
}

impl Inner {
    /// Does what can be done so that a caller who was refused gets a second answer from the newest records. Both who asks for
    /// what does not exist and who asks for what is forbidden wait as long.
    pub(super) async fn look_further(self: &Arc<Self>, wanted: Wanted) -> Result<(), TaskError> {
        if self.denials.remembers(&wanted, self.table.applied()) {
            return Ok(());
        }
        let Ok(_permit) = self.misses.try_acquire() else {
            return Err(TaskError::Busy);
        };
        self.lookups
            .join(wanted.clone(), async {
                let is_here = match self.probe().await {
                    Some(revision) => self.comes(revision).await,
                    None => false,
                };
                if !is_here {
                    let (caller, key, operation) = wanted.clone();
                    let fetch = Fetch {
                        key,
                        caller,
                        operation,
                    };
                    if !self.fetch_from_central(&fetch).await {
                        self.fetch_from_peers(fetch).await;
                    }
                }
                let (caller, key, operation) = &wanted;
                if self.granted(caller, key, *operation).is_none() {
                    self.denials.remember(wanted.clone(), self.table.applied());
                }
            })
            .await;
        Ok(())
    }

    /// Has a version's wrap brought here, for a caller with a grant.
    pub(super) async fn obtain(
        self: &Arc<Self>,
        id: KeyId,
        version: u32,
        caller: &Identity,
        operation: Operation,
    ) -> Result<(), TaskError> {
        let Ok(_permit) = self.wanted.try_acquire() else {
            return Err(TaskError::Busy);
        };
        let has_come = || {
            let version = self.table.version(id, version);
            version.is_some_and(|version| !version.wrap.is_empty())
        };
        self.fetches
            .join((id, version), async {
                if has_come() {
                    return;
                }
                let fetch = Fetch {
                    key: KeyRef::Id(id),
                    caller: caller.clone(),
                    operation,
                };
                self.fetch_from_central(&fetch).await;
                if !has_come() {
                    self.fetch_from_peers(fetch).await;
                }
            })
            .await;
        if has_come() {
            Ok(())
        } else {
            Err(TaskError::NotHere)
        }
    }

    /// The revision of a head that central read after this was called; one question for all who ask meanwhile, and not too
    /// many of them.
    async fn probe(&self) -> Option<u64> {
        let before = self.probes.load(Ordering::Acquire);
        let mut probe = self.probe.lock().await;
        if probe.number > before {
            return probe.revision;
        }
        if let Some(asked) = probe.asked {
            tokio::time::sleep_until(asked + PROBE_EVERY).await;
        }
        probe.asked = Some(tokio::time::Instant::now());
        probe.number = self.probes.fetch_add(1, Ordering::AcqRel) + 1;
        probe.revision = None;
        for (central, client) in self.centrals.iter().enumerate() {
            if !client.is_healthy() {
                continue;
            }
            let event = ask_lease(self, central, self.table.head(), true).await;
            if let Event::Leased {
                answer: Ok((head, _)),
                ..
            } = &event
            {
                probe.revision = Some(head.revision);
            }
            self.tell(event).await;
            if probe.revision.is_some() {
                break;
            }
        }
        probe.revision
    }

    /// Waits a little until everything up to a revision is here.
    async fn comes(&self, revision: u64) -> bool {
        let mut applied = self.applied.subscribe();
        let here = applied.wait_for(|applied| *applied >= revision);
        matches!(timeout(REPLICATION, here).await, Ok(Ok(_)))
    }

    /// Whether a central answered, whatever it said.
    async fn fetch_from_central(self: &Arc<Self>, fetch: &Fetch) -> bool {
        for client in self.centrals.iter().filter(|client| client.is_healthy()) {
            let request = Request::Fetch(fetch.clone());
            if let Ok(Reply::Fetched(fetched)) = client.call(request, CALL_TIMEOUT).await {
                self.take(fetched, "central").await;
                return true;
            }
        }
        false
    }

    async fn fetch_from_peers(self: &Arc<Self>, fetch: Fetch) {
        let peers = self
            .peers
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let Some(peers) = peers else { return };
        if let Ok(Some(fetched)) = timeout(PEERS_TIMEOUT, peers.fetch(fetch)).await {
            self.take(fetched, "a peer").await;
        }
    }

    /// Puts what is central's, and fits to what is known, into the replica.
    async fn take(self: &Arc<Self>, fetched: Fetched, from: &'static str) {
        if fetched.entries.is_empty() {
            return;
        }
        let task = Arc::clone(self);
        let taken = spawn_blocking(move || {
            let seen = task.table.head();
            let records =
                judge::fetched(&task.central_key, &seen, fetched).map_err(|why| why.to_string())?;
            let kept = task
                .replica
                .take(seen.era, &records)
                .map_err(|error| chain(&error))?;
            task.forget(&kept);
            Ok::<_, String>(kept.durable)
        });
        match taken.await {
            Ok(Ok(true)) => {}
            Ok(Ok(false)) => self.tell(Event::NotSaved).await,
            Ok(Err(why)) => {
                tracing::error!(
                    target: "audit",
                    event = "refused-record",
                    site = self.site.as_str(),
                    from,
                    why,
                    "a fetched key is refused"
                );
            }
            Err(_) => tracing::error!("taking a fetched key failed"),
        }
    }
}

/// Callers that are refused ask central together, and no oftener.
const PROBE_EVERY: Duration = Duration::from_millis(50);
/// How long replication may take to bring what central has.
const REPLICATION: Duration = Duration::from_secs(1);
const PEERS_TIMEOUT: Duration = Duration::from_secs(4);
