//! What the parts of the shell share: the core's state behind locks, the connections to peers, the counts.
//!
//! Decides nothing. Invariant: no lock is held across an await.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime},
};

use keyhaven_service::Client;
use keyhaven_types::{Identity, Name};
use keyhaven_wire::kms::SiteStatus;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    answer::{Candidate, Question, View},
    marks::Marks,
    measured::Measured,
    proof::Nonces,
    router::{Counts, RouterParts},
};

/// The state of a router.
pub(super) struct Shared {
    pub(super) parts: RouterParts,
    pub(super) site: Name,
    pub(super) measured: Mutex<Measured>,
    pub(super) clients: Mutex<BTreeMap<Name, Client>>,
    pub(super) marks: Mutex<Marks>,
    /// Of batches whose callers asked this server.
    pub(super) asked: Mutex<Nonces>,
    /// Of batches that were passed on to this server.
    pub(super) passed: Mutex<Nonces>,
    pub(super) counted: Counted,
    pub(super) end: CancellationToken,
    pub(super) tasks: TaskTracker,
}

/// [`Counts`] as they are kept.
#[derive(Debug, Default)]
pub(super) struct Counted {
    pub(super) lookups: AtomicU64,
    pub(super) passed_on: AtomicU64,
    pub(super) passed_on_failed: AtomicU64,
    pub(super) taken_over: AtomicU64,
    pub(super) refused: AtomicU64,
    /// Operations that a peer would have done faster.
    pub(super) slower_here: AtomicU64,
}

impl Shared {
    pub(super) fn new(parts: RouterParts) -> Self {
        Self {
            site: parts.local.site(),
            parts,
            measured: Mutex::default(),
            clients: Mutex::default(),
            marks: Mutex::default(),
            asked: Mutex::default(),
            passed: Mutex::default(),
            counted: Counted::default(),
            end: CancellationToken::new(),
            tasks: TaskTracker::new(),
        }
    }

    /// Who we are to peers and to callers that sign.
    pub(super) fn identity(&self) -> &Identity {
        self.parts.credentials.identity()
    }

    pub(super) fn client(&self, site: &Name) -> Option<Client> {
        lock(&self.clients).get(site).cloned()
    }

    /// Looks at everything that is known, at one moment.
    pub(super) fn with_view<T>(&self, look: impl FnOnce(View<'_>) -> T) -> T {
        let own = self.parts.local.status();
        let directory = self.parts.local.directory();
        let measured = lock(&self.measured);
        look(View {
            now: Instant::now(),
            own: &own,
            central_heard: self.parts.local.central_heard(),
            directory: &*directory,
            measured: &measured,
            interval: self.parts.interval,
        })
    }

    pub(super) fn candidates(&self, question: Question<'_>) -> Vec<Candidate> {
        self.with_view(|view| view.candidates(question))
    }

    /// A peer answered how it is.
    pub(super) fn answered(&self, site: &Name, round_trip: Duration, status: SiteStatus) {
        self.compare(site, &status);
        lock(&self.measured).answered(Instant::now(), site, round_trip, status);
    }

    /// Raises the alarm when a peer has seen another history (security rule M4).
    fn compare(&self, site: &Name, status: &SiteStatus) {
        let own = self.parts.local.status().seen;
        let mut marks = lock(&self.marks);
        let forks = [marks.note(&self.site, own), marks.note(site, status.seen)];
        drop(marks);
        for fork in forks.into_iter().flatten() {
            let (era, revision) = fork.at;
            tracing::error!(
                target: "audit",
                event = "fork",
                era,
                revision,
                one = %fork.one,
                other = %fork.other,
                "two sites have seen different histories of central's: its store was edited or restored, or one of the \
                 sites lies. Compare `signer-admin kms status` at each central"
            );
        }
    }

    pub(super) fn counts(&self) -> Counts {
        let of = |count: &AtomicU64| count.load(Relaxed);
        let counted = &self.counted;
        let alive = lock(&self.measured).nearest(Instant::now()).len();
        Counts {
            lookups: of(&counted.lookups),
            passed_on: of(&counted.passed_on),
            passed_on_failed: of(&counted.passed_on_failed),
            taken_over: of(&counted.taken_over),
            refused: of(&counted.refused),
            peers_alive: alive as u64,
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

/// Locks. Nothing panics while it holds one of these, and what they guard is whole between statements.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Milliseconds since 1970 by this machine's clock; 0 before.
pub(super) fn wall_ms() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| {
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        })
}

/// A handle for the shell's tasks.
pub(super) type Handle = Arc<Shared>;
