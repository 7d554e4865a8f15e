//! What the signer does with a request: authorise, do, audit.
//!
//! Joins the channel, the policy and the handshake room. State between requests stands in two tables and
//! belongs to the connection that made it. One invariant: keys of a handshake leave once, and only behind the
//! Finished-lock or after the client's Finished.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use keyhaven_handshake::{
    ClientHello, Failure, Handshake, RekeyBinding, Sealer, SessionKey, Step, StepResult,
    alert_record,
};
use keyhaven_hsm::{PrivateKey, Workers};
use keyhaven_service::{Caller, Handler, Shares, shutdown::Shutdown};
use keyhaven_types::{Role, alert};
use keyhaven_wire::{
    Binding, Continue, ErrorCode, HandshakeId, HandshakeReply, Next, Outcome, Refuse, Rekey,
    Rekeyed, Reply, Request, Start, lock,
};
use tokio::sync::Semaphore;

use crate::{
    config::Limits,
    counters::Counters,
    health::Health,
    pending::{Taken, Waiting},
    policy::{Policy, ServedSite},
    translate::{self, ReleaseTo},
};

/// The key server's state.
pub struct Signer {
    policy: Policy,
    workers: Workers,
    sealer: Sealer,
    limits: Limits,
    lifetime: Duration,
    permits: Semaphore,
    shares: Shares,
    waiting: Mutex<Waiting<Unfinished>>,
    released: Mutex<Waiting<Unproven>>,
    health: Health,
    counters: Counters,
    shutdown: Shutdown,
}

/// What a signer is made of.
pub struct SignerParts {
    /// Sites and who may use them.
    pub policy: Policy,
    /// Threads that work in tokens.
    pub workers: Workers,
    /// Seals rekey states.
    pub sealer: Sealer,
    /// Every key, for the readiness check.
    pub keys: Vec<PrivateKey>,
    /// Bounds.
    pub limits: Limits,
    /// How long a connection may live.
    pub lifetime: Duration,
    /// Tells when to stop.
    pub shutdown: Shutdown,
}

/// A handshake that waits for its client's next flight.
struct Unfinished {
    handshake: Handshake,
    site: Option<Arc<ServedSite>>,
    client: String,
}

/// A TLS 1.3 handshake whose keys left and whose client has not proven anything.
struct Unproven {
    proof: [u8; 32],
    refusal_key: SessionKey,
    site: String,
    handshake: String,
}

/// What a step belongs to.
struct Belongs {
    caller: Arc<Caller>,
    handshake: HandshakeId,
    binding: Binding,
    site: Option<Arc<ServedSite>>,
    client: String,
    is_first: bool,
}

impl Signer {
    /// Puts the parts together.
    pub fn new(parts: SignerParts) -> Self {
        let SignerParts {
            policy,
            workers,
            sealer,
            keys,
            limits,
            lifetime,
            shutdown,
        } = parts;
        Self {
            policy,
            workers,
            sealer,
            lifetime,
            permits: Semaphore::new(limits.handshakes_max),
            // Two proxies with all they can ask for still leave a third one room.
            shares: Shares::new(limits.handshakes_max * 2 / 5),
            waiting: Mutex::new(Waiting::new(limits.pending_max, limits.pending_timeout)),
            // A client that dawdles under the proxy's own deadline is still to be told from one that is gone.
            released: Mutex::new(Waiting::new(limits.pending_max, limits.pending_timeout * 3)),
            limits,
            health: Health::new(keys),
            counters: Counters::default(),
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
            if seconds.is_multiple_of(60) {
                self.log_counters();
            }
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

    async fn start(&self, caller: Arc<Caller>, request: Start) -> Reply {
        if self.shutdown.is_stopping() {
            return self.busy();
        }
        let key = (caller.connection, request.handshake);
        if lock_table(&self.waiting).has_name(&key) || lock_table(&self.released).has_name(&key) {
            return Reply::Error(ErrorCode::Malformed);
        }
        Counters::add(&self.counters.started);
        let hello = ClientHello::from_records(&request.records).ok();
        // A ClientHello that cannot be read has no site: rustls finds the alert for it.
        let site = hello.as_ref().and_then(|hello| {
            self.policy
                .site_for(&caller.identity, hello.server_name.as_deref())
        });
        let belongs = Belongs {
            caller,
            handshake: request.handshake,
            binding: request.binding(),
            site: site.clone(),
            client: request.client,
            is_first: true,
        };
        let records = request.records;
        self.work(belongs, move |worker| {
            Handshake::start(
                worker,
                site.as_ref().map(|site| &site.site),
                hello.as_ref(),
                &records,
            )
        })
        .await
    }

    async fn proceed(&self, caller: Arc<Caller>, request: Continue) -> Reply {
        let key = (caller.connection, request.handshake);
        let Some(unfinished) = lock_table(&self.waiting).take(Instant::now(), &key) else {
            return Reply::Error(ErrorCode::UnknownHandshake);
        };
        let belongs = Belongs {
            caller,
            handshake: request.handshake,
            binding: request.binding(),
            site: unfinished.site,
            client: unfinished.client,
            is_first: false,
        };
        let handshake = unfinished.handshake;
        self.work(belongs, move |worker| {
            handshake.proceed(worker, &request.records)
        })
        .await
    }

    async fn work(
        &self,
        belongs: Belongs,
        step: impl FnOnce(&keyhaven_hsm::Worker) -> Step + Send + 'static,
    ) -> Reply {
        let Some(_share) = self.shares.take(&belongs.caller.identity) else {
            return self.busy();
        };
        let Ok(_permit) = self.permits.try_acquire() else {
            return self.busy();
        };
        let deadline = Instant::now() + self.limits.step_timeout;
        match self.workers.run(deadline, step).await {
            Ok(step) => self.answer(belongs, step),
            Err(keyhaven_hsm::Error::Busy) => self.busy(),
            Err(error) => {
                Counters::add(&self.counters.failed);
                log_failure(&belongs, &error);
                Reply::Error(ErrorCode::Unavailable)
            }
        }
    }

    fn answer(&self, belongs: Belongs, step: Step) -> Reply {
        let Step {
            consumed,
            to_client,
            result,
        } = step;
        let binding = belongs.binding;
        let next = match result {
            StepResult::More(handshake, expect) => {
                let key = (belongs.caller.connection, belongs.handshake);
                let Belongs { site, client, .. } = belongs;
                let unfinished = Unfinished {
                    handshake: *handshake,
                    site,
                    client,
                };
                let kept = lock_table(&self.waiting).keep(Instant::now(), key, unfinished);
                match kept {
                    Err(Taken) => return Reply::Error(ErrorCode::Malformed),
                    Ok(None) => {}
                    Ok(Some(oldest)) => {
                        self.give_up(&oldest.client, "pushed out by newer handshakes");
                    }
                }
                Next::More(translate::expect(expect))
            }
            StepResult::Released(released) => match self.release(&belongs, *released, &to_client) {
                Ok(next) => next,
                Err(code) => return Reply::Error(code),
            },
            StepResult::Established(established) => {
                Counters::add(&self.counters.released);
                Counters::add(&self.counters.proven);
                audit(&belongs, "proven", "1.2", established.level.as_str());
                let open = translate::open_release(*established, &belongs.handshake, self.lifetime);
                Next::Open(Box::new(open))
            }
            StepResult::Refused(refusal) => {
                Counters::add(&self.counters.refused);
                tracing::info!(
                    proxy = %belongs.caller.identity,
                    client = belongs.client,
                    alert = refusal.alert,
                    from_client = refusal.from_client,
                    reason = refusal.reason,
                    "handshake refused"
                );
                Next::Refused {
                    alert: refusal.alert,
                }
            }
            StepResult::Failed(failure) => {
                Counters::add(&self.counters.failed);
                log_failure(&belongs, &failure);
                // The client has seen nothing yet, so another signer may begin anew.
                if belongs.is_first
                    && matches!(&failure, Failure::Token(error) if error.is_unavailable())
                {
                    return Reply::Error(ErrorCode::Unavailable);
                }
                Next::Refused {
                    alert: alert::INTERNAL_ERROR,
                }
            }
        };
        let consumed = u32::try_from(consumed).unwrap_or(u32::MAX);
        Reply::Handshake(HandshakeReply {
            binding,
            consumed,
            to_client,
            next,
        })
    }

    fn release(
        &self,
        belongs: &Belongs,
        released: keyhaven_handshake::Released,
        flight: &[u8],
    ) -> Result<Next, ErrorCode> {
        let level = released.established.level;
        let site = belongs.site.as_ref().ok_or(ErrorCode::Internal)?;
        let to = ReleaseTo {
            handshake: &belongs.handshake,
            proxy: &belongs.caller.identity,
            site: site.id,
            lifetime: self.lifetime,
            now: SystemTime::now(),
        };
        let release =
            translate::lock_release(released, flight, &to, &self.sealer).map_err(|error| {
                Counters::add(&self.counters.failed);
                log_failure(belongs, &error);
                ErrorCode::Internal
            })?;
        let unproven = Unproven {
            proof: release.proof,
            refusal_key: release.refusal_key,
            site: site.label.clone(),
            handshake: short_name(&belongs.handshake),
        };
        let key = (belongs.caller.connection, belongs.handshake);
        let kept = lock_table(&self.released).keep(Instant::now(), key, unproven);
        match kept {
            Err(Taken) => return Err(ErrorCode::Malformed),
            Ok(None) => {}
            Ok(Some(oldest)) => self.abort(&oldest, "pushed out by newer handshakes"),
        }
        Counters::add(&self.counters.released);
        audit(belongs, "released", "1.3", level.as_str());
        Ok(Next::Locked(release.locked))
    }

    fn outcome(&self, caller: &Caller, request: &Outcome) -> Reply {
        let key = (caller.connection, request.handshake);
        let now = Instant::now();
        if request.proof.is_none() && lock_table(&self.waiting).take(now, &key).is_some() {
            return Reply::Noted;
        }
        let Some(unproven) = lock_table(&self.released).take(now, &key) else {
            return Reply::Error(ErrorCode::UnknownHandshake);
        };
        match request.proof {
            Some(proof) if lock::proof_matches(&unproven.proof, &proof) => {
                Counters::add(&self.counters.proven);
                tracing::info!(
                    target: "audit",
                    event = "proven",
                    proxy = %caller.identity,
                    site = unproven.site,
                    handshake = unproven.handshake,
                    "handshake proven"
                );
                Reply::Noted
            }
            Some(_) => {
                Counters::add(&self.counters.forged);
                tracing::error!(proxy = %caller.identity, "ALARM: a forged proof of outcome");
                self.abort(&unproven, "the proof of its outcome is wrong");
                Reply::Error(ErrorCode::Denied)
            }
            None => {
                self.abort(&unproven, "the proxy says so");
                Reply::Noted
            }
        }
    }

    fn refuse(&self, caller: &Caller, request: &Refuse) -> Reply {
        if matches!(request.alert, alert::CLOSE_NOTIFY | alert::USER_CANCELED) {
            return Reply::Error(ErrorCode::Malformed);
        }
        let key = (caller.connection, request.handshake);
        let Some(unproven) = lock_table(&self.released).take(Instant::now(), &key) else {
            return Reply::Error(ErrorCode::UnknownHandshake);
        };
        self.abort(&unproven, "the client's Finished is refused");
        let record = alert_record(unproven.refusal_key, request.alert);
        Reply::Alert {
            handshake: request.handshake,
            record,
        }
    }

    fn rekey(&self, caller: &Caller, request: Rekey) -> Reply {
        let binding = RekeyBinding {
            connection: &request.connection.0,
            proxy: caller.identity.as_str(),
            direction: request.direction,
        };
        let made = self.sealer.next(
            SystemTime::now(),
            binding,
            request.generation,
            &request.state,
            |site| self.policy.may_use(&caller.identity, site),
        );
        match made {
            Ok(made) => {
                Counters::add(&self.counters.rekeyed);
                tracing::info!(
                    target: "audit",
                    event = "rekeyed",
                    proxy = %caller.identity,
                    direction = ?request.direction,
                    generation = request.generation,
                    "next traffic key"
                );
                Reply::Rekeyed(Rekeyed {
                    connection: request.connection,
                    direction: request.direction,
                    generation: request.generation,
                    key: translate::traffic_key(made.key),
                    state: made.state,
                })
            }
            Err(error) => {
                Counters::add(&self.counters.rekey_refused);
                tracing::warn!(proxy = %caller.identity, %error, "next traffic key refused");
                Reply::Error(ErrorCode::StateRefused)
            }
        }
    }

    async fn ping(&self) -> Reply {
        let healthy = self
            .health
            .check(&self.workers, self.limits.step_timeout)
            .await;
        if healthy && !self.shutdown.is_stopping() {
            Reply::Pong
        } else {
            Reply::Error(ErrorCode::Unavailable)
        }
    }

    fn busy(&self) -> Reply {
        Counters::add(&self.counters.busy);
        Reply::Error(ErrorCode::Busy)
    }

    fn abort(&self, unproven: &Unproven, reason: &str) {
        Counters::add(&self.counters.aborted);
        tracing::info!(
            target: "audit",
            event = "aborted",
            site = unproven.site,
            handshake = unproven.handshake,
            reason,
            "handshake aborted"
        );
    }
}

impl Handler for Signer {
    async fn call(&self, caller: Arc<Caller>, request: Request) -> Reply {
        if caller.identity.role() != Role::Proxy {
            return Reply::Error(ErrorCode::Denied);
        }
        match request {
            Request::Start(request) => self.start(caller, request).await,
            Request::Continue(request) => self.proceed(caller, request).await,
            Request::Outcome(request) => self.outcome(&caller, &request),
            Request::Refuse(request) => self.refuse(&caller, &request),
            Request::Rekey(request) => self.rekey(&caller, request),
            Request::Ping => self.ping().await,
        }
    }

    fn closed(&self, caller: &Caller) {
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

fn audit(belongs: &Belongs, event: &'static str, version: &str, level: &str) {
    tracing::info!(
        target: "audit",
        event,
        proxy = %belongs.caller.identity,
        client = belongs.client,
        site = belongs.site.as_ref().map_or("", |site| &site.label),
        handshake = short_name(&belongs.handshake),
        version,
        custody = level,
        "handshake {event}"
    );
}

fn log_failure(belongs: &Belongs, error: &dyn std::error::Error) {
    tracing::error!(
        proxy = %belongs.caller.identity,
        client = belongs.client,
        site = belongs.site.as_ref().map_or("", |site| &site.label),
        error = error_chain(error),
        "handshake failed"
    );
}

/// An error and its sources on one line.
pub(crate) fn error_chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        line = format!("{line}: {inner}");
        source = inner.source();
    }
    line
}

fn short_name(handshake: &HandshakeId) -> String {
    handshake.0[..8]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
