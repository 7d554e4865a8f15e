//! Keeps the mirror as the store is: reads everything once, then follows the store's watch.
//!
//! Several centrals on one store each have their own. Invariant: between what was read and what is watched there is no
//! gap, and what the store has forgotten is read anew.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use keyhaven_kms::{
    central::store_key::{self, StoreKey},
    records::CentralKey,
};
use keyhaven_service::shutdown::Shutdown;
use tokio::time::sleep;

use crate::{
    store::{AnyStore, Committed, Guard, Page, StateStore as _, StoreError, Txn, WatchEnd},
    view::{Alarm, Shared, View},
    words::error_chain,
};

/// Reads everything; the store's revision that it was read at comes with it.
///
/// # Errors
/// [`StoreError`].
pub(crate) async fn load(
    store: &AnyStore,
    central: &CentralKey,
) -> Result<(View, u64), StoreError> {
    loop {
        match Loader::new(store, central).await?.load().await {
            // It took longer than the store remembers.
            Err(StoreError::Forgotten { .. }) => sleep(PAUSE).await,
            result => return result,
        }
    }
}

struct Loader<'a> {
    store: &'a AnyStore,
    view: View,
    at: u64,
}

impl<'a> Loader<'a> {
    async fn new(store: &'a AnyStore, central: &CentralKey) -> Result<Self, StoreError> {
        // An empty range tells the revision that everything else is then read at.
        let first = store
            .scan(store_key::HEAD, &after(store_key::HEAD), None, 1)
            .await?;
        let at = first.revision;
        Ok(Self {
            store,
            view: View::new(central.clone(), at),
            at,
        })
    }

    async fn load(mut self) -> Result<(View, u64), StoreError> {
        for prefix in ["c/", "s/", "k/", "v/", "g/"] {
            self.prefix(prefix.as_bytes().to_vec()).await?;
        }
        let page = self.page(store_key::HEAD, &after(store_key::HEAD)).await?;
        self.take(page).await?;
        let last = self.view.mirror.head_or_none().revision;
        let mut from = 1;
        while from <= last {
            let to = from + HEADS_PAGE;
            let page = self
                .page(&store_key::past_head(from), &store_key::past_head(to))
                .await?;
            self.take(page).await?;
            from = to;
        }
        Ok((self.view, self.at))
    }

    /// Everything below a prefix. A range of ids that holds more than a page is split by its next digit: a page of an open
    /// range costs etcd a count of all that is behind it.
    async fn prefix(&mut self, prefix: Vec<u8>) -> Result<(), StoreError> {
        let mut open = vec![prefix];
        while let Some(prefix) = open.pop() {
            let end = end_of(&prefix);
            let page = self.page(&prefix, &end).await?;
            if page.more && is_split(&prefix) {
                open.extend(NEXT.bytes().map(|next| [&prefix[..], &[next]].concat()));
                continue;
            }
            let (mut more, mut from) = (page.more, last_of(&page));
            self.take(page).await?;
            while let Some(last) = from.filter(|_| more) {
                let page = self.page(&after(&last), &end).await?;
                (more, from) = (page.more, last_of(&page));
                self.take(page).await?;
            }
        }
        Ok(())
    }

    async fn page(&self, from: &[u8], to: &[u8]) -> Result<Page, StoreError> {
        self.store.scan(from, to, Some(self.at), PAGE).await
    }

    /// Verifying takes some 60 microseconds a record: not on a thread that others wait for.
    async fn take(&mut self, page: Page) -> Result<(), StoreError> {
        let empty = View::new(self.view.mirror.central().clone(), self.at);
        let mut view = std::mem::replace(&mut self.view, empty);
        let work = tokio::task::spawn_blocking(move || {
            for (key, stored) in page.items {
                view.take(&key, &stored);
            }
            view
        });
        self.view = work.await.map_err(|source| StoreError::Unavailable {
            doing: "reading everything",
            source: source.into(),
        })?;
        Ok(())
    }
}

/// Follows until the daemon stops.
pub(crate) async fn run(store: Arc<AnyStore>, shared: Shared, loaded_at: u64, shutdown: Shutdown) {
    let mut follower = Follower {
        store,
        shared,
        at: loaded_at,
        overwritten: BTreeSet::new(),
    };
    tokio::select! {
        () = shutdown.cut_token().cancelled_owned() => {}
        () = shutdown.stopping() => {}
        () = follower.follow() => {}
    }
}

struct Follower {
    store: Arc<AnyStore>,
    shared: Shared,
    /// The store's revision up to which the mirror is.
    at: u64,
    /// Keys under which the store has something else than it must, for now.
    overwritten: BTreeSet<StoreKey>,
}

impl Follower {
    async fn follow(&mut self) {
        loop {
            let ended = match self.store.watch(self.at + 1).await {
                Ok(watch) => self.drain(watch).await,
                Err(error) => WatchEnd::Lost(error),
            };
            match ended {
                WatchEnd::Compacted { at } => {
                    tracing::info!(
                        at,
                        "the store has forgotten changes: everything is read anew"
                    );
                    self.reload().await;
                }
                WatchEnd::Lost(error) => {
                    let why = error_chain(&error);
                    self.shared.raise(
                        Alarm::Store,
                        format!("the store is away, what is known is served: {why}"),
                    );
                    sleep(PAUSE).await;
                }
            }
        }
    }

    /// Applies what comes until the watch ends.
    async fn drain(&mut self, mut watch: crate::store::Watch) -> WatchEnd {
        self.shared.clear(&Alarm::Store);
        loop {
            tokio::select! {
                event = watch.next() => match event {
                    Ok(event) => {
                        // Records are verified under the lock: a hundred of them take some milliseconds.
                        let overwritten = self.shared.apply(&event);
                        self.at = event.revision;
                        // Whatever else came under these keys is central's.
                        for (key, _) in &event.changes {
                            self.overwritten.remove(key);
                        }
                        self.overwritten.extend(overwritten);
                        self.put_right().await;
                    }
                    Err(ended) => return ended,
                },
                () = self.shared.reload_asked() => {
                    self.reload().await;
                    match self.store.watch(self.at + 1).await {
                        Ok(anew) => watch = anew,
                        Err(error) => return WatchEnd::Lost(error),
                    }
                }
            }
        }
    }

    async fn reload(&mut self) {
        let central = self.shared.view().mirror.central().clone();
        loop {
            match load(&self.store, &central).await {
                Ok((view, at)) => {
                    self.shared.clear(&Alarm::Store);
                    let Some(overwritten) = self.shared.replace(view) else {
                        // Until somebody has restored it.
                        sleep(NOT_WHOLE_PAUSE).await;
                        continue;
                    };
                    self.at = at;
                    self.overwritten = overwritten.into_iter().collect();
                    return self.put_right().await;
                }
                Err(error) => {
                    let why = error_chain(&error);
                    self.shared.raise(
                        Alarm::Store,
                        format!("the store is away, what is known is served: {why}"),
                    );
                    sleep(PAUSE).await;
                }
            }
        }
    }

    /// Gives the store back what somebody has overwritten. Under the head's guard, so that nothing newer is undone; where
    /// that does not hold any more, it is tried again when what moved the head has come.
    async fn put_right(&mut self) {
        let keys: Vec<StoreKey> = self.overwritten.iter().cloned().collect();
        for keys in keys.chunks(PUT_RIGHT_MAX) {
            let txn = {
                let view = self.shared.view();
                let stored = |key: &StoreKey| Some((key.clone(), view.mirror.stored(key)?));
                Txn {
                    guards: vec![(
                        store_key::HEAD.to_vec(),
                        view.head_at.map_or(Guard::Absent, Guard::At),
                    )],
                    puts: keys.iter().filter_map(stored).collect(),
                }
            };
            match self.store.txn(txn).await {
                Ok(Committed::At(at)) => {
                    tracing::warn!(
                        target: "audit",
                        event = "store-put-right",
                        records = keys.len(),
                        at,
                        "what was overwritten in the store is there again"
                    );
                    for key in keys {
                        self.overwritten.remove(key);
                    }
                }
                Ok(Committed::Conflict) => return,
                Err(error) => {
                    return tracing::error!(
                        error = error_chain(&error),
                        "what was overwritten in the store is not put right yet"
                    );
                }
            }
        }
    }
}

/// Whether a range is read in parts. What follows must be an id's digit: keys, versions, and grants of keys are many;
/// names of classes and sites, and grants of a server, are read page by page.
fn is_split(prefix: &[u8]) -> bool {
    let is_of_ids = [b"k/", b"v/", b"g/"]
        .iter()
        .any(|of| prefix.starts_with(*of));
    is_of_ids && !prefix.starts_with(b"g/s") && prefix.len() < SPLIT_LEN_MAX
}

fn last_of(page: &Page) -> Option<Vec<u8>> {
    page.items.last().map(|(key, _)| key.clone())
}

/// The next key in order.
fn after(key: &[u8]) -> Vec<u8> {
    [key, &[0]].concat()
}

/// Behind everything that begins like this. Our keys are ASCII.
fn end_of(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

/// Records of one page: with chains of certificates some megabytes, which is what gRPC takes.
const PAGE: usize = 250;
/// Heads of one page, at some 150 bytes.
const HEADS_PAGE: u64 = 250;
/// What may follow a prefix that is split: the digits of an id, or the `server` of `g/server/`.
const NEXT: &str = "0123456789abcdefs";
/// `k/` and six digits.
const SPLIT_LEN_MAX: usize = 8;
const PAUSE: Duration = Duration::from_millis(300);
/// A store that is not whole is read again after this.
const NOT_WHOLE_PAUSE: Duration = Duration::from_secs(5);
/// Records that are put right in one transaction: with their chains of certificates far below what a store takes.
const PUT_RIGHT_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_split_only_where_an_id_follows() {
        for prefix in ["k/", "v/", "g/", "k/0a", "g/12345"] {
            assert!(is_split(prefix.as_bytes()), "{prefix}");
        }
        for prefix in ["c/", "s/", "s/n", "g/s", "g/se", "h/", "k/123456"] {
            assert!(!is_split(prefix.as_bytes()), "{prefix}");
        }
    }
}
