//! What sites ask: what changed, one key, may I go on.
//!
//! Each question is authorised anew, by the record of the site whose signer asks. Invariant: a lease is given only with
//! a head that was read from the store after the question came, by a central that has everything up to it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use keyhaven_kms::central::{Followed, HISTORY};
use keyhaven_types::{Identity, Name};
use keyhaven_wire::{
    ErrorCode, Reply,
    kms::{
        Changes, Entry, Fetch, Fetched, Follow, Head, HeadMark, LeaseGrant, LeaseRequest, Record,
        Signed, SiteRecord,
    },
};
use tokio::{sync::Semaphore, time::timeout_at};
use tokio_util::sync::CancellationToken;

use crate::{
    audit, clock,
    store::{AnyStore, StateStore as _},
    view::{Alarm, Shared, View},
    words::error_chain,
};

/// Answers sites.
pub(crate) struct Sites {
    shared: Shared,
    store: Arc<AnyStore>,
    /// Places for questions that wait.
    places: Semaphore,
    started: Instant,
    /// Nobody is kept waiting when the daemon stops.
    stop: CancellationToken,
}

impl Sites {
    pub(crate) fn new(
        shared: Shared,
        store: Arc<AnyStore>,
        started: Instant,
        stop: CancellationToken,
    ) -> Self {
        Self {
            shared,
            store,
            places: Semaphore::new(WAITING_MAX),
            started,
            stop,
        }
    }

    /// What changed; waits for a change when the site allows it.
    pub(crate) async fn follow(&self, caller: &Identity, follow: &Follow) -> Reply {
        if let Err(code) = self.heard(caller, follow).await {
            return Reply::Error(code);
        }
        let place = self.places.try_acquire();
        let wait = match place {
            Ok(_) => Duration::from_millis(follow.wait_ms.into()),
            Err(_) => Duration::ZERO,
        };
        let deadline = tokio::time::Instant::now() + wait;
        let mut moves = self.shared.moves();
        loop {
            moves.mark_unchanged();
            let head = {
                let view = self.shared.view();
                let (site, head) = match enrolled(&view, caller) {
                    Ok(found) => found,
                    Err(code) => return Reply::Error(code),
                };
                match view.mirror.follow(site, follow) {
                    Followed::Changes { entries, through } => {
                        return changes(entries, through, head);
                    }
                    Followed::History(_) => return Reply::Error(ErrorCode::History),
                    Followed::Nothing => head.clone(),
                }
            };
            let moved = tokio::select! {
                moved = timeout_at(deadline, moves.changed()) => matches!(moved, Ok(Ok(()))),
                () = self.stop.cancelled() => false,
            };
            if !moved {
                return changes(Vec::new(), follow.after, &head);
            }
        }
    }

    /// Compares histories, and notes what the site has.
    async fn heard(&self, caller: &Identity, follow: &Follow) -> Result<(), ErrorCode> {
        let name = self.same_history(caller, &follow.seen).await?;
        let era = self.shared.view().mirror.head_or_none().era;
        // What a site of an older era has is of another history.
        if follow.seen.era == era || follow.seen.revision == 0 {
            let applied = follow.after.min(follow.seen.revision);
            let now_ms = self.now_ms();
            self.shared.acks().followed(&name, applied, now_ms);
        }
        Ok(())
    }

    /// The site, if what it has seen is of our history.
    async fn same_history(&self, caller: &Identity, seen: &HeadMark) -> Result<Name, ErrorCode> {
        let compared = {
            let view = self.shared.view();
            let (site, _) = enrolled(&view, caller)?;
            (site.name.clone(), view.mirror.compare(seen))
        };
        let (name, mut compared) = compared;
        if compared == Err(HISTORY) {
            // Another central may have written what the watch has not brought yet.
            let head = self.latest().await?;
            if (head.0.era, head.0.revision) >= (seen.era, seen.revision) {
                self.shared.reaches(head.0.revision, CATCH_UP).await;
                compared = self.shared.view().mirror.compare(seen);
            }
        }
        let alarm = Alarm::History(name.clone());
        match compared {
            Ok(()) => {
                self.shared.clear(&alarm);
                Ok(name)
            }
            Err(why) => {
                let what = format!("site `{name}` has seen revision {}: {why}", seen.revision);
                self.shared.raise(alarm, what);
                Err(ErrorCode::History)
            }
        }
    }

    /// One key, for a caller that has a grant.
    pub(crate) async fn fetch(&self, caller: &Identity, fetch: &Fetch) -> Reply {
        let ask = || {
            let view = self.shared.view();
            let (site, head) = enrolled(&view, caller)?;
            let entries = view.mirror.fetch(site, fetch);
            let head = head.clone();
            Ok(Fetched { entries, head })
        };
        let mut fetched = match ask() {
            Ok(fetched) => fetched,
            Err(code) => return Reply::Error(code),
        };
        if fetched.entries.is_empty() {
            // "No" is remembered over there: it must not be said from an older view than the latest.
            let behind = match self.latest().await {
                Ok((head, _)) => !self.shared.reaches(head.revision, CATCH_UP).await,
                Err(code) => return Reply::Error(code),
            };
            if behind {
                return Reply::Error(ErrorCode::Unavailable);
            }
            fetched = match ask() {
                Ok(fetched) => fetched,
                Err(code) => return Reply::Error(code),
            };
        }
        audit::fetch(caller, fetch, fetched.entries.len());
        Reply::Fetched(fetched)
    }

    /// May it go on.
    pub(crate) async fn lease(&self, caller: &Identity, request: &LeaseRequest) -> Reply {
        let (head, signed) = match self.latest().await {
            Ok(head) => head,
            Err(code) => return Reply::Error(code),
        };
        if !self.shared.reaches(head.revision, CATCH_UP).await {
            tracing::warn!(
                revision = head.revision,
                "no lease is given while the watch is behind the store"
            );
            return Reply::Error(ErrorCode::Unavailable);
        }
        let name = match self.same_history(caller, &request.seen).await {
            Ok(name) => name,
            Err(code) => return Reply::Error(code),
        };
        let now_ms = self.now_ms();
        self.shared.acks().leased(&name, now_ms);
        Reply::Leased(LeaseGrant {
            nonce: request.nonce,
            head: signed,
        })
    }

    /// The head as the store has it now.
    async fn latest(&self) -> Result<(Head, Signed), ErrorCode> {
        let away = |why: String| {
            tracing::warn!(error = why, "the head cannot be read from the store");
            ErrorCode::Unavailable
        };
        let stored = self
            .store
            .get(keyhaven_kms::central::store_key::HEAD)
            .await
            .map_err(|error| away(error_chain(&error)))?;
        let stored = stored.ok_or_else(|| away("there is none".to_owned()))?;
        let signed: Signed = postcard::from_bytes(&stored.value)
            .map_err(|_| away("it cannot be parsed".to_owned()))?;
        let (record, known) = {
            let view = self.shared.view();
            let record = view.mirror.central().read(&signed);
            (record, view.mirror.head_or_none())
        };
        match record {
            Ok(Record::Head(head)) => {
                if (head.era, head.revision) < (known.era, known.revision) {
                    // Watched changes only go on: the store was restored under us.
                    self.shared.ask_reload();
                    return Err(away("it went back".to_owned()));
                }
                Ok((head, signed))
            }
            Ok(_) => Err(away("another record stands in its place".to_owned())),
            Err(why) => Err(away(why.to_string())),
        }
    }

    /// Steady milliseconds since the start.
    fn now_ms(&self) -> u64 {
        clock::ms(self.started.elapsed())
    }
}

/// The site whose signer asks, with the head.
fn enrolled<'a>(
    view: &'a View,
    caller: &Identity,
) -> Result<(&'a SiteRecord, &'a Signed), ErrorCode> {
    let site = view.mirror.site_of(caller).filter(|site| !site.evicted);
    match (site, view.mirror.head()) {
        (Some(site), Some((_, head))) => Ok((site, head)),
        _ => Err(ErrorCode::NotEnrolled),
    }
}

fn changes(entries: Vec<Entry>, through: u64, head: &Signed) -> Reply {
    Reply::Changes(Changes {
        entries,
        through,
        head: head.clone(),
    })
}

/// Questions that wait at once; more are answered at once.
const WAITING_MAX: usize = 8192;
/// How long the watch may be behind the store.
const CATCH_UP: Duration = Duration::from_secs(2);
