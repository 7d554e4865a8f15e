//! The proxy's configuration: read raw, then checked into values that can be used.
//!
//! `config/proxy.toml` is its documentation. Every problem is reported with its line and what to do; a [`Config`] has
//! none. Reads the identity's files and opens no socket.

mod lookup;

use std::{net::SocketAddr, path::Path, time::Duration};

use keyhaven_service::{
    Credentials,
    config::{self, ConfigError, IdentitySection, LogSection, Problems},
};
use keyhaven_types::{Identity, Role};
use serde::Deserialize;
use toml::Spanned;

pub use self::lookup::LookupSection;
use self::lookup::RawLookup;
use crate::record::aead::GCM_RECORDS_MAX;

/// Fewer records under one key leave no room for data beside a KeyUpdate and an alert.
const RECORDS_PER_KEY_MIN: u64 = 4;

/// A configuration without problems.
pub struct Config {
    /// Where clients connect.
    pub listen: SocketAddr,
    /// Where plaintext goes, `HOST:PORT`.
    pub backend: String,
    /// Whether the backend gets a PROXY protocol header.
    pub proxy_protocol: ProxyProtocol,
    /// The proxy's own identity.
    pub credentials: Credentials,
    /// The signers, in order of preference.
    pub signers: Vec<SignerAddress>,
    /// Whether signers of managed keys are found by lookup, and how.
    pub lookup: Option<LookupSection>,
    /// Bounds and deadlines.
    pub limits: Limits,
    /// Where and how the log is written.
    pub log: LogSection,
}

/// Where a signer is, and who must answer there.
#[derive(Clone, Debug)]
pub struct SignerAddress {
    /// `HOST:PORT`.
    pub address: String,
    /// The identity.
    pub identity: Identity,
}

/// The PROXY protocol towards the backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProxyProtocol {
    /// No header.
    #[default]
    None,
    /// The binary header with the client's address.
    V2,
    /// And with what TLS has found out about the client.
    #[serde(rename = "v2-tls")]
    V2Tls,
}

/// Bounds and deadlines of connections.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Client connections at once.
    pub connections_max: usize,
    /// Handshakes at once of one client address, in IPv6 of one /64.
    pub handshakes_per_client_max: usize,
    /// From the connection to the whole ClientHello.
    pub client_hello_timeout: Duration,
    /// From the connection to the end of the handshake.
    pub handshake_timeout: Duration,
    /// For one request to a signer.
    pub signer_timeout: Duration,
    /// To connect to the backend.
    pub backend_connect_timeout: Duration,
    /// Without a byte either way.
    pub idle_timeout: Duration,
    /// The whole life of a connection.
    pub connection_lifetime: Duration,
    /// Records under one AES-GCM key.
    pub records_per_key: u64,
    /// How long connections may go on after a stop signal.
    pub shutdown_grace: Duration,
}

impl Limits {
    /// Files that are open beside clients and backends: listener, signers, logs, and refused clients being answered.
    const OTHER_FILES: u64 = 320;
    /// A client and its backend.
    const FILES_PER_CONNECTION: u64 = 2;

    /// Lowers `connections_max` to what this many open files allow: a client over the limit is to be refused with an
    /// alert, and not left waiting where nobody accepts it. The warning says what to do.
    pub fn fit_open_files(&mut self, files: u64) -> Option<String> {
        let wanted = self.connections_max;
        let room = files.saturating_sub(Self::OTHER_FILES) / Self::FILES_PER_CONNECTION;
        let room = usize::try_from(room).unwrap_or(usize::MAX).max(1);
        if wanted <= room {
            return None;
        }
        self.connections_max = room;
        let needed = (wanted as u64)
            .saturating_mul(Self::FILES_PER_CONNECTION)
            .saturating_add(Self::OTHER_FILES);
        Some(format!(
            "this process may open {files} files, which is enough for {room} connections and not for \
             connections_max = {wanted}: going on with {room}. Set LimitNOFILE={needed} or more in the unit \
             (`ulimit -Hn` elsewhere), or lower connections_max"
        ))
    }
}

impl Config {
    /// Reads the file. The error lists every problem; the warnings, for people, come beside the configuration.
    pub fn read(path: &Path) -> Result<(Self, Vec<String>), ConfigError> {
        let (raw, mut problems) = config::read::<Raw>(path)?.split();
        let listen = raw.listen(&mut problems);
        raw.check_backend(listen, &mut problems);
        let credentials = raw.identity.load(&mut problems, Role::Proxy);
        let signers = raw.signers(&mut problems);
        let lookup = raw.lookup.as_ref();
        let lookup = lookup.and_then(|lookup| lookup.check(&mut problems));
        let limits = raw.limits.check(&mut problems);
        raw.log.check(&mut problems);
        let (Some(listen), Some(credentials)) = (listen, credentials) else {
            return Err(problems
                .into_result()
                .expect_err("a value is missing only with a problem that says why"));
        };
        let warnings = problems
            .warnings()
            .map(|warning| format!("{}. {}", warning.what, warning.remedy))
            .collect();
        problems.into_result()?;
        let config = Self {
            listen,
            backend: raw.backend.into_inner(),
            proxy_protocol: raw.proxy_protocol,
            credentials,
            signers,
            lookup,
            limits,
            log: raw.log,
        };
        Ok((config, warnings))
    }
}

/// The file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    listen: Spanned<String>,
    backend: Spanned<String>,
    #[serde(default)]
    proxy_protocol: ProxyProtocol,
    identity: IdentitySection,
    #[serde(default)]
    signer: Vec<RawSigner>,
    lookup: Option<RawLookup>,
    #[serde(default)]
    limits: RawLimits,
    #[serde(default)]
    log: LogSection,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSigner {
    address: Spanned<String>,
    identity: Spanned<String>,
}

impl Raw {
    fn listen(&self, problems: &mut Problems) -> Option<SocketAddr> {
        let parsed = self.listen.get_ref().parse();
        if parsed.is_err() {
            problems.add(
                self.listen.span(),
                format!("`{}` is no address to listen on", self.listen.get_ref()),
                "Write IP:PORT, as in \"0.0.0.0:443\" or \"[::]:443\".",
            );
        }
        parsed.ok()
    }

    fn check_backend(&self, listen: Option<SocketAddr>, problems: &mut Problems) {
        let backend = self.backend.get_ref();
        if !is_host_and_port(backend) {
            problems.add(
                self.backend.span(),
                format!("`{backend}` is no address of a backend"),
                "Write HOST:PORT, as in \"127.0.0.1:8080\".",
            );
        } else if listen.is_some_and(|listen| leads_to(backend, listen)) {
            problems.add(
                self.backend.span(),
                format!(
                    "`{backend}` is where this proxy itself listens: it would be its own backend"
                ),
                "Write the address of the program that is to get the plaintext.",
            );
        }
    }

    fn signers(&self, problems: &mut Problems) -> Vec<SignerAddress> {
        if self.signer.is_empty() {
            problems.add(
                None,
                "there is no signer",
                "Add a [[signer]] with `address` and `identity`: without one no handshake can be made.",
            );
        }
        let parsed = self.signer.iter().filter_map(|raw| raw.check(problems));
        parsed.collect()
    }
}

impl RawSigner {
    fn check(&self, problems: &mut Problems) -> Option<SignerAddress> {
        if !is_host_and_port(self.address.get_ref()) {
            problems.add(
                self.address.span(),
                format!("`{}` is no address of a signer", self.address.get_ref()),
                "Write HOST:PORT, as in \"127.0.0.1:7443\".",
            );
        }
        let remedy = "Write the signer's identity: spiffe://DOMAIN/signer/NAME.";
        match self.identity.get_ref().parse::<Identity>() {
            Ok(identity) if identity.role() == Role::Signer => Some(SignerAddress {
                address: self.address.get_ref().clone(),
                identity,
            }),
            Ok(identity) => {
                let what = format!("{identity} has not the role `signer`");
                problems.add(self.identity.span(), what, remedy);
                None
            }
            Err(error) => {
                problems.add(self.identity.span(), error, remedy);
                None
            }
        }
    }
}

/// Takes a number, and says so when it is out of its bounds.
fn bounded(
    problems: &mut Problems,
    name: &str,
    value: &Spanned<u64>,
    least: u64,
    most: u64,
) -> u64 {
    let given = *value.get_ref();
    if !(least..=most).contains(&given) {
        problems.add(
            value.span(),
            format!("{name} = {given} is out of its bounds"),
            format!("Choose a number from {least} to {most}."),
        );
    }
    given
}

/// Whether connecting to `backend` reaches a listener at `listen`, as far as it shows without a look-up.
fn leads_to(backend: &str, listen: SocketAddr) -> bool {
    let backend = backend.replace("localhost:", "127.0.0.1:");
    let Ok(backend) = backend.parse::<SocketAddr>() else {
        return false;
    };
    let (to, at) = (backend.ip().to_canonical(), listen.ip().to_canonical());
    let is_here = to == at || to.is_unspecified() || at.is_unspecified() && to.is_loopback();
    is_here && backend.port() == listen.port()
}

fn is_host_and_port(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0)
    })
}

/// The `[limits]` table; every key has a default.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawLimits {
    connections_max: Spanned<u64>,
    handshakes_per_client_max: Spanned<u64>,
    client_hello_timeout_ms: Spanned<u64>,
    handshake_timeout_ms: Spanned<u64>,
    signer_timeout_ms: Spanned<u64>,
    backend_connect_timeout_ms: Spanned<u64>,
    idle_timeout_s: Spanned<u64>,
    connection_lifetime_s: Spanned<u64>,
    records_per_key: Spanned<u64>,
    shutdown_grace_s: Spanned<u64>,
}

impl Default for RawLimits {
    fn default() -> Self {
        let value = |value| Spanned::new(0..0, value);
        Self {
            connections_max: value(10_000),
            handshakes_per_client_max: value(256),
            client_hello_timeout_ms: value(5_000),
            handshake_timeout_ms: value(10_000),
            signer_timeout_ms: value(5_000),
            backend_connect_timeout_ms: value(5_000),
            idle_timeout_s: value(300),
            connection_lifetime_s: value(86_400),
            records_per_key: value(16_000_000),
            shutdown_grace_s: value(30),
        }
    }
}

impl RawLimits {
    fn check(&self, problems: &mut Problems) -> Limits {
        const DAY_S: u64 = 86_400;
        const DAY_MS: u64 = DAY_S * 1000;
        let mut bounded = |name: &str, value: &Spanned<u64>, least: u64, most: u64| {
            bounded(problems, name, value, least, most)
        };
        let connections = bounded("connections_max", &self.connections_max, 1, 1_000_000);
        let per_client = &self.handshakes_per_client_max;
        let per_client = bounded("handshakes_per_client_max", per_client, 1, 1_000_000);
        let hello = &self.client_hello_timeout_ms;
        let hello = bounded("client_hello_timeout_ms", hello, 1, DAY_MS);
        let handshake = &self.handshake_timeout_ms;
        let handshake = bounded("handshake_timeout_ms", handshake, 1, DAY_MS);
        let signer = bounded("signer_timeout_ms", &self.signer_timeout_ms, 1, DAY_MS);
        let backend = &self.backend_connect_timeout_ms;
        let backend = bounded("backend_connect_timeout_ms", backend, 1, DAY_MS);
        let idle = bounded("idle_timeout_s", &self.idle_timeout_s, 1, 7 * DAY_S);
        let lifetime = &self.connection_lifetime_s;
        let lifetime = bounded("connection_lifetime_s", lifetime, 1, 7 * DAY_S);
        let records = bounded(
            "records_per_key",
            &self.records_per_key,
            RECORDS_PER_KEY_MIN,
            GCM_RECORDS_MAX,
        );
        let grace = bounded("shutdown_grace_s", &self.shutdown_grace_s, 0, DAY_S);
        Limits {
            connections_max: usize::try_from(connections).unwrap_or(usize::MAX),
            handshakes_per_client_max: usize::try_from(per_client).unwrap_or(usize::MAX),
            client_hello_timeout: Duration::from_millis(hello),
            handshake_timeout: Duration::from_millis(handshake),
            signer_timeout: Duration::from_millis(signer),
            backend_connect_timeout: Duration::from_millis(backend),
            idle_timeout: Duration::from_secs(idle),
            connection_lifetime: Duration::from_secs(lifetime),
            records_per_key: records,
            shutdown_grace: Duration::from_secs(grace),
        }
    }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
