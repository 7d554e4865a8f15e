//! Administration of central by operators: role `admin`, each verb authorised and audited there.
//!
//! Lists come in pages: ask again with the last name as `after` while there is `more`.

use keyhaven_types::{
    HardwareLevel, Identity, KekId, KeyId, KeyKind, KeyState, Name, Operation, Provenance, Purpose,
    Replication,
};
use serde::{Deserialize, Serialize};

use super::{
    records::{ClassRecord, Grant, Head, Held, KeyRecord, Manifest, Scope, Signed, SiteRecord},
    replication::KeyRef,
};

/// What an operator asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// How things stand.
    Status,
    /// Makes a key with its first version, active.
    KeyCreate(NewKey),
    /// Makes a transport key pair in central's token, good for one import within ten minutes.
    TransportKey,
    /// Imports a key with its first version, active.
    KeyImport(Import),
    /// Makes a new version current; the former one only verifies and decrypts from now on.
    KeyRotate {
        /// Which key.
        key: KeyRef,
    },
    /// Takes versions onward in their life.
    KeyState {
        /// Which key.
        key: KeyRef,
        /// One version, or all.
        version: Option<u32>,
        /// Deactivated, revoked or destroyed.
        state: KeyState,
    },
    /// A PKCS#10 request for a handshake key's current version.
    KeyCsr {
        /// Which key.
        key: KeyRef,
    },
    /// Gives a handshake key its certificates.
    KeyChain {
        /// Which key.
        key: KeyRef,
        /// One version; none: the current one.
        version: Option<u32>,
        /// DER, leaf first.
        chain: Vec<Vec<u8>>,
    },
    /// Keys in the order of their names.
    KeyList {
        /// After this name.
        after: Option<Name>,
    },
    /// A key with its versions.
    KeyShow {
        /// Which key.
        key: KeyRef,
    },
    /// Makes a class; its key-encryption keys come from the pool.
    ClassCreate(NewClass),
    /// Changes a class's bound.
    ClassBound {
        /// Which class.
        class: Name,
        /// The new bound in seconds.
        bound_s: u32,
    },
    /// Takes a new key-encryption key from the pool for each of these purposes, not yet current: sites must get it by
    /// a ceremony first.
    ClassRotate {
        /// Which class.
        class: Name,
        /// Which purposes; none: all that it has.
        purposes: Vec<Purpose>,
    },
    /// Makes the newest epochs current and wraps every key of the class anew.
    ClassRewrap {
        /// Which class.
        class: Name,
        /// Although sites have not been given the newest key-encryption keys, and cannot use the class's keys afterwards.
        leave_behind: bool,
    },
    /// Every class, and what the pool still has.
    ClassList,
    /// Enrols a site, or says what a ceremony has given it more.
    SiteAdd(NewSite),
    /// Throws a site out.
    SiteEvict {
        /// Which.
        site: Name,
    },
    /// Sites in the order of their names.
    SiteList {
        /// After this name.
        after: Option<Name>,
    },
    /// Lets an identity do operations; with none it may do nothing any more.
    GrantSet {
        /// Who.
        identity: Identity,
        /// With which key; none: what needs no key.
        key: Option<KeyRef>,
        /// What.
        operations: Vec<Operation>,
    },
    /// Grants of one key or one identity, or all.
    GrantList {
        /// Of this key.
        key: Option<KeyRef>,
        /// Of this identity.
        identity: Option<Identity>,
        /// After this one.
        after: Option<(Scope, Identity)>,
    },
    /// Whether everything up to a revision holds at every site.
    Enforced {
        /// The revision.
        revision: u64,
    },
    /// Says that history went back on purpose (a restored backup): sites go along with the new era.
    EraBump,
}

/// A key to be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewKey {
    /// Its name.
    pub name: Name,
    /// Kind of material.
    pub kind: KeyKind,
    /// The one thing it is for.
    pub purpose: Purpose,
    /// Its class.
    pub class: Name,
    /// Host names, for a handshake key.
    pub server_names: Vec<String>,
}

/// A key to be imported.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Import {
    /// What it shall be.
    pub key: NewKey,
    /// The transport key's id.
    pub transport: [u8; 16],
    /// An AES-256 key, RSA-OAEP with SHA-1 under the transport key (what every module has).
    pub wrapped_kek: Vec<u8>,
    /// The PKCS#8 PrivateKeyInfo, or the secret, wrapped by AES-KWP (RFC 5649) under that AES key.
    pub wrapped_key: Vec<u8>,
    /// DER SubjectPublicKeyInfo that the private key must have; none for a secret.
    pub public: Option<Vec<u8>>,
    /// From another token, or from a file.
    pub provenance: Provenance,
    /// Certificates, DER, leaf first.
    pub chain: Vec<Vec<u8>>,
}

/// A class to be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewClass {
    /// Its name.
    pub name: Name,
    /// Regions whose sites may hold it.
    pub regions: Vec<Name>,
    /// The least hardware of such a site.
    pub hardware_min: HardwareLevel,
    /// Within how many seconds a revocation holds, 5 to 604,800.
    pub bound_s: u32,
    /// Whether imported keys are refused.
    pub generated_only: bool,
    /// When wraps come to sites.
    pub replication: Replication,
    /// What its keys are for.
    pub purposes: Vec<Purpose>,
}

/// A site to be enrolled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewSite {
    /// Its name.
    pub name: Name,
    /// Who its signer is.
    pub identity: Identity,
    /// Where its signer listens.
    pub address: String,
    /// Where it is.
    pub region: Name,
    /// How its token keeps keys.
    pub hardware: HardwareLevel,
    /// What the ceremony gave it; added to what it has.
    pub holds: Vec<Held>,
}

/// What central answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// See [`Ask::Status`].
    Status(Box<Status>),
    /// Written for good with this revision.
    Committed {
        /// The revision.
        revision: u64,
        /// The key it was about.
        key: Option<(KeyId, u32)>,
        /// What the operator should know.
        warnings: Vec<String>,
    },
    /// A transport key.
    TransportKey {
        /// Names it.
        id: [u8; 16],
        /// DER SubjectPublicKeyInfo.
        spki: Vec<u8>,
    },
    /// A PKCS#10 request, DER.
    Csr(Vec<u8>),
    /// Keys.
    Keys {
        /// Of this page.
        keys: Vec<KeyRecord>,
        /// Whether there are more.
        more: bool,
    },
    /// One key.
    Key {
        /// Over all its versions.
        key: KeyRecord,
        /// The versions, the first first; the newest 100 when there are more.
        versions: Vec<Manifest>,
    },
    /// Classes.
    Classes {
        /// Every one.
        classes: Vec<ClassRecord>,
        /// The same, signed, for the ceremony at central's token.
        signed: Vec<Signed>,
        /// Key-encryption keys that are not yet taken.
        pool: Vec<(Purpose, u32)>,
    },
    /// Sites.
    Sites {
        /// Of this page.
        sites: Vec<SiteRecord>,
        /// Whether there are more.
        more: bool,
    },
    /// Grants.
    Grants {
        /// Of this page.
        grants: Vec<Grant>,
        /// Whether there are more.
        more: bool,
    },
    /// See [`Ask::Enforced`].
    Enforced {
        /// Whether it holds everywhere.
        enforced: bool,
        /// At the latest in so many seconds, without any further word from a site.
        at_most_s: u64,
        /// Sites that have not said so.
        waiting_for: Vec<Name>,
    },
    /// It was not done.
    Refused(Refused),
}

/// How things stand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The head.
    pub head: Head,
    /// The store, in words.
    pub store: String,
    /// Managed keys.
    pub keys: u64,
    /// Classes.
    pub classes: u32,
    /// Grants.
    pub grants: u64,
    /// Sites, in the order of their names.
    pub sites: Vec<SiteLag>,
    /// Key-encryption keys of the pool that are left, by purpose.
    pub pool: Vec<(Purpose, u32)>,
    /// SHA-256 of the key that signs records, DER SubjectPublicKeyInfo.
    pub signer: [u8; 32],
    /// The KEKs that central's token has and no class uses, for ceremonies.
    pub free_keks: Vec<(Purpose, KekId)>,
    /// What an operator should look at.
    pub warnings: Vec<String>,
}

/// How far a site is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiteLag {
    /// Its name.
    pub site: Name,
    /// Whether it was thrown out.
    pub evicted: bool,
    /// What it has for good; none: it was not heard of since central started.
    pub applied: Option<u64>,
    /// Milliseconds since it was last heard of.
    pub heard_ms_ago: Option<u64>,
    /// Milliseconds since its last lease was granted here.
    pub leased_ms_ago: Option<u64>,
}

/// Why an operator's request was not done, in words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// What kind of refusal.
    pub code: RefusedCode,
    /// What is wrong, and what to do.
    pub why: String,
}

/// Kinds of refusals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RefusedCode {
    /// No such thing.
    NotFound,
    /// It exists already.
    Exists,
    /// The rules do not allow it: state, class, purpose, bounds.
    Rule,
    /// The token cannot.
    Token,
    /// The store cannot.
    Store,
    /// Whether it was done is not known: ask what there is.
    Unknown,
}
