//! Whether a change holds everywhere: every site has said so, or no lease can still run without it.
//!
//! A lease that is granted after a transaction was committed demands that it is applied first, since the head is read
//! after the question came. So what could still go by the old state is a lease granted before, and that ends by itself.

use std::collections::HashMap;

use keyhaven_types::Name;
use keyhaven_wire::kms::{
    ClassRecord, Record, Scope,
    admin::{Answer, SiteLag},
};

use super::Mirror;

/// What sites have said of themselves, to this central, since it started.
#[derive(Clone, Debug, Default)]
pub struct Acks(HashMap<Name, Heard>);

/// The last of one site.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// What it has for good.
    pub applied: u64,
    /// When it last asked anything, by our monotonic clock in milliseconds.
    pub heard_ms: u64,
    /// When it last got a lease, the same way.
    pub leased_ms: Option<u64>,
}

impl Acks {
    /// A site follows from this revision: everything up to it is on its disk.
    pub fn followed(&mut self, site: &Name, applied: u64, now_ms: u64) {
        let heard = self.0.entry(site.clone()).or_default();
        heard.applied = applied;
        heard.heard_ms = now_ms;
    }

    /// A site got a lease.
    pub fn leased(&mut self, site: &Name, now_ms: u64) {
        let heard = self.0.entry(site.clone()).or_default();
        heard.heard_ms = now_ms;
        heard.leased_ms = Some(now_ms);
    }

    /// Forgets everything: history went back, or began anew, and what was said was said of another one.
    pub fn forget(&mut self) {
        self.0.clear();
    }

    /// What one site said last.
    pub fn of(&self, site: &Name) -> Option<&Heard> {
        self.0.get(site)
    }
}

impl Mirror {
    /// Whether what a revision wrote holds at every site. `age_ms` says how long ago a revision was committed, rather
    /// less than more.
    pub fn enforced(&self, acks: &Acks, revision: u64, age_ms: impl Fn(u64) -> u64) -> Answer {
        // Of what came before the log of heads nothing is known.
        let bound_s = |revision| {
            let past = self.past_head(revision);
            past.map_or_else(|| self.longest_bound(0), |past| past.bound_s)
        };
        // One hundredth for clocks that run slow, and two seconds for what is under way.
        let lasts_ms = |revision| u64::from(bound_s(revision)) * 1010 + 2000;
        let left_ms = |revision: u64| lasts_ms(revision).saturating_sub(age_ms(revision));
        let (mut waiting_for, mut at_most_ms) = (Vec::new(), 0);
        for site in self.sites() {
            let has_it = acks
                .of(&site.name)
                .is_some_and(|heard| heard.applied >= revision);
            let mut left = left_ms(revision);
            if site.evicted {
                // It gets no new lease since then, and no word either.
                left = left.min(left_ms(site.revision));
            }
            if !has_it && left > 0 {
                waiting_for.push(site.name.clone());
                at_most_ms = at_most_ms.max(left);
            }
        }
        Answer::Enforced {
            enforced: waiting_for.is_empty(),
            at_most_s: at_most_ms.div_ceil(1000),
            waiting_for,
        }
    }

    /// The longest lease in seconds that can run when these records are written, over the classes that they are about.
    pub(super) fn bound_of<'a>(
        &self,
        records: impl IntoIterator<Item = &'a Record>,
        now_ms: u64,
    ) -> u32 {
        let of = |class: &Name| self.class(class).map_or(0, |class| bound_at(class, now_ms));
        let all = || self.longest_bound(now_ms);
        let bounds = records.into_iter().map(|record| match record {
            Record::Key(key) => of(&key.class),
            Record::Version(manifest) => of(&manifest.class),
            Record::Class(class) => of(&class.name).max(class.bound_s),
            Record::Grant(grant) => match grant.scope {
                Scope::Key(id) => self.key(id).map_or_else(all, |key| of(&key.class)),
                Scope::Server => SERVER_BOUND_S,
            },
            Record::Site(_) | Record::Head(_) | Record::Delivery(_) => all(),
        });
        bounds.max().unwrap_or(0)
    }

    /// The same over every class.
    pub(super) fn longest_bound(&self, now_ms: u64) -> u32 {
        let bounds = self.classes().map(|(class, _)| bound_at(class, now_ms));
        bounds.max().unwrap_or(0)
    }

    /// How far each site is, in the order of their names.
    pub fn lags(&self, acks: &Acks, now_ms: u64) -> Vec<SiteLag> {
        self.sites()
            .map(|site| {
                let heard = acks.of(&site.name);
                SiteLag {
                    site: site.name.clone(),
                    evicted: site.evicted,
                    applied: heard.map(|heard| heard.applied),
                    heard_ms_ago: heard.map(|heard| now_ms.saturating_sub(heard.heard_ms)),
                    leased_ms_ago: heard
                        .and_then(|heard| heard.leased_ms)
                        .map(|at| now_ms.saturating_sub(at)),
                }
            })
            .collect()
    }
}

/// The longest lease of a class that can run at this moment.
pub(super) fn bound_at(class: &ClassRecord, now_ms: u64) -> u32 {
    match class.bound_before {
        Some((before, until_ms)) if until_ms > now_ms => class.bound_s.max(before),
        _ => class.bound_s,
    }
}

/// How long a site does what needs no key after its last lease, in seconds.
const SERVER_BOUND_S: u32 = 60 * 60;
