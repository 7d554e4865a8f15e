//! What the signer counts, and the line in which it says so.
//!
//! `released` is the signer's own fact: keys left it. `proven` means that the client's Finished was seen:
//! by the signer itself in TLS 1.2, by its proof in TLS 1.3. `aborted` is every release without a proof.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counters since the process began.
#[derive(Debug, Default)]
pub struct Counters {
    /// Handshakes begun.
    pub started: AtomicU64,
    /// Handshakes whose keys left the signer.
    pub released: AtomicU64,
    /// Of these: the client proved itself.
    pub proven: AtomicU64,
    /// Of these: it did not, or not in time.
    pub aborted: AtomicU64,
    /// Proofs that were wrong.
    pub forged: AtomicU64,
    /// Handshakes refused to the client.
    pub refused: AtomicU64,
    /// Handshakes that failed here.
    pub failed: AtomicU64,
    /// Requests turned away at a limit.
    pub busy: AtomicU64,
    /// Next traffic keys given.
    pub rekeyed: AtomicU64,
    /// Next traffic keys refused.
    pub rekey_refused: AtomicU64,
}

impl Counters {
    /// Adds one.
    pub fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Relaxed);
    }

    /// Writes the counters to the log; `pending` handshakes wait for a client.
    pub fn log(&self, pending: usize) {
        let get = |counter: &AtomicU64| counter.load(Relaxed);
        tracing::info!(
            started = get(&self.started),
            released = get(&self.released),
            proven = get(&self.proven),
            aborted = get(&self.aborted),
            forged = get(&self.forged),
            refused = get(&self.refused),
            failed = get(&self.failed),
            busy = get(&self.busy),
            rekeyed = get(&self.rekeyed),
            rekey_refused = get(&self.rekey_refused),
            pending,
            "counters"
        );
    }
}
