//! What the core hears of, and what it wants done.
//!
//! Values only. Invariant: what comes from outside was judged before it is an event.

use std::time::Duration;

use keyhaven_wire::kms::{Follow, Head, HeadMark, Signed};

use super::{
    clock::Now,
    judge::{Batch, Refusal},
    lease::Lease,
};
use crate::records::Distrust;

/// What happened.
#[derive(Debug)]
pub(super) enum Event {
    /// Time went on.
    Tick,
    /// An answer to [`Action::Follow`].
    Followed {
        central: usize,
        asked: Follow,
        answer: Result<Batch, Trouble>,
    },
    /// [`Action::Keep`] or [`Action::BeginAnew`] is done.
    Kept(Kept),
    /// They could not be done.
    NotKept,
    /// [`Action::Save`] met a disk that takes nothing.
    NotSaved,
    /// An answer to [`Action::Lease`], or to a question out of turn.
    Leased {
        central: usize,
        asked: Now,
        answer: Result<(Head, Signed), Trouble>,
        out_of_turn: bool,
    },
    /// [`Action::Recover`] is done.
    Recovered,
}

/// What is in the replica now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kept {
    /// Everything up to this revision.
    pub(super) through: u64,
    /// Whether it is on the disk for good.
    pub(super) durable: bool,
    /// The shortest bound of all classes.
    pub(super) bound_min: Option<Duration>,
    /// Whether the site's own record changed: it may be entitled to more than it got.
    pub(super) site_changed: bool,
}

/// Why there is no answer, or none to be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// No answer.
    Away,
    /// Central's history is not the one that we have seen.
    History,
    /// The site is not enrolled, or was thrown out.
    NotEnrolled,
    /// What came is not to be believed.
    Refused(Refusal),
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Ask a central what changed.
    Follow { central: usize, ask: Follow },
    /// Wait no longer for the answer.
    StopFollowing,
    /// Put it into the replica.
    Keep(Box<Batch>),
    /// Empty the replica: a new era begins.
    BeginAnew { head: Signed },
    /// Ask a central for a lease.
    Lease { central: usize, seen: HeadMark },
    /// Put it into the replica.
    Save {
        head: Option<Signed>,
        lease: Option<Lease>,
    },
    /// Try to bring to the disk what it did not take.
    Recover,
    /// Throw every unwrapped key away.
    Forget,
    /// Tell the operator.
    Alarm(Alarm),
}

/// What an operator must hear of.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Alarm {
    #[error(
        "central's history is not the one that this site has seen: its store was restored or edited; this site stays with what it has"
    )]
    History,
    #[error("an answer of central's is refused: {}", in_words(.0))]
    Refused(Refusal),
    #[error("this site is not enrolled at central, or was thrown out; it serves no managed key")]
    NotEnrolled,
    #[error("central enrolled this site again")]
    Enrolled,
    #[error(
        "the replica cannot be written; the site serves what it has for as long as its lease goes"
    )]
    Disk,
    #[error("the replica can be written again")]
    DiskBack,
    #[error("the machine's clocks do not go together; the lease is given up")]
    Clocks,
    #[error("central began a new era; the replica is filled anew")]
    NewEra,
}

/// A refusal with what lies beneath, and what to do about the one that has a remedy.
fn in_words(refusal: &Refusal) -> String {
    match refusal {
        Refusal::Distrust(Distrust::Signature) => {
            "it is not signed by the key in `central_key`; if that file is another central's, fetch the right central.pem \
             and compare its fingerprint"
                .to_owned()
        }
        Refusal::Distrust(beneath) => format!("{refusal}: {beneath}"),
        refusal => refusal.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_centrals_key_is_told_with_what_to_do() {
        let told = |refusal| Alarm::Refused(refusal).to_string();
        let signature = told(Refusal::Distrust(Distrust::Signature));
        assert!(signature.contains("`central_key`"), "{signature}");
        assert!(
            signature.contains("fetch the right central.pem"),
            "{signature}"
        );
        // Whatever else it is, the cause is told.
        let newer = told(Refusal::Distrust(Distrust::Unreadable));
        assert!(newer.contains("newer program"), "{newer}");
        assert!(told(Refusal::Fork).ends_with("two histories"));
    }
}
