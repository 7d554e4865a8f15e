//! The signer's configuration: `config/signer.toml` as it is written, then as it is meant.
//!
//! `raw` is the file's form; here it becomes values that are known to be good, or a list of every problem with
//! its line and the remedy. Nothing here opens a token.

mod certificate;
mod clients;
mod files;
mod key;
mod kms;
mod limits;
mod ocsp;
mod raw;
mod secrets;
mod site;
mod token;

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::SystemTime,
};

use aws_lc_rs::digest;
use keyhaven_service::{
    Credentials,
    config::{ConfigError, Document, IdentitySection, LogSection, Problem, Problems, resolve},
};
use keyhaven_types::Role;
use toml::Spanned;

pub(crate) use certificate::covers;
pub use key::SiteKeyConfig;
pub use kms::KmsConfig;
pub use limits::Limits;
pub use raw::Raw;
pub use secrets::{RekeyConfig, TicketsConfig};
pub use site::SiteConfig;
pub use token::TokenConfig;

/// A valid configuration.
pub struct Config {
    /// Where proxies connect.
    pub listen: SocketAddr,
    /// Who this signer is.
    pub credentials: Credentials,
    /// Tells one identity's certificates from another's: SHA-256 over the files of certificate and CA.
    pub identity_hash: [u8; 32],
    /// Bounds.
    pub limits: Limits,
    /// Threads that work in tokens.
    pub threads: usize,
    /// Operations that may wait for a thread.
    pub queue_max: usize,
    /// The seal of rekey states.
    pub rekey: RekeyConfig,
    /// Tickets; none: no session is resumed.
    pub tickets: Option<TicketsConfig>,
    /// Where metrics are served; none: nowhere.
    pub metrics: Option<SocketAddr>,
    /// Tokens by name.
    pub tokens: Vec<TokenConfig>,
    /// Sites.
    pub sites: Vec<SiteConfig>,
    /// The KMS that this signer is a site of.
    pub kms: Option<KmsConfig>,
    /// Logging.
    pub log: LogSection,
    /// What an operator should know, though it does not stop the signer.
    pub warnings: Vec<String>,
}

impl Config {
    /// Reads and checks a file; the error lists every problem.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        Self::check(&keyhaven_service::config::read(path)?)
    }

    /// Checks what a file says, and reads what it names, as it is now.
    pub fn check(document: &Document<Raw>) -> Result<Self, ConfigError> {
        let raw = &document.value;
        let mut problems = document.problems();
        let base = problems.base().to_owned();
        let listen = parse_address(
            "listen",
            "127.0.0.1:7443 or [::]:7443",
            &raw.listen,
            &mut problems,
        );
        let credentials = load_identity(&raw.identity, &mut problems);
        let limits = raw.limits.validate(&mut problems);
        let (threads, queue_max) = raw.workers.validate(&mut problems);
        let rekey = secrets::validate_rekey(&raw.rekey, &mut problems);
        let has_managed_tickets = raw
            .kms
            .as_ref()
            .is_some_and(|section| section.ticket_key.is_some());
        let by_default = has_managed_tickets.then(raw::TicketsSection::default);
        let tickets = raw
            .tickets
            .as_ref()
            .or(by_default.as_ref())
            .map(|section| secrets::validate_tickets(section, &rekey, &mut problems));
        let metrics = raw
            .metrics
            .as_ref()
            .and_then(|section| validate_metrics(section, &mut problems));
        let tokens = token::validate(&raw.token, &base, &mut problems);
        let names: Vec<&str> = raw
            .token
            .get_ref()
            .iter()
            .map(|token| token.name.get_ref().as_str())
            .collect();
        let sites = site::validate(&raw.site, &names, raw.kms.is_some(), &mut problems);
        let kms = raw
            .kms
            .as_ref()
            .and_then(|section| kms::validate(section, &names, &mut problems));
        if let (Some(section), Some(secret)) = (
            &raw.kms,
            raw.tickets.as_ref().and_then(|t| t.secret.as_ref()),
        ) && section.ticket_key.is_some()
        {
            problems.add(
                secret.span(),
                "tickets have both a secret of [tickets] and a ticket_key of [kms]",
                "keep one of the two",
            );
        }
        let warnings = problems.warnings().map(warning_line).collect();
        problems.into_result()?;
        match (listen, credentials) {
            (Some(listen), Some(credentials)) => Ok(Self {
                listen,
                credentials,
                identity_hash: hash_identity(&raw.identity, document),
                limits,
                threads,
                queue_max,
                rekey,
                tickets,
                metrics,
                tokens,
                sites,
                kms,
                log: LogSection {
                    format: raw.log.format,
                    level: raw.log.level.clone(),
                },
                warnings,
            }),
            _ => unreachable!("a missing value is a problem, and problems end the reading"),
        }
    }

    /// The files that are looked at for changes: chains, OCSP responses, CAs and lists of clients.
    pub fn watched(document: &Document<Raw>) -> Vec<PathBuf> {
        files::watched(document.value.site.get_ref(), document.base())
    }

    /// When the first stapled OCSP response ends.
    pub fn staples_until(&self) -> Option<SystemTime> {
        let keys = self.sites.iter().flat_map(|site| &site.keys);
        keys.filter_map(|key| key.ocsp_until).min()
    }
}

fn warning_line(problem: &Problem) -> String {
    let line = problem.line.map(|line| format!("line {line}: "));
    format!(
        "{}{}; {}",
        line.unwrap_or_default(),
        problem.what,
        problem.remedy
    )
}

fn load_identity(section: &IdentitySection, problems: &mut Problems) -> Option<Credentials> {
    section.load(problems, Role::Signer)
}

fn hash_identity(section: &IdentitySection, document: &Document<Raw>) -> [u8; 32] {
    let mut hash = digest::Context::new(&digest::SHA256);
    for path in [&section.certificate, &section.ca] {
        let path = resolve(document.base(), path.get_ref());
        // A file that cannot be read was a problem before.
        hash.update(&fs::read(path).unwrap_or_default());
    }
    let mut bytes = [0; 32];
    bytes.copy_from_slice(hash.finish().as_ref());
    bytes
}

fn validate_metrics(section: &raw::MetricsSection, problems: &mut Problems) -> Option<SocketAddr> {
    let listen = section.listen.as_ref()?;
    let address = parse_address("metrics listen", "127.0.0.1:9464", listen, problems)?;
    if !address.ip().is_loopback() {
        problems.warn(
            listen.span(),
            format!("metrics are served to whoever reaches {address}: site names, levels, counts"),
            "listen on a loopback address, or keep others out by a firewall",
        );
    }
    Some(address)
}

fn parse_address(
    key: &str,
    example: &str,
    text: &Spanned<String>,
    problems: &mut Problems,
) -> Option<SocketAddr> {
    let address = text.get_ref().parse();
    if address.is_err() {
        problems.add(
            text.span(),
            format!("{key} = \"{}\" is not an address", text.get_ref()),
            format!("write IP:PORT, for example {example}"),
        );
    }
    address.ok()
}
