//! One file on this machine, in one process.
//!
//! A revision counts transactions; a table of changes lets a watch resume. What waits for the disk runs on blocking
//! threads. Invariant: a transaction is on the disk before it is acknowledged.

mod fault;
mod file;
mod tables;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard},
};

use redb::{Database, ReadTransaction, ReadableDatabase as _};
use tokio::sync::watch;

use self::{
    fault::{begin, commit, storage},
    file::Missing,
};
use super::{Committed, Event, Page, Source, StateStore, StoreError, Stored, Txn, Watch, WatchEnd};

/// The file. Clones are the same.
#[derive(Clone)]
pub struct RedbStore(Arc<Inner>);

struct Inner {
    path: PathBuf,
    cache_bytes: usize,
    /// None after a failure, until it was opened anew: redb does not go on after one.
    database: RwLock<Option<Database>>,
    latest: watch::Sender<u64>,
}

impl RedbStore {
    /// Opens the file, or makes it, readable for its owner alone. At most `cache_bytes` of it are kept in memory.
    ///
    /// # Errors
    /// [`StoreError::Open`] when another process has it, or it cannot be read.
    pub fn open(path: &Path, cache_bytes: usize) -> Result<Self, StoreError> {
        let (database, revision) = file::open(path, cache_bytes, Missing::Make)?;
        let (latest, _) = watch::channel(revision);
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
        tables::forget(&write, before)?;
        write.commit().map_err(commit)
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let inner = Arc::clone(&self.0);
        let done = tokio::task::spawn_blocking(move || {
            let done = work(&inner);
            if let Err(StoreError::Full { .. } | StoreError::Unavailable { .. }) = done {
                inner.close();
            }
            done
        });
        done.await.unwrap_or_else(|error| {
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
            let (database, revision) = file::open(&self.path, self.cache_bytes, Missing::Refuse)?;
            // What was not known to be written may have been.
            self.latest.send_replace(revision);
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

    fn read<T>(
        &self,
        work: impl FnOnce(&ReadTransaction) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let held = self.open()?;
        let database = held.as_ref().ok_or_else(closed)?;
        work(&database.begin_read().map_err(begin)?)
    }

    fn write(&self, txn: &Txn) -> Result<Committed, StoreError> {
        let held = self.open()?;
        let database = held.as_ref().ok_or_else(closed)?;
        let write = database.begin_write().map_err(begin)?;
        let Some(revision) = tables::fill(&write, txn)? else {
            write.abort().map_err(storage)?;
            return Ok(Committed::Conflict);
        };
        if let Err(error) = write.commit() {
            drop(held);
            return Err(self.after_failed_commit(revision, commit(error)));
        }
        // Writers come here in any order, and the number never goes back.
        self.latest.send_if_modified(|latest| {
            let is_later = *latest < revision;
            *latest = revision.max(*latest);
            is_later
        });
        Ok(Committed::At(revision))
    }

    /// The last write to the disk may have come through before it failed. The file says whether it did.
    fn after_failed_commit(&self, revision: u64, error: StoreError) -> StoreError {
        self.close();
        let is_absent = self.open().is_ok() && *self.latest.borrow() < revision;
        if is_absent {
            return error;
        }
        StoreError::Unknown {
            source: error.into(),
        }
    }
}

impl StateStore for RedbStore {
    async fn get(&self, key: &[u8]) -> Result<Option<Stored>, StoreError> {
        let key = key.to_vec();
        self.blocking(move |inner| inner.read(|read| tables::get(read, &key)))
            .await
    }

    async fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        at: Option<u64>,
        limit: usize,
    ) -> Result<Page, StoreError> {
        let (from, to) = (from.to_vec(), to.to_vec());
        self.blocking(move |inner| {
            inner.read(|read| tables::page(read, (&from, &to), at, limit.max(1)))
        })
        .await
    }

    async fn txn(&self, txn: Txn) -> Result<Committed, StoreError> {
        txn.check()?;
        self.blocking(move |inner| inner.write(&txn)).await
    }

    async fn watch(&self, from: u64) -> Result<Watch, StoreError> {
        let (next, latest) = (from.max(1), self.0.latest.subscribe());
        let now = *latest.borrow();
        Ok(Watch(Source::Redb(RedbWatch {
            store: self.clone(),
            latest,
            next,
            behind: (next > now + 1).then_some(now + 1),
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
    /// What comes next, where more was asked for than has ever been.
    behind: Option<u64>,
}

impl RedbWatch {
    /// Safe to drop and call again.
    pub(super) async fn next(&mut self) -> Result<Event, WatchEnd> {
        if let Some(at) = self.behind {
            return Err(WatchEnd::Compacted { at });
        }
        let next = self.next;
        // The sender lives in the store, which we hold.
        let _ = self.latest.wait_for(|latest| *latest >= next).await;
        let event = self
            .store
            .blocking(move |inner| inner.read(|read| tables::event(read, next)))
            .await;
        match event.map_err(WatchEnd::Lost)? {
            Ok(event) => {
                self.next += 1;
                Ok(event)
            }
            Err(at) => Err(WatchEnd::Compacted { at }),
        }
    }
}

/// Between a failure and the next opening.
fn closed() -> StoreError {
    StoreError::Unavailable {
        doing: "opening its file again",
        source: "the file was closed after a failure".into(),
    }
}
