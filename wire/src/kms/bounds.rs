//! The bounds of what travels around managed keys.
//!
//! As in the rest of the protocol: a message that breaks one ends its connection. What a record inside of a message
//! says is judged where its signature is.

use keyhaven_types::Operation;

use super::{
    admin::{Ask, Import, NewClass, NewKey},
    lookup::{Found, Lookup},
    operations::{Batch, DataUse, PassedOn, SignedBatch, Task, TaskResult},
    records::{Entry, Signed, VersionParts},
    replication::{Changes, Fetch, Fetched, Follow, KeyRef, LeaseGrant, SiteStatus},
};
use crate::bounds::{Invalid, SERVER_NAME_BYTES_MAX, check};

/// The most operations of one request.
pub const TASKS_MAX: usize = 64;
/// The longest message, plaintext or ciphertext of one operation.
pub const INPUT_BYTES_MAX: usize = 64 * 1024;
/// The longest additional data.
pub const AAD_BYTES_MAX: usize = 4 * 1024;
/// The longest signature or HMAC.
pub const SIGNATURE_BYTES_MAX: usize = 1024;
/// The longest wrapped data key.
pub const WRAPPED_BYTES_MAX: usize = 1024;
/// The most random bytes of one operation.
pub const RANDOM_BYTES_MAX: u16 = 1024;
/// The longest body of a record.
pub const RECORD_BYTES_MAX: usize = 16 * 1024;
/// The longest wrap of a key: RSA-4096 with room.
pub const WRAP_BYTES_MAX: usize = 4 * 1024;
/// The most certificates of a chain.
pub const CHAIN_MAX: usize = 8;
/// The most bytes of a chain.
pub const CHAIN_BYTES_MAX: usize = 32 * 1024;
/// The most bytes of entries that [`Follow`] may ask for.
pub const FOLLOW_BYTES_MAX: u32 = 96 * 1024;
/// The longest time that [`Follow`] may wait: below the channel's own patience.
pub const FOLLOW_WAIT_MS_MAX: u32 = 20_000;
/// The most host names of a key.
pub const SERVER_NAMES_MAX: usize = 64;
/// The most regions of a class.
pub const REGIONS_MAX: usize = 64;
/// The longest address of a server.
pub const ADDRESS_BYTES_MAX: usize = 270;
/// The shortest bound on a revocation in seconds.
pub const BOUND_S_MIN: u32 = 5;
/// The longest bound on a revocation in seconds: seven days.
pub const BOUND_S_MAX: u32 = 7 * 24 * 60 * 60;

type Checked = Result<(), Invalid>;

impl KeyRef {
    fn validate(&self) -> Checked {
        match self {
            Self::ServerName(name) => check(
                (1..=SERVER_NAME_BYTES_MAX).contains(&name.len()),
                "server name",
                "1 to 255 bytes",
            ),
            Self::Id(_) | Self::Name(_) => Ok(()),
        }
    }
}

impl Batch {
    pub(crate) fn validate(&self) -> Checked {
        validate_tasks(&self.tasks)
    }
}

/// Checks the operations of a batch; for those inside of a signed body, too.
pub fn validate_tasks(tasks: &[Task]) -> Result<(), Invalid> {
    check(
        (1..=TASKS_MAX).contains(&tasks.len()),
        "tasks",
        "1 to 64 operations",
    )?;
    tasks.iter().try_for_each(Task::validate)
}

impl Task {
    /// With which key; none for what needs no key.
    pub fn key(&self) -> Option<&KeyRef> {
        match self {
            Self::Sign { key, .. }
            | Self::Verify { key, .. }
            | Self::Encrypt { key, .. }
            | Self::Decrypt { key, .. }
            | Self::Mac { key, .. }
            | Self::Wrap { key }
            | Self::Unwrap { key, .. } => Some(key),
            Self::Random { .. } => None,
        }
    }

    /// What it asks for.
    pub fn operation(&self) -> Operation {
        match self {
            Self::Sign { .. } => Operation::Sign,
            Self::Verify { .. } => Operation::Verify,
            Self::Encrypt { .. } => Operation::Encrypt,
            Self::Decrypt { .. } => Operation::Decrypt,
            Self::Mac { .. } => Operation::Mac,
            Self::Wrap { .. } => Operation::Wrap,
            Self::Unwrap { .. } => Operation::Unwrap,
            Self::Random { .. } => Operation::Random,
        }
    }

    fn validate(&self) -> Checked {
        self.key().map_or(Ok(()), KeyRef::validate)?;
        match self {
            Self::Sign { message, .. } | Self::Mac { message, .. } => input(message.len()),
            Self::Verify {
                message, signature, ..
            } => {
                input(message.len())?;
                check(
                    signature.len() <= SIGNATURE_BYTES_MAX,
                    "signature",
                    "at most 1,024 bytes",
                )
            }
            Self::Encrypt { plaintext, aad, .. } => {
                input(plaintext.len())?;
                additional(aad)
            }
            Self::Decrypt {
                ciphertext, aad, ..
            } => {
                input(ciphertext.len())?;
                additional(aad)
            }
            Self::Wrap { .. } => Ok(()),
            Self::Unwrap {
                wrapped, use_for, ..
            } => {
                check(
                    wrapped.len() <= WRAPPED_BYTES_MAX,
                    "wrapped",
                    "at most 1,024 bytes",
                )?;
                match use_for {
                    DataUse::Encrypt { plaintext, aad } => {
                        input(plaintext.len())?;
                        additional(aad)
                    }
                    DataUse::Decrypt { ciphertext, aad } => {
                        input(ciphertext.len())?;
                        additional(aad)
                    }
                }
            }
            Self::Random { bytes } => check(
                (1..=RANDOM_BYTES_MAX).contains(bytes),
                "bytes",
                "1 to 1,024",
            ),
        }
    }
}

fn input(len: usize) -> Checked {
    check(len <= INPUT_BYTES_MAX, "input", "at most 65,536 bytes")
}

fn additional(aad: &[u8]) -> Checked {
    check(aad.len() <= AAD_BYTES_MAX, "aad", "at most 4,096 bytes")
}

impl SignedBatch {
    pub(crate) fn validate(&self) -> Checked {
        validate_chain(&self.chain)?;
        check(!self.chain.is_empty(), "chain", "at least the leaf")?;
        check(!self.body.is_empty(), "body", "at least one byte")?;
        check(
            self.signature.len() <= SIGNATURE_BYTES_MAX,
            "signature",
            "at most 1,024 bytes",
        )
    }
}

impl PassedOn {
    pub(crate) fn validate(&self) -> Checked {
        self.batch.validate()?;
        check(
            (1..=TASKS_MAX).contains(&self.which.len()),
            "which",
            "1 to 64 operations",
        )?;
        check(
            self.which.is_sorted_by(|a, b| a < b),
            "which",
            "ascending, each once",
        )
    }
}

pub(crate) fn validate_results(results: &[TaskResult]) -> Checked {
    check(
        (1..=TASKS_MAX).contains(&results.len()),
        "results",
        "1 to 64",
    )
}

impl Follow {
    pub(crate) fn validate(&self) -> Checked {
        check(
            self.wait_ms <= FOLLOW_WAIT_MS_MAX,
            "wait_ms",
            "at most 20,000",
        )?;
        check(
            (1..=FOLLOW_BYTES_MAX).contains(&self.bytes_max),
            "bytes_max",
            "1 to 98,304",
        )
    }
}

impl Changes {
    pub(crate) fn validate(&self) -> Checked {
        self.head.validate()?;
        self.entries.iter().try_for_each(Entry::validate)
    }
}

impl Fetch {
    pub(crate) fn validate(&self) -> Checked {
        self.key.validate()
    }
}

impl Fetched {
    pub(crate) fn validate(&self) -> Checked {
        self.head.validate()?;
        self.entries.iter().try_for_each(Entry::validate)
    }
}

impl LeaseGrant {
    pub(crate) fn validate(&self) -> Checked {
        self.head.validate()
    }
}

impl SiteStatus {
    pub(crate) fn validate(&self) -> Checked {
        check(
            self.mechanisms.len() <= 128 && self.service_us.len() <= 16,
            "status",
            "at most 128 mechanisms and 16 times",
        )
    }
}

impl Entry {
    fn validate(&self) -> Checked {
        self.signed.validate()?;
        self.parts.as_ref().map_or(Ok(()), VersionParts::validate)
    }
}

impl Signed {
    fn validate(&self) -> Checked {
        check(
            (1..=RECORD_BYTES_MAX).contains(&self.body.len()),
            "body",
            "1 to 16,384 bytes",
        )?;
        check(
            self.signature.len() <= SIGNATURE_BYTES_MAX,
            "signature",
            "at most 1,024 bytes",
        )
    }
}

impl VersionParts {
    fn validate(&self) -> Checked {
        check(
            self.site_wrap.len() <= WRAP_BYTES_MAX && self.root_wrap.len() <= WRAP_BYTES_MAX,
            "wrap",
            "at most 4,096 bytes",
        )?;
        validate_chain(&self.chain)
    }
}

fn validate_chain(chain: &[Vec<u8>]) -> Checked {
    check(
        chain.len() <= CHAIN_MAX && chain.iter().map(Vec::len).sum::<usize>() <= CHAIN_BYTES_MAX,
        "chain",
        "at most 8 certificates and 32,768 bytes",
    )
}

impl Lookup {
    pub(crate) fn validate(&self) -> Checked {
        self.key.validate()
    }
}

impl Found {
    pub(crate) fn validate(&self) -> Checked {
        check(
            self.servers.len() <= 1024
                && self
                    .servers
                    .iter()
                    .all(|server| server.address.len() <= ADDRESS_BYTES_MAX),
            "servers",
            "at most 1,024, with addresses of at most 270 bytes",
        )
    }
}

impl Ask {
    pub(crate) fn validate(&self) -> Checked {
        match self {
            Self::KeyCreate(key) => key.validate(),
            Self::KeyImport(import) => import.validate(),
            Self::KeyChain { chain, key, .. } => {
                key.validate()?;
                validate_chain(chain)
            }
            Self::ClassCreate(class) => class.validate(),
            Self::ClassBound { bound_s, .. } => bound(*bound_s),
            Self::SiteAdd(site) => check(
                (1..=ADDRESS_BYTES_MAX).contains(&site.address.len()) && site.holds.len() <= 512,
                "site",
                "an address of 1 to 270 bytes and at most 512 keys",
            ),
            Self::KeyRotate { key }
            | Self::KeyState { key, .. }
            | Self::KeyCsr { key }
            | Self::KeyShow { key } => key.validate(),
            Self::GrantSet { key, .. } | Self::GrantList { key, .. } => {
                key.as_ref().map_or(Ok(()), KeyRef::validate)
            }
            _ => Ok(()),
        }
    }
}

impl NewKey {
    fn validate(&self) -> Checked {
        check(
            self.server_names.len() <= SERVER_NAMES_MAX
                && self
                    .server_names
                    .iter()
                    .all(|name| (1..=SERVER_NAME_BYTES_MAX).contains(&name.len())),
            "server_names",
            "at most 64 of 1 to 255 bytes",
        )
    }
}

impl Import {
    fn validate(&self) -> Checked {
        self.key.validate()?;
        check(
            self.wrapped_kek.len() <= 1024
                && self.wrapped_key.len() <= WRAP_BYTES_MAX
                && self.public.as_ref().is_none_or(|spki| spki.len() <= 1024),
            "import",
            "1,024, 4,096 and 1,024 bytes",
        )?;
        validate_chain(&self.chain)
    }
}

impl NewClass {
    fn validate(&self) -> Checked {
        check(
            (1..=REGIONS_MAX).contains(&self.regions.len()),
            "regions",
            "1 to 64",
        )?;
        check((1..=7).contains(&self.purposes.len()), "purposes", "1 to 7")?;
        bound(self.bound_s)
    }
}

fn bound(bound_s: u32) -> Checked {
    check(
        (BOUND_S_MIN..=BOUND_S_MAX).contains(&bound_s),
        "bound_s",
        "5 to 604,800 seconds",
    )
}
