//! Finds the signers of a host name by asking one that is known, and connects to those that it names.
//!
//! What was answered is kept in `names`, who is asked first for a handshake is decided in `order`. Invariant: connects only
//! to signers of a trust domain that is configured, and to no more than a bound.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use keyhaven_service::{Client, ClientConfig, Credentials};
use keyhaven_types::{Identity, Operation, Role};
use keyhaven_wire::{
    ErrorCode, Reply, Request,
    kms::{Found, KeyRef, Lookup, Server},
};
use tokio::sync::watch;

use super::{
    names::{Known, Named, Names},
    signer::{Signer, wait_for_one},
};
use crate::config::LookupSection;

/// How long one signer may take to answer a lookup.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);
/// Signers that are asked in turn.
const ASKED_MAX: usize = 3;
/// Lookups under way at once; for names beyond, the configured signers are asked to begin the handshake.
const ASKING_MAX: usize = 64;
/// A server that was learned makes room for another one when no name has gone to it for so long.
const IDLE: Duration = Duration::from_secs(10);
/// What a signer without managed keys says of a name holds for so long.
const DENIED_FOR: Duration = Duration::from_secs(30);

/// The way to signers that were not configured.
pub(super) struct Finder(Arc<Inner>);

struct Inner {
    configured: Vec<Signer>,
    credentials: Credentials,
    servers_max: usize,
    state: Mutex<State>,
}

struct State {
    names: Names,
    learned: Vec<Learned>,
    /// Lookups under way; who waits is told by the sender's end.
    asking: HashMap<String, watch::Receiver<()>>,
}

struct Learned {
    signer: Signer,
    used: Instant,
}

impl Finder {
    pub(super) fn new(
        configured: Vec<Signer>,
        credentials: Credentials,
        section: LookupSection,
    ) -> Self {
        Self(Arc::new(Inner {
            configured,
            credentials,
            servers_max: section.servers_max,
            state: Mutex::new(State {
                names: Names::new(section.refresh),
                learned: Vec::new(),
                asking: HashMap::new(),
            }),
        }))
    }

    /// The signers that serve a name, with what each is expected to take. Nothing when nobody is known to.
    pub(super) async fn find(&self, name: &str) -> Vec<(Signer, Duration)> {
        let name = name.to_ascii_lowercase();
        let known = self.0.lock().names.get(&name, Instant::now());
        let servers = match known {
            Known::Fresh(servers) => servers,
            Known::Ageing(servers) => {
                // This handshake need not wait for what the next ones will go by.
                let _ = self.asking(&name);
                servers
            }
            Known::Nothing => {
                if let Some(mut asking) = self.asking(&name) {
                    // The sender never sends: this is its end.
                    let _ = asking.changed().await;
                }
                match self.0.lock().names.get(&name, Instant::now()) {
                    Known::Fresh(servers) | Known::Ageing(servers) => servers,
                    Known::Nothing => return Vec::new(),
                }
            }
        };
        self.0.signers(&servers)
    }

    /// Signers that were learned.
    pub(super) fn learned(&self) -> Vec<Signer> {
        let state = self.0.lock();
        let learned = state.learned.iter();
        learned.map(|learned| learned.signer.clone()).collect()
    }

    /// Joins the lookup of this name that is under way, or begins one; none when too many are.
    fn asking(&self, name: &str) -> Option<watch::Receiver<()>> {
        let mut state = self.0.lock();
        if let Some(asking) = state.asking.get(name) {
            return Some(asking.clone());
        }
        if state.asking.len() >= ASKING_MAX {
            return None;
        }
        let (done, asking) = watch::channel(());
        state.asking.insert(name.to_owned(), asking.clone());
        let (inner, name) = (self.0.clone(), name.to_owned());
        tokio::spawn(async move {
            inner.ask(&name).await;
            inner.lock().asking.remove(&name);
            drop(done);
        });
        Some(asking)
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks one signer after the other, and notes the first answer. Without one the old answer stands until it ends.
    async fn ask(&self, name: &str) {
        let mut is_denied = false;
        if self.to_ask().is_empty() {
            wait_for_one(&self.configured).await;
        }
        for signer in self.to_ask() {
            let lookup = Request::Lookup(Lookup {
                key: KeyRef::ServerName(name.to_owned()),
                operation: Operation::Handshake,
                caller: None,
            });
            match signer.client().call(lookup, ASK_TIMEOUT).await {
                Ok(Reply::Found(found)) => return self.note(name, found),
                Ok(Reply::Error(ErrorCode::Denied)) => is_denied = true,
                Ok(other) => {
                    tracing::debug!(signer = %signer.name(), ?other, "no answer to a lookup")
                }
                Err(error) => {
                    tracing::debug!(signer = %signer.name(), %error, "no answer to a lookup")
                }
            }
        }
        if is_denied {
            let now = Instant::now();
            self.lock().names.put(name, &[], DENIED_FOR, now);
        }
    }

    fn note(&self, name: &str, found: Found) {
        let good_for = Duration::from_millis(found.good_for_ms);
        let servers = found.servers.into_iter();
        let named: Vec<Named> = servers.filter_map(|server| self.named(server)).collect();
        let now = Instant::now();
        self.lock().names.put(name, &named, good_for, now);
    }

    /// A server that this proxy may connect to.
    fn named(&self, server: Server) -> Option<Named> {
        let is_ours = |known: &Signer| {
            known.client().identity().trust_domain() == server.identity.trust_domain()
        };
        if server.identity.role() != Role::Signer || !self.configured.iter().any(is_ours) {
            tracing::warn!(
                named = %server.identity,
                "a lookup named somebody who is no signer of a configured trust domain; it is left out"
            );
            return None;
        }
        Some(Named {
            identity: server.identity,
            address: server.address,
            estimate: Duration::from_micros(server.estimate_us),
        })
    }

    /// Healthy signers, the configured ones first.
    fn to_ask(&self) -> Vec<Signer> {
        let state = self.lock();
        let learned = state.learned.iter().map(|learned| &learned.signer);
        let known = self.configured.iter().chain(learned);
        let healthy = known.filter(|signer| signer.client().is_healthy());
        healthy.take(ASKED_MAX).cloned().collect()
    }

    /// The signers that were named: configured ones, learned ones, and new connections while there is room.
    fn signers(&self, servers: &[Named]) -> Vec<(Signer, Duration)> {
        let now = Instant::now();
        let mut state = self.lock();
        let mut signers = Vec::new();
        for server in servers {
            let is_it = |signer: &Signer| signer.is(&server.identity, &server.address);
            let signer = match self.configured.iter().find(|signer| is_it(signer)) {
                Some(signer) => Some(signer.clone()),
                None => self.learn(&mut state, server, now),
            };
            signers.extend(signer.map(|signer| (signer, server.estimate)));
        }
        signers
    }

    fn learn(&self, state: &mut State, server: &Named, now: Instant) -> Option<Signer> {
        let is_it = |learned: &&mut Learned| learned.signer.is(&server.identity, &server.address);
        if let Some(known) = state.learned.iter_mut().find(is_it) {
            known.used = now;
            return Some(known.signer.clone());
        }
        if state.learned.len() >= self.servers_max {
            let names = &state.names;
            let is_needed =
                |identity: &Identity, address: &str| names.names(identity, address, now);
            let spare = state.learned.iter().position(|learned| {
                let client = learned.signer.client();
                now.saturating_duration_since(learned.used) >= IDLE
                    && !is_needed(client.identity(), client.address())
            })?;
            state.learned.swap_remove(spare);
        }
        let config = ClientConfig::new(
            server.address.clone(),
            server.identity.clone(),
            self.credentials.clone(),
        );
        let signer = Signer::new(Client::start(config));
        tracing::info!(signer = %signer.name(), "a lookup named a signer that is not configured");
        state.learned.push(Learned {
            signer: signer.clone(),
            used: now,
        });
        Some(signer)
    }
}
