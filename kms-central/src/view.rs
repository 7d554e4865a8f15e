//! What this central knows of the store: the mirror, shared by everything that asks, and who waits for it to move.
//!
//! Only the follower changes it. Invariant: the mirror moves by whole transactions of the store, in their order.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard},
    time::{Duration, Instant},
};

use keyhaven_kms::{
    central::{Acks, Mirror, store_key},
    records::CentralKey,
};
use keyhaven_service::Caller;
use keyhaven_types::{Identity, Name};
use keyhaven_wire::kms::Record;
use tokio::{
    sync::{Notify, watch},
    time::timeout,
};

use crate::{clock, store::Event};

/// The mirror with what is known of the store beside it.
pub(crate) struct View {
    /// Every record.
    pub(crate) mirror: Mirror,
    /// The store's revision of the head; none before the first transaction. Guards what is written.
    pub(crate) head_at: Option<u64>,
    /// Up to this revision of the store everything was loaded, and may be told of again.
    loaded_at: u64,
}

/// Shared by the whole daemon. Clones are the same.
#[derive(Clone)]
pub(crate) struct Shared(Arc<Inner>);

struct Inner {
    view: RwLock<View>,
    head: watch::Sender<u64>,
    reload: Notify,
    /// When this process first saw a revision.
    observed: Mutex<HashMap<u64, Instant>>,
    acks: Mutex<Acks>,
    /// Connections of sites, by number.
    connections: Mutex<HashMap<u64, Arc<Caller>>>,
    alarms: Mutex<BTreeMap<Alarm, String>>,
}

/// What an alarm is about; one each.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Alarm {
    /// The store is away.
    Store,
    /// A site has seen another history.
    History(Name),
    /// The store's history went back while this process looked.
    WentBack,
    /// Single records of the store went back while this process looked.
    PutBack,
}

impl View {
    /// With nothing in it, as of a revision of the store.
    pub(crate) fn new(central: CentralKey, loaded_at: u64) -> Self {
        Self {
            mirror: Mirror::new(central),
            head_at: None,
            loaded_at,
        }
    }

    /// Takes one value of the store.
    pub(crate) fn take(&mut self, key: &[u8], value: &[u8], modified: u64) {
        if key == store_key::HEAD {
            self.head_at = Some(modified);
        }
        if let Err(why) = self.mirror.take(key, value) {
            tracing::error!(
                key = store_key::name(key),
                error = %why,
                "the store holds what central has not written; it is not served"
            );
        }
    }
}

impl Shared {
    pub(crate) fn new(view: View) -> Self {
        let (head, _) = watch::channel(view.mirror.head_or_none().revision);
        Self(Arc::new(Inner {
            view: RwLock::new(view),
            head,
            reload: Notify::new(),
            observed: Mutex::default(),
            acks: Mutex::default(),
            connections: Mutex::default(),
            alarms: Mutex::default(),
        }))
    }

    /// Everything, as it is now. Not to be held over an await.
    pub(crate) fn view(&self) -> RwLockReadGuard<'_, View> {
        self.0.view.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes when the head moves.
    pub(crate) fn moves(&self) -> watch::Receiver<u64> {
        self.0.head.subscribe()
    }

    /// Waits until the mirror has this revision; whether it has.
    pub(crate) async fn reaches(&self, revision: u64, patience: Duration) -> bool {
        let mut moves = self.moves();
        let reached = moves.wait_for(|head| *head >= revision);
        timeout(patience, reached).await.is_ok_and(|it| it.is_ok())
    }

    /// A transaction of the store.
    pub(crate) fn apply(&self, event: &Event) {
        let mut evicted = Vec::new();
        let (before, now) = {
            let mut view = self.0.view.write().unwrap_or_else(PoisonError::into_inner);
            let before = view.mirror.head_or_none();
            let is_told_again = event.revision <= view.loaded_at;
            // The head goes last, as it speaks of the others.
            let (heads, records): (Vec<_>, Vec<_>) = event
                .changes
                .iter()
                .partition(|(key, _)| key == store_key::HEAD);
            for (key, stored) in records.into_iter().chain(heads) {
                if is_told_again && view.mirror.get(key).is_some() && key != store_key::HEAD {
                    continue;
                }
                view.take(key, &stored.value, stored.modified);
                evicted.extend(evicted_by(&view.mirror, key));
            }
            (before, view.mirror.head_or_none())
        };
        if now.era > before.era {
            // What was said was said of another history.
            self.acks().forget();
            // Going back was meant.
            self.clear(&Alarm::WentBack);
        }
        self.observe(before.revision, now.revision);
        self.0.head.send_replace(now.revision);
        for identity in evicted {
            self.close(&identity);
        }
    }

    /// Everything anew.
    pub(crate) fn replace(&self, mut view: View) {
        let now = view.mirror.head_or_none();
        let (before, put_back) = {
            let mut held = self.0.view.write().unwrap_or_else(PoisonError::into_inner);
            let before = held.mirror.head_or_none();
            let is_further = now.era == before.era && now.revision >= before.revision;
            let put_back = match is_further {
                true => view.mirror.keep_newer(&held.mirror),
                false => Vec::new(),
            };
            *held = view;
            (before, put_back)
        };
        if let Some(first) = put_back.first() {
            let what = format!(
                "the store has older records than it had, or none, in {} places, {} among them: who else writes to it? What \
                 was known is served",
                put_back.len(),
                store_key::name(first)
            );
            tracing::error!(target: "audit", event = "record-put-back", what);
            self.raise(Alarm::PutBack, what);
        }
        if (now.era, now.revision) < (before.era, before.revision) || now.era > before.era {
            self.acks().forget();
        }
        if (now.era, now.revision) < (before.era, before.revision) {
            let what = format!(
                "the store went back from revision {} to {}: was a backup restored?",
                before.revision, now.revision
            );
            self.raise(Alarm::WentBack, what);
            self.observed().clear();
        }
        self.observe(before.revision, now.revision);
        self.0.head.send_replace(now.revision);
        let gone: Vec<Identity> = {
            let view = self.view();
            let sites = view.mirror.sites().filter(|site| site.evicted);
            sites.map(|site| site.identity.clone()).collect()
        };
        for identity in gone {
            self.close(&identity);
        }
    }

    /// Asks the follower to read everything anew: what is here cannot be right.
    pub(crate) fn ask_reload(&self) {
        self.0.reload.notify_one();
    }

    /// Returns when that was asked for.
    pub(crate) async fn reload_asked(&self) {
        self.0.reload.notified().await;
    }

    fn observe(&self, before: u64, now: u64) {
        let mut observed = self.observed();
        let when = Instant::now();
        for revision in before + 1..=now {
            observed.entry(revision).or_insert(when);
        }
    }

    fn observed(&self) -> MutexGuard<'_, HashMap<u64, Instant>> {
        lock(&self.0.observed)
    }

    /// How long ago a revision was committed, rather less than more: by our own steady clock when we saw it come, and
    /// else by the wall clock of the central that wrote it.
    pub(crate) fn age_ms(&self, mirror: &Mirror, revision: u64) -> u64 {
        if let Some(when) = self.observed().get(&revision) {
            return clock::ms(when.elapsed());
        }
        let at_ms = mirror.past_head(revision).map(|past| past.at_ms);
        at_ms.map_or(0, |at_ms| clock::wall_ms().saturating_sub(at_ms))
    }

    /// What sites have said.
    pub(crate) fn acks(&self) -> MutexGuard<'_, Acks> {
        lock(&self.0.acks)
    }

    /// A site's connection, to be closed when it is thrown out.
    pub(crate) fn note_connection(&self, caller: &Arc<Caller>) {
        let mut connections = lock(&self.0.connections);
        connections
            .entry(caller.connection)
            .or_insert_with(|| Arc::clone(caller));
    }

    /// That connection is over.
    pub(crate) fn forget_connection(&self, caller: &Caller) {
        lock(&self.0.connections).remove(&caller.connection);
    }

    fn close(&self, identity: &Identity) {
        let connections = lock(&self.0.connections);
        for caller in connections.values() {
            if caller.identity == *identity {
                tracing::info!(site = %identity, "its site was thrown out: the connection is closed");
                caller.close();
            }
        }
    }

    /// Something that an operator should see until it is over.
    pub(crate) fn raise(&self, alarm: Alarm, what: String) {
        let mut alarms = lock(&self.0.alarms);
        if alarms.get(&alarm) != Some(&what) {
            tracing::error!("{what}");
            alarms.insert(alarm, what);
        }
    }

    /// It is over.
    pub(crate) fn clear(&self, alarm: &Alarm) {
        if lock(&self.0.alarms).remove(alarm).is_some() {
            tracing::info!(?alarm, "this is over");
        }
    }

    /// Alarms and what the mirror did not believe, in words.
    pub(crate) fn warnings(&self, mirror: &Mirror) -> Vec<String> {
        let mut warnings: Vec<String> = lock(&self.0.alarms).values().cloned().collect();
        let refused = mirror.refused().take(REFUSED_TOLD);
        warnings.extend(
            refused.map(|what| format!("the store holds what central did not write: {what}")),
        );
        warnings
    }
}

/// The signer of a site that is thrown out by what stands under this key.
fn evicted_by(mirror: &Mirror, key: &[u8]) -> Option<Identity> {
    match &mirror.get(key)?.record {
        Record::Site(site) if site.evicted => Some(site.identity.clone()),
        _ => None,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How many bad records one status names.
const REFUSED_TOLD: usize = 20;
