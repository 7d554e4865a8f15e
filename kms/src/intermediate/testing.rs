//! A central and a disk in memory, for the tests of this room.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard},
};

use keyhaven_types::{
    HardwareLevel, KekId, KeyId, KeyKind, KeyState, Name, Operation, Provenance, Purpose,
    Replication,
};
use keyhaven_wire::kms::{
    ClassEpoch, ClassRecord, Entry, Follow, Grant, Head, HeadMark, Held, KeyRecord, Manifest,
    Public, Record, Scope, Signed, SiteRecord, VersionParts, chain_digest,
};

use super::{
    judge::{self, Batch, Checked},
    replica::Medium,
};
use crate::{
    central::{Followed, Mirror, store_key},
    records::{CentralKey, chain_after, sha256, testing::SoftwareCentral},
};

/// What a central has stored.
pub(super) type Store = BTreeMap<Vec<u8>, Vec<u8>>;

/// A central without I/O.
pub(super) struct Central {
    signer: SoftwareCentral,
    pub(super) store: Store,
    pub(super) head: Head,
}

pub(super) const SITE: &str = "fra";
pub(super) const KEY: KeyId = KeyId([1; 16]);
pub(super) const KEK: KekId = KekId([2; 16]);

pub(super) fn name(text: &str) -> Name {
    text.parse().unwrap()
}

pub(super) fn caller() -> keyhaven_types::Identity {
    "spiffe://keyhaven.test/client/shop".parse().unwrap()
}

impl Central {
    /// With a site, a class whose bound is so many seconds, a key with one version, and a grant.
    pub(super) fn new(bound_s: u32) -> Self {
        let mut central = Self {
            signer: SoftwareCentral::new(),
            store: Store::new(),
            head: Head {
                era: 1,
                revision: 0,
                chain: [0; 32],
                state: [0; 32],
                bound_s: 0,
                at_ms: 0,
            },
        };
        central.write(vec![Record::Class(class(bound_s))]);
        central.write(vec![Record::Site(site())]);
        central.write(vec![Record::Key(key()), Record::Version(manifest(1))]);
        central.write(vec![Record::Grant(grant())]);
        central
    }

    pub(super) fn key(&self) -> CentralKey {
        self.signer.key()
    }

    /// Writes records in one transaction, and says which revision it made.
    pub(super) fn write(&mut self, records: Vec<Record>) -> u64 {
        let revision = self.head.revision + 1;
        let mut bodies = BTreeMap::new();
        for mut record in records {
            set_revision(&mut record, revision);
            let place = store_key::of(&record).unwrap();
            let entry = self.entry(&record);
            bodies.insert(place.clone(), entry.signed.body.clone());
            self.store
                .insert(place, postcard::to_stdvec(&entry).unwrap());
        }
        self.head.chain = chain_after(&self.head.chain, bodies.values().map(Vec::as_slice));
        self.head.revision = revision;
        self.write_head();
        revision
    }

    /// An operator says that history went back on purpose.
    pub(super) fn bump(&mut self) {
        self.head.era += 1;
        self.write(Vec::new());
    }

    /// As if the store came from a backup.
    pub(super) fn restore(&mut self, store: Store) {
        let signed: Signed = postcard::from_bytes(&store[store_key::HEAD]).unwrap();
        let Record::Head(head) = self.key().read(&signed).unwrap() else {
            panic!("no head")
        };
        (self.store, self.head) = (store, head);
    }

    pub(super) fn entry(&self, record: &Record) -> Entry {
        Entry {
            signed: self.signer.sign(record),
            parts: match record {
                Record::Version(manifest) => Some(parts_of(manifest)),
                _ => None,
            },
        }
    }

    pub(super) fn checked(&self, record: &Record) -> Checked {
        judge::check(&self.key(), self.entry(record)).unwrap()
    }

    pub(super) fn signed_head(&self) -> Signed {
        self.signer.sign(&Record::Head(self.head))
    }

    /// What another server knows that has read this store.
    pub(super) fn mirror(&self, store: &Store) -> Mirror {
        let mut mirror = Mirror::new(self.key());
        for (place, value) in store {
            mirror.take(place, value).unwrap();
        }
        mirror
    }

    /// A batch of everything after a revision.
    pub(super) fn batch(&self, after: u64) -> Batch {
        let ask = Follow {
            after,
            seen: HeadMark::default(),
            wait_ms: 0,
            bytes_max: u32::MAX,
        };
        let mirror = self.mirror(&self.store);
        let Followed::Changes { entries, through } = mirror.follow(&site(), &ask) else {
            panic!("nothing to tell")
        };
        let changes = keyhaven_wire::kms::Changes {
            entries,
            through,
            head: self.signed_head(),
        };
        judge::changes(&self.key(), &ask, changes).unwrap()
    }

    fn write_head(&mut self) {
        let signed = postcard::to_stdvec(&self.signed_head()).unwrap();
        let past = store_key::past_head(self.head.revision);
        self.store.insert(store_key::HEAD.to_vec(), signed.clone());
        self.store.insert(past, signed);
    }
}

pub(super) fn class(bound_s: u32) -> ClassRecord {
    ClassRecord {
        name: name("all"),
        regions: vec![name("eu")],
        hardware_min: HardwareLevel::Software,
        bound_s,
        bound_before: None,
        generated_only: false,
        replication: Replication::Eager,
        epochs: vec![ClassEpoch {
            purpose: Purpose::Sign,
            epoch: 1,
            kek: KEK,
            current: true,
        }],
        revision: 0,
    }
}

pub(super) fn site() -> SiteRecord {
    SiteRecord {
        name: name(SITE),
        identity: "spiffe://keyhaven.test/signer/fra".parse().unwrap(),
        address: "127.0.0.1:1".to_owned(),
        region: name("eu"),
        hardware: HardwareLevel::Software,
        holds: vec![Held {
            class: name("all"),
            purpose: Purpose::Sign,
            epoch: 1,
            kek: KEK,
        }],
        evicted: false,
        revision: 0,
    }
}

pub(super) fn key() -> KeyRecord {
    KeyRecord {
        id: KEY,
        name: name("orders"),
        kind: KeyKind::EcP256,
        purpose: Purpose::Sign,
        class: name("all"),
        server_names: Vec::new(),
        current: Some(1),
        versions: 1,
        revision: 0,
    }
}

pub(super) fn manifest(version: u32) -> Manifest {
    let parts = parts(version);
    Manifest {
        id: KEY,
        version,
        kind: KeyKind::EcP256,
        purpose: Purpose::Sign,
        public: Public::Spki(vec![3; 91]),
        operations: Purpose::Sign.operations().to_vec(),
        state: KeyState::Active,
        class: name("all"),
        epoch: 1,
        kek: KEK,
        site_wrap: sha256(&parts.site_wrap),
        root_wrap: sha256(&parts.root_wrap),
        chain: chain_digest(&parts.chain),
        provenance: Provenance::Generated,
        made_ms: 1,
        revision: 0,
    }
}

pub(super) fn grant() -> Grant {
    Grant {
        identity: caller(),
        scope: Scope::Key(KEY),
        operations: vec![Operation::Sign],
        revision: 0,
    }
}

fn parts(version: u32) -> VersionParts {
    VersionParts {
        site_wrap: vec![u8::try_from(version).unwrap(); 40],
        root_wrap: vec![0xee; 40],
        chain: Vec::new(),
    }
}

fn parts_of(manifest: &Manifest) -> VersionParts {
    let mut parts = parts(manifest.version);
    parts.root_wrap.clear();
    if manifest.state == KeyState::Destroyed || sha256(&parts.site_wrap) != manifest.site_wrap {
        parts.site_wrap.clear();
    }
    parts
}

pub(super) fn set_revision(record: &mut Record, revision: u64) {
    match record {
        Record::Head(head) => head.revision = revision,
        Record::Class(record) => record.revision = revision,
        Record::Key(record) => record.revision = revision,
        Record::Version(manifest) => manifest.revision = revision,
        Record::Site(record) => record.revision = revision,
        Record::Grant(record) => record.revision = revision,
        Record::Delivery(_) => {}
    }
}

/// A disk in memory that knows what would be left of it after a power cut. Clones are the same disk.
#[derive(Clone, Debug, Default)]
pub(super) struct Memory(Arc<Mutex<Bytes>>);

#[derive(Clone, Debug, Default)]
struct Bytes {
    now: Vec<u8>,
    synced: Vec<u8>,
    unsynced: Vec<Change>,
    is_full: bool,
    sync_fails: bool,
    /// Every state that a power cut could have left, when it is kept.
    cuts: Option<Vec<Vec<u8>>>,
}

#[derive(Clone, Debug)]
enum Change {
    Write(usize, Vec<u8>),
    Len(usize),
}

impl Memory {
    fn lock(&self) -> MutexGuard<'_, Bytes> {
        self.0.lock().unwrap()
    }

    pub(super) fn with(bytes: Vec<u8>) -> Self {
        let disk = Self::default();
        disk.lock().now.clone_from(&bytes);
        disk.lock().synced = bytes;
        disk
    }

    pub(super) fn fill(&self, is_full: bool) {
        self.lock().is_full = is_full;
    }

    pub(super) fn fail_sync(&self, fails: bool) {
        self.lock().sync_fails = fails;
    }

    /// What is left after a power cut: of what was not synced, what `is_left` says.
    pub(super) fn cut(&self, mut is_left: impl FnMut() -> bool) -> Vec<u8> {
        let bytes = self.lock();
        let mut left = bytes.synced.clone();
        for change in &bytes.unsynced {
            if is_left() {
                change.apply(&mut left);
            }
        }
        left
    }

    /// Keeps what power cuts could leave, from here on.
    pub(super) fn keep_cuts(&self) {
        self.lock().cuts = Some(Vec::new());
    }

    pub(super) fn cuts(&self) -> Vec<Vec<u8>> {
        self.lock().cuts.take().unwrap_or_default()
    }
}

impl Bytes {
    fn note_cut(&mut self) {
        let now = self.now.clone();
        let synced = self.synced.clone();
        if let Some(cuts) = &mut self.cuts {
            cuts.push(now);
            cuts.push(synced);
        }
    }
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Write(offset, data) => {
                let end = offset + data.len();
                if bytes.len() < end {
                    bytes.resize(end, 0);
                }
                bytes[*offset..end].copy_from_slice(data);
            }
            Self::Len(len) => bytes.resize(*len, 0),
        }
    }
}

impl Medium for Memory {
    fn len(&self) -> io::Result<u64> {
        Ok(self.lock().now.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let offset = usize::try_from(offset).unwrap();
        let bytes = self.lock();
        let found = bytes.now.get(offset..offset + out.len());
        out.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut bytes = self.lock();
        if bytes.is_full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let change = Change::Write(usize::try_from(offset).unwrap(), data.to_vec());
        change.apply(&mut bytes.now);
        bytes.unsynced.push(change);
        bytes.note_cut();
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut bytes = self.lock();
        if bytes.is_full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let change = Change::Len(usize::try_from(len).unwrap());
        change.apply(&mut bytes.now);
        bytes.unsynced.push(change);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut bytes = self.lock();
        if bytes.sync_fails {
            return Err(io::ErrorKind::StorageFull.into());
        }
        bytes.synced = bytes.now.clone();
        bytes.unsynced.clear();
        bytes.note_cut();
        Ok(())
    }
}
