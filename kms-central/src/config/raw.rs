//! `config/kms-central.toml` as it is written: serde types and defaults.
//!
//! Nothing is checked here but the form. Invariant: a key that is not known here is an error.

use std::path::PathBuf;

use keyhaven_service::config::{IdentitySection, LogSection};
use serde::Deserialize;
use toml::Spanned;

/// The whole file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Raw {
    pub(super) listen: Spanned<String>,
    pub(super) identity: IdentitySection,
    pub(super) token: TokenSection,
    pub(super) store: Spanned<StoreSection>,
    pub(super) admins: AdminsSection,
    #[serde(default)]
    pub(super) limits: LimitsSection,
    #[serde(default)]
    pub(super) workers: WorkersSection,
    #[serde(default)]
    pub(super) log: LogSection,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TokenSection {
    pub(super) module: Option<Spanned<PathBuf>>,
    pub(super) init_args: Option<Spanned<String>>,
    pub(super) uri: Spanned<String>,
}

/// Which keys belong to which kind is checked later, where it can be said in words.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StoreSection {
    pub(super) kind: StoreKind,
    pub(super) path: Option<Spanned<PathBuf>>,
    pub(super) cache_mb: Option<Spanned<usize>>,
    #[serde(default)]
    pub(super) endpoints: Vec<Spanned<String>>,
    pub(super) ca: Option<Spanned<PathBuf>>,
    pub(super) certificate: Option<Spanned<PathBuf>>,
    pub(super) key: Option<Spanned<PathBuf>>,
    pub(super) prefix: Option<Spanned<String>>,
    pub(super) timeout_ms: Option<Spanned<u64>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum StoreKind {
    Redb,
    Etcd,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AdminsSection {
    pub(super) write: Spanned<Vec<Spanned<String>>>,
    #[serde(default)]
    pub(super) read: Vec<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct LimitsSection {
    pub(super) connections_max: Spanned<usize>,
    pub(super) shutdown_grace_s: Spanned<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct WorkersSection {
    pub(super) threads: Option<Spanned<usize>>,
    pub(super) queue_max: Spanned<usize>,
}

impl Default for LimitsSection {
    fn default() -> Self {
        Self {
            connections_max: unwritten(1024),
            shutdown_grace_s: unwritten(10),
        }
    }
}

impl Default for WorkersSection {
    fn default() -> Self {
        Self {
            threads: None,
            queue_max: unwritten(1024),
        }
    }
}

/// A default has no place in the file; its span is never shown, since defaults are in range.
fn unwritten<T>(value: T) -> Spanned<T> {
    Spanned::new(0..0, value)
}
