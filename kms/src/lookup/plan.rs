//! Where each operation of a signed batch is done: here, or at a peer that can or that is faster.
//!
//! No I/O. Who can was decided in `answer`; who may pass on, in `proof`. Invariant: what this server can do leaves it
//! only for a peer that is estimated to take less than half of its time.

use keyhaven_types::Name;

use super::answer::Candidate;

/// Of so many operations that a peer would do faster, one stays here: the estimate of a server that gets no work would
/// never become better.
pub(crate) const STAYS_OF: u64 = 16;

/// Where one operation is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// At this server, which also says why not when nobody can.
    Here,
    /// At this peer.
    At(Name),
}

/// Chooses for one operation, from its candidates in their order. `stays`: it is one of those that measure this server.
pub(crate) fn place(candidates: &[Candidate], excluded: &[Name], stays: bool) -> Place {
    let own = candidates.iter().find(|found| found.is_self);
    let peer = candidates
        .iter()
        .find(|found| !found.is_self && !excluded.contains(&found.site.name));
    match (own, peer) {
        (_, None) => Place::Here,
        (None, Some(peer)) => Place::At(peer.site.name.clone()),
        (Some(own), Some(peer)) if !stays && is_much_faster(peer, own) => {
            Place::At(peer.site.name.clone())
        }
        (Some(_), Some(_)) => Place::Here,
    }
}

fn is_much_faster(peer: &Candidate, own: &Candidate) -> bool {
    peer.estimate_us.saturating_mul(2) < own.estimate_us
}

#[cfg(test)]
mod tests {
    use super::{
        super::testing::{Records, name},
        *,
    };

    fn candidate(site: &str, estimate_us: u64, is_self: bool) -> Candidate {
        let mut records = Records::default();
        Candidate::of(
            records.add_site(site, "eu", &[]).clone(),
            estimate_us,
            is_self,
        )
    }

    fn at(site: &str) -> Place {
        Place::At(name(site))
    }

    #[test]
    fn l6_what_only_peers_can_goes_to_the_fastest_that_has_not_failed() {
        let peers = [candidate("fra", 10, false), candidate("nyc", 90, false)];
        assert_eq!(place(&peers, &[], false), at("fra"));
        assert_eq!(place(&peers, &[name("fra")], true), at("nyc"));
        let failed = [name("fra"), name("nyc")];
        assert_eq!(place(&peers, &failed, false), Place::Here);
        assert_eq!(place(&[], &[], false), Place::Here, "it says why not");
    }

    #[test]
    fn l7_what_can_be_done_here_leaves_only_for_half_the_time() {
        let own = |us| candidate("sgp", us, true);
        let fra = || candidate("fra", 100, false);
        assert_eq!(place(&[fra(), own(200)], &[], false), Place::Here);
        assert_eq!(place(&[fra(), own(201)], &[], false), at("fra"));
        assert_eq!(place(&[fra(), own(201)], &[], true), Place::Here, "stays");
        let failed = [name("fra")];
        assert_eq!(place(&[fra(), own(201)], &failed, false), Place::Here);
        let slow = candidate("fra", u64::MAX, false);
        assert_eq!(place(&[own(u64::MAX), slow], &[], false), Place::Here);
    }
}
