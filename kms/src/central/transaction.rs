//! Drafts to signed records to one transaction of the store.
//!
//! Signing is the caller's: a closure that may fail. Invariant: every record of a transaction carries its revision, and
//! the chain goes over all of them in the order of their store keys.

use keyhaven_wire::kms::{Entry, Head, Record, Signed, signed_text};

use super::{Draft, Mirror, changes, store_key};
use crate::records::chain_after;

/// Drafts that go together.
#[derive(Clone, Debug, Default)]
pub struct Transaction {
    drafts: Vec<Draft>,
    bytes: usize,
}

/// Why drafts make no transaction.
#[derive(Debug, thiserror::Error)]
pub enum TransactionError<E> {
    /// What a draft was made from has changed: it must be planned anew.
    #[error("what was planned on has changed")]
    Changed,
    /// The signature failed.
    #[error("the records cannot be signed")]
    Sign(#[source] E),
    /// A record that cannot be written: a bug.
    #[error("a record cannot be encoded")]
    Encode,
}

/// A transaction, ready for the store.
#[derive(Clone, Debug)]
pub struct Sealed {
    /// Its revision.
    pub revision: u64,
    /// The new head.
    pub head: Head,
    /// Store keys with their values, the head and its copy in the log of heads last.
    pub puts: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Transaction {
    /// Takes a draft if it still holds and there is room; gives it back otherwise.
    pub fn add(&mut self, draft: Draft) -> Result<(), Draft> {
        let bytes: usize = draft.records.iter().map(draft_bytes).sum();
        let fits = self.drafts.is_empty()
            || (self.records() + draft.records.len() <= RECORDS_MAX
                && self.bytes + bytes <= BYTES_MAX);
        let mine = draft.keys();
        let touched = self.drafts.iter().any(|other| {
            let theirs = other.keys();
            draft.touches().any(|key| theirs.contains(&key))
                || other.touches().any(|key| mine.contains(&key))
        });
        if !fits || touched {
            return Err(draft);
        }
        self.bytes += bytes;
        self.drafts.push(draft);
        Ok(())
    }

    /// How many records it has.
    pub fn records(&self) -> usize {
        self.drafts.iter().map(|draft| draft.records.len()).sum()
    }

    /// Whether what every draft was planned on still stands in the mirror.
    pub fn holds(&self, mirror: &Mirror) -> bool {
        self.drafts.iter().all(|draft| draft.holds(mirror))
    }

    /// Numbers, signs and chains everything on top of the mirror's head.
    ///
    /// # Errors
    /// [`TransactionError::Changed`] when a draft does not hold any more.
    pub fn seal<E>(
        &self,
        mirror: &Mirror,
        now_ms: u64,
        mut sign: impl FnMut(&[u8]) -> Result<Vec<u8>, E>,
    ) -> Result<Sealed, TransactionError<E>> {
        if !self.holds(mirror) {
            return Err(TransactionError::Changed);
        }
        let before = mirror.head_or_none();
        let revision = before.revision + 1;
        let era_up = self.drafts.iter().any(|draft| draft.raises_era);
        let mut signed = |record: &Record| -> Result<Signed, TransactionError<E>> {
            let body = postcard::to_stdvec(record).map_err(|_| TransactionError::Encode)?;
            let signature = sign(&signed_text(&body)).map_err(TransactionError::Sign)?;
            Ok(Signed { body, signature })
        };
        let mut entries = Vec::new();
        for (record, parts) in self.drafts.iter().flat_map(|draft| &draft.records) {
            let record = with_revision(record.clone(), revision);
            let key = store_key::of(&record).ok_or(TransactionError::Encode)?;
            let entry = Entry {
                signed: signed(&record)?,
                parts: parts.clone(),
            };
            entries.push((key, entry));
        }
        entries.sort_by(|a, b| a.0.cmp(&b.0));
        let bodies = entries
            .iter()
            .map(|(_, entry)| entry.signed.body.as_slice());
        let head = Head {
            era: before.era + u32::from(era_up),
            revision,
            chain: chain_after(&before.chain, bodies),
            at_ms: now_ms,
        };
        let signed_head = signed(&Record::Head(head))?;
        let encode =
            |value: &Entry| postcard::to_stdvec(value).map_err(|_| TransactionError::Encode);
        let mut puts = Vec::with_capacity(entries.len() + 2);
        for (key, entry) in &entries {
            puts.push((key.clone(), encode(entry)?));
        }
        let head_value = postcard::to_stdvec(&signed_head).map_err(|_| TransactionError::Encode)?;
        puts.push((store_key::past_head(revision), head_value.clone()));
        puts.push((store_key::HEAD.to_vec(), head_value));
        Ok(Sealed {
            revision,
            head,
            puts,
        })
    }
}

fn with_revision(mut record: Record, at: u64) -> Record {
    match &mut record {
        Record::Class(record) => record.revision = at,
        Record::Key(record) => record.revision = at,
        Record::Version(manifest) => manifest.revision = at,
        Record::Site(record) => record.revision = at,
        Record::Grant(record) => record.revision = at,
        Record::Head(_) | Record::Delivery(_) => {}
    }
    record
}

fn draft_bytes((record, parts): &(Record, Option<keyhaven_wire::kms::VersionParts>)) -> usize {
    let entry = Entry {
        signed: Signed {
            body: postcard::to_stdvec(record).unwrap_or_default(),
            signature: vec![0; 72],
        },
        parts: parts.clone(),
    };
    changes::entry_bytes(&entry)
}

/// With the head and its copy this stays below what etcd takes in one transaction (128 operations).
const RECORDS_MAX: usize = 100;
/// A transaction travels to sites whole, in one frame.
const BYTES_MAX: usize = 64 * 1024;
