//! When a site asks central for what, and what it makes of the answers.
//!
//! Pure: events in, actions out, and the caller gives the time. What came was judged before (`judge`); keeping it and
//! moving bytes is the shell's business. Invariant: what was seen of history never goes back but into a later era, and
//! central is told that a record is here only when it is on the disk.

use std::time::Duration;

use keyhaven_wire::kms::{Follow, Head, HeadMark, Signed};

use super::{
    clock::Now,
    event::{Action, Alarm, Event, Kept, Trouble},
    judge::{Batch, Refusal, goes_on},
    lease::{Lease, LeaseView, Leases},
};

/// One of the two questions that are asked again and again.
#[derive(Debug)]
struct Asking {
    /// Which central is asked.
    central: usize,
    is_out: bool,
    next: Duration,
    pause: Duration,
}

#[derive(Debug)]
pub(super) struct Core {
    centrals: usize,
    seen: HeadMark,
    /// What is in the replica, maybe not for good.
    applied: u64,
    /// What is there for good.
    durable: u64,
    leases: Leases,
    follow: Asking,
    lease: Asking,
    /// The question that is out may wait at central.
    is_waiting: bool,
    is_keeping: bool,
    /// The disk takes nothing.
    is_full: bool,
    next_recovery: Duration,
    /// A new era whose replica is not yet empty.
    beginning: Option<Signed>,
    /// Goes through everything once more: from, and up to.
    again: Option<(u64, u64)>,
    bound_min: Duration,
    /// Since when central is known to be further than we are.
    behind_since: Option<Duration>,
    is_enrolled: bool,
    history_troubles: u32,
}

impl Core {
    pub(super) fn new(
        centrals: usize,
        seen: HeadMark,
        applied: u64,
        saved: Option<Lease>,
        bound_min: Option<Duration>,
        now: &Now,
    ) -> Self {
        let asking = || Asking {
            central: 0,
            is_out: false,
            next: now.boottime,
            pause: PAUSE_MIN,
        };
        Self {
            centrals: centrals.max(1),
            seen,
            applied,
            durable: applied,
            leases: Leases::resume(saved, seen.era, applied, now),
            follow: asking(),
            lease: asking(),
            is_waiting: false,
            is_keeping: false,
            is_full: false,
            next_recovery: Duration::ZERO,
            beginning: None,
            again: None,
            bound_min: bound_min.unwrap_or(RENEW_MIN),
            behind_since: None,
            is_enrolled: true,
            history_troubles: 0,
        }
    }

    pub(super) fn seen(&self) -> HeadMark {
        self.seen
    }

    pub(super) fn leases(&self) -> LeaseView {
        self.leases.view()
    }

    /// Whether there is nothing that central is known to have and we have not.
    pub(super) fn is_behind(&self) -> bool {
        self.applied < self.seen.revision
    }

    pub(super) fn handle(&mut self, now: &Now, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Tick => {}
            Event::Followed {
                central,
                asked,
                answer,
            } => {
                self.follow.is_out = false;
                match answer {
                    Ok(batch) => self.followed(now, &asked, batch, &mut actions),
                    Err(trouble) => self.trouble(now, central, trouble, true, &mut actions),
                }
            }
            Event::Kept(kept) => self.kept(now, kept, &mut actions),
            Event::NotKept => {
                self.is_keeping = false;
                self.follow.next = now.boottime + PAUSE_MAX;
                if !self.is_full {
                    actions.push(Action::Alarm(Alarm::Disk));
                }
            }
            Event::NotSaved => self.disk_is_full(now, &mut actions),
            Event::Leased {
                central,
                asked,
                answer,
                out_of_turn,
            } => {
                self.lease.is_out &= out_of_turn;
                match answer {
                    Ok((head, signed)) => {
                        self.leased(now, central, asked, &head, signed, &mut actions);
                    }
                    Err(trouble) => self.trouble(now, central, trouble, false, &mut actions),
                }
            }
            Event::Recovered => {
                self.is_full = false;
                self.durable = self.applied;
                self.follow.next = now.boottime;
                actions.push(Action::Alarm(Alarm::DiskBack));
                self.save(None, &mut actions);
            }
        }
        if self.leases.check(now) {
            self.lease.next = now.boottime;
            actions.push(Action::Alarm(Alarm::Clocks));
        }
        self.ask(now, &mut actions);
        actions
    }

    fn followed(&mut self, now: &Now, asked: &Follow, batch: Batch, actions: &mut Vec<Action>) {
        let mark = batch.head.mark();
        if mark.era < self.seen.era || asked.seen.era < self.seen.era {
            // Asked before a new era began.
            return;
        }
        self.answered(true, actions);
        if mark.era > self.seen.era && self.seen.revision > 0 {
            actions.push(Action::Alarm(Alarm::NewEra));
            self.leases.end();
            (self.seen, self.applied, self.durable) = (mark, 0, 0);
            self.again = None;
            self.beginning = Some(batch.signed_head);
            return;
        }
        // A lease may have told of a later head while this answer was on its way.
        if mark.revision >= self.seen.revision {
            if let Err(refusal) = goes_on(&self.seen, &batch.head) {
                actions.push(Action::Alarm(Alarm::Refused(refusal)));
                return self.later(now);
            }
            self.seen = mark;
        }
        if let Some((from, until)) = &mut self.again {
            *from = batch.through;
            if *from >= *until {
                self.again = None;
            }
        }
        if batch.records.is_empty() && batch.through <= self.durable {
            // An answer that came at once is no reason to ask at once.
            self.follow.next = now.boottime + PAUSE_MIN;
            return;
        }
        self.is_keeping = true;
        actions.push(Action::Keep(Box::new(batch)));
    }

    fn kept(&mut self, now: &Now, kept: Kept, actions: &mut Vec<Action>) {
        self.is_keeping = false;
        self.beginning = None;
        self.follow.next = now.boottime;
        self.applied = self.applied.max(kept.through);
        if let Some(bound) = kept.bound_min {
            self.bound_min = bound;
        }
        if kept.site_changed && self.applied > 0 {
            self.again = Some((0, self.applied));
        }
        if kept.durable {
            self.durable = self.applied;
        } else {
            self.disk_is_full(now, actions);
        }
        if self.leases.applied(self.seen.era, self.applied) {
            self.save(None, actions);
        }
    }

    fn disk_is_full(&mut self, now: &Now, actions: &mut Vec<Action>) {
        if !self.is_full {
            self.is_full = true;
            self.next_recovery = now.boottime + RECOVER_EVERY;
            actions.push(Action::Alarm(Alarm::Disk));
        }
    }

    fn leased(
        &mut self,
        now: &Now,
        central: usize,
        asked: Now,
        head: &Head,
        signed: Signed,
        actions: &mut Vec<Action>,
    ) {
        if let Err(refusal) = goes_on(&self.seen, head) {
            return self.trouble(now, central, Trouble::Refused(refusal), false, actions);
        }
        self.lease.next = now.boottime + self.renew_every();
        if head.era > self.seen.era && self.seen.revision > 0 {
            // Following tells of the new era; there is no lease before its records are here.
            return self.hurry(now, central, actions);
        }
        self.answered(false, actions);
        let is_news = head.revision > self.seen.revision;
        self.seen = head.mark();
        let lease = Lease {
            asked,
            era: head.era,
            revision: head.revision,
        };
        if self.leases.granted(lease, self.applied) {
            self.save(is_news.then_some(signed), actions);
        }
        if self.is_behind() && !self.is_waiting {
            self.follow.central = central;
        }
    }

    /// What both questions have in common when they are not answered.
    fn trouble(
        &mut self,
        now: &Now,
        central: usize,
        trouble: Trouble,
        is_follow: bool,
        actions: &mut Vec<Action>,
    ) {
        match &trouble {
            Trouble::Away => {}
            // One central may not have read yet what another one has told us.
            Trouble::History | Trouble::Refused(Refusal::Back) => {
                self.history_troubles += 1;
                if self.history_troubles == HISTORY_TROUBLES {
                    actions.push(Action::Alarm(Alarm::History));
                }
            }
            Trouble::Refused(refusal) => {
                actions.push(Action::Alarm(Alarm::Refused(refusal.clone())));
            }
            Trouble::NotEnrolled => self.evicted(actions),
        }
        let asking = if is_follow {
            &mut self.follow
        } else {
            &mut self.lease
        };
        asking.central = (central + 1) % self.centrals;
        asking.next = now.boottime + asking.pause;
        asking.pause = (asking.pause * 2).min(PAUSE_MAX);
    }

    fn answered(&mut self, is_follow: bool, actions: &mut Vec<Action>) {
        let asking = if is_follow {
            &mut self.follow
        } else {
            &mut self.lease
        };
        asking.pause = PAUSE_MIN;
        self.history_troubles = 0;
        if !self.is_enrolled {
            self.is_enrolled = true;
            actions.push(Action::Alarm(Alarm::Enrolled));
        }
    }

    /// An honest site that is thrown out ends at once.
    fn evicted(&mut self, actions: &mut Vec<Action>) {
        self.leases.end();
        if self.is_enrolled {
            self.is_enrolled = false;
            actions.push(Action::Alarm(Alarm::NotEnrolled));
            actions.push(Action::Forget);
            self.save(None, actions);
        }
    }

    fn save(&self, head: Option<Signed>, actions: &mut Vec<Action>) {
        if !self.is_full {
            let lease = self.leases.view().0;
            actions.push(Action::Save { head, lease });
        }
    }

    fn later(&mut self, now: &Now) {
        self.follow.next = now.boottime + self.follow.pause;
        self.follow.pause = (self.follow.pause * 2).min(PAUSE_MAX);
    }

    fn hurry(&mut self, now: &Now, central: usize, actions: &mut Vec<Action>) {
        if self.follow.is_out {
            self.follow.is_out = false;
            actions.push(Action::StopFollowing);
        }
        self.follow.central = central;
        self.follow.next = now.boottime;
    }

    fn renew_every(&self) -> Duration {
        (self.bound_min / 3).clamp(RENEW_MIN, RENEW_MAX)
    }

    /// Asks what it is time to ask.
    fn ask(&mut self, now: &Now, actions: &mut Vec<Action>) {
        let time = now.boottime;
        match (self.is_behind(), self.behind_since) {
            (true, None) => self.behind_since = Some(time),
            (true, Some(since)) if time >= since + PATIENCE => {
                self.behind_since = Some(time);
                if self.is_waiting && self.follow.is_out {
                    // That central does not know yet what the one with the lease knows.
                    self.hurry(now, self.lease.central, actions);
                }
            }
            (false, _) => self.behind_since = None,
            (true, Some(_)) => {}
        }
        if self.is_full && time >= self.next_recovery {
            self.next_recovery = time + RECOVER_EVERY;
            actions.push(Action::Recover);
        }
        let is_free = !self.follow.is_out && !self.is_keeping && !self.is_full;
        if !is_free || time < self.follow.next {
        } else if let Some(head) = self.beginning.clone() {
            self.is_keeping = true;
            actions.push(Action::BeginAnew { head });
        } else {
            self.follow.is_out = true;
            let after = self.again.map_or(self.durable, |(from, _)| from);
            self.is_waiting = !self.is_behind() && self.again.is_none();
            actions.push(Action::Follow {
                central: self.follow.central,
                ask: Follow {
                    after,
                    seen: self.seen,
                    wait_ms: if self.is_waiting { WAIT_MS } else { 0 },
                    bytes_max: BYTES_MAX,
                },
            });
        }
        if !self.lease.is_out && time >= self.lease.next {
            self.lease.is_out = true;
            actions.push(Action::Lease {
                central: self.lease.central,
                seen: self.seen,
            });
        }
    }
}

/// How long central may hold the question.
const WAIT_MS: u32 = 20_000;
/// What fits a frame with room beside it.
const BYTES_MAX: u32 = 96 * 1024;
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);
const RENEW_MIN: Duration = Duration::from_secs(1);
const RENEW_MAX: Duration = Duration::from_secs(5);
/// How long a central may be behind another one before that one is asked.
const PATIENCE: Duration = Duration::from_millis(500);
const RECOVER_EVERY: Duration = Duration::from_secs(1);
/// So often in a row, and it is no central that is only a little behind.
const HISTORY_TROUBLES: u32 = 5;
