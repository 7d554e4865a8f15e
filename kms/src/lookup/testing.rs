//! A table of records that a test writes by hand: two classes of keys, sites in regions, grants.
//!
//! Only for tests; nothing here is signed. Invariant: what a test did not write is not there.

#![allow(clippy::missing_panics_doc, reason = "for tests")]

use std::sync::Arc;

use keyhaven_types::{
    HardwareLevel, Identity, KekId, KeyId, KeyKind, KeyState, Name, Operation, Provenance, Purpose,
    Replication,
};
use keyhaven_wire::kms::{
    ClassEpoch, ClassRecord, HeadMark, Held, KeyRecord, KeyRef, Manifest, Public, Scope,
    SiteRecord, SiteStatus,
};

use super::directory::Directory;

/// Records by hand.
#[derive(Clone, Debug, Default)]
pub struct Records {
    /// Keys.
    pub keys: Vec<KeyRecord>,
    /// Their versions.
    pub manifests: Vec<Manifest>,
    /// Classes.
    pub classes: Vec<ClassRecord>,
    /// Sites.
    pub sites: Vec<SiteRecord>,
    /// Who may do what with which key.
    pub grants: Vec<(Identity, KeyId, Operation)>,
    /// Everything up to this revision is here.
    pub applied: u64,
}

impl Records {
    /// A class of this name in these regions; its key-encryption key for each purpose has the id that [`kek`] gives.
    pub fn add_class(&mut self, class: &str, regions: &[&str]) -> &mut ClassRecord {
        let epochs = Purpose::ALL.iter().map(|purpose| ClassEpoch {
            purpose: *purpose,
            epoch: 1,
            kek: kek(class, *purpose),
            current: true,
        });
        self.classes.push(ClassRecord {
            name: name(class),
            regions: regions.iter().map(|region| name(region)).collect(),
            hardware_min: HardwareLevel::Software,
            bound_s: 3600,
            bound_before: None,
            generated_only: false,
            replication: Replication::Eager,
            epochs: epochs.collect(),
            revision: 1,
        });
        self.classes.last_mut().expect("it was just pushed")
    }

    /// A site that was given every key-encryption key of these classes.
    pub fn add_site(&mut self, site: &str, region: &str, classes: &[&str]) -> &mut SiteRecord {
        let holds = classes.iter().flat_map(|class| {
            Purpose::ALL.iter().map(|purpose| Held {
                class: name(class),
                purpose: *purpose,
                epoch: 1,
                kek: kek(class, *purpose),
            })
        });
        self.sites.push(SiteRecord {
            name: name(site),
            identity: identity("signer", site),
            address: format!("{site}.test:7443"),
            region: name(region),
            hardware: HardwareLevel::Software,
            holds: holds.collect(),
            evicted: false,
            revision: 1,
        });
        self.sites.last_mut().expect("it was just pushed")
    }

    /// A key with one active version of revision 5.
    pub fn add_key(&mut self, key: &str, kind: KeyKind, purpose: Purpose, class: &str) -> KeyId {
        let id = key_id(key);
        self.keys.push(KeyRecord {
            id,
            name: name(key),
            kind,
            purpose,
            class: name(class),
            server_names: vec![format!("{key}.test")],
            current: Some(1),
            versions: 1,
            revision: 5,
        });
        self.manifests.push(Manifest {
            id,
            version: 1,
            kind,
            purpose,
            public: Public::Kcv([0; 8]),
            operations: purpose.operations().to_vec(),
            state: KeyState::Active,
            class: name(class),
            epoch: 1,
            kek: kek(class, purpose),
            site_wrap: [1; 32],
            root_wrap: [2; 32],
            chain: [3; 32],
            provenance: Provenance::Generated,
            made_ms: 1,
            revision: 5,
        });
        id
    }

    /// A grant to a client.
    pub fn grant(&mut self, client: &str, key: KeyId, operations: &[Operation]) {
        for operation in operations {
            let grant = (identity("client", client), key, *operation);
            self.grants.push(grant);
        }
    }
}

impl Directory for Records {
    fn keys(&self, key: &KeyRef) -> Vec<Arc<KeyRecord>> {
        let is_meant = |record: &&KeyRecord| match key {
            KeyRef::Id(id) => record.id == *id,
            KeyRef::Name(name) => record.name == *name,
            KeyRef::ServerName(name) => record.server_names.contains(name),
        };
        let found = self.keys.iter().filter(is_meant);
        found.cloned().map(Arc::new).collect()
    }

    fn manifest(&self, id: KeyId, version: u32) -> Option<Manifest> {
        let mut manifests = self.manifests.iter();
        let found = manifests.find(|manifest| manifest.id == id && manifest.version == version);
        found.cloned()
    }

    fn class(&self, name: &Name) -> Option<Arc<ClassRecord>> {
        let found = self.classes.iter().find(|class| class.name == *name);
        found.cloned().map(Arc::new)
    }

    fn sites(&self) -> Vec<Arc<SiteRecord>> {
        self.sites.iter().cloned().map(Arc::new).collect()
    }

    fn site_of(&self, identity: &Identity) -> Option<Arc<SiteRecord>> {
        let mut sites = self.sites.iter();
        let found = sites.find(|site| site.identity == *identity && !site.evicted);
        found.cloned().map(Arc::new)
    }

    fn is_granted(&self, identity: &Identity, scope: Scope, operation: Operation) -> bool {
        self.grants.iter().any(|(who, key, what)| {
            who == identity && Scope::Key(*key) == scope && *what == operation
        })
    }

    fn applied(&self) -> u64 {
        self.applied
    }
}

/// A site that has applied revision 9, has a lease, and whose token can do everything in a millisecond.
pub fn status(site: &str) -> SiteStatus {
    let all = KeyKind::ALL.iter().flat_map(|kind| {
        let operations = Operation::ALL.iter();
        operations.map(|operation| (*kind, *operation))
    });
    SiteStatus {
        site: name(site),
        seen: HeadMark::default(),
        applied: 9,
        lease_age_ms: Some(0),
        mechanisms: all.collect(),
        service_us: Operation::ALL.iter().map(|of| (*of, 1000)).collect(),
        waiting: 0,
        threads: 4,
    }
}

/// A name.
pub fn name(text: &str) -> Name {
    text.parse().expect("a test writes good names")
}

/// An identity of the tests' trust domain.
pub fn identity(role: &str, name: &str) -> Identity {
    let text = format!("spiffe://keyhaven.test/{role}/{name}");
    text.parse().expect("a test writes good identities")
}

/// The id of the key with this name.
pub fn key_id(key: &str) -> KeyId {
    KeyId(digest(key))
}

/// The id of a class's key-encryption key.
pub fn kek(class: &str, purpose: Purpose) -> KekId {
    KekId(digest(&format!("{class} {purpose}")))
}

fn digest(text: &str) -> [u8; 16] {
    let mut id = [0; 16];
    id.copy_from_slice(&crate::records::sha256(text.as_bytes())[..16]);
    id
}
