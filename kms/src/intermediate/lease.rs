//! Serving leases: for how long central's last word is fresh enough, on this machine's own clock.
//!
//! Pure. A lease begins when the site asked, not when it was answered, and counts only once everything is applied that
//! central had decided by then. Whether an older copy of the replica comes back: it has a lease that began earlier, so that
//! it ends earlier, too. Invariant: nothing here makes a lease longer.

use std::{collections::VecDeque, time::Duration};

use serde::{Deserialize, Serialize};

use super::clock::Now;

/// One answer of central's that lets the site serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Lease {
    /// When the site asked.
    pub(super) asked: Now,
    /// Of the head that central then read.
    pub(super) era: u32,
    pub(super) revision: u64,
}

/// As it stands in the replica.
pub(super) type SavedLease = Lease;

/// The leases of a site: one that counts, and those that wait for their records.
#[derive(Clone, Debug, Default)]
pub(super) struct Leases {
    active: Option<Lease>,
    waiting: VecDeque<Lease>,
}

/// The lease that counts, for whoever is about to use a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct LeaseView(pub(super) Option<Lease>);

impl Leases {
    /// Takes up a lease from before a restart, if it is of this start of the machine and what it stands for is applied.
    pub(super) fn resume(saved: Option<Lease>, era: u32, applied: u64, now: &Now) -> Self {
        let fits = |lease: &Lease| {
            lease.era == era && lease.revision <= applied && lease.is_plausible(now)
        };
        Self {
            active: saved.filter(fits),
            waiting: VecDeque::new(),
        }
    }

    /// Central has answered. Says whether the lease that counts is another one now.
    pub(super) fn granted(&mut self, lease: Lease, applied: u64) -> bool {
        // Those that wait longest need the least to be applied: they are kept, and the last place is the newest one's.
        if self.waiting.len() == WAITING_MAX {
            self.waiting.pop_back();
        }
        self.waiting.push_back(lease);
        self.applied(lease.era, applied)
    }

    /// Records were applied.
    pub(super) fn applied(&mut self, era: u32, applied: u64) -> bool {
        let before = self.active;
        self.waiting.retain(|lease| {
            let counts = lease.era == era && lease.revision <= applied;
            let is_later = |active: Lease| lease.asked.boottime > active.asked.boottime;
            if counts && self.active.is_none_or(is_later) {
                self.active = Some(*lease);
            }
            !counts
        });
        self.active != before
    }

    /// Ends whatever the clocks do not bear out. Says whether something ended.
    pub(super) fn check(&mut self, now: &Now) -> bool {
        let before = self.active.is_some();
        self.active = self.active.filter(|lease| lease.is_plausible(now));
        self.waiting.retain(|lease| lease.is_plausible(now));
        before && self.active.is_none()
    }

    pub(super) fn end(&mut self) {
        *self = Self::default();
    }

    pub(super) fn view(&self) -> LeaseView {
        LeaseView(self.active)
    }
}

impl Lease {
    /// Whether the clocks went on together since it was asked for, in the same start of the machine: they do not when the
    /// machine was stopped with its clock, restored, or set.
    fn is_plausible(&self, now: &Now) -> bool {
        let Some(age) = now.boottime.checked_sub(self.asked.boottime) else {
            return false;
        };
        // The wall's clock may have gone back.
        let expected = self.asked.wall + age;
        let skew = now.wall.abs_diff(expected);
        now.boot_id == self.asked.boot_id && skew <= SKEW_MAX + age / DRIFT
    }
}

impl LeaseView {
    /// Whether a key whose revocation holds within `bound` may be used.
    pub(super) fn is_good(&self, bound: Duration, now: &Now) -> bool {
        let is_fresh = |lease: &Lease| {
            lease.is_plausible(now) && now.boottime < lease.asked.boottime.saturating_add(bound)
        };
        self.0.as_ref().is_some_and(is_fresh)
    }

    /// How long ago it was asked for.
    pub(super) fn age(&self, now: &Now) -> Option<Duration> {
        let lease = self.0.filter(|lease| lease.is_plausible(now))?;
        now.boottime.checked_sub(lease.asked.boottime)
    }
}

/// Leases are asked for every few seconds, and what they wait for comes in less.
const WAITING_MAX: usize = 8;
/// How far the clocks may part besides [`DRIFT`]: central waits as long before it says that something is enforced.
const SKEW_MAX: Duration = Duration::from_secs(2);
/// One part in so many: clocks that are being set gently run so much slower or faster.
const DRIFT: u32 = 100;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Now {
        Now {
            boottime: Duration::from_secs(seconds),
            wall: Duration::from_secs(1_000_000 + seconds),
            boot_id: [1; 16],
        }
    }

    fn lease(seconds: u64, revision: u64) -> Lease {
        Lease {
            asked: at(seconds),
            era: 1,
            revision,
        }
    }

    const BOUND: Duration = Duration::from_secs(30);

    #[test]
    fn m5_a_lease_runs_from_the_question_and_waits_for_its_records() {
        let mut leases = Leases::default();
        assert!(!leases.granted(lease(10, 7), 6));
        assert!(!leases.view().is_good(BOUND, &at(11)));
        assert!(leases.applied(1, 7));
        assert!(leases.view().is_good(BOUND, &at(39)));
        assert!(!leases.view().is_good(BOUND, &at(40)));
        // What comes late and was asked before is no reason to go back.
        assert!(!leases.granted(lease(5, 6), 7));
        assert!(leases.view().is_good(BOUND, &at(39)));
        assert_eq!(leases.view().age(&at(12)), Some(Duration::from_secs(2)));
    }

    #[test]
    fn m5_leases_under_steady_writing_count_as_records_come() {
        let mut leases = Leases::default();
        for number in 0..50 {
            leases.granted(lease(10 + number, 100 + number), 90);
        }
        assert!(leases.applied(1, 101));
        assert!(leases.view().is_good(BOUND, &at(40)));
        assert!(!leases.view().is_good(BOUND, &at(41)));
    }

    #[test]
    fn m5_another_boot_or_a_clock_that_was_set_or_stopped_ends_a_lease() {
        let mut leases = Leases::default();
        leases.granted(lease(10, 1), 1);
        let good = leases.view();
        let mut other = at(12);
        other.boot_id = [2; 16];
        assert!(!good.is_good(BOUND, &other));
        for step in [3, 60] {
            let mut later = at(12);
            later.wall += Duration::from_secs(step);
            assert!(!good.is_good(BOUND, &later), "{step}");
            let mut earlier = at(12);
            earlier.wall -= Duration::from_secs(step);
            assert!(!good.is_good(BOUND, &earlier), "{step}");
        }
        let mut slewed = at(12);
        slewed.wall += Duration::from_millis(1900);
        assert!(good.is_good(BOUND, &slewed));
        assert!(!good.is_good(BOUND, &at(9)), "time went back");
        assert!(leases.check(&other));
        assert_eq!(leases.view(), LeaseView(None));
    }

    #[test]
    fn m5_a_saved_lease_counts_only_with_its_records_in_its_era_and_boot() {
        let saved = Some(lease(10, 7));
        let now = at(20);
        let is_good = |era, applied, now: &Now| {
            let view = Leases::resume(saved, era, applied, now).view();
            view.is_good(BOUND, now)
        };
        assert!(is_good(1, 7, &now));
        assert!(!is_good(1, 6, &now));
        assert!(!is_good(2, 7, &now));
        let mut rebooted = now;
        rebooted.boot_id = [9; 16];
        assert!(!is_good(1, 7, &rebooted));
        assert!(!is_good(1, 7, &at(40)));
    }

    #[test]
    fn m5_an_older_copy_of_the_replica_has_less_time_left() {
        // Each renewal is kept over the one before, so that an older copy has one that was asked for earlier.
        for (older, newer) in [(10, 11), (10, 30)] {
            let end = |seconds| {
                let view = Leases::resume(Some(lease(seconds, 1)), 1, 1, &at(30)).view();
                (30..100).find(|now| !view.is_good(BOUND, &at(*now)))
            };
            assert!(end(older) < end(newer));
        }
    }
}
