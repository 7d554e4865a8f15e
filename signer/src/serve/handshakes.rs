//! Handshakes: a request's records go through the token, and what comes out is answered and accounted for.
//!
//! Leaves the protocol of TLS to the handshake room and the translation of its values to `translate`. One
//! invariant: whoever may not use a site goes the same way as whoever asks for one that is not there.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use keyhaven_handshake::{
    ClientHello, Custody, Failure, Handshake, Refusal, Sealer, Step, StepResult,
};
use keyhaven_hsm::Worker;
use keyhaven_service::Caller;
use keyhaven_types::alert;
use keyhaven_wire::{
    Binding, Continue, ErrorCode, Established, HandshakeId, HandshakeReply, Next, Reply, Start,
};

use super::{Facts, Signer, Unfinished, Unproven, lock_table};
use crate::{
    audit::{error_chain, short_name},
    counters::Counters,
    kms::NotServed,
    pending::Taken,
    policy::ServedSite,
    translate::{self, LockError, LockedRelease, ReleaseTo},
};

/// What a step belongs to.
struct Belongs {
    caller: Arc<Caller>,
    handshake: HandshakeId,
    binding: Binding,
    site: Option<Arc<ServedSite>>,
    client: String,
    server_name: String,
    /// Since when it has been waiting for its client; nothing at its first step.
    since: Option<Instant>,
}

/// A step whose keys are ready to go out.
struct Done {
    consumed: usize,
    to_client: Vec<u8>,
    result: DoneResult,
}

/// What a step came to, in the protocol's words where keys are concerned.
enum DoneResult {
    More(Box<Handshake>, keyhaven_handshake::Expect),
    Released(Box<LockedRelease>, Told),
    Established(Box<Established>, Told),
    Refused(Refusal),
    Failed(Failure),
    Unlocked(LockError),
}

/// What is told of a handshake whose keys leave.
struct Told {
    version: &'static str,
    custody: Custody,
    is_resumed: bool,
}

impl Signer {
    pub(super) async fn start(&self, caller: Arc<Caller>, request: Start) -> Reply {
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
        let name = hello.as_ref().map(|hello| hello.server_name.as_deref());
        let site = match name {
            Some(name) => match self.site_for(&caller, name).await {
                Ok(site) => site,
                Err(NotServed::Denied) => None,
                Err(NotServed::Elsewhere) => return Reply::Error(ErrorCode::Unavailable),
                Err(NotServed::Busy) => return self.busy(),
            },
            None => None,
        };
        let belongs = Belongs {
            caller,
            handshake: request.handshake,
            binding: request.binding(),
            site: site.clone(),
            client: request.client,
            server_name: hello
                .as_ref()
                .and_then(|hello| hello.server_name.clone())
                .unwrap_or_default(),
            since: None,
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

    pub(super) async fn proceed(&self, caller: Arc<Caller>, request: Continue) -> Reply {
        let key = (caller.connection, request.handshake);
        let Some(unfinished) = lock_table(&self.waiting).take(Instant::now(), &key) else {
            return Reply::Error(ErrorCode::UnknownHandshake);
        };
        // A grant that was taken away since the handshake began is gone for it, too; a key that was exchanged is not.
        let name = Some(unfinished.server_name.as_str()).filter(|name| !name.is_empty());
        let may_go_on = match unfinished.site.as_deref() {
            None => true,
            Some(ServedSite {
                managed: Some(keys),
                ..
            }) => keys.may_be_used_by(&caller.identity),
            Some(_) => {
                let policy = self.policy.current();
                policy.site_for(&caller.identity, name).is_some()
            }
        };
        if !may_go_on {
            self.give_up(&unfinished.client, "the site or its grant is gone");
            return Reply::Error(ErrorCode::UnknownHandshake);
        }
        let belongs = Belongs {
            caller,
            handshake: request.handshake,
            binding: request.binding(),
            site: unfinished.site,
            client: unfinished.client,
            server_name: unfinished.server_name,
            since: Some(unfinished.since),
        };
        let handshake = unfinished.handshake;
        self.work(belongs, move |worker| {
            handshake.proceed(worker, &request.records)
        })
        .await
    }

    /// The site of a name for a caller: the file's by that name, or else one with managed keys, or else the file's
    /// default. A name that the file has is never looked for among managed keys, also where this caller may not use it.
    async fn site_for(
        &self,
        caller: &Caller,
        name: Option<&str>,
    ) -> Result<Option<Arc<ServedSite>>, NotServed> {
        let policy = self.policy.current();
        if let (Some(kms), Some(name)) = (&self.kms, name)
            && !policy.has_name(name)
        {
            let site = kms.sites().site_for(&caller.identity, name);
            match tokio::time::timeout(self.limits.step_timeout, site).await {
                Ok(Err(NotServed::Denied)) => {}
                Ok(site) => return site.map(Some),
                Err(_) => return Err(NotServed::Elsewhere),
            }
        }
        Ok(policy.site_for(&caller.identity, name))
    }

    async fn work(
        &self,
        belongs: Belongs,
        step: impl FnOnce(&Worker) -> Step + Send + 'static,
    ) -> Reply {
        let Some(_share) = self.shares.take(&belongs.caller.identity) else {
            return self.busy();
        };
        let Ok(_permit) = self.permits.try_acquire() else {
            return self.busy();
        };
        let deadline = Instant::now() + self.limits.step_timeout;
        let (caller, site) = (belongs.caller.clone(), belongs.site.clone());
        let (handshake, lifetime) = (belongs.handshake, self.lifetime);
        let sealer = self.sealer.clone();
        let is_first = belongs.since.is_none();
        let done = self.workers.run(deadline, move |worker| {
            let began = Instant::now();
            let step = step(worker);
            if is_first && let Some(keys) = site.as_deref().and_then(|site| site.managed.as_ref()) {
                keys.served(began.elapsed());
            }
            let to = |site| release_to(&caller, handshake, site, lifetime, &sealer);
            finish(worker, step, site.as_deref().map(to))
        });
        match done.await {
            // What was made with a managed key that may not be used any more is thrown away.
            Ok(_) if !belongs.may_still() => {
                Counters::add(&self.counters.failed);
                tracing::warn!(
                    proxy = %belongs.caller.identity,
                    client = belongs.client,
                    server_name = belongs.server_name,
                    "handshake thrown away: its managed key may not be used any more"
                );
                Reply::Error(ErrorCode::Unavailable)
            }
            Ok(done) => self.answer(belongs, done),
            Err(keyhaven_hsm::Error::Busy) => self.busy(),
            Err(error) => {
                Counters::add(&self.counters.failed);
                log_failure(&belongs, &error);
                Reply::Error(ErrorCode::Unavailable)
            }
        }
    }

    fn answer(&self, belongs: Belongs, done: Done) -> Reply {
        let Done {
            consumed,
            to_client,
            result,
        } = done;
        let binding = belongs.binding;
        let next = match result {
            DoneResult::More(handshake, expect) => match self.wait(belongs, handshake) {
                Err(Taken) => return Reply::Error(ErrorCode::Malformed),
                Ok(()) => Next::More(translate::expect(expect)),
            },
            DoneResult::Released(release, told) => match self.release(&belongs, *release, told) {
                Err(Taken) => return Reply::Error(ErrorCode::Malformed),
                Ok(next) => next,
            },
            DoneResult::Established(established, told) => {
                let facts = belongs.facts(told);
                facts.count(&self.counters);
                Counters::add(&self.counters.proven);
                facts.audit("proven", "the client's Finished is accepted");
                Next::Open(established)
            }
            DoneResult::Refused(refusal) => self.refused(&belongs, &refusal),
            DoneResult::Failed(failure) => {
                Counters::add(&self.counters.failed);
                log_failure(&belongs, &failure);
                // The client has seen nothing yet, so another signer may begin anew.
                if belongs.since.is_none() && matches!(&failure, Failure::Token(_)) {
                    return Reply::Error(ErrorCode::Unavailable);
                }
                Next::Refused {
                    alert: alert::INTERNAL_ERROR,
                }
            }
            DoneResult::Unlocked(error) => {
                Counters::add(&self.counters.failed);
                log_failure(&belongs, &error);
                return Reply::Error(if belongs.since.is_none() && error.is_token() {
                    ErrorCode::Unavailable
                } else {
                    ErrorCode::Internal
                });
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

    /// Keeps a handshake until its client goes on.
    fn wait(&self, belongs: Belongs, handshake: Box<Handshake>) -> Result<(), Taken> {
        let key = (belongs.caller.connection, belongs.handshake);
        let since = belongs.since.unwrap_or_else(Instant::now);
        let unfinished = Unfinished {
            since,
            handshake: *handshake,
            site: belongs.site,
            client: belongs.client,
            server_name: belongs.server_name,
        };
        if let Some(oldest) = lock_table(&self.waiting).keep(since, key, unfinished)? {
            self.give_up(&oldest.client, "pushed out by newer handshakes");
        }
        Ok(())
    }

    fn refused(&self, belongs: &Belongs, refusal: &Refusal) -> Next {
        Counters::add(&self.counters.refused);
        tracing::info!(
            proxy = %belongs.caller.identity,
            client = belongs.client,
            server_name = belongs.server_name,
            alert = refusal.alert,
            alert_name = alert::name(refusal.alert),
            from_client = refusal.from_client,
            reason = refusal.reason,
            "handshake refused"
        );
        Next::Refused {
            alert: refusal.alert,
        }
    }

    fn release(
        &self,
        belongs: &Belongs,
        release: LockedRelease,
        told: Told,
    ) -> Result<Next, Taken> {
        let facts = belongs.facts(told);
        let unproven = Unproven {
            proof: release.proof,
            refusal_key: release.refusal_key,
            facts: facts.clone(),
        };
        let key = (belongs.caller.connection, belongs.handshake);
        if let Some(oldest) = lock_table(&self.released).keep(Instant::now(), key, unproven)? {
            self.abort(&oldest, "pushed out by newer handshakes");
        }
        facts.count(&self.counters);
        facts.audit("released", "behind the Finished-lock");
        Ok(Next::Locked(release.locked))
    }
}

fn release_to<'a>(
    caller: &'a Caller,
    handshake: HandshakeId,
    site: &'a ServedSite,
    lifetime: Duration,
    sealer: &'a Sealer,
) -> ReleaseTo<'a> {
    ReleaseTo {
        handshake,
        proxy: &caller.identity,
        served: site,
        lifetime,
        now: SystemTime::now(),
        sealer,
    }
}

/// Makes the keys of a step ready to go out: locked, or open; still on the worker, where secrets of a token can be
/// sealed.
fn finish(worker: &Worker, step: Step, to: Option<ReleaseTo<'_>>) -> Done {
    let Step {
        consumed,
        to_client,
        result,
    } = step;
    let result = match (result, to) {
        (StepResult::More(handshake, expect), _) => DoneResult::More(handshake, expect),
        (StepResult::Refused(refusal), _) => DoneResult::Refused(refusal),
        (StepResult::Failed(failure), _) => DoneResult::Failed(failure),
        (StepResult::Released(released), Some(to)) => {
            let told = Told::of(&released.established);
            match translate::lock_release(worker, *released, &to_client, &to) {
                Ok(release) => DoneResult::Released(Box::new(release), told),
                Err(error) => DoneResult::Unlocked(error),
            }
        }
        (StepResult::Established(established), Some(to)) => {
            let told = Told::of(&established);
            match translate::open_release(worker, *established, &to) {
                Ok(open) => DoneResult::Established(Box::new(open), told),
                Err(error) => DoneResult::Unlocked(error),
            }
        }
        (StepResult::Released(_) | StepResult::Established(_), None) => {
            DoneResult::Failed(Failure::Engine("keys without a site"))
        }
    };
    Done {
        consumed,
        to_client,
        result,
    }
}

impl Told {
    fn of(established: &keyhaven_handshake::Established) -> Self {
        Self {
            version: if established.is_tls13 { "1.3" } else { "1.2" },
            custody: established.custody.clone(),
            is_resumed: established.is_resumed,
        }
    }
}

impl Belongs {
    /// Whether a managed key could still be used when the token was done.
    fn may_still(&self) -> bool {
        let managed = self.site.as_ref().and_then(|site| site.managed.as_ref());
        managed.is_none_or(|keys| keys.may_be_used_by(&self.caller.identity))
    }

    fn facts(&self, told: Told) -> Facts {
        Facts {
            proxy: self.caller.identity.clone(),
            client: self.client.clone(),
            site: self
                .site
                .as_ref()
                .map_or_else(String::new, |site| site.label.clone()),
            counted_as: self
                .site
                .as_ref()
                .map_or_else(String::new, |site| site.counted_as().to_owned()),
            handshake: short_name(&self.handshake),
            version: told.version,
            custody: told.custody,
            is_resumed: told.is_resumed,
        }
    }
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
