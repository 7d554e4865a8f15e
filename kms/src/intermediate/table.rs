//! What the site knows: keys, versions, classes, sites and grants, as central said it.
//!
//! A view for lookup, policy and serving; it changes when records are applied. What was asked for lately is in memory, the
//! rest in the replica. Invariant: every value was signed by central and stands where it belongs, also when somebody wrote
//! to the replica's file.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use keyhaven_types::{Identity, KeyId, Name, Operation};
use keyhaven_wire::kms::{
    BOUND_S_MIN, ClassRecord, Entry, Grant, HeadMark, KeyRecord, KeyRef, Record, Scope, Signed,
    SiteRecord,
};

use super::{
    ages::Ages,
    judge,
    replica::{Replica, ReplicaError},
    version::{Version, is_meant},
};
use crate::{
    central::store_key::{self, StoreKey},
    records::CentralKey,
};

/// The read view. Cheap to ask; answers change as records are applied, each batch as a whole.
pub struct Table {
    central: CentralKey,
    replica: Arc<Replica>,
    known: Mutex<Ages<StoreKey, Known>>,
    /// Raised when something is forgotten, so that nothing older is remembered.
    changes: AtomicU64,
    /// The few that are always in memory.
    small: RwLock<Small>,
    /// Held while they are read and put there.
    loading: Mutex<()>,
    applied: AtomicU64,
    head: RwLock<(HeadMark, Option<Signed>)>,
}

/// A record that was checked.
#[derive(Clone)]
enum Known {
    Key(Arc<KeyRecord>, Arc<Signed>),
    Version(Arc<Version>),
    Grant(Arc<Grant>, Arc<Signed>),
}

#[derive(Default)]
struct Small {
    classes: BTreeMap<Name, (Arc<ClassRecord>, Arc<Signed>)>,
    sites: Vec<Arc<SiteRecord>>,
}

impl Table {
    pub(super) fn open(
        central: CentralKey,
        replica: Arc<Replica>,
        cache_bytes: usize,
        applied: u64,
    ) -> Self {
        let table = Self {
            central,
            replica,
            known: Mutex::new(Ages::new(cache_bytes / RECORD_BYTES)),
            changes: AtomicU64::new(0),
            small: RwLock::default(),
            loading: Mutex::default(),
            applied: AtomicU64::new(applied),
            head: RwLock::default(),
        };
        table.load_small();
        table
    }

    /// Keys that this names: at most one by id or name; by host name every key that is served for it, for an exact name
    /// if there is one, for `*.parent` otherwise.
    pub fn keys(&self, key: &KeyRef) -> Vec<Arc<KeyRecord>> {
        match key {
            KeyRef::Id(id) => self.key_by_id(*id).into_iter().collect(),
            KeyRef::Name(name) => {
                let found =
                    self.candidates(self.replica.named(name.as_str()), |key| key.name == *name);
                // What was fetched before its time may have the name of one that is going.
                found
                    .into_iter()
                    .max_by_key(|key| key.revision)
                    .into_iter()
                    .collect()
            }
            KeyRef::ServerName(host) => self.hosted(host),
        }
    }

    /// The first of [`Table::keys`].
    pub fn key(&self, key: &KeyRef) -> Option<Arc<KeyRecord>> {
        self.keys(key).into_iter().next()
    }

    /// One version of a key.
    pub fn version(&self, id: KeyId, version: u32) -> Option<Arc<Version>> {
        match self.known(store_key::version(id, version))? {
            Known::Version(version) => Some(version),
            _ => None,
        }
    }

    /// A class.
    pub fn class(&self, name: &Name) -> Option<Arc<ClassRecord>> {
        let small = self.small.read().unwrap_or_else(PoisonError::into_inner);
        small.classes.get(name).map(|(class, _)| Arc::clone(class))
    }

    /// A site by its name.
    pub fn site(&self, name: &Name) -> Option<Arc<SiteRecord>> {
        self.find_site(|site| site.name == *name)
    }

    /// A site by its signer; none when it was thrown out.
    pub fn site_of(&self, identity: &Identity) -> Option<Arc<SiteRecord>> {
        self.find_site(|site| site.identity == *identity && !site.evicted)
    }

    /// Every site, evicted ones too, in the order of their names.
    pub fn sites(&self) -> Vec<Arc<SiteRecord>> {
        let small = self.small.read().unwrap_or_else(PoisonError::into_inner);
        small.sites.clone()
    }

    /// Whether an identity may do this.
    pub fn is_granted(&self, identity: &Identity, scope: Scope, operation: Operation) -> bool {
        let grant = self.grant(identity, scope);
        grant.is_some_and(|(grant, _)| grant.operations.contains(&operation))
    }

    /// Everything up to this revision is here.
    pub fn applied(&self) -> u64 {
        self.applied.load(Ordering::Acquire)
    }

    /// The latest head that was seen.
    pub fn head(&self) -> HeadMark {
        self.head.read().unwrap_or_else(PoisonError::into_inner).0
    }

    /// The same as central signed it, or one that was seen before.
    pub(super) fn signed_head(&self) -> Option<Signed> {
        let head = self.head.read().unwrap_or_else(PoisonError::into_inner);
        head.1.clone()
    }

    pub(super) fn set_head(&self, mark: HeadMark, signed: Option<Signed>) {
        let mut head = self.head.write().unwrap_or_else(PoisonError::into_inner);
        head.0 = mark;
        head.1 = signed.or(head.1.take());
    }

    pub(super) fn set_applied(&self, applied: u64) {
        self.applied.store(applied, Ordering::Release);
    }

    /// Forgets what changed in the replica. When this returns, nothing older is told any more.
    pub(super) fn changed(&self, places: &[StoreKey]) {
        {
            let mut known = self.lock();
            self.changes.fetch_add(1, Ordering::AcqRel);
            for place in places {
                known.remove(place);
            }
        }
        if places.iter().any(is_small) {
            self.load_small();
        }
    }

    /// Forgets everything.
    pub(super) fn begin_anew(&self) {
        {
            let mut known = self.lock();
            self.changes.fetch_add(1, Ordering::AcqRel);
            known.clear();
        }
        self.load_small();
        self.applied.store(0, Ordering::Release);
    }

    /// The shortest bound of all classes in seconds.
    pub(super) fn bound_min_s(&self) -> Option<u32> {
        let small = self.small.read().unwrap_or_else(PoisonError::into_inner);
        small.classes.values().map(|(class, _)| class.bound_s).min()
    }

    /// A key's records for a peer, as central signed them, with the wraps that are meant for it.
    pub(super) fn entries_for(
        &self,
        peer: &SiteRecord,
        key: &KeyRecord,
        caller: &Identity,
    ) -> Vec<Entry> {
        let mut entries = Vec::new();
        let mut plain = |signed: Option<Arc<Signed>>| {
            entries.extend(signed.map(|signed| Entry {
                signed: (*signed).clone(),
                parts: None,
            }));
        };
        if let Some(Known::Key(_, signed)) = self.known(store_key::key(key.id)) {
            plain(Some(signed));
        }
        let class = {
            let small = self.small.read().unwrap_or_else(PoisonError::into_inner);
            small.classes.get(&key.class).cloned()
        };
        plain(class.as_ref().map(|(_, signed)| Arc::clone(signed)));
        plain(
            self.grant(caller, Scope::Key(key.id))
                .map(|(_, signed)| signed),
        );
        // The newest versions are the likeliest to be asked for.
        let newest = (1..=key.versions).rev().take(VERSIONS_MAX);
        let mut bytes = 0;
        for version in newest.filter_map(|number| self.version(key.id, number)) {
            let is_meant = class
                .as_ref()
                .is_some_and(|(class, _)| is_meant(peer, class, &version.manifest));
            bytes += version.bytes();
            if bytes > ANSWER_BYTES_MAX {
                break;
            }
            entries.push(version.entry(is_meant));
        }
        entries
    }

    fn hosted(&self, host: &str) -> Vec<Arc<KeyRecord>> {
        let host = host.to_ascii_lowercase();
        let named = |wanted: &str| {
            self.candidates(self.replica.hosted(wanted), |key| {
                key.server_names.iter().any(|name| name == wanted)
            })
        };
        let exact = named(&host);
        match host.split_once('.') {
            Some((_, parent)) if exact.is_empty() => named(&format!("*.{parent}")),
            _ => exact,
        }
    }

    fn candidates(
        &self,
        ids: Result<Vec<KeyId>, ReplicaError>,
        is_it: impl Fn(&KeyRecord) -> bool,
    ) -> Vec<Arc<KeyRecord>> {
        let ids = self.or_none(ids).unwrap_or_default();
        let keys = ids.into_iter().filter_map(|id| self.key_by_id(id));
        keys.filter(|key| is_it(key)).collect()
    }

    fn key_by_id(&self, id: KeyId) -> Option<Arc<KeyRecord>> {
        match self.known(store_key::key(id))? {
            Known::Key(key, _) => Some(key),
            _ => None,
        }
    }

    fn grant(&self, identity: &Identity, scope: Scope) -> Option<(Arc<Grant>, Arc<Signed>)> {
        match self.known(store_key::grant(&scope, identity))? {
            Known::Grant(grant, signed) => Some((grant, signed)),
            _ => None,
        }
    }

    fn find_site(&self, is_it: impl Fn(&SiteRecord) -> bool) -> Option<Arc<SiteRecord>> {
        let small = self.small.read().unwrap_or_else(PoisonError::into_inner);
        small.sites.iter().find(|site| is_it(site)).cloned()
    }

    /// A record by its place, from memory, or from the replica and then judged.
    fn known(&self, place: StoreKey) -> Option<Known> {
        if let Some(known) = self.lock().get(&place) {
            return Some(known.clone());
        }
        let seen = self.changes.load(Ordering::Acquire);
        let entry = self.or_none(self.replica.record(&place))??;
        let known = Known::of(self.checked(&place, entry)?)?;
        let mut memory = self.lock();
        // What changed in between may be this.
        if self.changes.load(Ordering::Acquire) == seen {
            memory.insert(place, known.clone());
        }
        Some(known)
    }

    /// What stands in the file is judged like what comes from outside, and must stand where it belongs.
    fn checked(&self, place: &[u8], entry: Entry) -> Option<judge::Checked> {
        match judge::check(&self.central, entry) {
            Ok(checked) if checked.place == place => return Some(checked),
            Ok(_) => tracing::error!("the replica has a record in another one's place"),
            Err(why) => tracing::error!(error = %why, "the replica has what is not central's"),
        }
        None
    }

    fn or_none<T>(&self, result: Result<T, ReplicaError>) -> Option<T> {
        result
            .inspect_err(|error| {
                tracing::error!(error = %chain(error), "the replica cannot be read");
            })
            .ok()
    }

    /// Classes and sites are few, and are asked for all the time.
    fn load_small(&self) {
        // One after the other: what was read before a change must not be put in the place of what was read after it.
        let _one = self.loading.lock().unwrap_or_else(PoisonError::into_inner);
        let bounds = self.followed_bounds();
        let mut small = Small::default();
        for prefix in SMALL {
            let entries = self.or_none(self.replica.all(prefix)).unwrap_or_default();
            for entry in entries {
                let signed = Arc::new(entry.signed.clone());
                let checked = judge::check(&self.central, entry).inspect_err(|why| {
                    tracing::error!(error = %why, "the replica has what is not central's");
                });
                match checked.map(|checked| checked.record) {
                    Ok(Record::Class(mut class)) => {
                        let name = class.name.clone();
                        let followed = bounds.get(&name).copied().unwrap_or(BOUND_S_MIN);
                        class.bound_s = class.bound_s.min(followed);
                        small.classes.insert(name, (Arc::new(class), signed));
                    }
                    Ok(Record::Site(site)) => small.sites.push(Arc::new(site)),
                    _ => {}
                }
            }
        }
        small.sites.sort_by(|a, b| a.name.cmp(&b.name));
        *self.small.write().unwrap_or_else(PoisonError::into_inner) = small;
    }

    /// What a lease is worth in each class, by the records that came by following. A class that was fetched before its
    /// time may shorten it, and never makes a lease longer that was given before.
    fn followed_bounds(&self) -> BTreeMap<Name, u32> {
        let entries = self
            .or_none(self.replica.followed(b"c/"))
            .unwrap_or_default();
        let checked = entries
            .into_iter()
            .filter_map(|entry| judge::check(&self.central, entry).ok());
        let bounds = checked.filter_map(|checked| match checked.record {
            Record::Class(class) => Some((class.name, class.bound_s)),
            _ => None,
        });
        bounds.collect()
    }

    fn lock(&self) -> MutexGuard<'_, Ages<StoreKey, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn of(checked: judge::Checked) -> Option<Self> {
        let signed = checked.entry.signed;
        Some(match checked.record {
            Record::Key(key) => Self::Key(Arc::new(key), Arc::new(signed)),
            Record::Grant(grant) => Self::Grant(Arc::new(grant), Arc::new(signed)),
            Record::Version(manifest) => {
                let parts = checked.entry.parts.unwrap_or_default();
                Self::Version(Arc::new(Version {
                    manifest,
                    chain: parts.chain,
                    wrap: parts.site_wrap,
                    signed,
                }))
            }
            _ => return None,
        })
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Table(revision {})", self.applied())
    }
}

fn is_small(place: &StoreKey) -> bool {
    SMALL.iter().any(|prefix| place.starts_with(prefix))
}

/// An error with its sources, in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}

/// Where classes and sites stand.
const SMALL: [&[u8]; 2] = [b"c/", b"s/"];
/// What a record takes in memory, roughly.
const RECORD_BYTES: usize = 2 * 1024;
/// Older ones come by following.
const VERSIONS_MAX: usize = 32;
/// What an answer may hold of versions.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
