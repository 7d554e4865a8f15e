//! One version of a key as a site has it.
//!
//! What stands in it was checked by the table. Invariant: it is used only with the key and the class that it names.

use keyhaven_types::KeyId;
use keyhaven_wire::kms::{
    ClassRecord, Entry, KeyRecord, Manifest, Signed, SiteRecord, VersionParts,
};

/// One version of a key as it is here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// What central says of it.
    pub manifest: Manifest,
    /// Certificates of a handshake key, DER, leaf first.
    pub chain: Vec<Vec<u8>>,
    /// Under the class's key-encryption key; empty when it is not here.
    pub wrap: Vec<u8>,
    /// As central signed it, for peers.
    pub(super) signed: Signed,
}

impl Version {
    /// Whether it is a version of that key, in a class as central describes it.
    pub(super) fn belongs_to(&self, key: &KeyRecord, class: &ClassRecord) -> bool {
        let Manifest {
            id,
            version,
            kind,
            purpose,
            epoch,
            kek,
            ..
        } = &self.manifest;
        let is_epoch = class
            .epochs
            .iter()
            .any(|known| (known.purpose, known.epoch, known.kek) == (*purpose, *epoch, *kek));
        (*id, *kind, *purpose) == (key.id, key.kind, key.purpose)
            && (1..=key.versions).contains(version)
            && self.manifest.class == key.class
            && key.class == class.name
            && is_epoch
    }

    pub(super) fn bytes(&self) -> usize {
        let chain: usize = self.chain.iter().map(Vec::len).sum();
        self.signed.body.len() + self.signed.signature.len() + self.wrap.len() + chain + 64
    }

    pub(super) fn entry(&self, with_wrap: bool) -> Entry {
        Entry {
            signed: self.signed.clone(),
            parts: Some(VersionParts {
                site_wrap: if with_wrap {
                    self.wrap.clone()
                } else {
                    Vec::new()
                },
                root_wrap: Vec::new(),
                chain: self.chain.clone(),
            }),
        }
    }
}

/// Whether a site may have a version's wrap: its token has the key for it, and the class allows it.
pub(super) fn is_meant(site: &SiteRecord, class: &ClassRecord, manifest: &Manifest) -> bool {
    let holds = site.holds.iter().any(|held| held.kek == manifest.kek);
    let is_there = class.regions.contains(&site.region);
    let is_hard = site.hardware >= class.hardware_min;
    !site.evicted && holds && is_there && is_hard
}

/// Which version stands there, if it is one's place.
pub(super) fn version_at(place: &[u8]) -> Option<(KeyId, u32)> {
    let text = std::str::from_utf8(place).ok()?;
    let (id, version) = text.strip_prefix("v/")?.split_once('/')?;
    Some((id.parse().ok()?, u32::from_str_radix(version, 16).ok()?))
}
