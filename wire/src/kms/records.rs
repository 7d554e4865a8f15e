//! Records: what central says, signed, so that whoever carries them cannot alter them.
//!
//! A record is the postcard of [`Record`] with a signature by central's token over [`signed_text`]. Wraps and
//! certificates travel beside it and are bound by their hashes. Records are replaced, never deleted.

use keyhaven_types::{
    HardwareLevel, Identity, KekId, KeyId, KeyKind, KeyState, Name, Operation, Provenance, Purpose,
    Replication,
};
use serde::{Deserialize, Serialize};

/// A record as it is kept and carried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signed {
    /// postcard of a [`Record`].
    pub body: Vec<u8>,
    /// ECDSA on P-256 with SHA-256, DER, over [`signed_text`] of the body.
    pub signature: Vec<u8>,
}

/// What is signed for a body: no other text of ours begins like this.
pub fn signed_text(body: &[u8]) -> Vec<u8> {
    [b"keyhaven record 1\0", body].concat()
}

/// Everything that central says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record {
    /// Where the history of all records stands.
    Head(Head),
    /// A class of keys.
    Class(ClassRecord),
    /// A key, over all its versions.
    Key(KeyRecord),
    /// One version of a key.
    Version(Manifest),
    /// A site.
    Site(SiteRecord),
    /// What an identity may do.
    Grant(Grant),
    /// A class's key-encryption key for one site, as the ceremony delivers it. Never stored.
    Delivery(Delivery),
}

/// Where history stands. Each transaction replaces it, with `revision` one higher and the digests of what it wrote in
/// the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Raised by an operator when history went back on purpose.
    pub era: u32,
    /// Number of the last transaction; the first is 1.
    pub revision: u64,
    /// SHA-256(the chain before ‖ SHA-256 of each signed body that the transaction wrote, in the order of their store
    /// keys); 32 zeros before the first.
    pub chain: [u8; 32],
    /// One digest of every record in the store after the transaction: the root of a tree that central keeps. A store in
    /// which a record was put back or left out has another one.
    pub state: [u8; 32],
    /// Within how many seconds what the transaction wrote holds at every site, whatever the network does: the longest lease
    /// that could run when it was written, over the classes that it was about.
    pub bound_s: u32,
    /// When, in milliseconds since 1970, by the writing central's clock; for people.
    pub at_ms: u64,
}

/// The point of history that somebody has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeadMark {
    /// As in [`Head`].
    pub era: u32,
    /// As in [`Head`]; 0 when nothing was seen.
    pub revision: u64,
    /// As in [`Head`].
    pub chain: [u8; 32],
}

impl Head {
    /// Without the time.
    pub fn mark(&self) -> HeadMark {
        HeadMark {
            era: self.era,
            revision: self.revision,
            chain: self.chain,
        }
    }
}

/// Where keys of a kind of trust may be, and how soon a revocation must hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassRecord {
    /// Its name.
    pub name: Name,
    /// Regions whose sites may hold it.
    pub regions: Vec<Name>,
    /// The least hardware of such a site.
    pub hardware_min: HardwareLevel,
    /// Within how many seconds a revocation holds everywhere, whatever the network does.
    pub bound_s: u32,
    /// A longer bound that leases may still run under, and until when (milliseconds since 1970).
    pub bound_before: Option<(u32, u64)>,
    /// Whether imported keys are refused.
    pub generated_only: bool,
    /// When wraps come to sites.
    pub replication: Replication,
    /// Key-encryption keys by purpose; of each purpose the last is the newest.
    pub epochs: Vec<ClassEpoch>,
    /// The transaction that wrote this.
    pub revision: u64,
}

/// One key-encryption key of a class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassEpoch {
    /// For keys of this purpose.
    pub purpose: Purpose,
    /// From 1.
    pub epoch: u32,
    /// Its CKA_ID in central's token and at sites.
    pub kek: KekId,
    /// Whether new wraps are made under it: one a purpose. An epoch that is not yet current waits for its sites.
    pub current: bool,
}

/// A key, over all its versions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRecord {
    /// Its id.
    pub id: KeyId,
    /// What people call it; no other key has this name.
    pub name: Name,
    /// Kind of material.
    pub kind: KeyKind,
    /// The one thing it is for.
    pub purpose: Purpose,
    /// Its class.
    pub class: Name,
    /// Host names that are served with it, when it is for handshakes: exact, or `*.parent`.
    pub server_names: Vec<String>,
    /// The version that makes new things; none before the first is active, and none after it was revoked.
    pub current: Option<u32>,
    /// The highest version, from 1.
    pub versions: u32,
    /// The transaction that wrote this.
    pub revision: u64,
}

/// The public part of a key version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Public {
    /// DER SubjectPublicKeyInfo of a pair.
    Spki(Vec<u8>),
    /// A check value of a secret.
    Kcv([u8; 8]),
}

/// One version of a key, with what binds it (security rule K1).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The key.
    pub id: KeyId,
    /// From 1.
    pub version: u32,
    /// Kind of material.
    pub kind: KeyKind,
    /// The one thing it is for.
    pub purpose: Purpose,
    /// The public part.
    pub public: Public,
    /// What it can be asked for.
    pub operations: Vec<Operation>,
    /// Where it stands in its life.
    pub state: KeyState,
    /// Its class.
    pub class: Name,
    /// The epoch of the class's key-encryption key under which the sites' wrap is made.
    pub epoch: u32,
    /// That key-encryption key.
    pub kek: KekId,
    /// SHA-256 of the sites' wrap; of nothing once destroyed.
    pub site_wrap: [u8; 32],
    /// SHA-256 of central's own wrap; of nothing once destroyed.
    pub root_wrap: [u8; 32],
    /// [`chain_digest`] of the certificates.
    pub chain: [u8; 32],
    /// How it came into central's token.
    pub provenance: Provenance,
    /// When it was made, milliseconds since 1970.
    pub made_ms: u64,
    /// The transaction that wrote this.
    pub revision: u64,
}

/// A site: one signer with its token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiteRecord {
    /// Its name.
    pub name: Name,
    /// Who its signer is.
    pub identity: Identity,
    /// Where its signer listens, `HOST:PORT`, for peers, clients and proxies.
    pub address: String,
    /// Where it is.
    pub region: Name,
    /// How its token keeps keys, as stated at enrolment.
    pub hardware: HardwareLevel,
    /// The key-encryption keys that a ceremony gave it.
    pub holds: Vec<Held>,
    /// Whether it was thrown out: it gets nothing more.
    pub evicted: bool,
    /// The transaction that wrote this.
    pub revision: u64,
}

/// A key-encryption key that a site was given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Its class.
    pub class: Name,
    /// Its purpose.
    pub purpose: Purpose,
    /// Its epoch.
    pub epoch: u32,
    /// Its CKA_ID.
    pub kek: KekId,
}

/// What a grant is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Scope {
    /// One key.
    Key(KeyId),
    /// What needs no key: random bytes.
    Server,
}

/// What one identity may do with one key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Who.
    pub identity: Identity,
    /// With what.
    pub scope: Scope,
    /// What; nothing: the grant was withdrawn.
    pub operations: Vec<Operation>,
    /// The transaction that wrote this.
    pub revision: u64,
}

/// A class's key-encryption key on its way to one site's token (security rule K4).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    /// The site that it is for.
    pub site: Name,
    /// SHA-256 of the site's one-shot transport key, DER SubjectPublicKeyInfo.
    pub transport: [u8; 32],
    /// What it is.
    pub held: Held,
    /// SHA-256 of the wrap.
    pub wrap: [u8; 32],
}

/// A record with what travels beside it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The record.
    pub signed: Signed,
    /// Beside a [`Manifest`]; nothing beside other records.
    pub parts: Option<VersionParts>,
}

/// What a [`Manifest`] binds by hashes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionParts {
    /// Under the class's key-encryption key; empty for whom it is not meant, and once destroyed.
    pub site_wrap: Vec<u8>,
    /// Under central's root key; always empty outside central's store.
    pub root_wrap: Vec<u8>,
    /// Certificates of a handshake key, DER, leaf first.
    pub chain: Vec<Vec<u8>>,
}

/// SHA-256 over the certificates, each behind its length in 4 bytes; 32 zeros when there are none.
pub fn chain_digest(chain: &[Vec<u8>]) -> [u8; 32] {
    if chain.is_empty() {
        return [0; 32];
    }
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    for certificate in chain {
        // No certificate that a frame carries is longer than 4 GiB.
        let len = u32::try_from(certificate.len()).unwrap_or(u32::MAX);
        context.update(&len.to_be_bytes());
        context.update(certificate);
    }
    let mut digest = [0; 32];
    digest.copy_from_slice(context.finish().as_ref());
    digest
}
