//! Judging what came: is all of it central's, does it answer what was asked, and does history go on.
//!
//! Pure; the costly part of a batch, so that it runs beside the core. What is known already is compared in the replica.
//! Invariant: nothing leaves here that central has not signed, nor with a head that goes back.

use std::{num::NonZero, thread};

use keyhaven_types::KeyState;
use keyhaven_wire::kms::{
    Changes, Entry, Fetched, Follow, Head, HeadMark, Manifest, Record, Signed,
};

use crate::{
    central::store_key::{self, StoreKey, revision_of},
    records::{CentralKey, Distrust},
};

/// A record that central signed, with its place in the replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Checked {
    pub(super) place: StoreKey,
    pub(super) revision: u64,
    pub(super) record: Record,
    pub(super) entry: Entry,
}

/// What came by following.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Batch {
    pub(super) records: Vec<Checked>,
    pub(super) through: u64,
    pub(super) head: Head,
    pub(super) signed_head: Signed,
}

/// Why an answer is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("what came is not central's")]
    Distrust(#[from] Distrust),
    #[error("the head is another record")]
    NotAHead,
    #[error("a record has no place in a replica")]
    Misplaced,
    #[error("central speaks of an earlier history than it did before")]
    Back,
    #[error("central tells two histories")]
    Fork,
    #[error("records or revisions are out of order")]
    Order,
}

/// Whether history may go on from what was seen to this head.
pub(super) fn goes_on(seen: &HeadMark, head: &Head) -> Result<(), Refusal> {
    if (head.era, head.revision) < (seen.era, seen.revision) || head.era < seen.era {
        return Err(Refusal::Back);
    }
    let is_same = (head.era, head.revision) == (seen.era, seen.revision);
    if is_same && head.chain != seen.chain {
        return Err(Refusal::Fork);
    }
    Ok(())
}

/// Reads a head that central signed.
pub(super) fn head(central: &CentralKey, signed: &Signed) -> Result<Head, Refusal> {
    match central.read(signed)? {
        Record::Head(head) => Ok(head),
        _ => Err(Refusal::NotAHead),
    }
}

/// Judges an answer to a [`Follow`]. A new era has no records yet.
pub(super) fn changes(
    central: &CentralKey,
    asked: &Follow,
    changes: Changes,
) -> Result<Batch, Refusal> {
    let head = head(central, &changes.head)?;
    goes_on(&asked.seen, &head)?;
    let is_new_era = head.era > asked.seen.era && asked.seen.revision > 0;
    let records = if is_new_era {
        Vec::new()
    } else {
        all(central, changes.entries)?
    };
    let is_ordered = records.is_sorted_by(|a, b| a.revision <= b.revision);
    let is_asked =
        |checked: &Checked| checked.revision > asked.after && checked.revision <= changes.through;
    let is_within = is_new_era || (asked.after..=head.revision).contains(&changes.through);
    if !is_ordered || !is_within || !records.iter().all(is_asked) {
        return Err(Refusal::Order);
    }
    Ok(Batch {
        records,
        through: changes.through,
        head,
        signed_head: changes.head,
    })
}

/// Judges an answer to a [`keyhaven_wire::kms::Fetch`], of central's or of a peer's. The answering server may have seen
/// less than we have, but nothing else. What of it is new, the replica decides.
pub(super) fn fetched(
    central: &CentralKey,
    seen: &HeadMark,
    fetched: Fetched,
) -> Result<Vec<Checked>, Refusal> {
    let head = head(central, &fetched.head)?;
    if head.era != seen.era {
        return Err(Refusal::Back);
    }
    if head.revision == seen.revision && head.chain != seen.chain {
        return Err(Refusal::Fork);
    }
    let records = all(central, fetched.entries)?;
    if records
        .iter()
        .any(|checked| checked.revision > head.revision)
    {
        return Err(Refusal::Order);
    }
    Ok(records)
}

/// Judges many entries on as many threads as there are processors: a site that begins has millions of them before it.
fn all(central: &CentralKey, mut entries: Vec<Entry>) -> Result<Vec<Checked>, Refusal> {
    let judge = |entries: Vec<Entry>| -> Result<Vec<Checked>, Refusal> {
        entries
            .into_iter()
            .map(|entry| check(central, entry))
            .collect()
    };
    if entries.len() < MANY {
        return judge(entries);
    }
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    let share = entries.len().div_ceil(threads);
    thread::scope(|scope| {
        let mut parts = Vec::new();
        while !entries.is_empty() {
            let rest = entries.split_off(share.min(entries.len()));
            let part = std::mem::replace(&mut entries, rest);
            parts.push(scope.spawn(|| judge(part)));
        }
        let mut all = Vec::new();
        for part in parts {
            // Judging does not panic; if it did, nothing of it is believed.
            all.extend(part.join().map_err(|_| Refusal::Misplaced)??);
        }
        Ok(all)
    })
}

pub(super) fn check(central: &CentralKey, entry: Entry) -> Result<Checked, Refusal> {
    let record = central.believe(&entry)?.record;
    let revision = revision_of(&record).ok_or(Refusal::Misplaced)?;
    if matches!(record, Record::Head(_)) {
        return Err(Refusal::Misplaced);
    }
    if let (Record::Version(manifest), Some(parts)) = (&record, &entry.parts)
        && is_over(manifest)
        && !parts.site_wrap.is_empty()
    {
        return Err(Distrust::Parts("a version that is over has no wrap").into());
    }
    Ok(Checked {
        place: store_key::of(&record).ok_or(Refusal::Misplaced)?,
        revision,
        record,
        entry,
    })
}

/// From so many on, threads are worth their start.
const MANY: usize = 64;

fn is_over(manifest: &Manifest) -> bool {
    manifest.state == KeyState::Destroyed
}
