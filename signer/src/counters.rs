//! What the signer counts, and the line in which it says so; `metrics` says it to others.
//!
//! `released` is the signer's own fact: keys left it. `proven` means that the client's Finished was seen:
//! by the signer itself in TLS 1.2, by its proof in TLS 1.3. `aborted` is every release without a proof.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use keyhaven_types::CustodyLevel;

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
    /// Configurations taken over while serving.
    pub reloaded: AtomicU64,
    /// Configurations refused while serving.
    pub reload_refused: AtomicU64,
    kinds: Mutex<BTreeMap<HandshakeKind, u64>>,
    left: Mutex<BTreeMap<Left, u64>>,
}

/// What is told apart of handshakes whose keys left the signer. All values come from the configuration or from
/// lists of ours, so that their number is bounded.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HandshakeKind {
    /// The site's first name.
    pub site: String,
    /// TLS version: "1.2" or "1.3".
    pub version: &'static str,
    /// What the tokens kept to themselves.
    pub level: CustodyLevel,
    /// Whether an earlier session was resumed.
    pub resumed: bool,
}

/// What left a token.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Left {
    /// The token's label; none where it was never in a token.
    pub token: Option<String>,
    /// What, in words.
    pub what: &'static str,
}

impl Counters {
    /// Adds one.
    pub fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Relaxed);
    }

    /// Adds a handshake whose keys leave the signer, and what left a token for it.
    pub fn handshake(&self, kind: HandshakeKind, left: Left) {
        add_to(&self.kinds, kind);
        add_to(&self.left, left);
    }

    /// The handshakes by kind, in order.
    pub fn kinds(&self) -> BTreeMap<HandshakeKind, u64> {
        copy_of(&self.kinds)
    }

    /// What left which token, and how often, in order.
    pub fn left(&self) -> BTreeMap<Left, u64> {
        copy_of(&self.left)
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

fn add_to<K: Ord>(counts: &Mutex<BTreeMap<K, u64>>, key: K) {
    let mut counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
    *counts.entry(key).or_default() += 1;
}

fn copy_of<K: Ord + Clone>(counts: &Mutex<BTreeMap<K, u64>>) -> BTreeMap<K, u64> {
    counts
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone()
}
