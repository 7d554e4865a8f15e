//! What is measured: how long operations take in the token, how many wait, how they ended.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use keyhaven_types::Operation;

#[derive(Default)]
pub(super) struct Meter {
    times: Mutex<BTreeMap<Operation, f64>>,
    outcomes: Mutex<BTreeMap<(Operation, &'static str), u64>>,
    at_work: AtomicU32,
}

/// An operation that is at work, or waits for it.
pub(super) struct AtWork<'a>(&'a AtomicU32);

impl Meter {
    pub(super) fn begin(&self) -> AtWork<'_> {
        self.at_work.fetch_add(1, Ordering::Relaxed);
        AtWork(&self.at_work)
    }

    pub(super) fn at_work(&self) -> u32 {
        self.at_work.load(Ordering::Relaxed)
    }

    pub(super) fn served(&self, operation: Operation, elapsed: Duration) {
        let elapsed = elapsed.as_secs_f64();
        lock(&self.times)
            .entry(operation)
            .and_modify(|mean| *mean += WEIGHT * (elapsed - *mean))
            .or_insert(elapsed);
    }

    /// In microseconds.
    pub(super) fn times(&self) -> Vec<(Operation, u32)> {
        let in_us = |seconds: f64| Duration::from_secs_f64(seconds.max(0.0)).as_micros();
        lock(&self.times)
            .iter()
            .map(|(operation, mean)| (*operation, in_us(*mean).try_into().unwrap_or(u32::MAX)))
            .collect()
    }

    pub(super) fn ended(&self, operation: Operation, outcome: &'static str) {
        *lock(&self.outcomes)
            .entry((operation, outcome))
            .or_default() += 1;
    }

    pub(super) fn outcomes(&self) -> Vec<(Operation, &'static str, u64)> {
        lock(&self.outcomes)
            .iter()
            .map(|((operation, outcome), count)| (*operation, *outcome, *count))
            .collect()
    }
}

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Of the newest measurement: half of the mean is of the last five.
const WEIGHT: f64 = 0.125;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_follows_what_is_measured() {
        let meter = Meter::default();
        meter.served(Operation::Sign, Duration::from_millis(10));
        assert_eq!(meter.times(), [(Operation::Sign, 10_000)]);
        for _ in 0..50 {
            meter.served(Operation::Sign, Duration::from_millis(2));
        }
        let (_, now) = meter.times()[0];
        assert!((2000..2100).contains(&now), "{now}");
    }
}
