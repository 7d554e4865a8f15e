//! What follows a handshake: how it ended at the client, the alert for a refused Finished, the next traffic keys.
//!
//! Every entry is used once: a handshake is proven or refused or aborted, and never two of them.

use std::time::{Instant, SystemTime};

use keyhaven_handshake::{RekeyBinding, alert_record};
use keyhaven_service::Caller;
use keyhaven_types::alert;
use keyhaven_wire::{ErrorCode, Outcome, Refuse, Rekey, Rekeyed, Reply, lock};

use super::{Signer, lock_table};
use crate::{counters::Counters, translate};

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

    pub(super) fn rekey(&self, caller: &Caller, request: Rekey) -> Reply {
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
