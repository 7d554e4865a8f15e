//! What this central knows of the store: the mirror, shared by everything that asks, and who waits for it to move.
//!
//! Only the follower changes it. Invariant: the mirror moves by whole transactions of the store, in their order.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard},
    time::{Duration, Instant},
};

use keyhaven_kms::{
    central::{
        Acks, Mirror,
        store_key::{self, StoreKey},
    },
    records::CentralKey,
};
use keyhaven_service::Caller;
use keyhaven_types::{Identity, Name};
use keyhaven_wire::kms::Record;
use tokio::{
    sync::{Notify, watch},
    time::timeout,
};

use crate::{
    clock,
    store::{Event, Stored},
};

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
    /// Somebody else wrote to the store while this process looked.
    Overwritten,
    /// The store is not what was signed, and was not taken.
    NotWhole,
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

    /// Takes one value of the store; whether it was central's.
    pub(crate) fn take(&mut self, key: &[u8], stored: &Stored) -> bool {
        if key == store_key::HEAD {
            self.head_at = (!stored.is_deletion()).then_some(stored.modified);
        }
        let taken = self.mirror.take(key, &stored.value);
        if let Err(why) = &taken {
            tracing::error!(
                key = store_key::name(key),
                error = %why,
                "the store holds what central has not written; it is not served"
            );
        }
        taken.is_ok()
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

    /// A transaction of the store. Gives the keys under which somebody has overwritten what is known.
    pub(crate) fn apply(&self, event: &Event) -> Vec<StoreKey> {
        let mut evicted = Vec::new();
        let mut overwritten = Vec::new();
        let (before, now, is_whole) = {
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
                if !view.take(key, stored) && view.mirror.stored(key).is_some() {
                    overwritten.push(key.clone());
                }
                evicted.extend(evicted_by(&view.mirror, key));
            }
            let mirror = &view.mirror;
            (before, mirror.head_or_none(), mirror.is_whole())
        };
        if is_whole {
            self.clear(&Alarm::NotWhole);
        } else if now.revision > before.revision {
            // Something is missing here that the writing central knew.
            self.ask_reload();
        }
        self.raise_overwritten(&overwritten);
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
        overwritten
    }

    /// Everything anew. What is not whole is completed by what is known; gives the keys of that. None when it is not whole
    /// even then: what is known stays.
    pub(crate) fn replace(&self, mut view: View) -> Option<Vec<StoreKey>> {
        let mut overwritten = Vec::new();
        let (before, now) = {
            let mut held = self.0.view.write().unwrap_or_else(PoisonError::into_inner);
            if !view.mirror.is_whole() {
                overwritten = view.mirror.keep_newer(&held.mirror);
            }
            if !view.mirror.is_whole() {
                drop(held);
                self.raise(
                    Alarm::NotWhole,
                    format!("{NOT_WHOLE}; what was known is served"),
                );
                return None;
            }
            let before = held.mirror.head_or_none();
            let now = view.mirror.head_or_none();
            *held = view;
            (before, now)
        };
        self.clear(&Alarm::NotWhole);
        self.raise_overwritten(&overwritten);
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
        Some(overwritten)
    }

    fn raise_overwritten(&self, keys: &[StoreKey]) {
        let Some(first) = keys.first() else { return };
        let what = format!(
            "somebody else than central writes to the store: {} of its records were overwritten, {} among them. What was \
             known is served, and put right in the store; find out who has the store's credentials",
            keys.len(),
            store_key::name(first)
        );
        tracing::error!(target: "audit", event = "store-overwritten", what);
        self.raise(Alarm::Overwritten, what);
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

    /// Why sites may not take up what is written, in words; a few of them.
    pub(crate) fn splits(&self) -> Vec<String> {
        let alarms = lock(&self.0.alarms);
        let splits = alarms
            .iter()
            .filter(|(alarm, _)| matches!(alarm, Alarm::History(_) | Alarm::WentBack));
        let splits = splits.map(|(_, what)| format!("this does not reach every site: {what}"));
        splits.take(SPLITS_TOLD).collect()
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

/// Said of a store that holds less or something else than its head says.
pub(crate) const NOT_WHOLE: &str =
    "the store is not what central has signed: records were put back, left out or edited";

/// How many sites of another history one answer names.
const SPLITS_TOLD: usize = 3;
/// How many bad records one status names.
const REFUSED_TOLD: usize = 20;

#[cfg(test)]
mod tests {
    use keyhaven_kms::records::testing::SoftwareCentral;
    use keyhaven_wire::kms::Head;

    use super::*;

    /// A store whose head speaks for this state, and that holds nothing else.
    fn read(central: &SoftwareCentral, revision: u64, state: [u8; 32]) -> View {
        let head = Record::Head(Head {
            era: 1,
            revision,
            chain: [7; 32],
            state,
            bound_s: 0,
            at_ms: 0,
        });
        let mut view = View::new(central.key(), revision);
        let stored = Stored {
            value: postcard::to_stdvec(&central.sign(&head)).unwrap(),
            modified: revision,
        };
        assert!(view.take(store_key::HEAD, &stored));
        view
    }

    #[test]
    fn m4_a_store_that_cannot_be_completed_does_not_replace_what_is_known() {
        let central = SoftwareCentral::new();
        let shared = Shared::new(read(&central, 3, [0; 32]));
        let is_told = || {
            let warnings = shared.warnings(&shared.view().mirror);
            warnings.iter().any(|warning| warning.contains(NOT_WHOLE))
        };
        // Central signed that there is something, and neither the store nor we have it.
        assert_eq!(shared.replace(read(&central, 5, [1; 32])), None);
        assert_eq!(shared.view().mirror.head_or_none().revision, 3);
        assert!(is_told());
        // Once it is restored, it is taken without a hand.
        assert_eq!(shared.replace(read(&central, 6, [0; 32])), Some(Vec::new()));
        assert_eq!(shared.view().mirror.head_or_none().revision, 6);
        assert!(!is_told());
    }
}
