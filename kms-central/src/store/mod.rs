//! Where central keeps its state: a small trait, and two real stores behind it.
//!
//! Knows keys, values and revisions of a store, and nothing of what they mean. Invariant: what [`StateStore::txn`]
//! answered with [`Committed::At`] outlives a crash, and a watch tells of each transaction once, whole, in order.

mod error;
mod etcd;
mod redb;

use std::{collections::BTreeSet, future::Future};

pub use error::StoreError;
pub use etcd::{EtcdConfig, EtcdStore};
pub use redb::RedbStore;

/// A key below the store's own prefix.
pub type Key = Vec<u8>;

/// A value with the store's revision that last wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The value.
    pub value: Vec<u8>,
    /// The store's own revision.
    pub modified: u64,
}

impl Stored {
    /// What a watch tells of a key that was deleted. Central deletes nothing, and writes no empty value.
    pub(crate) fn deletion(modified: u64) -> Self {
        Self {
            value: Vec::new(),
            modified,
        }
    }

    /// Whether somebody deleted it.
    pub(crate) fn is_deletion(&self) -> bool {
        self.value.is_empty()
    }
}

/// What must hold for a transaction to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// Nothing is there.
    Absent,
    /// It was last written at this revision of the store.
    At(u64),
}

/// Writes that are done together or not at all. Nothing is ever deleted.
#[derive(Clone, Debug, Default)]
pub struct Txn {
    /// What must hold.
    pub guards: Vec<(Key, Guard)>,
    /// What is written, each key once; at least one, at most [`PUTS_MAX`] and [`BYTES_MAX`].
    pub puts: Vec<(Key, Vec<u8>)>,
}

impl Txn {
    /// What one store would take and the other would not is refused by both, before it is sent.
    fn check(&self) -> Result<(), StoreError> {
        let bytes = |(key, value): &(Key, Vec<u8>)| key.len() + value.len();
        if self.puts.len() > PUTS_MAX || self.puts.iter().map(bytes).sum::<usize>() > BYTES_MAX {
            return Err(StoreError::TooLarge);
        }
        let keys: BTreeSet<&Key> = self.puts.iter().map(|(key, _)| key).collect();
        if keys.is_empty() || keys.len() < self.puts.len() {
            return Err(StoreError::Malformed);
        }
        Ok(())
    }
}

/// What became of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Committed {
    /// Done, at this revision of the store.
    At(u64),
    /// A guard did not hold, and nothing was written.
    Conflict,
}

/// One page of a scan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Keys with their values, in order.
    pub items: Vec<(Key, Stored)>,
    /// The store's revision that this was read at.
    pub revision: u64,
    /// Whether there is more behind the last key.
    pub more: bool,
}

/// One transaction, as a watch tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The store's revision.
    pub revision: u64,
    /// Everything that it wrote; what somebody else deleted has an empty value.
    pub changes: Vec<(Key, Stored)>,
}

/// Why a watch ended.
#[derive(Debug, thiserror::Error)]
pub enum WatchEnd {
    /// The store cannot tell what came since: scan anew. It was compacted, or it is behind what was asked for, since a
    /// backup was restored. A restored store that was written past that point is not seen here, but by whoever numbers
    /// what is written.
    #[error("the store cannot tell of changes before revision {at}")]
    Compacted {
        /// It tells of changes from here on.
        at: u64,
    },
    /// The store is away: watch again from the next revision.
    #[error("the watch was lost")]
    Lost(#[source] StoreError),
}

/// What central needs of a store.
pub trait StateStore: Send + Sync + 'static {
    /// Reads one value, after every transaction that was acknowledged to anybody before.
    fn get(&self, key: &[u8]) -> impl Future<Output = Result<Option<Stored>, StoreError>> + Send;

    /// Reads a range in pages: from `from` to before `to`, at most `limit` and at least one. With `at`, as it was at that
    /// revision. Ranges that are open behind are slow in etcd, which counts what is in them for each page.
    ///
    /// # Errors
    /// [`StoreError::Forgotten`] when that revision was compacted away, [`StoreError::NotYet`] when it has not come.
    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        at: Option<u64>,
        limit: usize,
    ) -> impl Future<Output = Result<Page, StoreError>> + Send;

    /// Writes.
    ///
    /// # Errors
    /// [`StoreError::Unknown`] when it may have been done: read to find out. After any other nothing was written.
    fn txn(&self, txn: Txn) -> impl Future<Output = Result<Committed, StoreError>> + Send;

    /// Tells of every transaction from this revision of the store on.
    fn watch(&self, from: u64) -> impl Future<Output = Result<Watch, StoreError>> + Send;

    /// What it is, for people.
    fn describe(&self) -> String;
}

/// Transactions as they come.
pub struct Watch(Source);

enum Source {
    Redb(redb::RedbWatch),
    Etcd(Box<etcd::EtcdWatch>),
}

impl Watch {
    /// The next transaction. Safe to drop and call again: nothing is lost by that.
    ///
    /// # Errors
    /// [`WatchEnd`]; the watch is then of no use any more.
    pub async fn next(&mut self) -> Result<Event, WatchEnd> {
        match &mut self.0 {
            Source::Redb(watch) => watch.next().await,
            Source::Etcd(watch) => watch.next().await,
        }
    }
}

/// Either of the two.
pub enum AnyStore {
    /// A file on this machine.
    Redb(RedbStore),
    /// A cluster.
    Etcd(Box<EtcdStore>),
}

impl StateStore for AnyStore {
    async fn get(&self, key: &[u8]) -> Result<Option<Stored>, StoreError> {
        match self {
            Self::Redb(store) => store.get(key).await,
            Self::Etcd(store) => store.get(key).await,
        }
    }

    async fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        at: Option<u64>,
        limit: usize,
    ) -> Result<Page, StoreError> {
        match self {
            Self::Redb(store) => store.scan(from, to, at, limit).await,
            Self::Etcd(store) => store.scan(from, to, at, limit).await,
        }
    }

    async fn txn(&self, txn: Txn) -> Result<Committed, StoreError> {
        match self {
            Self::Redb(store) => store.txn(txn).await,
            Self::Etcd(store) => store.txn(txn).await,
        }
    }

    async fn watch(&self, from: u64) -> Result<Watch, StoreError> {
        match self {
            Self::Redb(store) => store.watch(from).await,
            Self::Etcd(store) => store.watch(from).await,
        }
    }

    fn describe(&self) -> String {
        match self {
            Self::Redb(store) => store.describe(),
            Self::Etcd(store) => store.describe(),
        }
    }
}

/// The most that a transaction may write: etcd takes 128 operations.
pub const PUTS_MAX: usize = 110;
/// The most bytes of keys and values in a transaction: etcd takes requests of 1.5 MiB.
pub const BYTES_MAX: usize = 1_000_000;
