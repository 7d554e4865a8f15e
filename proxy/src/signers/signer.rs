//! One signer: its connection, and how it has done lately as this proxy sees it.
//!
//! Keeps measures; which signer is asked is decided in `order`. Invariant: a measure that is old is tried anew by one
//! handshake, not by all of them.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use keyhaven_service::{Client, PinnedConnection};
use keyhaven_types::Identity;
use tokio::task::JoinSet;

/// How long a client waits for a signer to come back when none is connected.
const RETURN_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a measure counts; after that one handshake measures anew.
const FRESH_FOR: Duration = Duration::from_secs(10);
/// How long a signer comes last after a failure; twice as long after each further one, up to the longest.
const AVOID_MIN: Duration = Duration::from_secs(2);
const AVOID_MAX: Duration = Duration::from_secs(30);
/// The weight of a new measure in fifths.
const NEW_FIFTHS: u32 = 2;

/// A signer. Clones are the same one.
#[derive(Clone)]
pub(crate) struct Signer(Arc<Inner>);

struct Inner {
    client: Client,
    pace: Mutex<Pace>,
}

/// Which signer, for people: several may have one identity, and none share an address.
#[derive(Clone, Debug)]
pub(crate) struct SignerName {
    pub(crate) identity: Identity,
    pub(crate) address: String,
}

impl fmt::Display for SignerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "signer {} at {}", self.identity, self.address)
    }
}

impl Signer {
    pub(crate) fn new(client: Client) -> Self {
        Self(Arc::new(Inner {
            client,
            pace: Mutex::default(),
        }))
    }

    /// Who it is, for the log.
    pub(crate) fn name(&self) -> SignerName {
        SignerName {
            identity: self.0.client.identity().clone(),
            address: self.0.client.address().to_owned(),
        }
    }

    pub(crate) fn client(&self) -> &Client {
        &self.0.client
    }

    pub(crate) fn pin(&self) -> Option<PinnedConnection> {
        self.0.client.pin()
    }

    /// Whether it is this one at this address.
    pub(crate) fn is(&self, identity: &Identity, address: &str) -> bool {
        self.0.client.identity() == identity && self.0.client.address() == address
    }

    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Its pace.
    pub(super) fn pace(&self) -> MutexGuard<'_, Pace> {
        // Nothing panics while it holds the lock.
        self.0.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a signer has done.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// A moving average of what beginning a handshake took, and when the newest measure was made.
    measured: Option<(Duration, Instant)>,
    /// When a handshake last set out to measure anew.
    tried: Option<Instant>,
    failures: u32,
    avoid_until: Option<Instant>,
}

impl Pace {
    /// A handshake was begun in this time.
    pub(super) fn done(&mut self, now: Instant, took: Duration) {
        let average = match self.measured {
            Some((before, at)) if is_fresh(at, now) => {
                (before * (5 - NEW_FIFTHS) + took * NEW_FIFTHS) / 5
            }
            _ => took,
        };
        self.measured = Some((average, now));
        self.failures = 0;
        self.avoid_until = None;
    }

    /// It did not begin one.
    pub(super) fn failed(&mut self, now: Instant) {
        let pause = AVOID_MIN * 2_u32.saturating_pow(self.failures.min(8));
        self.failures = self.failures.saturating_add(1);
        self.avoid_until = Some(now + pause.min(AVOID_MAX));
    }

    /// Whether it failed a moment ago.
    pub(super) fn is_avoided(&self, now: Instant) -> bool {
        self.avoid_until.is_some_and(|until| now < until)
    }

    /// What beginning a handshake is expected to take: as measured, else as somebody estimates.
    pub(super) fn expected(&self, now: Instant, estimate: Duration) -> Duration {
        let is_tried = self.tried.is_some_and(|at| is_fresh(at, now));
        match self.measured {
            Some((average, at)) if is_fresh(at, now) || is_tried => average,
            _ => estimate,
        }
    }

    /// A handshake sets out to it. When its measure is old, the others go by that until this one is back.
    pub(super) fn tried(&mut self, now: Instant) {
        if self.measured.is_some_and(|(_, at)| !is_fresh(at, now)) {
            self.tried = Some(now);
        }
    }
}

/// Waits a moment for one of these to be healthy.
pub(super) async fn wait_for_one<'a>(signers: impl IntoIterator<Item = &'a Signer>) {
    let mut returning = JoinSet::new();
    for signer in signers {
        let client = signer.client().clone();
        returning.spawn(async move { client.healthy(RETURN_TIMEOUT).await });
    }
    while let Some(is_back) = returning.join_next().await {
        if matches!(is_back, Ok(true)) {
            break;
        }
    }
}

fn is_fresh(at: Instant, now: Instant) -> bool {
    now.saturating_duration_since(at) < FRESH_FOR
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn m7_a_signer_that_became_slow_is_expected_to_be_slow_and_is_tried_again_by_one() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        assert_eq!(pace.expected(now, MS * 7), MS * 7, "nothing is measured");
        pace.done(now, MS * 10);
        assert_eq!(pace.expected(now, MS * 7), MS * 10);
        pace.done(now, MS * 300);
        pace.done(now, MS * 300);
        assert!(pace.expected(now, MS) > MS * 180);
        let later = now + FRESH_FOR;
        assert_eq!(pace.expected(later, MS * 7), MS * 7, "worth a try");
        pace.tried(later);
        assert!(
            pace.expected(later, MS * 7) > MS * 180,
            "not for the others"
        );
        pace.done(later + MS, MS * 9);
        assert_eq!(pace.expected(later + MS, MS * 7), MS * 9, "it is back");
    }

    #[test]
    fn m7_a_signer_that_fails_is_avoided_longer_each_time_and_not_for_ever() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        pace.failed(now);
        assert!(pace.is_avoided(now + AVOID_MIN - MS));
        assert!(!pace.is_avoided(now + AVOID_MIN));
        pace.failed(now);
        assert!(pace.is_avoided(now + AVOID_MIN));
        for _ in 0..100 {
            pace.failed(now);
        }
        assert!(!pace.is_avoided(now + AVOID_MAX));
        pace.done(now, MS);
        assert!(!pace.is_avoided(now));
    }
}
