//! Everything that the store holds, verified, in memory: by key, by revision, by name.
//!
//! Follows the store and never leads it. Invariant: what is in here central signed, and of each record only the latest.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::Bound,
};

use keyhaven_types::{Identity, KeyId, Name};
use keyhaven_wire::kms::{
    ClassRecord, Entry, Grant, Head, KeyRecord, KeyRef, Manifest, Record, Scope, Signed, SiteRecord,
};

use super::{
    state_tree::StateTree,
    store_key::{self, StoreKey},
};
use crate::records::{CentralKey, Distrust};

/// A record with how it is kept.
#[derive(Clone, Debug)]
pub struct Item {
    /// As it is kept and carried.
    pub entry: Entry,
    /// What it says.
    pub record: Record,
}

/// A head that was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PastHead {
    /// Its era.
    pub era: u32,
    /// Its chain.
    pub chain: [u8; 32],
    /// Within how many seconds what it wrote holds everywhere.
    pub bound_s: u32,
    /// When it was written, by the writing central's wall clock, in milliseconds since 1970.
    pub at_ms: u64,
}

impl From<&Head> for PastHead {
    fn from(head: &Head) -> Self {
        Self {
            era: head.era,
            chain: head.chain,
            bound_s: head.bound_s,
            at_ms: head.at_ms,
        }
    }
}

/// Everything.
#[derive(Debug)]
pub struct Mirror {
    central: CentralKey,
    items: BTreeMap<StoreKey, Item>,
    state: StateTree,
    by_revision: BTreeMap<u64, BTreeSet<StoreKey>>,
    key_names: BTreeMap<Name, KeyId>,
    server_names: HashMap<String, BTreeSet<KeyId>>,
    sites_by_identity: HashMap<Identity, Name>,
    head: Option<(Head, Signed)>,
    /// Chains by revision, to find where a site's history left ours.
    heads: BTreeMap<u64, PastHead>,
    /// What was not believed, by store key.
    refused: BTreeMap<StoreKey, String>,
}

impl Mirror {
    /// An empty one, that judges by this key.
    pub fn new(central: CentralKey) -> Self {
        Self {
            central,
            items: BTreeMap::new(),
            state: StateTree::new(),
            by_revision: BTreeMap::new(),
            key_names: BTreeMap::new(),
            server_names: HashMap::new(),
            sites_by_identity: HashMap::new(),
            head: None,
            heads: BTreeMap::new(),
            refused: BTreeMap::new(),
        }
    }

    /// What records are judged by.
    pub fn central(&self) -> &CentralKey {
        &self.central
    }

    /// Takes what the store has under a key. What is not central's is refused and remembered: it is never served.
    ///
    /// # Errors
    /// Why it was refused.
    pub fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), Distrust> {
        let taken = self.try_take(key, value);
        match &taken {
            Err(why) => {
                let why = format!("{}: {why}", store_key::name(key));
                self.refused.insert(key.to_vec(), why);
            }
            Ok(()) => {
                self.refused.remove(key);
            }
        }
        taken
    }

    fn try_take(&mut self, key: &[u8], value: &[u8]) -> Result<(), Distrust> {
        if key == store_key::HEAD {
            let signed: Signed = read(value)?;
            let Record::Head(head) = self.central.read(&signed)? else {
                return Err(Distrust::Parts("the head is another record"));
            };
            return self.take_head(head, signed);
        }
        if key.starts_with(store_key::HEADS) {
            let signed: Signed = read(value)?;
            let Record::Head(head) = self.central.read(&signed)? else {
                return Err(Distrust::Parts("a past head is another record"));
            };
            if store_key::past_head(head.revision) != key {
                return Err(Distrust::Parts("a past head under another revision"));
            }
            self.heads.insert(head.revision, PastHead::from(&head));
            return Ok(());
        }
        let entry: Entry = read(value)?;
        let record = self.central.believe(&entry)?.record;
        if store_key::of(&record).as_deref() != Some(key) {
            return Err(Distrust::Parts("a record under another one's name"));
        }
        self.insert(key.to_vec(), Item { entry, record })
    }

    /// Whether this is all that central had signed when it signed the head, and nothing else.
    pub fn is_whole(&self) -> bool {
        self.state.root() == self.head_or_none().state
    }

    /// What [`Head::state`] is after these bodies were written under their store keys.
    pub(super) fn state_with<'a>(
        &self,
        writes: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
    ) -> [u8; 32] {
        self.state.root_with(writes)
    }

    /// Takes over what another mirror of the same history knows better: nothing in it is ever deleted or made older. Gives
    /// the store keys of that.
    pub fn keep_newer(&mut self, other: &Mirror) -> Vec<StoreKey> {
        let revision = |item: &Item| store_key::revision_of(&item.record).unwrap_or(0);
        let newer = other.items.iter().filter(|(key, item)| {
            let known = self.items.get(*key).map_or(0, revision);
            known < revision(item)
        });
        let newer: Vec<_> = newer
            .map(|(key, item)| (key.clone(), item.clone()))
            .collect();
        let mut kept = Vec::new();
        for (key, item) in newer {
            if self.insert(key.clone(), item).is_ok() {
                kept.push(key);
            }
        }
        if let Some((head, signed)) = &other.head {
            let is_new = self.head.as_ref().is_none_or(|(known, _)| known != head);
            if is_new && self.take_head(*head, signed.clone()).is_ok() {
                kept.push(store_key::HEAD.to_vec());
            }
        }
        kept
    }

    /// What the store must hold under this key.
    pub fn stored(&self, key: &[u8]) -> Option<Vec<u8>> {
        let value = match key {
            store_key::HEAD => postcard::to_stdvec(&self.head.as_ref()?.1),
            key => postcard::to_stdvec(&self.items.get(key)?.entry),
        };
        value.ok()
    }

    fn take_head(&mut self, head: Head, signed: Signed) -> Result<(), Distrust> {
        if let Some((known, _)) = &self.head
            && (head.era, head.revision) < (known.era, known.revision)
        {
            return Err(Distrust::Parts("the head went back"));
        }
        self.heads.insert(head.revision, PastHead::from(&head));
        self.head = Some((head, signed));
        Ok(())
    }

    fn insert(&mut self, key: StoreKey, item: Item) -> Result<(), Distrust> {
        let revision = store_key::revision_of(&item.record).unwrap_or(0);
        if let Some(old) = self.items.get(&key) {
            let known = store_key::revision_of(&old.record).unwrap_or(0);
            // After a reload the store may tell of something again.
            if known == revision && old.record == item.record {
                return Ok(());
            }
            if known >= revision {
                return Err(Distrust::Parts("an older record was put back"));
            }
            if let Some(keys) = self.by_revision.get_mut(&known) {
                keys.remove(&key);
                if keys.is_empty() {
                    self.by_revision.remove(&known);
                }
            }
        }
        self.index(&item.record);
        self.state.write(&key, &item.entry.signed.body);
        self.by_revision
            .entry(revision)
            .or_default()
            .insert(key.clone());
        self.items.insert(key, item);
        Ok(())
    }

    fn index(&mut self, record: &Record) {
        match record {
            Record::Key(key) => {
                self.key_names.insert(key.name.clone(), key.id);
                for name in &key.server_names {
                    let keys = self.server_names.entry(name.clone()).or_default();
                    keys.insert(key.id);
                }
            }
            Record::Site(site) => {
                self.sites_by_identity
                    .insert(site.identity.clone(), site.name.clone());
            }
            _ => {}
        }
    }

    /// The head with its signature; none before the first transaction.
    pub fn head(&self) -> Option<&(Head, Signed)> {
        self.head.as_ref()
    }

    /// The head, or what stands for it before the first transaction.
    pub fn head_or_none(&self) -> Head {
        self.head.as_ref().map_or(
            Head {
                era: 1,
                revision: 0,
                chain: [0; 32],
                state: [0; 32],
                bound_s: 0,
                at_ms: 0,
            },
            |(head, _)| *head,
        )
    }

    /// The head as it was at a revision.
    pub fn past_head(&self, revision: u64) -> Option<&PastHead> {
        self.heads.get(&revision)
    }

    /// A record by its store key.
    pub fn get(&self, key: &[u8]) -> Option<&Item> {
        self.items.get(key)
    }

    /// The revision of what is under a store key; none when there is nothing.
    pub fn revision_at(&self, key: &[u8]) -> Option<u64> {
        store_key::revision_of(&self.items.get(key)?.record)
    }

    /// What was not believed, in words.
    pub fn refused(&self) -> impl Iterator<Item = &str> {
        self.refused.values().map(String::as_str)
    }

    /// Store keys of records with revisions above this one, in their order.
    pub fn after(&self, revision: u64) -> impl Iterator<Item = (u64, &BTreeSet<StoreKey>)> {
        let from = revision.saturating_add(1);
        self.by_revision.range(from..).map(|(at, keys)| (*at, keys))
    }

    fn prefixed(&self, prefix: &[u8]) -> impl Iterator<Item = &Item> + use<'_> {
        let prefix = prefix.to_vec();
        self.items
            .range(prefix.clone()..)
            .take_while(move |(key, _)| key.starts_with(&prefix))
            .map(|(_, item)| item)
    }

    /// Every class.
    pub fn classes(&self) -> impl Iterator<Item = (&ClassRecord, &Signed)> {
        self.prefixed(b"c/").filter_map(|item| match &item.record {
            Record::Class(class) => Some((class, &item.entry.signed)),
            _ => None,
        })
    }

    /// A class.
    pub fn class(&self, name: &Name) -> Option<&ClassRecord> {
        match &self.get(&store_key::class(name))?.record {
            Record::Class(class) => Some(class),
            _ => None,
        }
    }

    /// Every site, in the order of their names.
    pub fn sites(&self) -> impl Iterator<Item = &SiteRecord> {
        self.prefixed(b"s/").filter_map(|item| match &item.record {
            Record::Site(site) => Some(site),
            _ => None,
        })
    }

    /// A site.
    pub fn site(&self, name: &Name) -> Option<&SiteRecord> {
        match &self.get(&store_key::site(name))?.record {
            Record::Site(site) => Some(site),
            _ => None,
        }
    }

    /// The site whose signer this is, enrolled or thrown out.
    pub fn site_of(&self, identity: &Identity) -> Option<&SiteRecord> {
        let site = self.site(self.sites_by_identity.get(identity)?)?;
        (site.identity == *identity).then_some(site)
    }

    /// Every key, in the order of their ids.
    pub fn keys(&self) -> impl Iterator<Item = &KeyRecord> {
        self.prefixed(b"k/").filter_map(|item| match &item.record {
            Record::Key(key) => Some(key),
            _ => None,
        })
    }

    /// How many keys there are.
    pub fn key_count(&self) -> usize {
        self.key_names.len()
    }

    /// Every key whose name is after this one, in the order of their names.
    pub fn keys_after<'a>(&'a self, after: Option<&Name>) -> impl Iterator<Item = &'a KeyRecord> {
        let from = after.map_or(Bound::Unbounded, |after| Bound::Excluded(after.clone()));
        let ids = self.key_names.range((from, Bound::Unbounded));
        ids.filter_map(|(_, id)| self.key(*id))
    }

    /// A key by its name.
    pub fn key_named(&self, name: &Name) -> Option<&KeyRecord> {
        self.key(*self.key_names.get(name)?)
    }

    /// Keys in use that name this host, as it is written.
    pub fn keys_of_host(&self, name: &str) -> Vec<&KeyRecord> {
        let ids = self.server_names.get(name).into_iter().flatten();
        ids.filter_map(|id| self.key(*id))
            .filter(|key| key.current.is_some())
            .collect()
    }

    /// Another key in use than this one that names the host.
    pub(super) fn other_key_of(&self, name: &str, key: KeyId) -> Option<&KeyRecord> {
        let mut keys = self.keys_of_host(name).into_iter();
        keys.find(|other| other.id != key)
    }

    /// A key.
    pub fn key(&self, id: KeyId) -> Option<&KeyRecord> {
        match &self.get(&store_key::key(id))?.record {
            Record::Key(key) => Some(key),
            _ => None,
        }
    }

    /// A key as a caller names it. Of a host name, the one in use.
    pub fn find(&self, key: &KeyRef) -> Option<&KeyRecord> {
        match key {
            KeyRef::Id(id) => self.key(*id),
            KeyRef::Name(name) => self.key_named(name),
            KeyRef::ServerName(name) => self.serving(name),
        }
    }

    /// The key in use of a host name: one that names it, or else one of its wildcard.
    pub fn serving(&self, name: &str) -> Option<&KeyRecord> {
        let exact = self.keys_of_host(name).into_iter().next();
        exact.or_else(|| {
            let (_, parent) = name.split_once('.')?;
            self.keys_of_host(&format!("*.{parent}")).into_iter().next()
        })
    }

    /// A version with how it is kept.
    pub fn version(&self, id: KeyId, version: u32) -> Option<(&Manifest, &Entry)> {
        let item = self.get(&store_key::version(id, version))?;
        match &item.record {
            Record::Version(manifest) => Some((manifest, &item.entry)),
            _ => None,
        }
    }

    /// The versions of a key, the first first.
    pub fn versions(&self, id: KeyId) -> Vec<(&Manifest, &Entry)> {
        let prefix = format!("v/{id}/").into_bytes();
        let items = self.prefixed(&prefix);
        items
            .filter_map(|item| match &item.record {
                Record::Version(manifest) => Some((manifest, &item.entry)),
                _ => None,
            })
            .collect()
    }

    /// Every version of every key.
    pub fn all_versions(&self) -> impl Iterator<Item = (&Manifest, &Entry)> {
        self.prefixed(b"v/").filter_map(|item| match &item.record {
            Record::Version(manifest) => Some((manifest, &item.entry)),
            _ => None,
        })
    }

    /// Every grant.
    pub fn grants(&self) -> impl Iterator<Item = &Grant> {
        self.prefixed(b"g/").filter_map(|item| match &item.record {
            Record::Grant(grant) => Some(grant),
            _ => None,
        })
    }

    /// A grant.
    pub fn grant(&self, scope: &Scope, identity: &Identity) -> Option<&Grant> {
        match &self.get(&store_key::grant(scope, identity))?.record {
            Record::Grant(grant) => Some(grant),
            _ => None,
        }
    }

    /// The grants on a key, as they are kept.
    pub fn grants_on(&self, id: KeyId) -> Vec<&Entry> {
        let prefix = format!("g/{id}/").into_bytes();
        self.prefixed(&prefix).map(|item| &item.entry).collect()
    }
}

fn read<T: serde::de::DeserializeOwned>(value: &[u8]) -> Result<T, Distrust> {
    match postcard::take_from_bytes(value) {
        Ok((value, [])) => Ok(value),
        _ => Err(Distrust::Unreadable),
    }
}
