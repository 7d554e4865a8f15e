//! What becomes of an operator's request: an answer at once, records to write, or work for the token first.
//!
//! The rules for each kind of thing are in `keys`, `classes` and `sites`. Invariant: a draft names everything that it was
//! planned on, so that it is written only while that still stands.

use keyhaven_types::{Identity, KekId, KeyId, KeyKind, Name, Provenance, Purpose, SignatureScheme};
use keyhaven_wire::kms::{
    Manifest, Public, RECORD_BYTES_MAX, Record, VersionParts,
    admin::{Answer, Ask, Refused, RefusedCode},
};

use super::{Mirror, store_key::StoreKey};

/// The next step of a request.
#[derive(Clone, Debug)]
pub enum Step {
    /// It is answered.
    Answer(Answer),
    /// These records are to be written; then it is answered by [`Draft::committed`].
    Write(Draft),
    /// The token must do something first; then [`Plan::go_on`].
    Work(Work),
    /// What the token's work was for has changed meanwhile: begin again.
    Again,
}

/// What central's token must do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// Make a key and wrap it.
    Generate {
        /// The key.
        id: KeyId,
        /// Its version.
        version: u32,
        /// Its kind.
        kind: KeyKind,
        /// Its purpose.
        purpose: Purpose,
        /// The class's key-encryption key.
        kek: KekId,
    },
    /// Take a key that came wrapped under a transport key.
    Import {
        /// The key.
        id: KeyId,
        /// Its kind.
        kind: KeyKind,
        /// Its purpose.
        purpose: Purpose,
        /// The class's key-encryption key.
        kek: KekId,
        /// The transport key.
        transport: [u8; 16],
        /// The AES key, under the transport key.
        wrapped_kek: Vec<u8>,
        /// The key, under the AES key.
        wrapped_key: Vec<u8>,
        /// Which public part it must have.
        public: Option<Vec<u8>>,
    },
    /// Make a transport key.
    Transport,
    /// Make a certificate request.
    Csr {
        /// Whose.
        manifest: Box<Manifest>,
        /// Central's wrap.
        root_wrap: Vec<u8>,
        /// For these names.
        names: Vec<String>,
    },
    /// Wrap versions anew under other key-encryption keys.
    Rewrap(Vec<Rewrap>),
    /// Look what key-encryption keys there are.
    Pool,
}

/// One version to be wrapped anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewrap {
    /// As it is.
    pub manifest: Manifest,
    /// Central's wrap.
    pub root_wrap: Vec<u8>,
    /// The new epoch.
    pub epoch: u32,
    /// The new key-encryption key.
    pub kek: KekId,
}

/// One version that was wrapped anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewrapped {
    /// As it was asked for.
    pub of: Rewrap,
    /// The new wrap.
    pub site_wrap: Vec<u8>,
}

/// A key as it left the token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Material {
    /// Which key.
    pub id: KeyId,
    /// Its version.
    pub version: u32,
    /// The class's key-encryption key that it is wrapped under.
    pub kek: KekId,
    /// Its public part.
    pub public: Public,
    /// Under the class's key-encryption key.
    pub site_wrap: Vec<u8>,
    /// Under the root key.
    pub root_wrap: Vec<u8>,
}

/// What the token did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkDone {
    /// A key was made or imported.
    Made(Material),
    /// A transport key was made.
    Transport {
        /// Names it.
        id: [u8; 16],
        /// DER SubjectPublicKeyInfo.
        spki: Vec<u8>,
    },
    /// A certificate request, DER.
    Csr(Vec<u8>),
    /// New wraps.
    Rewrapped(Vec<Rewrapped>),
    /// Key-encryption keys in the token.
    Pool(Vec<(Purpose, KekId)>),
}

/// Records that are to be written together.
#[derive(Clone, Debug, Default)]
pub struct Draft {
    /// Without their revisions.
    pub records: Vec<(Record, Option<VersionParts>)>,
    /// What it was planned on: store keys with the revision that stood there, or nothing.
    pub planned_on: Vec<(StoreKey, Option<u64>)>,
    /// What nothing else may have, and nothing has.
    pub claims: Vec<Claim>,
    /// Whether the head's era rises.
    pub raises_era: bool,
    /// The key that it is about, for the answer.
    pub about: Option<(KeyId, u32)>,
    /// What the operator should know.
    pub warnings: Vec<String>,
    /// Whether the request has more to write after this.
    pub more: bool,
}

/// Something that only one thing may have.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Claim {
    /// The name of a key.
    KeyName(Name),
    /// A host name, served by this key.
    HostName(String, KeyId),
    /// An identity, of this site.
    Identity(Identity, Name),
    /// A key-encryption key, for a class.
    Kek(KekId),
}

impl Claim {
    /// What is claimed, without whom for.
    pub(super) fn thing(&self) -> String {
        match self {
            Self::KeyName(name) => format!("key {name}"),
            Self::HostName(name, _) => format!("host {name}"),
            Self::Identity(identity, _) => format!("identity {identity}"),
            Self::Kek(kek) => format!("kek {kek}"),
        }
    }

    fn is_free(&self, mirror: &Mirror) -> bool {
        match self {
            Self::KeyName(name) => mirror.key_named(name).is_none(),
            Self::HostName(name, key) => mirror.other_key_of(name, *key).is_none(),
            Self::Identity(identity, site) => mirror
                .site_of(identity)
                .is_none_or(|known| known.name == *site),
            Self::Kek(kek) => !mirror.is_taken(*kek),
        }
    }
}

impl Draft {
    /// The answer once it is written.
    pub fn committed(&self, revision: u64) -> Answer {
        Answer::Committed {
            revision,
            key: self.about,
            warnings: self.warnings.clone(),
        }
    }

    /// Whether what it was planned on still stands.
    pub fn holds(&self, mirror: &Mirror) -> bool {
        self.planned_on
            .iter()
            .all(|(key, revision)| mirror.revision_at(key) == *revision)
            && self.claims.iter().all(|claim| claim.is_free(mirror))
    }

    /// Store keys that it writes.
    pub(super) fn keys(&self) -> impl Iterator<Item = StoreKey> {
        let keys = self.records.iter();
        keys.filter_map(|(record, _)| super::store_key::of(record))
    }

    /// Store keys that it was planned on.
    pub(super) fn touches(&self) -> impl Iterator<Item = StoreKey> {
        self.planned_on.iter().map(|(key, _)| key.clone())
    }

    /// Refuses what no message could carry.
    fn check(&self) -> Result<(), Refused> {
        let is_too_long = |(record, _): &(Record, _)| {
            postcard::to_stdvec(record)
                .is_ok_and(|body| body.len() + REVISION_ROOM > RECORD_BYTES_MAX)
        };
        if self.records.iter().any(is_too_long) {
            return refuse(
                RefusedCode::Rule,
                format!(
                    "its record would have more than {RECORD_BYTES_MAX} bytes: give it fewer or shorter names"
                ),
            );
        }
        Ok(())
    }

    /// Remembers what stands under a store key now.
    pub(super) fn on(&mut self, mirror: &Mirror, key: StoreKey) {
        let revision = mirror.revision_at(&key);
        self.planned_on.push((key, revision));
    }

    /// Writes a record, on top of what stands there now.
    pub(super) fn write(&mut self, mirror: &Mirror, record: Record, parts: Option<VersionParts>) {
        if let Some(key) = super::store_key::of(&record) {
            self.on(mirror, key);
        }
        self.records.push((record, parts));
    }
}

/// A request on its way.
#[derive(Clone, Debug)]
pub struct Plan {
    ask: Ask,
    /// Random, for what is made new.
    fresh: KeyId,
    now_ms: u64,
}

pub(super) type Planned<T = Step> = Result<T, Refused>;

impl Plan {
    /// A request, with a random id for a key that it may make.
    pub fn new(ask: Ask, fresh: KeyId, now_ms: u64) -> Self {
        Self { ask, fresh, now_ms }
    }

    /// The request.
    pub fn ask(&self) -> &Ask {
        &self.ask
    }

    /// The first step, or the first again after what it was planned on has changed.
    ///
    /// # Errors
    /// Why it is not done.
    pub fn begin(&self, mirror: &Mirror) -> Result<Step, Refused> {
        checked(self.first(mirror)?)
    }

    fn first(&self, mirror: &Mirror) -> Planned {
        match &self.ask {
            Ask::KeyCreate(key) => mirror.plan_create(key, self.fresh),
            Ask::KeyImport(import) => mirror.plan_import(import, self.fresh),
            Ask::TransportKey => Ok(Step::Work(Work::Transport)),
            Ask::KeyRotate { key } => mirror.plan_rotate(key),
            Ask::KeyState {
                key,
                version,
                state,
            } => mirror.plan_state(key, *version, *state),
            Ask::KeyCsr { key } => mirror.plan_csr(key),
            Ask::KeyChain {
                key,
                version,
                chain,
            } => mirror.plan_chain(key, *version, chain),
            Ask::KeyList { after } => Ok(mirror.key_page(after.as_ref())),
            Ask::KeyShow { key } => mirror.key_shown(key),
            Ask::ClassCreate(_) | Ask::ClassRotate { .. } | Ask::ClassList | Ask::Status => {
                Ok(Step::Work(Work::Pool))
            }
            Ask::ClassBound { class, bound_s } => mirror.plan_bound(class, *bound_s, self.now_ms),
            Ask::ClassRewrap {
                class,
                leave_behind,
            } => mirror.plan_rewrap(class, *leave_behind),
            Ask::SiteAdd(site) => mirror.plan_site(site),
            Ask::SiteEvict { site } => mirror.plan_evict(site),
            Ask::SiteList { after } => Ok(mirror.site_page(after.as_ref())),
            Ask::GrantSet {
                identity,
                key,
                operations,
            } => mirror.plan_grant(identity, key.as_ref(), operations),
            Ask::GrantList {
                key,
                identity,
                after,
            } => mirror.grant_page(key.as_ref(), identity.as_ref(), after.as_ref()),
            Ask::EraBump => Ok(Step::Write(Draft {
                raises_era: true,
                ..Draft::default()
            })),
            // The daemon knows who has said what.
            Ask::Enforced { .. } => refuse(RefusedCode::Rule, "it is answered elsewhere"),
        }
    }

    /// The step after the token has done its work.
    ///
    /// # Errors
    /// Why it is not done.
    pub fn go_on(&self, mirror: &Mirror, done: WorkDone) -> Result<Step, Refused> {
        checked(self.next(mirror, done)?)
    }

    fn next(&self, mirror: &Mirror, done: WorkDone) -> Planned {
        match (&self.ask, done) {
            (Ask::KeyCreate(key), WorkDone::Made(material)) => {
                let made = Made::new(material, self.now_ms);
                mirror.create(key, self.fresh, Provenance::Generated, Vec::new(), made)
            }
            (Ask::KeyImport(import), WorkDone::Made(material)) => {
                mirror.import(import, self.fresh, Made::new(material, self.now_ms))
            }
            (Ask::KeyRotate { key }, WorkDone::Made(material)) => {
                mirror.rotate(key, Made::new(material, self.now_ms))
            }
            (Ask::TransportKey, WorkDone::Transport { id, spki }) => {
                Ok(Step::Answer(Answer::TransportKey { id, spki }))
            }
            (Ask::KeyCsr { .. }, WorkDone::Csr(der)) => Ok(Step::Answer(Answer::Csr(der))),
            (Ask::ClassCreate(class), WorkDone::Pool(pool)) => mirror.create_class(class, &pool),
            (Ask::ClassRotate { class, purposes }, WorkDone::Pool(pool)) => {
                mirror.rotate_class(class, purposes, &pool)
            }
            (Ask::ClassList, WorkDone::Pool(pool)) => Ok(mirror.class_list(&pool)),
            (Ask::ClassRewrap { class, .. }, WorkDone::Rewrapped(wraps)) => {
                mirror.rewrapped(class, wraps)
            }
            _ => refuse(RefusedCode::Token, "the token did something else"),
        }
    }
}

/// What the token made, and when.
pub(super) struct Made {
    pub(super) material: Material,
    pub(super) at_ms: u64,
}

impl Made {
    fn new(material: Material, at_ms: u64) -> Self {
        Self { material, at_ms }
    }
}

fn checked(step: Step) -> Planned {
    if let Step::Write(draft) = &step {
        draft.check()?;
    }
    Ok(step)
}

pub(super) fn refuse<T>(code: RefusedCode, why: impl Into<String>) -> Planned<T> {
    Err(Refused {
        code,
        why: why.into(),
    })
}

/// Schemes for a request's signature by kind.
pub fn csr_scheme(kind: KeyKind) -> Option<SignatureScheme> {
    Some(match kind {
        KeyKind::Rsa2048 | KeyKind::Rsa3072 | KeyKind::Rsa4096 => SignatureScheme::RsaPkcs1Sha256,
        KeyKind::EcP256 => SignatureScheme::EcdsaSecp256r1Sha256,
        KeyKind::EcP384 => SignatureScheme::EcdsaSecp384r1Sha384,
        KeyKind::Ed25519 => SignatureScheme::Ed25519,
        KeyKind::Aes256 | KeyKind::Hmac => return None,
    })
}

/// What a revision may add to a record that was encoded with revision 0.
const REVISION_ROOM: usize = 10;
