//! Tells the signer how a handshake ended at the client.
//!
//! Said exactly once for each handshake that a signer holds open: with the proof, or on every other way out without
//! it. Nobody waits for the answer, and no more reports are under way at once than a bound allows.

use std::sync::Arc;

use keyhaven_service::{PinnedConnection, shutdown::Shutdown};
use keyhaven_wire::{HandshakeId, Request};
use tokio::sync::Semaphore;

use crate::connection::Context;

/// Reports the end of one handshake when it is dropped.
pub(super) struct Outcome {
    open: Option<(PinnedConnection, HandshakeId)>,
    proof: Option<[u8; 32]>,
    timeout: std::time::Duration,
    permits: Arc<Semaphore>,
    tasks: Shutdown,
}

impl Outcome {
    /// A handshake that has begun.
    pub(super) fn new(context: &Context, link: PinnedConnection, handshake: HandshakeId) -> Self {
        Self {
            open: Some((link, handshake)),
            proof: None,
            timeout: context.signers.timeout(),
            permits: context.outcome_permits.clone(),
            tasks: context.shutdown.clone(),
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
        let Ok(permit) = self.permits.clone().try_acquire_owned() else {
            tracing::debug!(
                "too many outcome reports are under way; the signer will count a timeout"
            );
            return;
        };
        let proof = self.proof;
        let timeout = self.timeout;
        self.tasks.spawn(async move {
            let report = Request::Outcome(keyhaven_wire::Outcome { handshake, proof });
            if let Err(error) = link.call(report, timeout).await {
                tracing::debug!(%error, "the outcome was not noted");
            }
            drop(permit);
        });
    }
}
