//! The signer's state, and what becomes of each request: authorise, do, audit.
//!
//! Joins the channel, the policy and the handshake room. Handshakes are in `handshakes`, what follows them in
//! `outcomes`. State between requests stands in two tables and belongs to the connection that made it. One
//! invariant: keys of a handshake leave once, and only behind the Finished-lock or after the client's Finished.

mod door;
mod handshakes;
mod outcomes;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use keyhaven_handshake::{Custody, Handshake, Sealer, SessionKey};
use keyhaven_hsm::Workers;
use keyhaven_service::{Caller, Handler, Shares, shutdown::Shutdown};
use keyhaven_types::Identity;
use keyhaven_wire::{ErrorCode, Reply, Request};
use tokio::sync::Semaphore;

use crate::{
    config::Limits,
    counters::{Counters, HandshakeKind, Left},
    health::Health,
    kms::Kms,
    pending::Waiting,
    policy::{self, ServedSite},
};

/// The key server's state.
pub struct Signer {
    policy: policy::Shared,
    workers: Workers,
    sealer: Arc<Sealer>,
    limits: Limits,
    lifetime: Duration,
    permits: Semaphore,
    shares: Shares,
    waiting: Mutex<Waiting<Unfinished>>,
    released: Mutex<Waiting<Unproven>>,
    health: Health,
    counters: Arc<Counters>,
    kms: Option<Arc<Kms>>,
    shutdown: Shutdown,
}

/// What a signer is made of.
pub struct SignerParts {
    /// Sites and who may use them.
    pub policy: policy::Shared,
    /// Threads that work in tokens.
    pub workers: Workers,
    /// Seals rekey states.
    pub sealer: Sealer,
    /// Where it counts what it does.
    pub counters: Arc<Counters>,
    /// The KMS that it is a site of.
    pub kms: Option<Arc<Kms>>,
    /// Bounds.
    pub limits: Limits,
    /// How long a connection may live.
    pub lifetime: Duration,
    /// Tells when to stop.
    pub shutdown: Shutdown,
}

/// A handshake that waits for its client's next flight.
struct Unfinished {
    /// When it first began to wait: more flights give it no more time.
    since: Instant,
    handshake: Handshake,
    site: Option<Arc<ServedSite>>,
    client: String,
    server_name: String,
}

/// A TLS 1.3 handshake whose keys left and whose client has not proven anything.
struct Unproven {
    proof: [u8; 32],
    refusal_key: SessionKey,
    facts: Facts,
}

/// What is told of a handshake, once its keys have left.
#[derive(Clone)]
struct Facts {
    proxy: Identity,
    client: String,
    site: String,
    /// The site's name in counts.
    counted_as: String,
    handshake: String,
    version: &'static str,
    custody: Custody,
    is_resumed: bool,
}

impl Facts {
    /// Counts a handshake whose keys leave.
    fn count(&self, counters: &Counters) {
        Counters::add(&counters.released);
        let kind = HandshakeKind {
            site: self.counted_as.clone(),
            version: self.version,
            level: self.custody.level,
            resumed: self.is_resumed,
        };
        let left = Left {
            token: self.custody.exchange.clone(),
            what: self.custody.left,
        };
        counters.handshake(kind, left);
    }

    fn audit(&self, event: &'static str, reason: &str) {
        tracing::info!(
            target: "audit",
            event,
            proxy = %self.proxy,
            client = self.client,
            site = self.site,
            handshake = self.handshake,
            version = self.version,
            custody = %self.custody.level,
            exchange_token = self.custody.exchange,
            left = self.custody.left,
            resumed = self.is_resumed,
            reason,
            "handshake {event}"
        );
    }
}
impl Signer {
    /// Puts the parts together.
    pub fn new(parts: SignerParts) -> Self {
        let SignerParts {
            policy,
            workers,
            sealer,
            counters,
            kms,
            limits,
            lifetime,
            shutdown,
        } = parts;
        Self {
            health: Health::new(policy.clone(), kms.as_ref().map(|kms| kms.token().clone())),
            policy,
            workers,
            sealer: Arc::new(sealer),
            lifetime,
            permits: Semaphore::new(limits.handshakes_max),
            // Two proxies with all they can ask for still leave a third one room.
            shares: Shares::new(limits.handshakes_max * 2 / 5),
            waiting: Mutex::new(Waiting::new(limits.pending_max, limits.pending_timeout)),
            // A client that dawdles under the proxy's own deadline is still to be told from one that is gone.
            released: Mutex::new(Waiting::new(limits.pending_max, limits.pending_timeout * 3)),
            limits,
            counters,
            kms,
            shutdown,
        }
    }

    /// The counters.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Frees what has waited too long, each second. Does not end by itself: while the signer stops, what still
    /// waits must come to its end, too.
    pub async fn sweep(self: Arc<Self>) {
        for seconds in 1_u64.. {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let now = Instant::now();
            let silent = lock_table(&self.waiting).expire(now);
            for Unfinished { client, .. } in silent {
                self.give_up(&client, "the client did not go on in time");
            }
            let unproven = lock_table(&self.released).expire(now);
            for unproven in unproven {
                self.abort(&unproven, "no word of the outcome in time");
            }
            if let Some(kms) = &self.kms {
                kms.sweep();
            }
            if seconds.is_multiple_of(60) {
                self.log_counters();
            }
        }
    }

    /// What is asked of a site of the KMS. Operations wait for nothing but the token: at a limit they are refused.
    async fn ask_kms(&self, caller: &Arc<Caller>, request: Request) -> Reply {
        let Some(kms) = &self.kms else {
            return Reply::Error(ErrorCode::Denied);
        };
        let is_status = matches!(request, Request::Status);
        if self.shutdown.is_stopping() && !is_status {
            return self.busy();
        }
        match kms.call(caller, request).await {
            Reply::Error(ErrorCode::Busy) => self.busy(),
            reply => reply,
        }
    }

    fn give_up(&self, client: &str, reason: &str) {
        Counters::add(&self.counters.refused);
        tracing::info!(client, reason, "handshake given up");
    }

    /// Writes the counters to the log.
    pub fn log_counters(&self) {
        self.counters.log(lock_table(&self.waiting).len());
    }

    fn busy(&self) -> Reply {
        Counters::add(&self.counters.busy);
        Reply::Error(ErrorCode::Busy)
    }

    fn abort(&self, unproven: &Unproven, reason: &str) {
        Counters::add(&self.counters.aborted);
        unproven.facts.audit("aborted", reason);
    }
}

impl Handler for Signer {
    async fn call(&self, caller: Arc<Caller>, request: Request) -> Reply {
        if !door::may_ask(caller.identity.role(), &request) {
            return Reply::Error(ErrorCode::Denied);
        }
        match request {
            Request::Start(request) => self.start(caller, request).await,
            Request::Continue(request) => self.proceed(caller, request).await,
            Request::Outcome(request) => self.outcome(&caller, &request),
            Request::Refuse(request) => self.refuse(&caller, &request),
            Request::Rekey(request) => self.rekey(caller, request).await,
            Request::Ping => self.ping().await,
            _ => self.ask_kms(&caller, request).await,
        }
    }

    fn closed(&self, caller: &Caller) {
        if let Some(kms) = &self.kms {
            kms.closed(caller);
        }
        drop(lock_table(&self.waiting).drain(caller.connection));
        let unproven = lock_table(&self.released).drain(caller.connection);
        for unproven in unproven {
            self.abort(&unproven, "the proxy's connection ended");
        }
    }

    fn is_idle(&self, caller: &Caller) -> bool {
        !lock_table(&self.waiting).has(caller.connection)
            && !lock_table(&self.released).has(caller.connection)
    }
}

/// A table stays whole when a thread panics beside it: each change is one call.
fn lock_table<T>(table: &Mutex<T>) -> MutexGuard<'_, T> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}
