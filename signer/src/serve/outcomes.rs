//! What follows a handshake: how it ended at the client, the alert for a refused Finished, the next traffic keys.
//!
//! Every entry is used once: a handshake is proven or refused or aborted, and never two of them.

use std::{
    sync::Arc,
    time::{Instant, SystemTime},
};

use keyhaven_handshake::{RekeyBinding, RekeyError, Rekeyed as NextKey, Sealer, alert_record};
use keyhaven_hsm::{Vault, Worker};
use keyhaven_service::Caller;
use keyhaven_types::{Identity, alert};
use keyhaven_wire::{ErrorCode, Outcome, Refuse, Rekey, Rekeyed, Reply, lock};

use super::{Signer, lock_table};
use crate::{audit::error_chain, counters::Counters, kms::Kms, policy::Policy, translate};

impl Signer {
    pub(super) fn outcome(&self, caller: &Caller, request: &Outcome) -> Reply {
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
                unproven
                    .facts
                    .audit("proven", "the client's Finished was seen");
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

    pub(super) fn refuse(&self, caller: &Caller, request: &Refuse) -> Reply {
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

    pub(super) async fn rekey(&self, caller: Arc<Caller>, request: Rekey) -> Reply {
        let managed = self.kms.clone();
        let (connection, direction, generation) =
            (request.connection, request.direction, request.generation);
        let made = if Sealer::needs_token(&request.state) {
            let Some(_share) = self.shares.take(&caller.identity) else {
                return self.busy();
            };
            let Ok(_permit) = self.permits.try_acquire() else {
                return self.busy();
            };
            let (sealer, policy) = (self.sealer.clone(), self.policy.clone());
            let by = caller.clone();
            let deadline = Instant::now() + self.limits.step_timeout;
            let job = move |worker: &Worker| {
                let policy = policy.current();
                let places = Places {
                    policy: &policy,
                    managed: managed.as_deref(),
                };
                next_key(&sealer, places, Some(worker), &by, &request)
            };
            match self.workers.run(deadline, job).await {
                Ok(made) => made,
                Err(keyhaven_hsm::Error::Busy) => return self.busy(),
                Err(error) => Err(RekeyError::Token(error)),
            }
        } else {
            let policy = self.policy.current();
            let places = Places {
                policy: &policy,
                managed: managed.as_deref(),
            };
            next_key(&self.sealer, places, None, &caller, &request)
        };
        match made {
            Ok(made) => {
                Counters::add(&self.counters.rekeyed);
                tracing::info!(
                    target: "audit",
                    event = "rekeyed",
                    proxy = %caller.identity,
                    direction = ?direction,
                    generation,
                    "next traffic key"
                );
                Reply::Rekeyed(Rekeyed {
                    connection,
                    direction,
                    generation,
                    key: translate::traffic_key(made.key),
                    state: made.state,
                })
            }
            Err(error) => {
                Counters::add(&self.counters.rekey_refused);
                tracing::warn!(
                    proxy = %caller.identity,
                    error = error_chain(&error),
                    "next traffic key refused"
                );
                Reply::Error(match error {
                    RekeyError::Token(error) if error.is_unavailable() => ErrorCode::Unavailable,
                    _ => ErrorCode::StateRefused,
                })
            }
        }
    }

    pub(super) async fn ping(&self) -> Reply {
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
}

/// Where the site of a sealed state is looked for.
#[derive(Clone, Copy)]
struct Places<'a> {
    policy: &'a Policy,
    managed: Option<&'a Kms>,
}

impl<'a> Places<'a> {
    /// The keys in a token that open it, if there are any; nothing when the site has the state's key no more, or this
    /// identity may not use it (security rule T3).
    fn vault(&self, identity: &Identity, id: &[u8; 32]) -> Option<Option<&'a Vault>> {
        if let Some(site) = self.policy.site_by_seal(identity, id) {
            return Some(site.site.rekey_vault());
        }
        self.managed?.sites().vault_for(identity, id).map(Some)
    }
}

/// The next key of a connection, if the proxy may still use its site.
fn next_key(
    sealer: &Sealer,
    places: Places<'_>,
    worker: Option<&Worker>,
    caller: &Caller,
    request: &Rekey,
) -> Result<NextKey, RekeyError> {
    let binding = RekeyBinding {
        connection: &request.connection.0,
        proxy: caller.identity.as_str(),
        direction: request.direction,
    };
    sealer.next(
        worker,
        SystemTime::now(),
        binding,
        request.generation,
        &request.state,
        |site| places.vault(&caller.identity, site),
    )
}
