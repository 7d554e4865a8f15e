//! One suite for both stores, and drills over a real cluster: leader killed, minority away, watch compacted, everything
//! restarted, a snapshot restored.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../../tests/src/etcd.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    reason = "shared with the system tests"
)]
mod etcd;

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use etcd::{EtcdCluster, EtcdPlace};
use keyhaven_kms_central::store::{
    AnyStore, Committed, EtcdConfig, EtcdStore, Event, Guard, RedbStore, StateStore, StoreError,
    Txn, WatchEnd,
};
use tempfile::TempDir;

fn put(guards: &[(&str, Guard)], puts: &[(&str, &str)]) -> Txn {
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

async fn value(store: &AnyStore, name: &str) -> Option<(String, u64)> {
    let stored = store.get(name.as_bytes()).await.unwrap()?;
    Some((String::from_utf8(stored.value).unwrap(), stored.modified))
}

fn at(committed: Committed) -> u64 {
    match committed {
        Committed::At(revision) => revision,
        Committed::Conflict => panic!("a conflict"),
    }
}

async fn write(store: &AnyStore, name: &str, text: &str) -> u64 {
    at(store.txn(put(&[], &[(name, text)])).await.unwrap())
}

fn told(event: &Event) -> Vec<String> {
    let keys = event.changes.iter();
    let mut keys: Vec<String> = keys
        .map(|(key, _)| String::from_utf8(key.clone()).unwrap())
        .collect();
    keys.sort();
    keys
}

/// Everything that central rests on.
async fn conforms(store: Arc<AnyStore>) {
    let (first, second) = guards(&store).await;
    watches(&store, first, second).await;
    pages(&store).await;
    no_update_is_lost(&store).await;
    let names: Vec<String> = (0..200).map(|number| number.to_string()).collect();
    let too_much: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "")).collect();
    let refused = store.txn(put(&[], &too_much)).await;
    assert!(matches!(refused, Err(StoreError::TooLarge)));
}

/// Absence, another revision, the right one; nothing is written when one does not hold.
async fn guards(store: &AnyStore) -> (u64, u64) {
    assert_eq!(value(store, "a").await, None);
    let first = put(&[("a", Guard::Absent)], &[("a", "1"), ("b", "1")]);
    let first = at(store.txn(first).await.unwrap());
    assert_eq!(value(store, "a").await, Some(("1".to_owned(), first)));
    for guard in [Guard::Absent, Guard::At(first + 1), Guard::At(first - 1)] {
        let refused = store.txn(put(&[("a", guard)], &[("b", "2"), ("c", "2")]));
        assert_eq!(refused.await.unwrap(), Committed::Conflict, "{guard:?}");
    }
    assert_eq!(value(store, "c").await, None);
    let second = put(&[("a", Guard::At(first))], &[("a", "2")]);
    let second = at(store.txn(second).await.unwrap());
    assert!(second > first);
    assert_eq!(value(store, "b").await, Some(("1".to_owned(), first)));
    (first, second)
}

/// From the past, each transaction once, whole, in order; then what comes.
async fn watches(store: &AnyStore, first: u64, second: u64) {
    let mut watch = store.watch(first).await.unwrap();
    let event = watch.next().await.unwrap();
    assert_eq!(event.revision, first);
    assert!(told(&event).contains(&"b".to_owned()));
    let event = watch.next().await.unwrap();
    assert_eq!(
        (event.revision, told(&event)),
        (second, vec!["a".to_owned()])
    );
    let third = put(&[], &[("x/1", "x"), ("x/2", "x")]);
    let third = at(store.txn(third).await.unwrap());
    let event = watch.next().await.unwrap();
    let both = vec!["x/1".to_owned(), "x/2".to_owned()];
    assert_eq!((event.revision, told(&event)), (third, both));
}

/// Each key of a range once, though others write meanwhile.
async fn pages(store: &AnyStore) {
    for number in 0..25 {
        write(store, &format!("page/{number:02}"), "v").await;
    }
    let (mut from, mut seen, mut pinned) = (b"page/".to_vec(), Vec::new(), None);
    loop {
        let page = store.scan(&from, b"page0", pinned, 10).await.unwrap();
        pinned = Some(page.revision);
        write(store, "page/05", "later").await;
        seen.extend(page.items.iter().map(|(key, _)| key.clone()));
        if !page.more {
            break;
        }
        from = [page.items.last().unwrap().0.as_slice(), &[0]].concat();
    }
    assert_eq!(seen.len(), 25);
    assert!(seen.is_sorted());
}

/// Eight writers that each add ten under a guard.
async fn no_update_is_lost(store: &Arc<AnyStore>) {
    write(store, "sum", "0").await;
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let store = store.clone();
        writers.spawn(async move {
            let mut left = 10;
            while left > 0 {
                let (text, modified) = value(&store, "sum").await.unwrap();
                let next = (text.parse::<u64>().unwrap() + 1).to_string();
                let txn = put(&[("sum", Guard::At(modified))], &[("sum", &next)]);
                if matches!(store.txn(txn).await.unwrap(), Committed::At(_)) {
                    left -= 1;
                }
            }
        });
    }
    while let Some(done) = writers.join_next().await {
        done.unwrap();
    }
    assert_eq!(value(store, "sum").await.unwrap().0, "80");
}

fn redb(dir: &Path) -> RedbStore {
    RedbStore::open(&dir.join("store.redb"), 1024 * 1024).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn redb_conforms() {
    let dir = TempDir::new().unwrap();
    conforms(Arc::new(AnyStore::Redb(redb(dir.path())))).await;
}

#[tokio::test]
async fn redb_is_for_one_process_and_keeps_what_it_acknowledged() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("store.redb");
    let store = AnyStore::Redb(redb(dir.path()));
    let revision = write(&store, "a", "1").await;
    let again = RedbStore::open(&path, 1024 * 1024);
    let error = again.err().unwrap().to_string();
    assert!(error.contains("another process"), "{error}");
    let mode = path.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    drop(store);
    let store = AnyStore::Redb(redb(dir.path()));
    assert_eq!(value(&store, "a").await, Some(("1".to_owned(), revision)));
    assert!(write(&store, "a", "2").await > revision);
}

#[tokio::test]
async fn redb_says_what_it_has_forgotten() {
    let dir = TempDir::new().unwrap();
    let store = redb(dir.path());
    for _ in 0..5 {
        store.txn(put(&[], &[("a", "1")])).await.unwrap();
    }
    store.compact(4).unwrap();
    let mut watch = store.watch(2).await.unwrap();
    let ended = watch.next().await;
    assert!(
        matches!(ended, Err(WatchEnd::Compacted { at: 4 })),
        "{ended:?}"
    );
    let mut watch = store.watch(4).await.unwrap();
    assert_eq!(watch.next().await.unwrap().revision, 4);
}

/// A small file system that can be full.
struct Tmpfs(TempDir);

impl Tmpfs {
    fn new(size: &str) -> Tmpfs {
        let dir = TempDir::new().unwrap();
        let status = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(dir.path())
            .status();
        let mounted = status.is_ok_and(|status| status.success());
        assert!(mounted, "mounting needs root");
        Tmpfs(dir)
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount")
            .arg(self.0.path())
            .status();
    }
}

#[tokio::test]
async fn redb_on_a_full_disk_loses_nothing_and_goes_on_when_there_is_room() {
    let disk = Tmpfs::new("12m");
    let ballast = disk.0.path().join("ballast");
    let store = AnyStore::Redb(redb(disk.0.path()));
    let large = "x".repeat(100_000);
    for number in 0..5 {
        write(&store, &format!("k/{number}"), &large).await;
    }
    // The rest of the disk is taken away.
    let mut size = 12 * 1024 * 1024;
    while std::fs::write(&ballast, vec![0_u8; size]).is_err() {
        size -= 64 * 1024;
    }
    let mut acknowledged = 5;
    let error = loop {
        let name = format!("k/{acknowledged}");
        match store.txn(put(&[], &[(&name, &large)])).await {
            Ok(committed) => drop(at(committed)),
            Err(error) => break error,
        }
        acknowledged += 1;
        assert!(acknowledged < 1000, "the disk does not fill up");
    };
    let is_said = matches!(
        error,
        StoreError::Full { .. } | StoreError::Unavailable { .. } | StoreError::Unknown { .. }
    );
    assert!(is_said, "{error:?}");
    std::fs::remove_file(&ballast).unwrap();
    write(&store, "after", "1").await;
    for number in 0..acknowledged {
        let name = format!("k/{number}");
        assert!(value(&store, &name).await.is_some(), "{name} is lost");
    }
    drop(store);
    let store = AnyStore::Redb(redb(disk.0.path()));
    assert_eq!(value(&store, "after").await.unwrap().0, "1");
}

async fn connect(cluster: &EtcdCluster) -> Arc<AnyStore> {
    let central = cluster.central();
    let config = EtcdConfig {
        endpoints: cluster.endpoints(),
        ca: cluster.ca(),
        certificate: central.certificate,
        key: central.key,
        prefix: "/kms/".to_owned(),
        timeout: Duration::from_secs(3),
    };
    let store = EtcdStore::connect(&config).await.unwrap();
    Arc::new(AnyStore::Etcd(Box::new(store)))
}

fn cluster() -> (TempDir, EtcdCluster) {
    let dir = TempDir::new().unwrap();
    let cluster = EtcdCluster::start(dir.path(), EtcdPlace::local());
    (dir, cluster)
}

#[tokio::test(flavor = "multi_thread")]
async fn etcd_conforms() {
    let (_dir, cluster) = cluster();
    conforms(connect(&cluster).await).await;
}

fn number(value: &[u8]) -> u64 {
    std::str::from_utf8(value).unwrap().parse().unwrap()
}

/// Writes numbers one after the other, each guarded by the one before; gives those that are known to be written.
async fn write_numbers(store: Arc<AnyStore>, until: Instant) -> Vec<u64> {
    let (mut acknowledged, mut next) = (Vec::new(), 1_u64);
    while Instant::now() < until {
        let Ok(found) = store.get(b"head").await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let last = found.as_ref().map_or(0, |stored| number(&stored.value));
        if last == next {
            // It was done though nobody said so.
            acknowledged.push(next);
            next += 1;
        }
        assert_eq!(last, next - 1, "a number was lost, or written by nobody");
        let guard = found.map_or(Guard::Absent, |stored| Guard::At(stored.modified));
        let (name, text) = (format!("n/{next:06}"), next.to_string());
        let txn = put(&[("head", guard)], &[("head", &text), (&name, &text)]);
        match store.txn(txn).await {
            Ok(Committed::At(_)) => {
                acknowledged.push(next);
                next += 1;
            }
            Ok(Committed::Conflict) | Err(_) => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    acknowledged
}

/// Follows from the start, through every loss of the watch, until the last number has come.
async fn follow_numbers(store: Arc<AnyStore>, last: tokio::sync::watch::Receiver<u64>) -> Vec<u64> {
    let (mut seen, mut from): (Vec<u64>, u64) = (Vec::new(), 1);
    loop {
        let Ok(mut watch) = store.watch(from).await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        loop {
            let next = tokio::time::timeout(Duration::from_millis(500), watch.next()).await;
            match next {
                Ok(Ok(event)) => {
                    from = event.revision + 1;
                    assert_eq!(event.changes.len(), 2, "a transaction in parts");
                    let numbers = event
                        .changes
                        .iter()
                        .filter(|(key, _)| key.starts_with(b"n/"));
                    seen.extend(numbers.map(|(_, stored)| number(&stored.value)));
                }
                Ok(Err(_)) => break,
                Err(_) => {}
            }
            let end = *last.borrow();
            if end > 0 && seen.last().is_some_and(|seen| *seen >= end) {
                return seen;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_killed_under_load_loses_nothing_acknowledged_and_the_watch_has_no_gap() {
    let (_dir, mut cluster) = cluster();
    let store = connect(&cluster).await;
    let (tell, last) = tokio::sync::watch::channel(0);
    let follower = tokio::spawn(follow_numbers(connect(&cluster).await, last));
    let until = Instant::now() + Duration::from_secs(12);
    let writer = tokio::spawn(write_numbers(store.clone(), until));
    tokio::time::sleep(Duration::from_secs(2)).await;
    let leader = cluster.leader();
    cluster.kill(leader);
    let acknowledged = writer.await.unwrap();
    let end = *acknowledged.last().unwrap();
    assert_eq!(acknowledged, (1..=end).collect::<Vec<_>>());
    for number in &acknowledged {
        let name = format!("n/{number:06}");
        assert!(value(&store, &name).await.is_some(), "{number} is lost");
    }
    // The last write may have been done without a word.
    tell.send_replace(end);
    let mut seen = follower.await.unwrap();
    seen.truncate(acknowledged.len());
    assert_eq!(seen, acknowledged, "a gap, or something twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_minority_away_changes_nothing_and_a_majority_away_is_said() {
    let (_dir, cluster) = cluster();
    let store = connect(&cluster).await;
    write(&store, "a", "1").await;
    let leader = cluster.leader();
    let (one, two) = ((leader + 1) % 3, (leader + 2) % 3);
    cluster.hold(one);
    let deadline = Instant::now() + Duration::from_secs(20);
    while store.txn(put(&[], &[("a", "2")])).await.is_err() {
        assert!(Instant::now() < deadline, "two of three do not suffice");
    }
    cluster.hold(two);
    let began = Instant::now();
    let refused = store.txn(put(&[], &[("a", "3")])).await;
    assert!(refused.is_err(), "{refused:?}");
    assert!(began.elapsed() < Duration::from_secs(10));
    let read = store.get(b"a").await;
    assert!(
        matches!(read, Err(StoreError::Unavailable { .. })),
        "{read:?}"
    );
    cluster.release(one);
    cluster.release(two);
    let deadline = Instant::now() + Duration::from_secs(20);
    while store.get(b"a").await.is_err() {
        assert!(Instant::now() < deadline, "it does not come back");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let (text, _) = value(&store, "a").await.unwrap();
    assert!(["2", "3"].contains(&text.as_str()), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compacted_watch_says_so_and_can_be_begun_anew_from_a_scan() {
    let (_dir, cluster) = cluster();
    let store = connect(&cluster).await;
    let mut last = 0;
    for number in 0..5 {
        last = write(&store, "a", &number.to_string()).await;
    }
    cluster.compact(last);
    let mut watch = store.watch(last - 3).await.unwrap();
    let ended = watch.next().await;
    assert!(
        matches!(ended, Err(WatchEnd::Compacted { .. })),
        "{ended:?}"
    );
    let page = store.scan(b"", b"~", None, 100).await.unwrap();
    assert_eq!(page.items.len(), 1);
    let mut watch = store.watch(page.revision + 1).await.unwrap();
    let next = write(&store, "a", "new").await;
    assert_eq!(watch.next().await.unwrap().revision, next);
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_there_after_a_full_restart_and_older_after_a_restored_snapshot() {
    let (dir, mut cluster) = cluster();
    let store = connect(&cluster).await;
    write(&store, "a", "before").await;
    let snapshot = dir.path().join("snapshot.db");
    cluster.snapshot(&snapshot);
    write(&store, "filler", "x").await;
    let later = write(&store, "a", "after").await;
    cluster.kill_all();
    assert!(store.get(b"a").await.is_err());
    cluster.start_all();
    assert_eq!(value(&store, "a").await, Some(("after".to_owned(), later)));
    cluster.kill_all();
    cluster.restore(&snapshot);
    let (text, modified) = value(&store, "a").await.unwrap();
    assert_eq!(text, "before");
    assert!(modified < later, "whoever compares sees that it went back");
    let again = put(&[("a", Guard::At(modified))], &[("a", "again")]);
    at(store.txn(again).await.unwrap());
}
