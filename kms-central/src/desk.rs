//! What everything in central works at: the mirror, the store, the token, and who has said what.
//!
//! Requests are planned on the mirror, worked on in the token, and written by one task. Invariant: the mirror is changed
//! by what the store has, and by nothing else.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use keyhaven_hsm::{
    Workers,
    managed::{CentralToken, Transport},
};
use keyhaven_kms::{
    central::{Acks, Draft, Mirror, Plan, Sealed, Step, Transaction, Work, WorkDone, store_key},
    records::{CentralKey, Distrust},
};
use keyhaven_service::shutdown::Shutdown;
use keyhaven_types::{KekId, KeyId, Purpose};
use keyhaven_wire::kms::{
    Head, Record, Signed,
    admin::{Answer, Ask, Refused, RefusedCode, Status},
};
use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    commit::{self, Order, Outcome, SealError},
    feed,
    store::{AnyStore, StateStore as _, StoreError},
    work,
};

/// What a desk is made of.
pub(crate) struct DeskParts {
    pub(crate) store: Arc<AnyStore>,
    pub(crate) token: CentralToken,
    pub(crate) workers: Workers,
    pub(crate) shutdown: Shutdown,
}

/// Transport keys by id, with when they were made.
pub(crate) type Transports = HashMap<[u8; 16], (Instant, Arc<Transport>)>;

/// The desk.
pub(crate) struct Desk {
    pub(crate) store: Arc<AnyStore>,
    pub(crate) token: CentralToken,
    pub(crate) workers: Workers,
    mirror: RwLock<Mirror>,
    key: CentralKey,
    /// The head's revision, for whoever waits for the next.
    latest: watch::Sender<u64>,
    loaded: watch::Sender<bool>,
    orders: mpsc::Sender<Order>,
    acks: Mutex<Acks>,
    pub(crate) transports: Mutex<Transports>,
    /// Why the store could last not be reached; none when it answers.
    trouble: Mutex<Option<String>>,
    /// Sites whose history is not ours, by name.
    alarms: Mutex<HashMap<String, String>>,
    started: Instant,
    /// Whether the store was ever said to be away since it was there.
    was_away: AtomicBool,
}

impl Desk {
    /// Starts reading the store and writing to it.
    pub(crate) fn start(parts: DeskParts) -> Result<Arc<Self>, Distrust> {
        let key = CentralKey::from_spki(parts.token.signing_spki())?;
        let (orders, queue) = mpsc::channel(ORDERS_MAX);
        let (latest, _) = watch::channel(0);
        let (loaded, _) = watch::channel(false);
        let desk = Arc::new(Self {
            store: parts.store,
            token: parts.token,
            workers: parts.workers,
            mirror: RwLock::new(Mirror::new(key.clone())),
            key,
            latest,
            loaded,
            orders,
            acks: Mutex::default(),
            transports: Mutex::default(),
            trouble: Mutex::default(),
            alarms: Mutex::default(),
            started: Instant::now(),
            was_away: AtomicBool::new(false),
        });
        parts
            .shutdown
            .spawn(feed::run(Arc::clone(&desk), parts.shutdown.clone()));
        // It ends with the last request, after the grace at the latest.
        tokio::spawn(commit::run(Arc::clone(&desk), queue, parts.shutdown));
        Ok(desk)
    }

    /// Waits until the store was read once, or the daemon stops.
    pub(crate) async fn loaded(&self, shutdown: &Shutdown) {
        let mut loaded = self.loaded.subscribe();
        tokio::select! {
            _ = loaded.wait_for(|loaded| *loaded) => {}
            () = shutdown.stopping() => {}
        }
    }

    pub(crate) fn set_loaded(&self) {
        self.loaded.send_replace(true);
        self.store_works();
    }

    /// The store, in words.
    pub(crate) fn store(&self) -> String {
        self.store.describe()
    }

    /// SHA-256 of the key that signs records, in hexadecimal.
    pub(crate) fn fingerprint(&self) -> String {
        hex(&self.key.fingerprint())
    }

    /// The head's revision.
    pub(crate) fn revision(&self) -> u64 {
        *self.latest.borrow()
    }

    /// Tells of each new revision.
    pub(crate) fn revisions(&self) -> watch::Receiver<u64> {
        self.latest.subscribe()
    }

    /// Reads the mirror.
    pub(crate) fn read<T>(&self, look: impl FnOnce(&Mirror) -> T) -> T {
        look(&self.mirror.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn acks(&self) -> MutexGuard<'_, Acks> {
        self.acks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Milliseconds since central started, for what is only compared here.
    pub(crate) fn monotonic_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Takes what the store has.
    pub(crate) fn take<'a>(&self, pairs: impl Iterator<Item = (&'a [u8], &'a [u8])>) {
        let mut mirror = self.mirror.write().unwrap_or_else(PoisonError::into_inner);
        let mut put = |key: &[u8], value: &[u8]| {
            if let Err(why) = mirror.take(key, value) {
                let (key, why) = (store_key::name(key), chain(&why));
                tracing::error!(target: "audit", event = "refused-record", key, why, "the store holds what is not believed");
            }
        };
        // The head last: whoever sees it sees everything that it stands for.
        let mut head = None;
        for (key, value) in pairs {
            if key == store_key::HEAD {
                head = Some(value);
            } else {
                put(key, value);
            }
        }
        if let Some(value) = head {
            put(store_key::HEAD, value);
        }
        let revision = mirror.head_or_none().revision;
        drop(mirror);
        self.latest.send_if_modified(|latest| {
            let is_new = *latest != revision;
            *latest = revision;
            is_new
        });
        self.store_works();
    }

    /// Whether the mirror is at this head of the store's.
    pub(crate) fn has_head(&self, value: &[u8]) -> bool {
        let stored: Option<Signed> = postcard::from_bytes(value).ok();
        self.read(|mirror| mirror.head().map(|(_, signed)| signed) == stored.as_ref())
    }

    /// The head as the store has it now, for everybody: no earlier read stands for it.
    pub(crate) async fn linear_head(&self) -> Result<Option<(Head, Signed)>, StoreError> {
        let Some(stored) = self.store.get(store_key::HEAD).await? else {
            return Ok(None);
        };
        let corrupt = |what| StoreError::Corrupt { what, source: None };
        let signed: Signed =
            postcard::from_bytes(&stored.value).map_err(|_| corrupt("the head cannot be read"))?;
        match self.key.read(&signed) {
            Ok(Record::Head(head)) => Ok(Some((head, signed))),
            _ => Err(corrupt("the head is not signed by central")),
        }
    }

    /// Signs a transaction in the token.
    pub(crate) async fn seal(&self, transaction: &Transaction) -> Result<Sealed, SealError> {
        // The mirror cannot move meanwhile: only what this task writes, and what it hears of others, moves it, and the
        // head is the guard.
        let (token, now) = (self.token.clone(), now_ms());
        let numbered = self.read(|mirror| transaction.number(mirror, now))?;
        let signed = self
            .workers
            .run(Instant::now() + TOKEN_TIMEOUT, move |worker| {
                numbered.sign(|text| token.sign_record(worker, text))
            })
            .await;
        match signed {
            Ok(sealed) => sealed.map_err(SealError::from),
            Err(error) => Err(SealError::Refused(token_refused(&error))),
        }
    }

    /// Does what an operator asks.
    pub(crate) async fn ask(&self, ask: Ask) -> Answer {
        match self.try_ask(ask).await {
            Ok(answer) => answer,
            Err(refused) => Answer::Refused(refused),
        }
    }

    async fn try_ask(&self, ask: Ask) -> Result<Answer, Refused> {
        if let Ask::Enforced { revision } = ask {
            return self.enforced(revision);
        }
        let plan = Plan::new(ask, KeyId(random()?), now_ms());
        let mut last = 0;
        let mut warnings = Vec::new();
        for _ in 0..REPLANS_MAX {
            let mut step = self.read(|mirror| plan.begin(mirror))?;
            if let Step::Work(work) = step {
                let is_pool = work == Work::Pool;
                let done = work::run(self, work).await?;
                if let (true, Ask::Status, WorkDone::Pool(pool)) = (is_pool, plan.ask(), &done) {
                    return Ok(Answer::Status(Box::new(self.status(pool))));
                }
                step = self.read(|mirror| plan.go_on(mirror, done))?;
            }
            match step {
                Step::Answer(Answer::Committed { revision, key, .. }) => {
                    return Ok(Answer::Committed {
                        revision: revision.max(last),
                        key,
                        warnings,
                    });
                }
                Step::Answer(answer) => return Ok(answer),
                Step::Work(_) => {
                    return Err(Refused {
                        code: RefusedCode::Token,
                        why: "the token was asked twice".to_owned(),
                    });
                }
                Step::Write(draft) => match self.write(draft.clone()).await {
                    Outcome::At(revision) if draft.more => {
                        last = revision;
                        warnings.extend(draft.warnings);
                    }
                    Outcome::At(revision) => {
                        let Answer::Committed {
                            key, warnings: own, ..
                        } = draft.committed(revision)
                        else {
                            return Ok(draft.committed(revision));
                        };
                        warnings.extend(own);
                        return Ok(Answer::Committed {
                            revision,
                            key,
                            warnings,
                        });
                    }
                    Outcome::Changed => {}
                    Outcome::Refused(refused) => return Err(refused),
                },
            }
        }
        Err(Refused {
            code: RefusedCode::Store,
            why: "what it is about changes all the time; try again".to_owned(),
        })
    }

    async fn write(&self, draft: Draft) -> Outcome {
        let gone = || {
            Outcome::Refused(Refused {
                code: RefusedCode::Store,
                why: "central is stopping".to_owned(),
            })
        };
        let (reply, outcome) = oneshot::channel();
        if self.orders.send(Order { draft, reply }).await.is_err() {
            return gone();
        }
        outcome.await.unwrap_or_else(|_| gone())
    }

    fn enforced(&self, revision: u64) -> Result<Answer, Refused> {
        let acks = self.acks().clone();
        let now = now_ms();
        self.read(|mirror| {
            if mirror.past_head(revision).is_none() {
                return Err(Refused {
                    code: RefusedCode::NotFound,
                    why: format!("there is no revision {revision} yet"),
                });
            }
            let age_ms = |revision| {
                let past = mirror.past_head(revision);
                past.map_or(0, |past| now.saturating_sub(past.at_ms))
            };
            Ok(mirror.enforced(&acks, revision, age_ms))
        })
    }

    fn status(&self, pool: &[(Purpose, KekId)]) -> Status {
        let acks = self.acks().clone();
        let now = self.monotonic_ms();
        let mut warnings: Vec<String> = Vec::new();
        warnings.extend(self.trouble().clone());
        let alarms = self.alarms.lock().unwrap_or_else(PoisonError::into_inner);
        warnings.extend(alarms.values().cloned());
        drop(alarms);
        self.read(|mirror| {
            warnings.extend(
                mirror
                    .refused()
                    .take(REFUSED_SHOWN)
                    .map(|why| format!("the store holds what central did not sign: {why}")),
            );
            let free = mirror.free(pool);
            for (purpose, count) in mirror.free_count(pool) {
                let is_used = mirror.classes().any(|(class, _)| {
                    class.epochs.iter().any(|epoch| epoch.purpose == purpose)
                });
                if count == 0 && is_used {
                    warnings.push(format!(
                        "the pool has no key-encryption key for {purpose} left: `signer-admin kms ceremony pool`"
                    ));
                }
            }
            Status {
                head: mirror.head_or_none(),
                store: self.store(),
                keys: u64::try_from(mirror.key_count()).unwrap_or(u64::MAX),
                classes: u32::try_from(mirror.classes().count()).unwrap_or(u32::MAX),
                grants: mirror
                    .grants()
                    .filter(|grant| !grant.operations.is_empty())
                    .count() as u64,
                sites: mirror.lags(&acks, now),
                pool: mirror.free_count(pool),
                signer: self.key.fingerprint(),
                free_keks: free,
                warnings,
            }
        })
    }

    /// A site's history is not ours.
    pub(crate) fn alarm(&self, site: &str, why: &str) {
        let mut alarms = self.alarms.lock().unwrap_or_else(PoisonError::into_inner);
        let text = format!("site `{site}`: {why}");
        if alarms.insert(site.to_owned(), text).is_none() {
            tracing::error!(target: "audit", event = "history", site, why, "a site has seen another history");
        }
    }

    /// A site goes along again.
    pub(crate) fn calm(&self, site: &str) {
        let mut alarms = self.alarms.lock().unwrap_or_else(PoisonError::into_inner);
        alarms.remove(site);
    }

    fn trouble(&self) -> MutexGuard<'_, Option<String>> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The store does not answer: said once until it does.
    pub(crate) fn store_trouble(&self, error: &StoreError) {
        let text = chain(error);
        let mut trouble = self.trouble();
        if trouble.as_deref() != Some(text.as_str()) {
            tracing::warn!(error = text, "the store is in trouble");
            *trouble = Some(text);
        }
        self.was_away.store(true, Ordering::Relaxed);
    }

    fn store_works(&self) {
        let mut trouble = self.trouble();
        *trouble = None;
        if self.was_away.swap(false, Ordering::Relaxed) {
            tracing::info!("the store answers again");
        }
    }

    /// Why a request is not done when the store does not take it.
    pub(crate) fn store_refused(&self, error: &StoreError) -> Refused {
        self.store_trouble(error);
        let code = match error {
            StoreError::Unknown { .. } => RefusedCode::Unknown,
            _ => RefusedCode::Store,
        };
        Refused {
            code,
            why: chain(error),
        }
    }

    /// Whether token and store are well.
    pub(crate) async fn is_well(&self) -> bool {
        self.trouble().is_none() && work::is_token_well(self).await
    }
}

/// Why a request is not done when the token does not do its part.
pub(crate) fn token_refused(error: &keyhaven_hsm::Error) -> Refused {
    Refused {
        code: RefusedCode::Token,
        why: chain(error),
    }
}

/// An error and its sources on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        line = format!("{line}: {inner}");
        source = inner.source();
    }
    line
}

pub(crate) fn random() -> Result<[u8; 16], Refused> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| Refused {
        code: RefusedCode::Token,
        why: "the system gives no random bytes".to_owned(),
    })?;
    Ok(bytes)
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Drafts that may wait to be written.
const ORDERS_MAX: usize = 1024;
/// How often a request is planned before it is given up; the steps of a long one count, too.
const REPLANS_MAX: usize = 100_000;
/// How long signing a transaction may take.
const TOKEN_TIMEOUT: Duration = Duration::from_secs(30);
/// Records that central did not sign, in one status.
const REFUSED_SHOWN: usize = 8;
