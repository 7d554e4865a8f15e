//! The `[lookup]` table: whether and how signers are found that the file does not name.
//!
//! Only numbers and their bounds; what they do is the business of `signers`. Invariant: without the table nothing is looked
//! up.

use std::time::Duration;

use keyhaven_service::config::Problems;
use serde::Deserialize;
use toml::Spanned;

use super::bounded;

/// How signers are found that the file does not name.
#[derive(Clone, Copy, Debug)]
pub struct LookupSection {
    /// Connections at once to signers that were found.
    pub servers_max: usize,
    /// The age of an answer at which it is asked for anew.
    pub refresh: Duration,
}

/// The `[lookup]` table; every key has a default. Without the table nothing is looked up.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawLookup {
    enabled: bool,
    servers_max: Spanned<u64>,
    refresh_ms: Spanned<u64>,
}

impl Default for RawLookup {
    fn default() -> Self {
        Self {
            enabled: true,
            servers_max: Spanned::new(0..0, 16),
            refresh_ms: Spanned::new(0..0, 2_000),
        }
    }
}

impl RawLookup {
    pub(super) fn check(&self, problems: &mut Problems) -> Option<LookupSection> {
        let servers = bounded(problems, "servers_max", &self.servers_max, 1, 512);
        let refresh = bounded(problems, "refresh_ms", &self.refresh_ms, 100, 60_000);
        self.enabled.then_some(LookupSection {
            servers_max: usize::try_from(servers).unwrap_or(usize::MAX),
            refresh: Duration::from_millis(refresh),
        })
    }
}
