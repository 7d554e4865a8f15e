//! Drafts to signed records to one transaction of the store.
//!
//! Signing is the caller's: a closure that may fail. Invariant: every record of a transaction carries its revision, and
//! the chain goes over all of them in the order of their store keys.

use std::collections::HashSet;

use keyhaven_wire::kms::{Entry, Head, Record, Signed, VersionParts, signed_text};

use super::{Draft, Mirror, changes, store_key, store_key::StoreKey};
use crate::records::chain_after;

/// Drafts that go together.
#[derive(Clone, Debug, Default)]
pub struct Transaction {
    drafts: Vec<Draft>,
    written: HashSet<StoreKey>,
    planned_on: HashSet<StoreKey>,
    claimed: HashSet<String>,
    records: usize,
    bytes: usize,
}

/// Why drafts make no transaction.
#[derive(Debug, thiserror::Error)]
pub enum TransactionError {
    /// What a draft was made from has changed: it must be planned anew.
    #[error("what was planned on has changed")]
    Changed,
    /// A record that cannot be written: a bug.
    #[error("a record cannot be encoded")]
    Encode,
}

/// Why a transaction was not signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError<E> {
    /// The signature failed.
    #[error("the records cannot be signed")]
    Sign(#[source] E),
    /// An entry that cannot be written: a bug.
    #[error("an entry cannot be encoded")]
    Encode,
}

/// A transaction with its place in history, not yet signed.
#[derive(Clone, Debug)]
pub struct Numbered {
    head: Head,
    head_body: Vec<u8>,
    /// Store key, body, and what travels beside it.
    records: Vec<(StoreKey, Vec<u8>, Option<VersionParts>)>,
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
    pub fn add(&mut self, draft: Draft) -> Result<(), Box<Draft>> {
        let bytes: usize = draft.records.iter().map(draft_bytes).sum();
        let fits = self.drafts.is_empty()
            || (self.records + draft.records.len() <= RECORDS_MAX
                && self.bytes + bytes <= BYTES_MAX);
        let is_apart = draft.keys().all(|key| !self.planned_on.contains(&key))
            && draft.touches().all(|key| !self.written.contains(&key))
            && draft
                .claims
                .iter()
                .all(|claim| !self.claimed.contains(&claim.thing()));
        if !fits || !is_apart {
            return Err(Box::new(draft));
        }
        self.written.extend(draft.keys());
        self.planned_on.extend(draft.touches());
        self.claimed
            .extend(draft.claims.iter().map(super::Claim::thing));
        self.records += draft.records.len();
        self.bytes += bytes;
        self.drafts.push(draft);
        Ok(())
    }

    /// How many records it has.
    pub fn records(&self) -> usize {
        self.records
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.drafts.is_empty()
    }

    /// Whether what every draft was planned on still stands in the mirror.
    pub fn holds(&self, mirror: &Mirror) -> bool {
        self.drafts.iter().all(|draft| draft.holds(mirror))
    }

    /// Numbers and chains everything on top of the mirror's head.
    ///
    /// # Errors
    /// [`TransactionError::Changed`] when a draft does not hold any more.
    pub fn number(&self, mirror: &Mirror, now_ms: u64) -> Result<Numbered, TransactionError> {
        if !self.holds(mirror) {
            return Err(TransactionError::Changed);
        }
        let before = mirror.head_or_none();
        let revision = before.revision + 1;
        let mut records = Vec::new();
        for (record, parts) in self.drafts.iter().flat_map(|draft| &draft.records) {
            let record = with_revision(record.clone(), revision);
            let key = store_key::of(&record).ok_or(TransactionError::Encode)?;
            records.push((key, encode(&record)?, parts.clone()));
        }
        records.sort_by(|a, b| a.0.cmp(&b.0));
        let era_up = self.drafts.iter().any(|draft| draft.raises_era);
        let drafted = self.drafts.iter().flat_map(|draft| &draft.records);
        let bound_s = match era_up {
            true => mirror.longest_bound(now_ms),
            false => mirror.bound_of(drafted.map(|(record, _)| record), now_ms),
        };
        let bodies = records.iter().map(|(_, body, _)| body.as_slice());
        let writes = records.iter().map(|(key, body, _)| (&key[..], &body[..]));
        let head = Head {
            era: before.era + u32::from(era_up),
            revision,
            chain: chain_after(&before.chain, bodies),
            state: mirror.state_with(writes),
            bound_s,
            at_ms: now_ms,
        };
        Ok(Numbered {
            head,
            head_body: encode(&Record::Head(head))?,
            records,
        })
    }
}

impl Numbered {
    /// Signs everything.
    ///
    /// # Errors
    /// What the signer fails with.
    pub fn sign<E>(
        self,
        mut sign: impl FnMut(&[u8]) -> Result<Vec<u8>, E>,
    ) -> Result<Sealed, SignError<E>> {
        let mut signed = |body: Vec<u8>| {
            let signature = sign(&signed_text(&body)).map_err(SignError::Sign)?;
            Ok(Signed { body, signature })
        };
        let mut puts = Vec::with_capacity(self.records.len() + 2);
        for (key, body, parts) in self.records {
            let signed = signed(body)?;
            let entry = Entry { signed, parts };
            puts.push((
                key,
                postcard::to_stdvec(&entry).map_err(|_| SignError::Encode)?,
            ));
        }
        let head = postcard::to_stdvec(&signed(self.head_body)?).map_err(|_| SignError::Encode)?;
        puts.push((store_key::past_head(self.head.revision), head.clone()));
        puts.push((store_key::HEAD.to_vec(), head));
        Ok(Sealed {
            revision: self.head.revision,
            head: self.head,
            puts,
        })
    }
}

fn encode(record: &Record) -> Result<Vec<u8>, TransactionError> {
    postcard::to_stdvec(record).map_err(|_| TransactionError::Encode)
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

fn draft_bytes((record, parts): &(Record, Option<VersionParts>)) -> usize {
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
