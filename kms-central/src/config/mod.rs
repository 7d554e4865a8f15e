//! Central's configuration: `config/kms-central.toml` as it is written, then as it is meant.
//!
//! `raw` is the file's form; here it becomes values that are known to be good, or a list of every problem with its line
//! and the remedy. Nothing here opens a token or a store.

mod raw;
mod store;
mod token;

use std::{collections::HashSet, net::SocketAddr, path::Path, time::Duration};

use keyhaven_service::{
    Credentials,
    config::{ConfigError, Document, LogSection, Problem, Problems},
};
use keyhaven_types::{Identity, Role};
use toml::Spanned;

pub use raw::Raw;
pub use store::StoreConfig;
pub use token::TokenConfig;

/// A valid configuration.
pub struct Config {
    /// Where sites and operators connect.
    pub listen: SocketAddr,
    /// Who this central is.
    pub credentials: Credentials,
    /// The token with central's keys.
    pub token: TokenConfig,
    /// Where state is kept.
    pub store: StoreConfig,
    /// Who may do what.
    pub admins: Admins,
    /// Connections at once; one identity may have a quarter of them.
    pub connections_max: usize,
    /// How long what is in flight may take after a stop signal.
    pub shutdown_grace: Duration,
    /// Threads that work in the token.
    pub threads: usize,
    /// Operations that may wait for a thread.
    pub queue_max: usize,
    /// Logging.
    pub log: LogSection,
    /// What an operator should know, though it does not stop central.
    pub warnings: Vec<String>,
}

/// Operators, by what they may do.
#[derive(Clone, Debug, Default)]
pub struct Admins {
    write: HashSet<Identity>,
    read: HashSet<Identity>,
}

impl Admins {
    /// Those who may change things, and those who may only look.
    pub fn new(
        write: impl IntoIterator<Item = Identity>,
        read: impl IntoIterator<Item = Identity>,
    ) -> Self {
        Self {
            write: write.into_iter().collect(),
            read: read.into_iter().collect(),
        }
    }

    /// Whether an identity may look.
    pub fn may_read(&self, identity: &Identity) -> bool {
        self.may_write(identity) || self.read.contains(identity)
    }

    /// Whether an identity may change things.
    pub fn may_write(&self, identity: &Identity) -> bool {
        self.write.contains(identity)
    }
}

impl Config {
    /// Reads and checks a file; the error lists every problem.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        Self::check(keyhaven_service::config::read(path)?)
    }

    /// Checks what a file says.
    ///
    /// # Errors
    /// [`ConfigError::Problems`] with everything that is wrong.
    pub fn check(document: Document<Raw>) -> Result<Self, ConfigError> {
        let (raw, mut problems) = document.split();
        let listen = parse_address(&raw.listen, &mut problems);
        let credentials = raw.identity.load(&mut problems, Role::Central);
        let token = token::validate(&raw.token, &mut problems);
        let store = store::validate(&raw.store, &mut problems);
        let admins = validate_admins(&raw.admins, &mut problems);
        let threads = match &raw.workers.threads {
            Some(threads) => in_range(threads, "threads", 1, 256, &mut problems),
            None => std::thread::available_parallelism()
                .map_or(1, usize::from)
                .min(256),
        };
        let queue_max = in_range(
            &raw.workers.queue_max,
            "queue_max",
            1,
            1_000_000,
            &mut problems,
        );
        let limits = &raw.limits;
        let connections_max = in_range(
            &limits.connections_max,
            "connections_max",
            1,
            65_536,
            &mut problems,
        );
        let grace = in_range(
            &limits.shutdown_grace_s,
            "shutdown_grace_s",
            0,
            3600,
            &mut problems,
        );
        raw.log.check(&mut problems);
        let warnings = problems.warnings().map(warning_line).collect();
        problems.into_result()?;
        match (listen, credentials, token, store) {
            (Some(listen), Some(credentials), Some(token), Some(store)) => Ok(Self {
                listen,
                credentials,
                token,
                store,
                admins,
                connections_max,
                shutdown_grace: Duration::from_secs(grace),
                threads,
                queue_max,
                log: raw.log,
                warnings,
            }),
            _ => unreachable!("a missing value is a problem, and problems end the reading"),
        }
    }
}

fn validate_admins(section: &raw::AdminsSection, problems: &mut Problems) -> Admins {
    let mut parse = |list: &[Spanned<String>]| {
        let mut identities = Vec::new();
        for text in list {
            match text.get_ref().parse::<Identity>() {
                Ok(identity) if identity.role() == Role::Admin => identities.push(identity),
                Ok(identity) => problems.add(
                    text.span(),
                    format!("{identity} has not the role `admin`"),
                    "name operators: spiffe://DOMAIN/admin/NAME",
                ),
                Err(error) => problems.add(
                    text.span(),
                    format!("`{}` is no identity: {error}", text.get_ref()),
                    "name operators: spiffe://DOMAIN/admin/NAME",
                ),
            }
        }
        identities
    };
    let write = parse(section.write.get_ref());
    let read = parse(&section.read);
    if section.write.get_ref().is_empty() {
        problems.warn(
            section.write.span(),
            "nobody may change anything",
            "name at least one operator in `write`",
        );
    }
    Admins::new(write, read)
}

fn parse_address(text: &Spanned<String>, problems: &mut Problems) -> Option<SocketAddr> {
    let address = text.get_ref().parse();
    if address.is_err() {
        problems.add(
            text.span(),
            format!("listen = \"{}\" is not an address", text.get_ref()),
            "write IP:PORT, for example 127.0.0.1:7500 or [::]:7500",
        );
    }
    address.ok()
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

fn warning_line(problem: &Problem) -> String {
    let line = problem.line.map(|line| format!("line {line}: "));
    format!(
        "{}{}; {}",
        line.unwrap_or_default(),
        problem.what,
        problem.remedy
    )
}
