//! Handshakes: a request's records go through the token, and what comes out is answered and accounted for.
//!
//! Leaves the protocol of TLS to the handshake room and the translation of its values to `translate`. One
//! invariant: whoever may not use a site goes the same way as whoever asks for one that is not there.

use std::{
    sync::Arc,
    time::{Instant, SystemTime},
};

use keyhaven_handshake::{ClientHello, Failure, Handshake, Released, Step, StepResult};
use keyhaven_service::Caller;
use keyhaven_types::{CustodyLevel, alert};
use keyhaven_wire::{
    Binding, Continue, ErrorCode, HandshakeId, HandshakeReply, Next, Reply, Start,
};

use super::{Facts, Signer, Unfinished, Unproven, lock_table};
use crate::{
    audit::{error_chain, short_name},
    counters::Counters,
    pending::Taken,
    policy::ServedSite,
    translate::{self, ReleaseTo},
};

/// What a step belongs to.
struct Belongs {
    caller: Arc<Caller>,
    handshake: HandshakeId,
    binding: Binding,
    site: Option<Arc<ServedSite>>,
    client: String,
    server_name: String,
    is_first: bool,
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
            server_name: hello
                .as_ref()
                .and_then(|hello| hello.server_name.clone())
                .unwrap_or_default(),
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

    pub(super) async fn proceed(&self, caller: Arc<Caller>, request: Continue) -> Reply {
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
            server_name: unfinished.server_name,
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
                let Belongs {
                    site,
                    client,
                    server_name,
                    ..
                } = belongs;
                let unfinished = Unfinished {
                    handshake: *handshake,
                    site,
                    client,
                    server_name,
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
                belongs
                    .facts("1.2", established.level)
                    .audit("proven", "the client's Finished is accepted");
                let open = translate::open_release(*established, &belongs.handshake, self.lifetime);
                Next::Open(Box::new(open))
            }
            StepResult::Refused(refusal) => {
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
            StepResult::Failed(failure) => {
                Counters::add(&self.counters.failed);
                log_failure(&belongs, &failure);
                // The client has seen nothing yet, so another signer may begin anew.
                if belongs.is_first && matches!(&failure, Failure::Token(_)) {
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
        released: Released,
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
        let facts = belongs.facts("1.3", level);
        let unproven = Unproven {
            proof: release.proof,
            refusal_key: release.refusal_key,
            facts: facts.clone(),
        };
        let key = (belongs.caller.connection, belongs.handshake);
        let kept = lock_table(&self.released).keep(Instant::now(), key, unproven);
        match kept {
            Err(Taken) => return Err(ErrorCode::Malformed),
            Ok(None) => {}
            Ok(Some(oldest)) => self.abort(&oldest, "pushed out by newer handshakes"),
        }
        Counters::add(&self.counters.released);
        facts.audit("released", "behind the Finished-lock");
        Ok(Next::Locked(release.locked))
    }
}

impl Belongs {
    fn facts(&self, version: &'static str, custody: CustodyLevel) -> Facts {
        Facts {
            proxy: self.caller.identity.clone(),
            client: self.client.clone(),
            site: self
                .site
                .as_ref()
                .map_or_else(String::new, |site| site.label.clone()),
            handshake: short_name(&self.handshake),
            version,
            custody,
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
