//! One file on this machine, in one process.
//!
//! A revision counts transactions; a table of changes lets a watch resume. Each transaction is on the disk before it is
//! acknowledged. What waits for the disk runs on blocking threads.

use std::{
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard},
};

use redb::{
    Database, ReadableDatabase as _, ReadableTable as _, StorageError, TableDefinition,
    TransactionError, WriteTransaction, backends::FileBackend,
};
use tokio::sync::watch;

use super::{
    Committed, Event, Guard, Key, PUTS_MAX, Page, Source, StateStore, StoreError, Stored, Txn,
    Watch, WatchEnd,
};

/// Values by key, each behind the revision that wrote it.
const DATA: TableDefinition<'_, &[u8], (u64, &[u8])> = TableDefinition::new("data");
/// What each revision wrote: postcard of the keys.
const CHANGES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("changes");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const REVISION: &str = "revision";
/// The first revision whose changes are still known.
const KNOWN_FROM: &str = "known-from";

/// The file. Clones are the same.
#[derive(Clone)]
pub struct RedbStore(Arc<Inner>);

struct Inner {
    path: PathBuf,
    cache_bytes: usize,
    /// None after a failed write, until it was opened anew: redb does not go on after one.
    database: RwLock<Option<Database>>,
    latest: watch::Sender<u64>,
}

impl RedbStore {
    /// Opens the file, or makes it, readable for its owner alone.
    ///
    /// # Errors
    /// [`StoreError::Open`] when another process has it, or it cannot be read.
    pub fn open(path: &Path, cache_bytes: usize) -> Result<Self, StoreError> {
        let database = open_file(path, cache_bytes)?;
        let (latest, _) = watch::channel(prepare(&database)?);
        Ok(Self(Arc::new(Inner {
            path: path.to_owned(),
            cache_bytes,
            database: RwLock::new(Some(database)),
            latest,
        })))
    }

    /// Forgets changes before this revision, as a store that keeps them for a time does.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn compact(&self, before: u64) -> Result<(), StoreError> {
        let held = self.0.open()?;
        let database = held.as_ref().ok_or_else(closed)?;
        let write = database.begin_write().map_err(begin)?;
        {
            let mut changes = write.open_table(CHANGES).map_err(table)?;
            changes
                .retain(|revision, _| revision >= before)
                .map_err(storage)?;
            let mut meta = write.open_table(META).map_err(table)?;
            meta.insert(KNOWN_FROM, before).map_err(storage)?;
        }
        write.commit().map_err(commit)
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let inner = Arc::clone(&self.0);
        tokio::task::spawn_blocking(move || {
            let done = work(&inner);
            if let Err(
                StoreError::Full { .. }
                | StoreError::Unavailable { .. }
                | StoreError::Unknown { .. },
            ) = done
            {
                inner.close();
            }
            done
        })
        .await
        .unwrap_or_else(|error| {
            Err(StoreError::Unknown {
                source: error.into(),
            })
        })
    }
}

impl Inner {
    /// The open file; opened anew when a failure closed it.
    fn open(&self) -> Result<RwLockReadGuard<'_, Option<Database>>, StoreError> {
        let held = self.database.read().unwrap_or_else(PoisonError::into_inner);
        if held.is_some() {
            return Ok(held);
        }
        drop(held);
        let mut lost = self
            .database
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if lost.is_none() {
            let database = open_file(&self.path, self.cache_bytes)?;
            // What was not known to be written may have been.
            self.latest.send_replace(prepare(&database)?);
            *lost = Some(database);
        }
        drop(lost);
        Ok(self.database.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Lets go of the file after a failure.
    fn close(&self) {
        *self
            .database
            .write()
            .unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn write(&self, txn: &Txn) -> Result<Committed, StoreError> {
        let held = self.open()?;
        let write = held
            .as_ref()
            .ok_or_else(closed)?
            .begin_write()
            .map_err(begin)?;
        match Self::fill(&write, txn)? {
            None => {
                write.abort().map_err(storage)?;
                Ok(Committed::Conflict)
            }
            Some(revision) => {
                write.commit().map_err(commit)?;
                self.latest.send_replace(revision);
                Ok(Committed::At(revision))
            }
        }
    }

    fn fill(write: &WriteTransaction, txn: &Txn) -> Result<Option<u64>, StoreError> {
        let mut data = write.open_table(DATA).map_err(table)?;
        for (key, guard) in &txn.guards {
            let found = data.get(key.as_slice()).map_err(storage)?;
            let found = found.map(|value| value.value().0);
            let holds = match guard {
                Guard::Absent => found.is_none(),
                Guard::At(revision) => found == Some(*revision),
            };
            if !holds {
                return Ok(None);
            }
        }
        let mut meta = write.open_table(META).map_err(table)?;
        let revision = 1 + meta
            .get(REVISION)
            .map_err(storage)?
            .map_or(0, |revision| revision.value());
        for (key, value) in &txn.puts {
            data.insert(key.as_slice(), (revision, value.as_slice()))
                .map_err(storage)?;
        }
        let keys: Vec<&Key> = txn.puts.iter().map(|(key, _)| key).collect();
        let keys = postcard::to_stdvec(&keys).map_err(|_| StoreError::TooLarge)?;
        let mut changes = write.open_table(CHANGES).map_err(table)?;
        changes.insert(revision, keys.as_slice()).map_err(storage)?;
        meta.insert(REVISION, revision).map_err(storage)?;
        if let Some(old) = revision.checked_sub(CHANGES_KEPT) {
            changes.remove(old).map_err(storage)?;
            meta.insert(KNOWN_FROM, old + 1).map_err(storage)?;
        }
        Ok(Some(revision))
    }

    fn page(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Page, StoreError> {
        let held = self.open()?;
        let read = held
            .as_ref()
            .ok_or_else(closed)?
            .begin_read()
            .map_err(begin)?;
        let data = read.open_table(DATA).map_err(table)?;
        let meta = read.open_table(META).map_err(table)?;
        let revision = meta
            .get(REVISION)
            .map_err(storage)?
            .map_or(0, |revision| revision.value());
        let mut items = Vec::new();
        let mut more = false;
        for item in data.range(from..to).map_err(storage)? {
            let (key, value) = item.map_err(storage)?;
            if items.len() == limit {
                more = true;
                break;
            }
            items.push((key.value().to_vec(), stored(value.value())));
        }
        Ok(Page {
            items,
            revision,
            more,
        })
    }

    /// What a revision wrote, as far as nothing later has replaced it: whoever follows hears of that later.
    fn event(&self, revision: u64) -> Result<Result<Event, u64>, StoreError> {
        let held = self.open()?;
        let read = held
            .as_ref()
            .ok_or_else(closed)?
            .begin_read()
            .map_err(begin)?;
        let meta = read.open_table(META).map_err(table)?;
        let known_from = meta
            .get(KNOWN_FROM)
            .map_err(storage)?
            .map_or(1, |revision| revision.value());
        if revision < known_from {
            return Ok(Err(known_from));
        }
        let changes = read.open_table(CHANGES).map_err(table)?;
        let Some(keys) = changes.get(revision).map_err(storage)? else {
            return Err(StoreError::Corrupt {
                what: "a revision is missing from the changes",
                source: None,
            });
        };
        let keys: Vec<Key> =
            postcard::from_bytes(keys.value()).map_err(|error| StoreError::Corrupt {
                what: "a list of changes cannot be read",
                source: Some(error.into()),
            })?;
        let data = read.open_table(DATA).map_err(table)?;
        let mut found = Vec::with_capacity(keys.len());
        for key in keys {
            if let Some(value) = data.get(key.as_slice()).map_err(storage)? {
                found.push((key, stored(value.value())));
            }
        }
        Ok(Ok(Event {
            revision,
            changes: found,
        }))
    }
}

impl StateStore for RedbStore {
    async fn get(&self, key: &[u8]) -> Result<Option<Stored>, StoreError> {
        let key = key.to_vec();
        self.blocking(move |inner| {
            let held = inner.open()?;
            let read = held
                .as_ref()
                .ok_or_else(closed)?
                .begin_read()
                .map_err(begin)?;
            let data = read.open_table(DATA).map_err(table)?;
            let found = data.get(key.as_slice()).map_err(storage)?;
            Ok(found.map(|value| stored(value.value())))
        })
        .await
    }

    async fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        _at: Option<u64>,
        limit: usize,
    ) -> Result<Page, StoreError> {
        let (from, to) = (from.to_vec(), to.to_vec());
        self.blocking(move |inner| inner.page(&from, &to, limit))
            .await
    }

    async fn txn(&self, txn: Txn) -> Result<Committed, StoreError> {
        if txn.puts.len() > PUTS_MAX {
            return Err(StoreError::TooLarge);
        }
        self.blocking(move |inner| inner.write(&txn)).await
    }

    async fn watch(&self, from: u64) -> Result<Watch, StoreError> {
        Ok(Watch(Source::Redb(RedbWatch {
            store: self.clone(),
            latest: self.0.latest.subscribe(),
            next: from.max(1),
        })))
    }

    fn describe(&self) -> String {
        format!("redb, {}", self.0.path.display())
    }
}

/// A watch on the file.
pub(super) struct RedbWatch {
    store: RedbStore,
    latest: watch::Receiver<u64>,
    next: u64,
}

impl RedbWatch {
    pub(super) async fn next(&mut self) -> Result<Event, WatchEnd> {
        let next = self.next;
        // The sender lives in the store, which we hold.
        let _ = self.latest.wait_for(|latest| *latest >= next).await;
        let event = self.store.blocking(move |inner| inner.event(next)).await;
        match event.map_err(WatchEnd::Lost)? {
            Ok(event) => {
                self.next += 1;
                Ok(event)
            }
            Err(at) => Err(WatchEnd::Compacted { at }),
        }
    }
}

fn open_file(path: &Path, cache_bytes: usize) -> Result<Database, StoreError> {
    let failed = |remedy: &'static str| {
        move |source: Box<dyn std::error::Error + Send + Sync>| StoreError::Open {
            path: path.to_owned(),
            remedy,
            source,
        }
    };
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(|error| failed("check the folder and its permissions")(error.into()))?;
    let file = FileBackend::new(file).map_err(|error| failed(remedy_for(&error))(error.into()))?;
    Database::builder()
        .set_cache_size(cache_bytes)
        .create_with_backend(file)
        .map_err(|error| failed(remedy_for(&error))(error.into()))
}

/// Makes what tables are missing; the revision that it is at.
fn prepare(database: &Database) -> Result<u64, StoreError> {
    let write = database.begin_write().map_err(begin)?;
    let revision = {
        write.open_table(DATA).map_err(table)?;
        write.open_table(CHANGES).map_err(table)?;
        let meta = write.open_table(META).map_err(table)?;
        meta.get(REVISION)
            .map_err(storage)?
            .map_or(0, |revision| revision.value())
    };
    write.commit().map_err(commit)?;
    Ok(revision)
}

/// Between a failure and the next opening.
fn closed() -> StoreError {
    StoreError::Unavailable {
        doing: "opening its file again",
        source: "the file was closed after a failure".into(),
    }
}

fn stored((modified, value): (u64, &[u8])) -> Stored {
    Stored {
        value: value.to_vec(),
        modified,
    }
}

fn remedy_for(error: &redb::DatabaseError) -> &'static str {
    match error {
        redb::DatabaseError::DatabaseAlreadyOpen => {
            "another process has it: one kms-central for each file; several need etcd"
        }
        redb::DatabaseError::UpgradeRequired(_) => {
            "it is of an older format: restore a backup with the old program"
        }
        _ => "check its disk and permissions",
    }
}

fn is_full(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded
    )
}

fn storage(error: StorageError) -> StoreError {
    match error {
        StorageError::Io(source) if is_full(&source) => StoreError::Full {
            source: source.into(),
        },
        StorageError::Corrupted(_) => StoreError::Corrupt {
            what: "its pages do not check",
            source: Some(error.into()),
        },
        // After a failed write redb wants to be opened anew before it goes on.
        other => StoreError::Unavailable {
            doing: "reading or writing its file",
            source: other.into(),
        },
    }
}

fn begin(error: TransactionError) -> StoreError {
    match error {
        TransactionError::Storage(error) => storage(error),
        other => StoreError::Unavailable {
            doing: "beginning a transaction",
            source: other.into(),
        },
    }
}

fn table(error: redb::TableError) -> StoreError {
    match error {
        redb::TableError::Storage(error) => storage(error),
        other => StoreError::Corrupt {
            what: "a table is missing or another one",
            source: Some(other.into()),
        },
    }
}

fn commit(error: redb::CommitError) -> StoreError {
    match error {
        redb::CommitError::Storage(error) => match storage(error) {
            StoreError::Unavailable { source, .. } => StoreError::Unknown { source },
            other => other,
        },
        other => StoreError::Unknown {
            source: other.into(),
        },
    }
}

/// Revisions whose changes are kept for watches that resume.
const CHANGES_KEPT: u64 = 100_000;
