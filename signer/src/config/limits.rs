//! `[workers]` and `[limits]`: how much at once, and how long.
//!
//! Ranges are checked here; what the numbers are for is told in `config/signer.toml`. Invariant: everything that a
//! caller can ask for has a bound.

use std::time::Duration;

use keyhaven_service::config::Problems;
use serde::Deserialize;
use toml::Spanned;

use super::raw::unwritten;

/// Bounds on what proxies can ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Handshakes at work at once.
    pub handshakes_max: usize,
    /// Handshakes that wait for a client.
    pub pending_max: usize,
    /// How long one waits.
    pub pending_timeout: Duration,
    /// How long one step may take.
    pub step_timeout: Duration,
    /// Requests of one connection at work at once.
    pub in_flight_per_connection: usize,
    /// Connections from proxies.
    pub connections_max: usize,
    /// How long what is in flight may take after a stop signal.
    pub shutdown_grace: Duration,
    /// How often the files that the configuration names are looked at; zero: never.
    pub reload_every: Duration,
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
    reload_every_s: Spanned<u64>,
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
            reload_every: Duration::from_secs(in_range(
                &self.reload_every_s,
                "reload_every_s",
                0,
                86_400,
                problems,
            )),
        }
    }
}

pub(super) fn in_range<T: PartialOrd + Copy + std::fmt::Display>(
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
            reload_every_s: unwritten(30),
        }
    }
}
