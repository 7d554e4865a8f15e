//! Whether everybody has seen the same history: marks of heads, by revision.
//!
//! No I/O. A mark is a peer's word and only ever raises an alarm. Two marks of one era and revision with different chains
//! mean that central's history has forked, or that somebody lies. Invariant: bounded for each site, what it told first goes
//! first, so that no site displaces another one's.

use std::collections::{BTreeMap, HashMap, VecDeque};

use keyhaven_types::Name;
use keyhaven_wire::kms::HeadMark;

/// How many marks of one site are remembered: heads that peers lag behind by.
const MARKS_MAX: usize = 256;

/// Two sites that have seen different histories.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fork {
    /// The era and revision of which there are two.
    pub(crate) at: (u32, u64),
    /// Who told the one.
    pub(crate) one: Name,
    /// Who told the other.
    pub(crate) other: Name,
}

/// Marks that were told.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    by_revision: BTreeMap<(u32, u64), ([u8; 32], Name)>,
    by_site: HashMap<Name, VecDeque<(u32, u64)>>,
    alarmed: Option<Fork>,
}

impl Marks {
    /// Notes what a site has seen, and says when it is another history than a site told before. The same fork is told
    /// once in a row.
    pub(crate) fn note(&mut self, site: &Name, seen: HeadMark) -> Option<Fork> {
        if seen.revision == 0 {
            return None;
        }
        let at = (seen.era, seen.revision);
        if let Some((chain, teller)) = self.by_revision.get(&at) {
            if *chain == seen.chain {
                return None;
            }
            let fork = Fork {
                at,
                one: teller.clone(),
                other: site.clone(),
            };
            let is_known = self.alarmed.as_ref() == Some(&fork);
            self.alarmed = Some(fork.clone());
            return (!is_known).then_some(fork);
        }
        self.by_revision.insert(at, (seen.chain, site.clone()));
        let told = self.by_site.entry(site.clone()).or_default();
        told.push_back(at);
        if told.len() > MARKS_MAX
            && let Some(first) = told.pop_front()
        {
            self.by_revision.remove(&first);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(era: u32, revision: u64, chain: u8) -> HeadMark {
        HeadMark {
            era,
            revision,
            chain: [chain; 32],
        }
    }

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    #[test]
    fn m4_two_chains_of_one_revision_are_a_fork_and_lag_is_none() {
        let (fra, nyc) = (name("fra"), name("nyc"));
        let mut marks = Marks::default();
        for (site, seen) in [
            (&fra, mark(1, 7, 7)),
            (&nyc, mark(1, 5, 5)),
            (&nyc, mark(1, 7, 7)),
            (&fra, mark(2, 7, 9)),
            (&nyc, mark(0, 0, 0)),
            (&fra, mark(0, 0, 1)),
        ] {
            assert_eq!(marks.note(site, seen), None, "{site} {seen:?}");
        }
        let fork = Fork {
            at: (1, 7),
            one: fra,
            other: nyc.clone(),
        };
        assert_eq!(marks.note(&nyc, mark(1, 7, 8)), Some(fork));
        assert_eq!(marks.note(&nyc, mark(1, 7, 8)), None, "told once");
    }

    #[test]
    fn marks_are_bounded() {
        let mut marks = Marks::default();
        for revision in 1..=3 * MARKS_MAX as u64 {
            marks.note(&name("fra"), mark(1, revision, 1));
        }
        assert_eq!(marks.by_revision.len(), MARKS_MAX);
        // And one that tells much hides nothing of another.
        marks.note(&name("nyc"), mark(1, 1, 1));
        for revision in 1..=3 * MARKS_MAX as u64 {
            marks.note(&name("rogue"), mark(u32::MAX, revision, 1));
        }
        assert!(marks.note(&name("fra"), mark(1, 1, 2)).is_some());
    }
}
