//! A central without a token that answers over the channel, and counts what it is asked.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use aws_lc_rs::{
    encoding::{AsDer, PublicKeyX509Der},
    key_wrap::{AES_256, AesKek, KeyWrapPadded as _},
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use keyhaven_kms::{
    central::{Followed, Mirror, store_key},
    records::{chain_after, sha256, testing::SoftwareCentral},
};
use keyhaven_service::{Caller, Handler};
use keyhaven_types::{
    HardwareLevel, Identity, KekId, KeyId, KeyKind, KeyState, Name, Operation, Provenance, Purpose,
    Replication,
};
use keyhaven_wire::{
    ErrorCode, Reply, Request,
    kms::{
        Changes, ClassEpoch, ClassRecord, Entry, Fetch, Fetched, Grant, Head, HeadMark, Held,
        KeyRecord, LeaseGrant, Manifest, Public, Record, Scope, Signed, SiteRecord, VersionParts,
        chain_digest,
    },
};
use tokio::sync::Notify;

/// The class's key for signing keys, as central has it.
pub(crate) const KEK: [u8; 32] = [42; 32];
pub(crate) const KEK_ID: KekId = KekId([5; 16]);
pub(crate) const BOUND: Duration = Duration::from_secs(30);

pub(crate) fn name(text: &str) -> Name {
    text.parse().unwrap()
}

pub(crate) fn who(role: &str, name: &str) -> Identity {
    format!("spiffe://keyhaven.test/{role}/{name}")
        .parse()
        .unwrap()
}

#[derive(Default)]
pub(crate) struct Asked {
    pub(crate) fetches: AtomicUsize,
    pub(crate) leases: AtomicUsize,
}

pub(crate) struct Central {
    pub(crate) signer: SoftwareCentral,
    store: Mutex<Store>,
    changed: Notify,
    pub(crate) asked: Asked,
    /// Whether sites are told that they are thrown out.
    pub(crate) evicts: AtomicBool,
}

struct Store {
    mirror: Mirror,
    head: Head,
    entries: BTreeMap<Vec<u8>, Entry>,
}

impl Central {
    pub(crate) fn new(replication: Replication) -> Arc<Self> {
        let signer = SoftwareCentral::new();
        let head = Head {
            era: 1,
            revision: 0,
            chain: [0; 32],
            state: [0; 32],
            bound_s: 0,
            at_ms: 0,
        };
        let central = Self {
            store: Mutex::new(Store {
                mirror: Mirror::new(signer.key()),
                head,
                entries: BTreeMap::new(),
            }),
            signer,
            changed: Notify::new(),
            asked: Asked::default(),
            evicts: AtomicBool::new(false),
        };
        central.write(vec![
            (Record::Class(class(replication)), None),
            (Record::Site(site("fra")), None),
            (Record::Site(site("nyc")), None),
        ]);
        Arc::new(central)
    }

    fn lock(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap()
    }

    /// Writes records in one transaction.
    pub(crate) fn write(&self, records: Vec<(Record, Option<VersionParts>)>) -> u64 {
        let mut store = self.lock();
        let revision = store.head.revision + 1;
        let mut written = BTreeMap::new();
        for (mut record, parts) in records {
            set_revision(&mut record, revision);
            let place = store_key::of(&record).unwrap();
            let signed = self.signer.sign(&record);
            written.insert(place, Entry { signed, parts });
        }
        let bodies = written.values().map(|entry| entry.signed.body.as_slice());
        store.head.chain = chain_after(&store.head.chain, bodies);
        store.head.revision = revision;
        let head = postcard::to_stdvec(&self.signer.sign(&Record::Head(store.head))).unwrap();
        for (place, entry) in written {
            let value = postcard::to_stdvec(&entry).unwrap();
            store.mirror.take(&place, &value).unwrap();
            store.entries.insert(place, entry);
        }
        let past = store_key::past_head(revision);
        store.mirror.take(&past, &head).unwrap();
        store.mirror.take(store_key::HEAD, &head).unwrap();
        drop(store);
        self.changed.notify_waiters();
        revision
    }

    /// A key for signatures; gives its public part.
    pub(crate) fn create(&self, number: u8) -> Vec<u8> {
        let (record, manifest, parts) = made(number);
        let Public::Spki(spki) = manifest.public.clone() else {
            panic!("a pair")
        };
        self.write(vec![
            (Record::Key(record), None),
            (Record::Version(manifest), Some(parts)),
        ]);
        spki
    }

    pub(crate) fn grant(&self, identity: &Identity, number: u8, operations: &[Operation]) {
        self.write(vec![(
            Record::Grant(Grant {
                identity: identity.clone(),
                scope: Scope::Key(id(number)),
                operations: operations.to_vec(),
                revision: 0,
            }),
            None,
        )]);
    }

    pub(crate) fn set_state(&self, number: u8, state: KeyState) -> u64 {
        let place = store_key::version(id(number), 1);
        let entry = self.lock().entries[&place].clone();
        let Record::Version(mut manifest) = postcard::from_bytes(&entry.signed.body).unwrap()
        else {
            panic!("a version")
        };
        manifest.state = state;
        self.write(vec![(Record::Version(manifest), entry.parts)])
    }

    pub(crate) fn head(&self) -> HeadMark {
        self.lock().head.mark()
    }

    fn signed_head(&self) -> Signed {
        let head = self.lock().head;
        self.signer.sign(&Record::Head(head))
    }

    /// What a peer of fra's would answer that has everything.
    pub(crate) fn fetched(&self, fetch: &Fetch) -> Fetched {
        let entries = self.lock().mirror.fetch(&site("fra"), fetch);
        Fetched {
            entries,
            head: self.signed_head(),
        }
    }
}

impl Handler for Central {
    async fn call(&self, _caller: Arc<Caller>, request: Request) -> Reply {
        if self.evicts.load(SeqCst) && !matches!(request, Request::Ping) {
            return Reply::Error(ErrorCode::NotEnrolled);
        }
        match request {
            Request::Ping => Reply::Pong,
            Request::Follow(ask) => {
                let until = tokio::time::Instant::now() + Duration::from_millis(ask.wait_ms.into());
                loop {
                    let changed = self.changed.notified();
                    let followed = self.lock().mirror.follow(&site("fra"), &ask);
                    let (entries, through) = match followed {
                        Followed::Changes { entries, through } => (entries, through),
                        Followed::History(_) => return Reply::Error(ErrorCode::History),
                        Followed::Nothing => {
                            if tokio::time::timeout_at(until, changed).await.is_ok() {
                                continue;
                            }
                            (Vec::new(), ask.after)
                        }
                    };
                    let head = self.signed_head();
                    return Reply::Changes(Changes {
                        entries,
                        through,
                        head,
                    });
                }
            }
            Request::Lease(ask) => {
                self.asked.leases.fetch_add(1, SeqCst);
                Reply::Leased(LeaseGrant {
                    nonce: ask.nonce,
                    head: self.signed_head(),
                })
            }
            Request::Fetch(fetch) => {
                self.asked.fetches.fetch_add(1, SeqCst);
                // Others come meanwhile.
                tokio::time::sleep(Duration::from_millis(50)).await;
                Reply::Fetched(self.fetched(&fetch))
            }
            _ => Reply::Error(ErrorCode::Denied),
        }
    }
}

pub(crate) fn id(number: u8) -> KeyId {
    KeyId([number; 16])
}

pub(crate) fn key_name(number: u8) -> Name {
    name(&format!("key-{number}"))
}

/// A signing key on P-256, and the same wrapped.
pub(crate) fn made(number: u8) -> (KeyRecord, Manifest, VersionParts) {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
    let spki: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
    let parts = VersionParts {
        site_wrap: wrap(pair.to_pkcs8v1().unwrap().as_ref()),
        root_wrap: Vec::new(),
        chain: Vec::new(),
    };
    let manifest = Manifest {
        id: id(number),
        version: 1,
        kind: KeyKind::EcP256,
        purpose: Purpose::Sign,
        public: Public::Spki(spki.as_ref().to_vec()),
        operations: Purpose::Sign.operations().to_vec(),
        state: KeyState::Active,
        class: name("all"),
        epoch: 1,
        kek: KEK_ID,
        site_wrap: sha256(&parts.site_wrap),
        root_wrap: sha256(&parts.root_wrap),
        chain: chain_digest(&parts.chain),
        provenance: Provenance::Generated,
        made_ms: 1,
        revision: 0,
    };
    let record = KeyRecord {
        id: id(number),
        name: key_name(number),
        kind: KeyKind::EcP256,
        purpose: Purpose::Sign,
        class: name("all"),
        server_names: Vec::new(),
        current: Some(1),
        versions: 1,
        revision: 0,
    };
    (record, manifest, parts)
}

/// AES-KWP under the class's key.
fn wrap(key: &[u8]) -> Vec<u8> {
    let mut out = vec![0; key.len().next_multiple_of(8) + 8];
    let kek = AesKek::new(&AES_256, &KEK).unwrap();
    kek.wrap_with_padding(key, &mut out).unwrap().to_vec()
}

fn class(replication: Replication) -> ClassRecord {
    ClassRecord {
        name: name("all"),
        regions: vec![name("eu")],
        hardware_min: HardwareLevel::Software,
        bound_s: BOUND.as_secs().try_into().unwrap(),
        bound_before: None,
        generated_only: false,
        replication,
        epochs: vec![ClassEpoch {
            purpose: Purpose::Sign,
            epoch: 1,
            kek: KEK_ID,
            current: true,
        }],
        revision: 0,
    }
}

pub(crate) fn site(site: &str) -> SiteRecord {
    SiteRecord {
        name: name(site),
        identity: who("signer", site),
        address: "127.0.0.1:1".to_owned(),
        region: name("eu"),
        hardware: HardwareLevel::Software,
        holds: vec![Held {
            class: name("all"),
            purpose: Purpose::Sign,
            epoch: 1,
            kek: KEK_ID,
        }],
        evicted: false,
        revision: 0,
    }
}

fn set_revision(record: &mut Record, revision: u64) {
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
