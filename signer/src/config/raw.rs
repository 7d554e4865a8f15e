//! `config/signer.toml` as it is written: serde types and defaults, nothing checked but form and range.

use std::{path::PathBuf, time::Duration};

use keyhaven_service::config::{IdentitySection, LogSection, Problems};
use keyhaven_types::CustodyLevel;
use serde::Deserialize;
use toml::Spanned;

use super::Limits;

/// The whole file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Raw {
    pub(super) listen: Spanned<String>,
    pub(super) identity: IdentitySection,
    #[serde(default)]
    pub(super) workers: WorkersSection,
    #[serde(default)]
    pub(super) limits: LimitsSection,
    #[serde(default)]
    pub(super) rekey: RekeySection,
    #[serde(default)]
    pub(super) log: LogSection,
    pub(super) token: Spanned<Vec<TokenSection>>,
    pub(super) site: Spanned<Vec<SiteSection>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct WorkersSection {
    threads: Option<Spanned<usize>>,
    queue_max: Spanned<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct LimitsSection {
    handshakes_max: Spanned<usize>,
    pending_max: Spanned<usize>,
    pending_timeout_s: Spanned<u64>,
    step_timeout_ms: Spanned<u64>,
    in_flight_per_connection: Spanned<usize>,
    connections_max: Spanned<usize>,
    shutdown_grace_s: Spanned<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RekeySection {
    pub(super) seal_key: Option<Spanned<PathBuf>>,
    pub(super) connection_lifetime_s: Spanned<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TokenSection {
    pub(super) name: Spanned<String>,
    pub(super) module: Option<Spanned<PathBuf>>,
    pub(super) uri: Spanned<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SiteSection {
    pub(super) names: Spanned<Vec<Spanned<String>>>,
    #[serde(default)]
    pub(super) default: bool,
    #[serde(default)]
    pub(super) alpn: Vec<Spanned<String>>,
    #[serde(default)]
    pub(super) alpn_required: bool,
    pub(super) custody_min: Option<Spanned<CustodyLevel>>,
    pub(super) custody_max: Option<Spanned<CustodyLevel>>,
    pub(super) proxies: Spanned<Vec<Spanned<String>>>,
    pub(super) key: Vec<SiteKeySection>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SiteKeySection {
    pub(super) token: Spanned<String>,
    pub(super) uri: Spanned<String>,
    pub(super) certificate: Spanned<PathBuf>,
}

impl WorkersSection {
    pub(super) fn validate(&self, problems: &mut Problems) -> (usize, usize) {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = match &self.threads {
            Some(threads) => in_range(threads, "threads", 1, 256, problems),
            None => processors.min(256),
        };
        (
            threads,
            in_range(&self.queue_max, "queue_max", 1, 1_000_000, problems),
        )
    }
}

impl LimitsSection {
    pub(super) fn validate(&self, problems: &mut Problems) -> Limits {
        let seconds = |value: &Spanned<u64>, name, max, problems: &mut Problems| {
            Duration::from_secs(in_range(value, name, 1, max, problems))
        };
        Limits {
            handshakes_max: in_range(
                &self.handshakes_max,
                "handshakes_max",
                1,
                1_000_000,
                problems,
            ),
            pending_max: in_range(&self.pending_max, "pending_max", 1, 1_000_000, problems),
            pending_timeout: seconds(&self.pending_timeout_s, "pending_timeout_s", 3600, problems),
            step_timeout: Duration::from_millis(in_range(
                &self.step_timeout_ms,
                "step_timeout_ms",
                10,
                600_000,
                problems,
            )),
            in_flight_per_connection: in_range(
                &self.in_flight_per_connection,
                "in_flight_per_connection",
                1,
                65_536,
                problems,
            ),
            connections_max: in_range(
                &self.connections_max,
                "connections_max",
                1,
                65_536,
                problems,
            ),
            shutdown_grace: seconds(&self.shutdown_grace_s, "shutdown_grace_s", 3600, problems),
        }
    }
}

fn in_range<T: PartialOrd + Copy + std::fmt::Display>(
    value: &Spanned<T>,
    name: &str,
    min: T,
    max: T,
    problems: &mut Problems,
) -> T {
    let number = *value.get_ref();
    if number < min || number > max {
        problems.add(
            value.span(),
            format!("{name} = {number} is out of range"),
            format!("choose {min} to {max}"),
        );
    }
    number
}

impl Default for WorkersSection {
    fn default() -> Self {
        Self {
            threads: None,
            queue_max: unwritten(1024),
        }
    }
}

impl Default for LimitsSection {
    fn default() -> Self {
        Self {
            handshakes_max: unwritten(256),
            pending_max: unwritten(4096),
            pending_timeout_s: unwritten(10),
            step_timeout_ms: unwritten(5000),
            in_flight_per_connection: unwritten(128),
            connections_max: unwritten(256),
            shutdown_grace_s: unwritten(10),
        }
    }
}

impl Default for RekeySection {
    fn default() -> Self {
        Self {
            seal_key: None,
            connection_lifetime_s: unwritten(86_400),
        }
    }
}

/// A default has no place in the file; its span is never shown, since defaults are in range.
fn unwritten<T>(value: T) -> Spanned<T> {
    Spanned::new(0..0, value)
}
