//! One suite for both stores: what central rests on, whichever of them it has.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod store_kit;

use std::sync::Arc;

use keyhaven_kms_central::store::{
    AnyStore, BYTES_MAX, Committed, Guard, PUTS_MAX, Page, StateStore as _, StoreError, WatchEnd,
};
use store_kit::{at, cluster, connect, next, put, redb, told, value, write};
use tempfile::TempDir;

#[tokio::test(flavor = "multi_thread")]
async fn redb_conforms() {
    let dir = TempDir::new().unwrap();
    conforms(Arc::new(AnyStore::Redb(redb(dir.path())))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn etcd_conforms() {
    let (_dir, cluster) = cluster();
    conforms(connect(&cluster).await).await;
}

async fn conforms(store: Arc<AnyStore>) {
    guards_hold_or_nothing_is_written(&store).await;
    a_watch_tells_what_was_then(&store).await;
    a_watch_goes_on_where_another_ended(&store).await;
    a_watch_of_what_never_came_says_so(&store).await;
    pages_are_of_one_revision(&store).await;
    ranges_end_where_they_should(&store).await;
    what_is_no_transaction_is_refused(&store).await;
    megabytes_come_at_once(&store).await;
    no_update_is_lost(&store).await;
}

/// Absence, another revision, the right one.
async fn guards_hold_or_nothing_is_written(store: &AnyStore) {
    assert_eq!(value(store, "a").await, None);
    let first = put(&[("a", Guard::Absent)], &[("a", "1"), ("b", "1")]);
    let first = at(store.txn(first).await.unwrap());
    assert_eq!(value(store, "a").await, Some(("1".to_owned(), first)));
    for guard in [Guard::Absent, Guard::At(first + 1), Guard::At(first - 1)] {
        let refused = store.txn(put(&[("a", guard)], &[("b", "2"), ("c", "2")]));
        assert_eq!(refused.await.unwrap(), Committed::Conflict, "{guard:?}");
    }
    let one_of_two = [("a", Guard::At(first)), ("b", Guard::Absent)];
    let refused = store.txn(put(&one_of_two, &[("c", "2")])).await.unwrap();
    assert_eq!(refused, Committed::Conflict, "all must hold");
    let nothing = put(&[("c", Guard::At(0))], &[("c", "2")]);
    let refused = store.txn(nothing).await.unwrap();
    assert_eq!(refused, Committed::Conflict, "nothing was written at 0");
    assert_eq!(value(store, "c").await, None);
    let second = put(&[("a", Guard::At(first))], &[("a", "2")]);
    let second = at(store.txn(second).await.unwrap());
    assert!(second > first);
    assert_eq!(value(store, "b").await, Some(("1".to_owned(), first)));
}

fn is_done(committed: &Committed) -> bool {
    matches!(committed, Committed::At(_))
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    pairs.iter().map(own).collect()
}

/// From the past: each transaction once, whole, in order, with the values that it wrote though later ones replaced them.
/// Then what comes.
async fn a_watch_tells_what_was_then(store: &AnyStore) {
    let first = put(&[], &[("w/1", "old"), ("w/2", "old")]);
    let first = at(store.txn(first).await.unwrap());
    let second = write(store, "w/1", "new").await;
    let third = write(store, "w/1", "newest").await;
    let mut watch = store.watch(first).await.unwrap();
    for (revision, changes) in [
        (first, &[("w/1", "old"), ("w/2", "old")][..]),
        (second, &[("w/1", "new")]),
        (third, &[("w/1", "newest")]),
    ] {
        let event = next(&mut watch).await.unwrap();
        assert_eq!((event.revision, told(&event)), (revision, pairs(changes)));
    }
    let fourth = put(&[], &[("w/3", "x"), ("w/4", "x")]);
    let fourth = at(store.txn(fourth).await.unwrap());
    let event = next(&mut watch).await.unwrap();
    let both = pairs(&[("w/3", "x"), ("w/4", "x")]);
    assert_eq!((event.revision, told(&event)), (fourth, both));
}

/// By the revision after the last one that was told, also when that has not come yet; and two watches are two.
async fn a_watch_goes_on_where_another_ended(store: &AnyStore) {
    let first = write(store, "r", "1").await;
    let second = write(store, "r", "2").await;
    let mut ended = store.watch(first).await.unwrap();
    assert_eq!(next(&mut ended).await.unwrap().revision, first);
    drop(ended);
    let mut resumed = store.watch(first + 1).await.unwrap();
    assert_eq!(next(&mut resumed).await.unwrap().revision, second);
    let mut from_now = store.watch(second + 1).await.unwrap();
    let third = write(store, "r", "3").await;
    for watch in [&mut resumed, &mut from_now] {
        assert_eq!(next(watch).await.unwrap().revision, third);
    }
}

/// A store that was restored is behind those who followed it: silence would look like peace.
async fn a_watch_of_what_never_came_says_so(store: &AnyStore) {
    let last = write(store, "r", "4").await;
    let mut watch = store.watch(last + 100).await.unwrap();
    let ended = next(&mut watch).await;
    assert!(
        matches!(ended, Err(WatchEnd::Compacted { at }) if at == last + 1),
        "{ended:?}"
    );
    let page = store.scan(b"r", b"s", Some(last + 100), 10).await;
    assert!(matches!(page, Err(StoreError::NotYet { .. })), "{page:?}");
}

/// Each key of a range once and as it was when the first page was read, though others write before the next.
async fn pages_are_of_one_revision(store: &AnyStore) {
    for number in 0..25 {
        write(store, &format!("page/{number:02}"), "then").await;
    }
    let (mut from, mut seen, mut pinned) = (b"page/".to_vec(), Vec::new(), None);
    loop {
        let page = store.scan(&from, b"page0", pinned, 10).await.unwrap();
        assert!(page.items.len() <= 10);
        assert_eq!(page.revision, pinned.unwrap_or(page.revision));
        pinned = Some(page.revision);
        let later = [("page/15", "later"), ("page/155", "later")];
        at(store.txn(put(&[], &later)).await.unwrap());
        for (key, stored) in &page.items {
            assert_eq!(stored.value, b"then", "{}", String::from_utf8_lossy(key));
            seen.push(key.clone());
        }
        if !page.more {
            break;
        }
        from = [page.items.last().unwrap().0.as_slice(), &[0]].concat();
    }
    let all: Vec<_> = (0..25)
        .map(|it| format!("page/{it:02}").into_bytes())
        .collect();
    assert_eq!(seen, all);
    // What came later and was replaced since was not there then, either.
    let then = store.scan(b"page/", b"page0", pinned, 100).await.unwrap();
    assert!(then.items.iter().all(|(_, stored)| stored.value == b"then"));
    assert_eq!(then.items.len(), 25);
    let now = store.scan(b"page/", b"page0", None, 100).await.unwrap();
    assert_eq!(now.items.len(), 26, "without a revision: as it is");
}

/// The end is not part of a range; a range of nothing is empty; a page holds at least one.
async fn ranges_end_where_they_should(store: &AnyStore) {
    let keys = |page: Page| -> Vec<Vec<u8>> { page.items.into_iter().map(|it| it.0).collect() };
    let page = store.scan(b"page/03", b"page/05", None, 10).await.unwrap();
    assert!(!page.more);
    assert_eq!(keys(page), [b"page/03".to_vec(), b"page/04".to_vec()]);
    for (from, to) in [("page/05", "page/05"), ("page/05", "page/03"), ("y", "z")] {
        let page = store.scan(from.as_bytes(), to.as_bytes(), None, 10).await;
        let page = page.unwrap();
        assert!(page.items.is_empty() && !page.more, "{from} to {to}");
        assert!(page.revision > 0);
    }
    let exact = store.scan(b"page/03", b"page/05", None, 2).await.unwrap();
    assert!(!exact.more, "a full page need not be followed by another");
    let one = store.scan(b"page/03", b"page/05", None, 0).await.unwrap();
    assert!(one.more && one.items.len() == 1);
}

async fn what_is_no_transaction_is_refused(store: &AnyStore) {
    let before = write(store, "z", "1").await;
    let names: Vec<String> = (0..=PUTS_MAX).map(|number| format!("t/{number}")).collect();
    let mut many: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "")).collect();
    let refused = store.txn(put(&[], &many)).await;
    assert!(matches!(refused, Err(StoreError::TooLarge)), "{refused:?}");
    let large = "x".repeat(BYTES_MAX);
    let refused = store.txn(put(&[], &[("t", &large)])).await;
    assert!(matches!(refused, Err(StoreError::TooLarge)), "{refused:?}");
    for puts in [&[][..], &[("t", "1"), ("t", "2")]] {
        let refused = store.txn(put(&[], puts)).await;
        assert!(matches!(refused, Err(StoreError::Malformed)), "{refused:?}");
    }
    many.pop();
    let done = at(store.txn(put(&[], &many)).await.unwrap());
    assert_eq!(done, before + 1, "what was refused took no revision");
    assert_eq!(value(store, "t").await, None);
}

/// More than gRPC's usual four: a scan of large records, and a watch that catches up with them in one message.
async fn megabytes_come_at_once(store: &AnyStore) {
    let large = "x".repeat(BYTES_MAX - 10);
    let mut revisions = Vec::new();
    for number in 0..6 {
        revisions.push(write(store, &format!("m/{number}"), &large).await);
    }
    let page = store.scan(b"m/", b"m0", None, 10).await.unwrap();
    assert_eq!(page.items.len(), revisions.len());
    let mut watch = store.watch(revisions[0]).await.unwrap();
    for revision in revisions {
        let event = next(&mut watch).await.unwrap();
        assert_eq!(event.revision, revision);
        assert_eq!(event.changes[0].1.value.len(), large.len());
    }
}

/// Eight writers that each add ten under a guard; whoever watches sees every sum, in order.
async fn no_update_is_lost(store: &Arc<AnyStore>) {
    let from = write(store, "sum", "0").await;
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let store = store.clone();
        writers.spawn(async move {
            let mut left = 10;
            while left > 0 {
                let (text, modified) = value(&store, "sum").await.unwrap();
                let next = (text.parse::<u64>().unwrap() + 1).to_string();
                let txn = put(&[("sum", Guard::At(modified))], &[("sum", &next)]);
                if is_done(&store.txn(txn).await.unwrap()) {
                    left -= 1;
                }
            }
        });
    }
    let mut watch = store.watch(from).await.unwrap();
    for sum in 0..=80_u64 {
        let event = next(&mut watch).await.unwrap();
        assert_eq!(told(&event), pairs(&[("sum", &sum.to_string())]));
    }
    while let Some(done) = writers.join_next().await {
        done.unwrap();
    }
    assert_eq!(value(store, "sum").await.unwrap().0, "80");
}
