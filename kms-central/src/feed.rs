//! The store's state into the mirror: all of it once, then every change.
//!
//! When the store forgets what we have not heard yet, everything is read again. Invariant: the mirror is never ahead of
//! the store.

use std::{sync::Arc, time::Duration};

use keyhaven_kms::central::store_key;
use keyhaven_service::shutdown::Shutdown;

use crate::{
    desk::Desk,
    store::{AnyStore, StateStore as _, StoreError, WatchEnd},
};

/// Reads one page, to see whether the store can be read.
pub(crate) async fn try_read(store: &AnyStore) -> Result<(), StoreError> {
    store.scan(b"", store_key::END, None, 1).await.map(drop)
}

/// Keeps the mirror up to date until the end.
pub(crate) async fn run(desk: Arc<Desk>, shutdown: Shutdown) {
    let stopping = shutdown.token();
    let mut from = None;
    loop {
        let followed = tokio::select! {
            () = stopping.cancelled() => return,
            followed = follow(&desk, from) => followed,
        };
        from = followed;
        tokio::select! {
            () = stopping.cancelled() => return,
            () = tokio::time::sleep(AGAIN) => {}
        }
    }
}

/// Reads everything unless it is known where to go on, then follows until it breaks. Gives where to go on.
async fn follow(desk: &Desk, from: Option<u64>) -> Option<u64> {
    let mut next = match from {
        Some(next) => next,
        None => match load(desk).await {
            Ok(revision) => {
                desk.set_loaded();
                revision + 1
            }
            Err(error) => {
                desk.store_trouble(&error);
                return None;
            }
        },
    };
    let mut watch = match desk.store.watch(next).await {
        Ok(watch) => watch,
        Err(error) => {
            desk.store_trouble(&error);
            return Some(next);
        }
    };
    loop {
        match watch.next().await {
            Ok(event) => {
                desk.take(
                    event
                        .changes
                        .iter()
                        .map(|(key, stored)| (key.as_slice(), stored.value.as_slice())),
                );
                next = event.revision + 1;
            }
            Err(WatchEnd::Compacted { at }) => {
                tracing::warn!(
                    at,
                    "the store has forgotten changes: everything is read again"
                );
                return None;
            }
            Err(WatchEnd::Lost(error)) => {
                desk.store_trouble(&error);
                return Some(next);
            }
        }
    }
}

/// Everything, page by page, as it was at one revision where the store keeps the past.
async fn load(desk: &Desk) -> Result<u64, StoreError> {
    let (mut from, mut at, mut first) = (Vec::new(), None, None);
    loop {
        let page = desk.store.scan(&from, store_key::END, at, PAGE).await?;
        // Without a past, what changes meanwhile is told by the watch from the first page's revision on.
        let first = *first.get_or_insert(page.revision);
        at = Some(first);
        desk.take(
            page.items
                .iter()
                .map(|(key, stored)| (key.as_slice(), stored.value.as_slice())),
        );
        match (page.more, page.items.last()) {
            (true, Some((last, _))) => from = [last.as_slice(), &[0]].concat(),
            _ => return Ok(first),
        }
    }
}

/// Records of one page: about a megabyte.
const PAGE: usize = 1000;
/// Before the store is asked again.
const AGAIN: Duration = Duration::from_millis(200);
