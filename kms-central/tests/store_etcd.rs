//! Drills over a real cluster of three nodes with mutual TLS: what fails in it, and what central is told.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod store_kit;

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use keyhaven_kms_central::store::{
    AnyStore, Committed, Guard, StateStore as _, StoreError, WatchEnd,
};
use store_kit::{
    EtcdCluster, EtcdPlace, at, cluster, connect, connect_as, next, put, told, value, write,
};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

/// Again and again until it is so.
async fn until<F: Future<Output = bool>>(what: &str, mut is_so: impl FnMut() -> F) {
    let deadline = Instant::now() + Duration::from_secs(25);
    while !is_so().await {
        assert!(Instant::now() < deadline, "{what}");
        sleep(Duration::from_millis(100)).await;
    }
}

fn number(value: &[u8]) -> u64 {
    std::str::from_utf8(value).unwrap().parse().unwrap()
}

/// Writes numbers one after the other, each guarded by the one before; gives those that are known to be written.
async fn write_numbers(store: Arc<AnyStore>, until: Instant) -> Vec<u64> {
    let (mut acknowledged, mut next) = (Vec::new(), 1_u64);
    while Instant::now() < until {
        let Ok(found) = store.get(b"head").await else {
            sleep(Duration::from_millis(50)).await;
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
            Ok(Committed::Conflict) | Err(_) => sleep(Duration::from_millis(50)).await,
        }
    }
    acknowledged
}

/// Follows from the start, through every loss of the watch, until the last number has come.
async fn follow_numbers(store: Arc<AnyStore>, last: tokio::sync::watch::Receiver<u64>) -> Vec<u64> {
    let (mut seen, mut from): (Vec<u64>, u64) = (Vec::new(), 1);
    loop {
        let Ok(mut watch) = store.watch(from).await else {
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        loop {
            match timeout(Duration::from_millis(500), watch.next()).await {
                Ok(Ok(event)) => {
                    from = event.revision + 1;
                    let told = told(&event);
                    assert_eq!(told.len(), 2, "a transaction in parts: {told:?}");
                    assert_eq!(told[0].1, told[1].1, "of two transactions");
                    seen.push(number(told[1].1.as_bytes()));
                }
                Ok(Err(WatchEnd::Lost(_))) => break,
                Ok(Err(ended)) => panic!("{ended}"),
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
    let end = Instant::now() + Duration::from_secs(12);
    let writer = tokio::spawn(write_numbers(store.clone(), end));
    until("nothing is written", || async {
        store.get(b"n/000010").await.is_ok_and(|it| it.is_some())
    })
    .await;
    let leader = cluster.leader();
    cluster.kill(leader);
    let before = number(&store.get(b"head").await.unwrap().unwrap().value);
    let acknowledged = writer.await.unwrap();
    let end = *acknowledged.last().unwrap();
    assert!(end > before + 10, "writes did not go on: {before}, {end}");
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
    let first = write(&store, "a", "1").await;
    let leader = cluster.leader();
    let (one, two) = ((leader + 1) % 3, (leader + 2) % 3);
    cluster.hold(one);
    let still = || async { store.txn(put(&[], &[("b", "1")])).await.is_ok() };
    until("two of three do not suffice", still).await;
    let (_, from) = value(&store, "b").await.unwrap();
    let mut watch = store.watch(from + 1).await.unwrap();
    cluster.hold(two);
    let began = Instant::now();
    let guarded = put(&[("a", Guard::At(first))], &[("a", "2")]);
    let fate = store.txn(guarded.clone()).await;
    assert!(matches!(fate, Err(StoreError::Unknown { .. })), "{fate:?}");
    assert!(began.elapsed() < Duration::from_secs(8), "it took too long");
    let read = store.get(b"a").await;
    assert!(
        matches!(read, Err(StoreError::Unavailable { .. })),
        "{read:?}"
    );
    // It may have looked well until the leader noticed that it leads nobody.
    let ended = timeout(Duration::from_secs(15), watch.next()).await;
    let ended = ended.expect("a watch of a minority is silent");
    assert!(matches!(ended, Err(WatchEnd::Lost(_))), "{ended:?}");
    cluster.release(one);
    cluster.release(two);
    let back = || async { store.get(b"a").await.is_ok() };
    until("it does not come back", back).await;
    // Sent again, a guarded write is done once, whichever of the two it was.
    until("a write's fate stays unknown", || async {
        store.txn(guarded.clone()).await.is_ok()
    })
    .await;
    let (text, modified) = value(&store, "a").await.unwrap();
    assert_eq!(text, "2");
    let mut watch = store.watch(first + 1).await.unwrap();
    let mut times = 0;
    loop {
        let event = next(&mut watch).await.unwrap();
        times += told(&event).iter().filter(|it| it.0 == "a").count();
        if event.revision >= modified {
            break;
        }
    }
    assert_eq!(times, 1);
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
    let ended = next(&mut store.watch(last - 3).await.unwrap()).await;
    assert!(
        matches!(ended, Err(WatchEnd::Compacted { at }) if at == last),
        "{ended:?}"
    );
    let page = store.scan(b"", b"~", Some(last - 3), 100).await;
    assert!(
        matches!(page, Err(StoreError::Forgotten { at }) if at == last - 3),
        "{page:?}"
    );
    let page = store.scan(b"", b"~", None, 100).await.unwrap();
    assert_eq!(page.items.len(), 1);
    let mut watch = store.watch(page.revision + 1).await.unwrap();
    let new = write(&store, "a", "new").await;
    assert_eq!(next(&mut watch).await.unwrap().revision, new);
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
    let read = store.get(b"a").await;
    assert!(
        matches!(read, Err(StoreError::Unavailable { .. })),
        "{read:?}"
    );
    // Nobody can know what a node had taken before it was gone.
    let written = store.txn(put(&[], &[("b", "1")])).await;
    assert!(
        matches!(written, Err(StoreError::Unknown { .. })),
        "{written:?}"
    );
    cluster.start_all();
    assert_eq!(value(&store, "a").await, Some(("after".to_owned(), later)));
    // Whoever follows goes on from where it was.
    let mut watch = store.watch(later + 1).await.unwrap();
    let last = write(&store, "a", "last").await;
    assert_eq!(next(&mut watch).await.unwrap().revision, last);
    cluster.kill_all();
    cluster.restore(&snapshot);
    let (text, modified) = value(&store, "a").await.unwrap();
    assert_eq!(text, "before");
    assert!(modified < later);
    // Whoever followed is told at once that it must read anew.
    let ended = next(&mut store.watch(last + 1).await.unwrap()).await;
    assert!(
        matches!(ended, Err(WatchEnd::Compacted { at }) if at <= later),
        "{ended:?}"
    );
    let again = put(&[("a", Guard::At(modified))], &[("a", "again")]);
    at(store.txn(again).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_away_from_the_start_or_stopped_later_is_not_missed() {
    let (_dir, mut cluster) = cluster();
    // The first of the list is asked first.
    cluster.stop(0);
    let store = connect(&cluster).await;
    let written = || async { store.txn(put(&[], &[("a", "1")])).await.is_ok() };
    until("one of three is missed", written).await;
    let (_, modified) = value(&store, "a").await.unwrap();
    let mut watch = store.watch(modified).await.unwrap();
    assert_eq!(next(&mut watch).await.unwrap().revision, modified);
    cluster.start_all();
    for number in [1, 2] {
        cluster.stop(number);
        until("a stopped node is missed", || async {
            store.txn(put(&[], &[("a", "2")])).await.is_ok()
        })
        .await;
        cluster.start_all();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_role_is_denied_and_central_has_its_prefix() {
    let (_dir, cluster) = cluster();
    let stranger = connect_as(&cluster, cluster.issue("stranger")).await;
    let store = connect(&cluster).await;
    write(&stranger, "a", "1").await;
    cluster.restrict("/kms/");
    let (_, modified) = value(&store, "a").await.unwrap();
    let mut watch = store.watch(modified).await.unwrap();
    assert_eq!(next(&mut watch).await.unwrap().revision, modified);
    let new = write(&store, "a", "2").await;
    assert_eq!(next(&mut watch).await.unwrap().revision, new);
    let read = stranger.get(b"a").await;
    assert!(matches!(read, Err(StoreError::Denied { .. })), "{read:?}");
    let written = stranger.txn(put(&[], &[("a", "3")])).await;
    assert!(
        matches!(written, Err(StoreError::Denied { .. })),
        "{written:?}"
    );
    let watched = stranger.watch(modified).await;
    assert!(matches!(watched, Err(StoreError::Denied { .. })));
    assert_eq!(value(&store, "a").await, Some(("2".to_owned(), new)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_at_its_quota_says_so_and_goes_on_when_there_is_room() {
    let dir = TempDir::new().unwrap();
    let one = EtcdPlace::local().into_iter().take(1).collect();
    let quota = ["--quota-backend-bytes", "8388608"];
    let cluster = EtcdCluster::start_with(dir.path(), one, &quota);
    let store = connect(&cluster).await;
    let large = "x".repeat(900_000);
    let (mut last, mut error) = (0, None);
    for _ in 0..40 {
        match store.txn(put(&[], &[("a", &large)])).await {
            Ok(committed) => last = at(committed),
            Err(refused) => {
                error = Some(refused);
                break;
            }
        }
    }
    let error = error.expect("it does not fill up");
    assert!(matches!(error, StoreError::Full { .. }), "{error:?}");
    let (_, modified) = value(&store, "a").await.unwrap();
    assert_eq!(modified, last, "nothing was written, and reads go on");
    cluster.compact(last);
    cluster.make_room(0);
    write(&store, "a", "small").await;
}
