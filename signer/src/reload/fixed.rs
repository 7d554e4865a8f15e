//! What a running signer keeps until it is started again: its address, its identity, its threads and bounds.
//!
//! Invariant: a change of these is told, never silently ignored.

use std::net::SocketAddr;

use aws_lc_rs::digest;
use keyhaven_service::config::LogFormat;

use crate::config::{Config, Limits};

/// What only a start takes over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fixed {
    listen: SocketAddr,
    identity: [u8; 32],
    workers: (usize, usize),
    limits: Limits,
    /// A hash of the seal's secret.
    seal: Option<Vec<u8>>,
    connection_lifetime_s: u64,
    metrics: Option<SocketAddr>,
    /// The section in words; there is no secret in it.
    kms: Option<String>,
    log: (LogFormat, String),
}

impl Fixed {
    pub(super) fn of(config: &Config) -> Self {
        let hash = |bytes: &[u8]| digest::digest(&digest::SHA256, bytes).as_ref().to_vec();
        let secret = config.rekey.seal_secret.as_ref();
        Self {
            listen: config.listen,
            identity: config.identity_hash,
            workers: (config.threads, config.queue_max),
            limits: Limits {
                // The one that is taken over at once.
                reload_every: std::time::Duration::ZERO,
                ..config.limits
            },
            seal: secret.map(|secret| hash(secret.expose_secret())),
            connection_lifetime_s: config.rekey.connection_lifetime.as_secs(),
            metrics: config.metrics,
            kms: config.kms.as_ref().map(|section| format!("{section:?}")),
            log: (config.log.format, config.log.level.get_ref().clone()),
        }
    }

    /// The parts of the file in which another state differs.
    pub(super) fn differences(&self, other: &Self) -> Vec<&'static str> {
        [
            ("listen", self.listen == other.listen),
            ("[identity]", self.identity == other.identity),
            ("[workers]", self.workers == other.workers),
            ("[limits]", self.limits == other.limits),
            (
                "[rekey] seal_key or connection_lifetime_s",
                self.seal == other.seal
                    && self.connection_lifetime_s == other.connection_lifetime_s,
            ),
            ("[metrics]", self.metrics == other.metrics),
            ("[kms]", self.kms == other.kms),
            ("[log]", self.log == other.log),
        ]
        .into_iter()
        .filter(|(_, same)| !same)
        .map(|(what, _)| what)
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn fixed() -> Fixed {
        let address: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let second = Duration::from_secs(1);
        Fixed {
            listen: address,
            identity: [1; 32],
            workers: (1, 1),
            limits: Limits {
                handshakes_max: 1,
                pending_max: 1,
                pending_timeout: second,
                step_timeout: second,
                in_flight_per_connection: 1,
                connections_max: 1,
                shutdown_grace: second,
                reload_every: Duration::ZERO,
            },
            seal: None,
            connection_lifetime_s: 1,
            metrics: None,
            kms: None,
            log: (LogFormat::Human, "info".to_owned()),
        }
    }

    #[test]
    fn each_part_that_differs_is_named() {
        let now = fixed();
        assert_eq!(now.differences(&now), [""; 0]);
        let mut limits = fixed();
        limits.limits.pending_max = 2;
        let mut seal = fixed();
        seal.seal = Some(vec![1]);
        let mut other = fixed();
        other.listen = "127.0.0.1:2".parse().unwrap();
        other.identity = [2; 32];
        other.workers = (2, 1);
        other.metrics = Some(other.listen);
        other.kms = Some("a site".to_owned());
        other.log.1.clear();
        assert_eq!(now.differences(&limits), ["[limits]"]);
        assert_eq!(now.differences(&seal).len(), 1);
        assert_eq!(
            now.differences(&other),
            [
                "listen",
                "[identity]",
                "[workers]",
                "[metrics]",
                "[kms]",
                "[log]"
            ]
        );
    }
}
