//! Short words for the tests of the store, and a real etcd to connect to.
//!
//! Asserts what every test takes for granted. Invariant: nothing here knows which of the two stores it talks to.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test file uses its own part"
)]

#[path = "../../../tests/src/etcd.rs"]
#[allow(missing_docs, reason = "shared with the system tests")]
mod etcd;

use std::{path::Path, sync::Arc, time::Duration};

pub use etcd::{EtcdCluster, EtcdPair, EtcdPlace};
use keyhaven_kms_central::store::{
    AnyStore, Committed, EtcdConfig, EtcdStore, Event, Guard, RedbStore, StateStore as _, Txn,
    Watch, WatchEnd,
};
use tempfile::TempDir;
use tokio::time::timeout;

/// A transaction.
pub fn put(guards: &[(&str, Guard)], puts: &[(&str, &str)]) -> Txn {
    let key = |name: &str| name.as_bytes().to_vec();
    Txn {
        guards: guards
            .iter()
            .map(|(name, guard)| (key(name), *guard))
            .collect(),
        puts: puts
            .iter()
            .map(|(name, value)| (key(name), key(value)))
            .collect(),
    }
}

/// What stands there, and since when.
pub async fn value(store: &AnyStore, name: &str) -> Option<(String, u64)> {
    let stored = store.get(name.as_bytes()).await.unwrap()?;
    Some((String::from_utf8(stored.value).unwrap(), stored.modified))
}

pub fn at(committed: Committed) -> u64 {
    match committed {
        Committed::At(revision) => revision,
        Committed::Conflict => panic!("a conflict"),
    }
}

/// Writes without a guard.
pub async fn write(store: &AnyStore, name: &str, text: &str) -> u64 {
    at(store.txn(put(&[], &[(name, text)])).await.unwrap())
}

/// The next event, as (key, value) in order; each must be of the event's revision.
pub fn told(event: &Event) -> Vec<(String, String)> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let mut told = Vec::new();
    for (key, stored) in &event.changes {
        assert_eq!(stored.modified, event.revision, "{}", text(key));
        told.push((text(key), text(&stored.value)));
    }
    told.sort();
    told
}

/// What a watch says within ten seconds.
pub async fn next(watch: &mut Watch) -> Result<Event, WatchEnd> {
    let next = timeout(Duration::from_secs(10), watch.next());
    next.await.expect("the watch is silent")
}

pub fn redb(dir: &Path) -> RedbStore {
    RedbStore::open(&dir.join("store.redb"), 1024 * 1024).unwrap()
}

/// As central, with a timeout that a test can wait for.
pub async fn connect(cluster: &EtcdCluster) -> Arc<AnyStore> {
    connect_as(cluster, cluster.central()).await
}

pub async fn connect_as(cluster: &EtcdCluster, pair: EtcdPair) -> Arc<AnyStore> {
    let config = EtcdConfig {
        endpoints: cluster.endpoints(),
        ca: cluster.ca(),
        certificate: pair.certificate,
        key: pair.key,
        prefix: "/kms/".to_owned(),
        timeout: Duration::from_secs(3),
    };
    let store = EtcdStore::connect(&config).await.unwrap();
    Arc::new(AnyStore::Etcd(Box::new(store)))
}

/// Three nodes.
pub fn cluster() -> (TempDir, EtcdCluster) {
    let dir = TempDir::new().unwrap();
    let cluster = EtcdCluster::start(dir.path(), EtcdPlace::local());
    (dir, cluster)
}
