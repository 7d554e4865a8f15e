//! What is remembered of misses: who was refused what, and which misses are being looked into.
//!
//! A refusal is remembered for one caller, one key as it was named and one operation, and no longer than until something
//! changes (security rule M6): nobody's question spoils another one's, and what does not exist is remembered like what is
//! forbidden. Invariant: of misses that are the same, one is looked into at a time.

use std::{
    collections::HashMap,
    future::Future,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use keyhaven_types::{Identity, Operation};
use keyhaven_wire::kms::KeyRef;
use tokio::sync::OnceCell;

use super::ages::Ages;

/// What somebody wanted.
pub(super) type Wanted = (Identity, KeyRef, Operation);

/// Refusals with the revision at which they were made.
pub(super) struct Denials(Mutex<Ages<Wanted, u64>>);

impl Denials {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Ages::new(DENIALS_MAX)))
    }

    /// Whether this was refused with everything known that is known now.
    pub(super) fn remembers(&self, wanted: &Wanted, applied: u64) -> bool {
        lock(&self.0).get(wanted) == Some(&applied)
    }

    pub(super) fn remember(&self, wanted: Wanted, applied: u64) {
        lock(&self.0).insert(wanted, applied);
    }
}

/// Work that is done once for all who want it at the same time.
pub(super) struct Flights<K>(Mutex<HashMap<K, Arc<OnceCell<()>>>>);

impl<K: Clone + Eq + Hash> Flights<K> {
    pub(super) fn new() -> Self {
        Self(Mutex::default())
    }

    /// Does the work, or waits until whoever does it is done. When that one gives up, the next one does it. The work must
    /// look first whether it is still needed.
    pub(super) async fn join(&self, key: K, work: impl Future<Output = ()>) {
        let landing = Landing {
            flight: Arc::clone(lock(&self.0).entry(key.clone()).or_default()),
            flights: &self.0,
            key,
        };
        landing.flight.get_or_init(|| work).await;
    }
}

/// Takes a flight away when it is over, or when nobody waits for it any more.
struct Landing<'a, K: Eq + Hash> {
    flights: &'a Mutex<HashMap<K, Arc<OnceCell<()>>>>,
    key: K,
    flight: Arc<OnceCell<()>>,
}

impl<K: Eq + Hash> Drop for Landing<'_, K> {
    fn drop(&mut self) {
        let mut flights = lock(self.flights);
        let is_ours = flights
            .get(&self.key)
            .is_some_and(|known| Arc::ptr_eq(known, &self.flight));
        // Ours, the one in the table, and nobody else's.
        if is_ours && (self.flight.initialized() || Arc::strong_count(&self.flight) == 2) {
            flights.remove(&self.key);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// More callers with more keys than that are looked into anew.
const DENIALS_MAX: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    fn wanted(caller: &str, key: &str) -> Wanted {
        let caller = format!("spiffe://keyhaven.test/client/{caller}");
        (
            caller.parse().unwrap(),
            KeyRef::Name(key.parse().unwrap()),
            Operation::Sign,
        )
    }

    #[test]
    fn m9_a_refusal_is_one_callers_and_ends_with_the_next_revision() {
        let denials = Denials::new();
        denials.remember(wanted("x", "key"), 7);
        assert!(denials.remembers(&wanted("x", "key"), 7));
        assert!(!denials.remembers(&wanted("y", "key"), 7));
        assert!(!denials.remembers(&wanted("x", "other"), 7));
        assert!(!denials.remembers(&wanted("x", "key"), 8));
    }

    #[tokio::test]
    async fn m9_misses_at_the_same_time_are_one_and_one_that_gives_up_is_followed_by_the_next() {
        let flights = Flights::new();
        let work = AtomicUsize::new(0);
        let join = || {
            flights.join("key", async {
                work.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(20)).await;
            })
        };
        tokio::join!(join(), join(), join(), join());
        assert_eq!(work.load(Ordering::SeqCst), 1);
        assert!(lock(&flights.0).is_empty());
        let given_up = tokio::time::timeout(Duration::from_millis(1), join()).await;
        assert!(given_up.is_err());
        join().await;
        assert_eq!(work.load(Ordering::SeqCst), 3);
        assert!(lock(&flights.0).is_empty());
    }
}
