//! What is known of peers' speed and health: their own word on their load, and our measure of the way to them.
//!
//! No I/O. What a peer says of itself decides only how it is ranked and whether it is asked: it gains a liar work that it
//! was granted anyway. Invariant: whoever did not answer lately is not alive.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use keyhaven_types::{Name, Operation};
use keyhaven_wire::kms::SiteStatus;

/// Failures in a row after which a peer counts as dead, before its silence shows.
const FAILURES_MAX: u32 = 2;
/// Intervals without an answer after which a peer counts as dead.
const SILENT_INTERVALS: u32 = 3;
/// The weight of a new round trip: a link that became slow or fast shows within a few intervals.
const NEW_PARTS: u64 = 2;
/// Of so many.
const ALL_PARTS: u64 = 5;

/// A peer at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    /// What it last said.
    pub(crate) status: SiteStatus,
    /// Round trip to it, a moving average.
    pub(crate) round_trip: Duration,
    /// When the last answer came.
    answered: Instant,
    /// Calls without an answer since then.
    failures: u32,
}

impl Peer {
    /// How old what is known of it is; the way to us counts, too.
    pub(crate) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.answered) + self.round_trip
    }

    fn is_alive(&self, now: Instant, interval: Duration) -> bool {
        let silent = now.saturating_duration_since(self.answered);
        self.failures < FAILURES_MAX && silent <= interval * SILENT_INTERVALS
    }
}

/// Every peer that has ever answered and is still in the table of sites.
#[derive(Debug, Default)]
pub(crate) struct Measured {
    peers: BTreeMap<Name, Peer>,
    interval: Duration,
}

impl Measured {
    /// Peers are asked at this interval from now on.
    pub(crate) fn set_interval(&mut self, interval: Duration) {
        self.interval = interval;
    }

    /// An answer came. It must be the site that was asked: another one is no answer.
    pub(crate) fn answered(
        &mut self,
        now: Instant,
        site: &Name,
        round_trip: Duration,
        status: SiteStatus,
    ) {
        if status.site != *site {
            self.failed(site);
            return;
        }
        let before = self.peers.get(site).map(|peer| peer.round_trip);
        let peer = Peer {
            status,
            round_trip: before.map_or(round_trip, |before| blend(before, round_trip)),
            answered: now,
            failures: 0,
        };
        self.peers.insert(site.clone(), peer);
    }

    /// No answer came, to whatever was asked.
    pub(crate) fn failed(&mut self, site: &Name) {
        if let Some(peer) = self.peers.get_mut(site) {
            peer.failures = peer.failures.saturating_add(1);
        }
    }

    /// Forgets peers that are not to be asked any more.
    pub(crate) fn retain(&mut self, is_peer: impl Fn(&Name) -> bool) {
        self.peers.retain(|name, _| is_peer(name));
    }

    /// A peer that is alive.
    pub(crate) fn alive(&self, now: Instant, site: &Name) -> Option<&Peer> {
        let peer = self.peers.get(site)?;
        peer.is_alive(now, self.interval).then_some(peer)
    }

    /// Every peer that is alive, the nearest first.
    pub(crate) fn nearest(&self, now: Instant) -> Vec<(&Name, &Peer)> {
        let mut peers: Vec<_> = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.is_alive(now, self.interval))
            .collect();
        peers.sort_by_key(|(_, peer)| peer.round_trip);
        peers
    }
}

/// Microseconds that an operation takes at a server, by what it says of itself, when its queue is as it says.
pub(crate) fn service_us(status: &SiteStatus, operation: Operation) -> u64 {
    let measured = status
        .service_us
        .iter()
        .find(|(of, _)| *of == operation)
        .map_or_else(|| default_us(operation), |(_, us)| u64::from(*us));
    // Who waits in front of us takes as long as we do, a thread's share of them each.
    let threads = u64::from(status.threads.max(1));
    measured + measured.saturating_mul(u64::from(status.waiting)) / threads
}

/// Whether a server has measured how long it takes for an operation.
pub(crate) fn is_measured(status: &SiteStatus, operation: Operation) -> bool {
    status.service_us.iter().any(|(of, _)| *of == operation)
}

/// Microseconds to begin with, for a server that has not done an operation yet: what software tokens take on a small
/// machine, rounded up.
fn default_us(operation: Operation) -> u64 {
    match operation {
        Operation::Handshake => 5_000,
        Operation::Sign | Operation::Decrypt => 2_000,
        Operation::Wrap | Operation::Unwrap => 1_500,
        Operation::Verify | Operation::Encrypt | Operation::Mac | Operation::Random => 500,
    }
}

fn blend(before: Duration, new: Duration) -> Duration {
    let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX / ALL_PARTS);
    let old = micros(before).saturating_mul(ALL_PARTS - NEW_PARTS);
    Duration::from_micros((old.saturating_add(micros(new).saturating_mul(NEW_PARTS))) / ALL_PARTS)
}

#[cfg(test)]
mod tests {
    use keyhaven_wire::kms::HeadMark;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn status(site: &str) -> SiteStatus {
        SiteStatus {
            site: name(site),
            seen: HeadMark::default(),
            applied: 1,
            lease_age_ms: Some(0),
            mechanisms: Vec::new(),
            service_us: vec![(Operation::Sign, 1000)],
            waiting: 0,
            threads: 4,
        }
    }

    fn measured() -> (Measured, Instant) {
        let mut measured = Measured::default();
        measured.set_interval(SECOND);
        let now = Instant::now();
        measured.answered(now, &name("fra"), SECOND / 100, status("fra"));
        (measured, now)
    }

    #[test]
    fn l8_a_dead_peer_drops_out_within_three_intervals_and_comes_back() {
        let (mut measured, now) = measured();
        let fra = name("fra");
        assert!(measured.alive(now + SECOND * 3, &fra).is_some());
        let later = now + SECOND * 3 + SECOND / 1000;
        assert!(measured.alive(later, &fra).is_none(), "silent");
        measured.answered(later, &fra, SECOND / 100, status("fra"));
        measured.failed(&fra);
        assert!(measured.alive(later, &fra).is_some(), "once is no death");
        measured.failed(&fra);
        assert!(measured.alive(later, &fra).is_none(), "twice in a row");
        measured.answered(later, &fra, SECOND / 100, status("fra"));
        assert!(measured.alive(later, &fra).is_some(), "back");
    }

    #[test]
    fn a_site_that_gives_another_name_has_not_answered() {
        let (mut measured, now) = measured();
        measured.answered(now, &name("nyc"), SECOND, status("fra"));
        assert!(measured.alive(now, &name("nyc")).is_none());
    }

    #[test]
    fn l3_a_link_that_became_slow_or_fast_shows_within_a_few_intervals() {
        let (mut measured, now) = measured();
        let fra = name("fra");
        let (slow, fast) = (Duration::from_millis(300), Duration::from_millis(1));
        let mut round_trip = |measure, times| {
            for _ in 0..times {
                measured.answered(now, &fra, measure, status("fra"));
            }
            measured.alive(now, &fra).unwrap().round_trip
        };
        assert!(round_trip(slow, 3) > slow * 3 / 4);
        assert!(round_trip(fast, 8) < slow / 20);
    }

    #[test]
    fn l3_who_waits_counts_as_a_share_of_each_thread() {
        let mut busy = status("fra");
        assert_eq!(service_us(&busy, Operation::Sign), 1000);
        busy.waiting = 8;
        assert_eq!(service_us(&busy, Operation::Sign), 3000);
        busy.threads = 0;
        assert_eq!(service_us(&busy, Operation::Sign), 9000);
        busy.service_us[0].1 = u32::MAX;
        busy.waiting = u32::MAX;
        assert!(service_us(&busy, Operation::Sign) > 1 << 63, "no overflow");
        assert_eq!(default_us(Operation::Mac), 500);
    }
}
