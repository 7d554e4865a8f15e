//! How a record joins those that are known: newer ones replace, older ones are refused, wraps are kept while they fit.
//!
//! Within one write transaction. Invariant: what lies over the base is newer than all of the base, and goes when the base
//! has come as far.

use keyhaven_types::{KeyId, KeyState};
use keyhaven_wire::kms::{Entry, Record, VersionParts};
use redb::{Table, WriteTransaction};

use super::{AHEAD, HOSTS, Kept, NAMES, RECORDS, ReplicaError, get, put, with_prefix};
use crate::{
    central::store_key::{StoreKey, revision_of},
    intermediate::judge::Checked,
    records::sha256,
};

type Open<'a> = Table<'a, &'static [u8], &'static [u8]>;

pub(super) struct Merge<'a> {
    records: Open<'a>,
    ahead: Open<'a>,
    names: Open<'a>,
    hosts: Open<'a>,
}

impl<'a> Merge<'a> {
    pub(super) fn open(write: &'a WriteTransaction) -> Result<Self, ReplicaError> {
        Ok(Self {
            records: write.open_table(RECORDS)?,
            ahead: write.open_table(AHEAD)?,
            names: write.open_table(NAMES)?,
            hosts: write.open_table(HOSTS)?,
        })
    }

    /// A record that came by following.
    pub(super) fn follow(&mut self, new: &Checked, kept: &mut Kept) -> Result<(), ReplicaError> {
        let base = self.base(&new.place)?;
        if self.is_refused(&base, new, kept) {
            return Ok(());
        }
        let over: Option<Entry> = get(&self.ahead, &new.place)?;
        let known: Vec<&Entry> = base.iter().chain(&over).collect();
        self.keep_in_base(new, &base, &known, kept)
    }

    /// A record that was fetched: of what is applied already it can only complete what is known, and what is newer lies
    /// over the base until that has come as far.
    pub(super) fn fetched(
        &mut self,
        new: &Checked,
        applied: u64,
        kept: &mut Kept,
    ) -> Result<(), ReplicaError> {
        let base = self.base(&new.place)?;
        if self.is_refused(&base, new, kept) {
            return Ok(());
        }
        if revision(&base) == new.revision {
            let known: Vec<&Entry> = base.iter().collect();
            return self.keep_in_base(new, &base, &known, kept);
        }
        if new.revision <= applied {
            // All that is applied is known: history has no such record.
            kept.forked += 1;
            return Ok(());
        }
        let over: Option<Entry> = get(&self.ahead, &new.place)?;
        if self.is_refused(&over, new, kept) {
            return Ok(());
        }
        let known: Vec<&Entry> = base.iter().chain(&over).collect();
        let entry = completed(new, &known);
        if over.as_ref() != Some(&entry) {
            put(&mut self.ahead, &new.place, &entry)?;
            self.enter_index(&new.record, &None)?;
            kept.changed.push(new.place.clone());
        }
        Ok(())
    }

    /// The base has come as far as this: what lies over it is not newer any more, so that it must be in the base, or never
    /// was in this history.
    pub(super) fn caught_up(&mut self, through: u64, kept: &mut Kept) -> Result<(), ReplicaError> {
        for (place, entry) in with_prefix(&self.ahead, b"")? {
            let entry: Option<Entry> = postcard::from_bytes(&entry).ok();
            let over = revision(&entry);
            if over <= through {
                self.ahead.remove(place.as_slice())?;
                if revision(&self.base(&place)?) != over {
                    kept.forked += 1;
                }
                kept.changed.push(place);
            }
        }
        Ok(())
    }

    fn base(&self, place: &StoreKey) -> Result<Option<Entry>, ReplicaError> {
        get(&self.records, place)
    }

    fn is_refused(&self, known: &Option<Entry>, new: &Checked, kept: &mut Kept) -> bool {
        let Some(entry) = known else { return false };
        let at = revision(known);
        let is_stale = at > new.revision;
        let is_fork = at == new.revision && entry.signed.body != new.entry.signed.body;
        kept.stale += u32::from(is_stale);
        kept.forked += u32::from(is_fork);
        is_stale || is_fork
    }

    fn keep_in_base(
        &mut self,
        new: &Checked,
        base: &Option<Entry>,
        known: &[&Entry],
        kept: &mut Kept,
    ) -> Result<(), ReplicaError> {
        let entry = completed(new, known);
        if base.as_ref() != Some(&entry) {
            put(&mut self.records, &new.place, &entry)?;
            self.enter_index(&new.record, base)?;
            kept.changed.push(new.place.clone());
        }
        Ok(())
    }

    fn enter_index(&mut self, record: &Record, before: &Option<Entry>) -> Result<(), ReplicaError> {
        let Record::Key(key) = record else {
            return Ok(());
        };
        if let Some(Record::Key(before)) = before.as_ref().and_then(read) {
            self.names
                .remove(index(before.name.as_str(), before.id).as_slice())?;
            for host in &before.server_names {
                self.hosts.remove(index(host, before.id).as_slice())?;
            }
        }
        self.names
            .insert(index(key.name.as_str(), key.id).as_slice(), EMPTY)?;
        for host in &key.server_names {
            self.hosts.insert(index(host, key.id).as_slice(), EMPTY)?;
        }
        Ok(())
    }
}

/// The entry with the wrap that is known, when it came without one, and the wrap is what the record binds. What is revoked
/// has no wrap here any more.
fn completed(new: &Checked, known: &[&Entry]) -> Entry {
    let mut entry = new.entry.clone();
    let (Record::Version(manifest), Some(parts)) = (&new.record, &mut entry.parts) else {
        return entry;
    };
    // Central's own wrap is none of ours.
    parts.root_wrap.clear();
    if manifest.state >= KeyState::Revoked {
        parts.site_wrap.clear();
    } else if parts.site_wrap.is_empty() {
        let wraps = known.iter().filter_map(|entry| entry.parts.as_ref());
        let fits = |parts: &&VersionParts| {
            !parts.site_wrap.is_empty() && sha256(&parts.site_wrap) == manifest.site_wrap
        };
        if let Some(known) = wraps.into_iter().find(fits) {
            parts.site_wrap.clone_from(&known.site_wrap);
        }
    }
    entry
}

/// What an entry says, without any judgement.
fn read(entry: &Entry) -> Option<Record> {
    postcard::from_bytes(&entry.signed.body).ok()
}

fn revision(entry: &Option<Entry>) -> u64 {
    let record = entry.as_ref().and_then(read);
    record.as_ref().and_then(revision_of).unwrap_or(0)
}

/// What keys of an index begin with: no name has a zero in it.
pub(super) fn index_prefix(text: &str) -> Vec<u8> {
    [text.as_bytes(), &[0]].concat()
}

fn index(text: &str, id: KeyId) -> Vec<u8> {
    [text.as_bytes(), &[0], &id.0].concat()
}

const EMPTY: &[u8] = &[];
