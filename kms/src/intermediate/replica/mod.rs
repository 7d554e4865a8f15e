//! The replica: central's records in a file, so that the site serves without central and after a restart.
//!
//! Keeps and finds; whether a record is central's was judged before it came, and is judged again when it is read
//! (`table`). What a site gets by following is the base; what it fetches before its time lies over the base until the base
//! has caught up. Invariant: a record in the base is never replaced by an older one, and the base has everything up to the
//! revision that is said to be applied.

mod disk;
mod error;
mod merge;
#[cfg(test)]
mod tests;

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
    sync::{PoisonError, RwLock, RwLockReadGuard},
};

use keyhaven_types::{KeyId, Name};
use keyhaven_wire::kms::{Entry, Record, Signed};
use redb::{Database, ReadableDatabase as _, ReadableTable, TableDefinition, WriteTransaction};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

#[cfg(test)]
pub(super) use self::disk::{Disk as TestDisk, Medium};
pub(super) use self::error::ReplicaError;
use self::{disk::Disk, merge::Merge};
use super::{
    judge::{Batch, Checked},
    lease::SavedLease,
};
use crate::central::store_key::StoreKey;

/// Whose replica it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Owner {
    pub(super) site: Name,
    /// SHA-256 of central's public key.
    pub(super) central: [u8; 32],
}

/// What it had when it was opened.
#[derive(Debug, Default)]
pub(super) struct Stored {
    pub(super) applied: u64,
    pub(super) head: Option<Signed>,
    pub(super) lease: Option<SavedLease>,
}

/// What became of records.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Kept {
    /// Whether it is on the disk for good; otherwise it is in memory only, and nothing more is written until
    /// [`Replica::recover`].
    pub(super) durable: bool,
    /// Where something changed.
    pub(super) changed: Vec<StoreKey>,
    /// Records that were refused because something newer is known.
    pub(super) stale: u32,
    /// Records that were refused because history has another one with this revision, or none.
    pub(super) forked: u32,
}

pub(super) struct Replica {
    db: RwLock<Option<Database>>,
    disk: Disk,
}

impl Replica {
    pub(super) fn open(
        path: &Path,
        owner: &Owner,
        cache_bytes: usize,
    ) -> Result<(Self, Stored), ReplicaError> {
        Self::on(Disk::new(open_file(path)?), owner, cache_bytes)
    }

    pub(super) fn on(
        disk: Disk,
        owner: &Owner,
        cache_bytes: usize,
    ) -> Result<(Self, Stored), ReplicaError> {
        let db = Database::builder()
            .set_cache_size(cache_bytes)
            .create_with_backend(disk.clone())?;
        let write = db.begin_write()?;
        let stored = {
            let mut meta = write.open_table(META)?;
            for table in [RECORDS, AHEAD, NAMES, HOSTS] {
                write.open_table(table)?;
            }
            let known: Option<Mark> = get(&meta, OWNER)?;
            match known {
                None => put(&mut meta, OWNER, &(FORMAT, owner))?,
                Some((FORMAT, known)) if known == *owner => {}
                Some((FORMAT, known)) => {
                    return Err(ReplicaError::Foreign {
                        found: known.site.to_string(),
                    });
                }
                Some(_) => return Err(ReplicaError::Format),
            }
            Stored {
                applied: get(&meta, APPLIED)?.unwrap_or(0),
                head: get(&meta, HEAD)?,
                lease: get(&meta, LEASE)?,
            }
        };
        write.commit()?;
        let replica = Self {
            db: RwLock::new(Some(db)),
            disk,
        };
        Ok((replica, stored))
    }

    /// Takes what came by following, and with it the head.
    pub(super) fn apply(&self, batch: &Batch) -> Result<Kept, ReplicaError> {
        self.write(|write, kept| {
            let mut merge = Merge::open(write)?;
            for checked in &batch.records {
                merge.follow(checked, kept)?;
            }
            merge.caught_up(batch.through, kept)?;
            let mut meta = write.open_table(META)?;
            // It may go through what is applied once more, and a lease may have told of a later head.
            let applied = get(&meta, APPLIED)?.unwrap_or(0);
            put(&mut meta, APPLIED, &batch.through.max(applied))?;
            let known: Option<Signed> = get(&meta, HEAD)?;
            if revision_of_head(known.as_ref()) <= batch.head.revision {
                put(&mut meta, HEAD, &batch.signed_head)?;
            }
            Ok(())
        })
    }

    /// Takes what was fetched in this era, as far as it fits to what is known. Nothing when another era has begun.
    pub(super) fn take(&self, era: u32, records: &[Checked]) -> Result<Kept, ReplicaError> {
        self.write(|write, kept| {
            let meta = write.open_table(META)?;
            let known: Option<Signed> = get(&meta, HEAD)?;
            if era_of_head(known.as_ref()).is_some_and(|known| known != era) {
                return Ok(());
            }
            let applied = get(&meta, APPLIED)?.unwrap_or(0);
            drop(meta);
            let mut merge = Merge::open(write)?;
            for checked in records {
                merge.fetched(checked, applied, kept)?;
            }
            Ok(())
        })
    }

    /// Forgets everything: history begins anew with this head.
    pub(super) fn begin_anew(&self, head: &Signed) -> Result<Kept, ReplicaError> {
        self.write(|write, _| {
            for table in [RECORDS, AHEAD, NAMES, HOSTS] {
                write.delete_table(table)?;
                write.open_table(table)?;
            }
            let mut meta = write.open_table(META)?;
            put(&mut meta, APPLIED, &0_u64)?;
            put(&mut meta, HEAD, head)?;
            meta.remove(LEASE)?;
            Ok(())
        })
    }

    /// Keeps a lease with the head that it came with, or that there is none.
    pub(super) fn save(
        &self,
        head: Option<&Signed>,
        lease: Option<&SavedLease>,
    ) -> Result<Kept, ReplicaError> {
        self.write(|write, _| {
            let mut meta = write.open_table(META)?;
            if let Some(head) = head {
                put(&mut meta, HEAD, head)?;
            }
            match lease {
                Some(lease) => put(&mut meta, LEASE, lease)?,
                None => drop(meta.remove(LEASE)?),
            }
            Ok(())
        })
    }

    /// A record: what lies over the base, or else the base.
    pub(super) fn record(&self, at: &[u8]) -> Result<Option<Entry>, ReplicaError> {
        let db = self.db()?;
        let read = opened(&db)?.begin_read()?;
        match get(&read.open_table(AHEAD)?, at)? {
            Some(entry) => Ok(Some(entry)),
            None => get(&read.open_table(RECORDS)?, at),
        }
    }

    /// Every record of the base whose place begins like this: what came by following.
    pub(super) fn followed(&self, prefix: &[u8]) -> Result<Vec<Entry>, ReplicaError> {
        let db = self.db()?;
        let read = opened(&db)?.begin_read()?;
        let base = with_prefix(&read.open_table(RECORDS)?, prefix)?;
        Ok(base
            .filter_map(|(_, entry)| postcard::from_bytes(&entry).ok())
            .collect())
    }

    /// Every record whose place begins like this.
    pub(super) fn all(&self, prefix: &[u8]) -> Result<Vec<Entry>, ReplicaError> {
        let db = self.db()?;
        let read = opened(&db)?.begin_read()?;
        let ahead = read.open_table(AHEAD)?;
        let mut all = std::collections::BTreeMap::new();
        // What is ahead comes last, and so covers the base.
        for (place, entry) in
            with_prefix(&read.open_table(RECORDS)?, prefix)?.chain(with_prefix(&ahead, prefix)?)
        {
            if let Ok(entry) = postcard::from_bytes(&entry) {
                all.insert(place, entry);
            }
        }
        Ok(all.into_values().collect())
    }

    /// Keys that may have this name: their records say whether they do.
    pub(super) fn named(&self, name: &str) -> Result<Vec<KeyId>, ReplicaError> {
        self.index(NAMES, name)
    }

    /// Keys that may be served for this host name: their records say whether they are.
    pub(super) fn hosted(&self, host: &str) -> Result<Vec<KeyId>, ReplicaError> {
        self.index(HOSTS, host)
    }

    fn index(&self, table: Table, text: &str) -> Result<Vec<KeyId>, ReplicaError> {
        let db = self.db()?;
        let read = opened(&db)?.begin_read()?;
        let prefix = merge::index_prefix(text);
        let found = with_prefix(&read.open_table(table)?, &prefix)?;
        Ok(found
            .filter_map(|(at, _)| at.get(prefix.len()..)?.try_into().ok().map(KeyId))
            .collect())
    }

    /// Brings to the disk what it did not take.
    pub(super) fn recover(&self) -> io::Result<()> {
        self.disk.flush()
    }

    /// Closes the file; what asks from here on is refused.
    pub(super) fn close(&self) {
        let closed = self
            .db
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        drop(closed);
    }

    fn db(&self) -> Result<RwLockReadGuard<'_, Option<Database>>, ReplicaError> {
        Ok(self.db.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write(
        &self,
        change: impl FnOnce(&WriteTransaction, &mut Kept) -> Result<(), ReplicaError>,
    ) -> Result<Kept, ReplicaError> {
        let db = self.db()?;
        let db = opened(&db)?;
        if !self.disk.is_whole() {
            return Err(ReplicaError::ReadOnly);
        }
        let write = db.begin_write()?;
        let mut kept = Kept::default();
        change(&write, &mut kept)?;
        write.commit()?;
        kept.durable = self.disk.is_whole();
        Ok(kept)
    }
}

impl std::fmt::Debug for Replica {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Replica({:?})", self.disk)
    }
}

fn opened(db: &Option<Database>) -> Result<&Database, ReplicaError> {
    db.as_ref().ok_or(ReplicaError::Closed)
}

/// Of a head that was judged before it was kept.
fn revision_of_head(head: Option<&Signed>) -> u64 {
    match head.map(|head| postcard::from_bytes(&head.body)) {
        Some(Ok(Record::Head(head))) => head.revision,
        _ => 0,
    }
}

/// The same for its era; none when there is no head.
fn era_of_head(head: Option<&Signed>) -> Option<u32> {
    match postcard::from_bytes(&head?.body) {
        Ok(Record::Head(head)) => Some(head.era),
        _ => None,
    }
}

/// Opens the file, for this process and this user alone.
fn open_file(path: &Path) -> Result<File, ReplicaError> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(MODE)
        .open(path)
        .map_err(ReplicaError::Open)?;
    let permissions = file.metadata().map_err(ReplicaError::Open)?.permissions();
    if permissions.mode() & 0o077 != 0 {
        tracing::warn!(path = %path.display(), "the replica could be read by others; it is closed to them now");
        file.set_permissions(std::fs::Permissions::from_mode(MODE))
            .map_err(ReplicaError::Open)?;
    }
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(ReplicaError::Locked),
        Err(error) => Err(ReplicaError::Open(error.into())),
    }
}

type Table = TableDefinition<'static, &'static [u8], &'static [u8]>;
type Mark = (u32, Owner);
type Pair = (Vec<u8>, Vec<u8>);

fn get<T: DeserializeOwned>(
    table: &impl ReadableTable<&'static [u8], &'static [u8]>,
    key: &[u8],
) -> Result<Option<T>, ReplicaError> {
    let Some(value) = table.get(key)? else {
        return Ok(None);
    };
    // What cannot be read is not there: it comes again from central.
    Ok(postcard::from_bytes(value.value()).ok())
}

fn put(
    table: &mut redb::Table<'_, &'static [u8], &'static [u8]>,
    key: &[u8],
    value: &impl Serialize,
) -> Result<(), ReplicaError> {
    let bytes = postcard::to_stdvec(value).map_err(|_| ReplicaError::Format)?;
    table.insert(key, bytes.as_slice())?;
    Ok(())
}

/// Keys and values whose keys begin like this, in the order of their keys.
fn with_prefix(
    table: &impl ReadableTable<&'static [u8], &'static [u8]>,
    prefix: &[u8],
) -> Result<std::vec::IntoIter<Pair>, ReplicaError> {
    let mut found = Vec::new();
    for item in table.range(prefix..)? {
        let (key, value) = item?;
        if !key.value().starts_with(prefix) {
            break;
        }
        found.push((key.value().to_vec(), value.value().to_vec()));
    }
    Ok(found.into_iter())
}

/// What was followed, by place.
const RECORDS: Table = TableDefinition::new("records");
/// What was fetched and is newer than what is applied, by place.
const AHEAD: Table = TableDefinition::new("ahead");
/// A key's name, a zero, its id.
const NAMES: Table = TableDefinition::new("names");
/// A host name, a zero, the id of a key that is served for it.
const HOSTS: Table = TableDefinition::new("hosts");
const META: Table = TableDefinition::new("meta");

const OWNER: &[u8] = b"owner";
const APPLIED: &[u8] = b"applied";
const HEAD: &[u8] = b"head";
const LEASE: &[u8] = b"lease";

const FORMAT: u32 = 1;
const MODE: u32 = 0o600;
