//! What the site knows: keys, versions, classes, sites and grants, as central said it.
//!
//! A view for lookup, policy and serving; it changes when records are applied. Invariant: every value was signed by
//! central and checked on its way out of the replica.

use std::sync::Arc;

use keyhaven_types::{Identity, KeyId, Name, Operation};
use keyhaven_wire::kms::{ClassRecord, HeadMark, KeyRecord, KeyRef, Manifest, Scope, SiteRecord};

/// One version of a key as it is here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// What central says of it.
    pub manifest: Manifest,
    /// Certificates of a handshake key, DER, leaf first.
    pub chain: Vec<Vec<u8>>,
    /// Under the class's key-encryption key; empty when it is not here.
    pub wrap: Vec<u8>,
}

/// The read view. Cheap to ask; answers change as records are applied, each batch as a whole.
#[derive(Debug, Default)]
pub struct Table {}

impl Table {
    /// Keys that this names: at most one by id or name; by host name every key that is served for it, an exact name
    /// before `*.parent`.
    pub fn keys(&self, _key: &KeyRef) -> Vec<Arc<KeyRecord>> {
        Vec::new()
    }

    /// The first of [`Table::keys`].
    pub fn key(&self, key: &KeyRef) -> Option<Arc<KeyRecord>> {
        self.keys(key).into_iter().next()
    }

    /// One version of a key.
    pub fn version(&self, _id: KeyId, _version: u32) -> Option<Arc<Version>> {
        None
    }

    /// A class.
    pub fn class(&self, _name: &Name) -> Option<Arc<ClassRecord>> {
        None
    }

    /// A site by its name.
    pub fn site(&self, name: &Name) -> Option<Arc<SiteRecord>> {
        self.sites().into_iter().find(|site| site.name == *name)
    }

    /// A site by its signer; none when it was thrown out.
    pub fn site_of(&self, identity: &Identity) -> Option<Arc<SiteRecord>> {
        let mut sites = self.sites().into_iter();
        sites.find(|site| site.identity == *identity && !site.evicted)
    }

    /// Every site, evicted ones too, in the order of their names.
    pub fn sites(&self) -> Vec<Arc<SiteRecord>> {
        Vec::new()
    }

    /// Whether an identity may do this.
    pub fn is_granted(&self, _identity: &Identity, _scope: Scope, _operation: Operation) -> bool {
        false
    }

    /// Everything up to this revision is here.
    pub fn applied(&self) -> u64 {
        0
    }

    /// The latest head that was seen.
    pub fn head(&self) -> HeadMark {
        HeadMark::default()
    }
}
