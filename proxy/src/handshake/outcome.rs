//! Tells the signer how a handshake ended at the client.
//!
//! Said exactly once for each handshake that a signer holds open: with the proof, or on every other way out without
//! it. Nobody waits for the answer, and no more reports are under way at once than a bound allows. A proof has places
//! of its own and is said again while the signer is busy: without it the signer counts a served client as aborted.

use std::{sync::Arc, time::Duration};

use keyhaven_service::{CallError, PinnedConnection, shutdown::Shutdown};
use keyhaven_wire::{ErrorCode, HandshakeId, Reply, Request};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::connection::Context;

/// Reports with a proof under way at once; each is a few hundred bytes.
const PROVEN_MAX: usize = 16_384;
/// Reports without one.
const ABORTED_MAX: usize = 1024;
/// The signer waits longer than this for the word of an outcome.
const PROOF_TIMEOUT: Duration = Duration::from_secs(20);
/// The pause after the first busy answer; each further one is twice as long, up to the longest.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Places for reports under way.
pub(crate) struct ReportRoom {
    proven: Arc<Semaphore>,
    aborted: Arc<Semaphore>,
}

impl Default for ReportRoom {
    fn default() -> Self {
        Self::new(PROVEN_MAX, ABORTED_MAX)
    }
}

impl ReportRoom {
    fn new(proven: usize, aborted: usize) -> Self {
        Self {
            proven: Arc::new(Semaphore::new(proven)),
            aborted: Arc::new(Semaphore::new(aborted)),
        }
    }

    fn place(&self, is_proven: bool) -> Option<OwnedSemaphorePermit> {
        let room = if is_proven {
            &self.proven
        } else {
            &self.aborted
        };
        room.clone().try_acquire_owned().ok()
    }
}

/// Reports the end of one handshake when it is dropped.
pub(super) struct Outcome {
    open: Option<(PinnedConnection, HandshakeId)>,
    proof: Option<[u8; 32]>,
    timeout: Duration,
    room: Arc<ReportRoom>,
    tasks: Shutdown,
    cut: CancellationToken,
}

impl Outcome {
    /// A handshake that has begun.
    pub(super) fn new(context: &Context, link: PinnedConnection, handshake: HandshakeId) -> Self {
        Self {
            open: Some((link, handshake)),
            proof: None,
            timeout: context.signers.timeout(),
            room: context.reports.clone(),
            tasks: context.shutdown.clone(),
            cut: context.cut.clone(),
        }
    }

    /// The client's Finished was seen, and this proves it.
    pub(super) fn proven(mut self, proof: [u8; 32]) {
        self.proof = Some(proof);
    }

    /// The signer knows the end already.
    pub(super) fn leave_known(mut self) {
        self.open = None;
    }
}

impl Drop for Outcome {
    fn drop(&mut self) {
        let Some((link, handshake)) = self.open.take() else {
            return;
        };
        let proof = self.proof;
        let Some(place) = self.room.place(proof.is_some()) else {
            tracing::warn!(
                proven = proof.is_some(),
                "too many outcome reports are under way; the signer will count this handshake as aborted"
            );
            return;
        };
        let at_most = self.timeout;
        let cut = self.cut.clone();
        self.tasks.spawn(async move {
            let outcome = keyhaven_wire::Outcome { handshake, proof };
            let reporting = report(&link, outcome, at_most);
            tokio::select! {
                is_noted = timeout(PROOF_TIMEOUT.max(at_most), reporting) => {
                    if !is_noted.unwrap_or(false) && proof.is_some() {
                        tracing::warn!("a proof of a handshake's outcome was not noted; the signer will count it as aborted");
                    }
                }
                () = cut.cancelled() => {}
            }
            drop(place);
        });
    }
}

/// Says it, again and again while the answer is "busy" and there is a proof to bring; whether it was noted.
async fn report(
    link: &PinnedConnection,
    outcome: keyhaven_wire::Outcome,
    at_most: Duration,
) -> bool {
    let mut pause = PAUSE_MIN;
    loop {
        let request = Request::Outcome(keyhaven_wire::Outcome {
            handshake: outcome.handshake,
            proof: outcome.proof,
        });
        match link.call(request, at_most).await {
            // Neither was taken: the signer knows nothing of it yet.
            Err(CallError::Busy) | Ok(Reply::Error(ErrorCode::Busy)) if outcome.proof.is_some() => {
            }
            Ok(Reply::Noted) => return true,
            Ok(_) => return false,
            Err(error) => {
                tracing::debug!(%error, "the outcome was not noted");
                return false;
            }
        }
        sleep(pause).await;
        pause = (2 * pause).min(PAUSE_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_without_a_proof_take_no_place_of_those_with_one() {
        let room = ReportRoom::new(1, 2);
        let places: Vec<_> = (0..2).map(|_| room.place(false).unwrap()).collect();
        assert!(room.place(false).is_none());
        let proven = room.place(true);
        assert!(proven.is_some() && room.place(true).is_none());
        drop(places);
        assert!(room.place(false).is_some() && room.place(true).is_none());
    }
}
