//! The signer's configuration: `config/signer.toml` as it is written, then as it is meant.
//!
//! `raw` is the file's form; here it becomes values that are known to be good, or a list of every problem with
//! its line and the remedy. Nothing here opens a token.

mod certificate;
mod raw;
mod site;

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    str::FromStr as _,
    time::Duration,
};

use keyhaven_hsm::{PinSource, Uri};
use keyhaven_service::{
    Credentials,
    config::{ConfigError, Document, IdentitySection, LogSection, Problems},
};
use keyhaven_types::{Role, Secret};
use toml::Spanned;
use zeroize::Zeroizing;

pub(crate) use certificate::covers;
pub use raw::Raw;
pub use site::{SiteConfig, SiteKeyConfig};

/// A valid configuration.
pub struct Config {
    /// Where proxies connect.
    pub listen: SocketAddr,
    /// Who this signer is.
    pub credentials: Credentials,
    /// Bounds.
    pub limits: Limits,
    /// Threads that work in tokens.
    pub threads: usize,
    /// Operations that may wait for a thread.
    pub queue_max: usize,
    /// The secret under which rekey states are sealed; none: one is made at start.
    pub seal_secret: Option<Secret>,
    /// How long a connection may live.
    pub connection_lifetime: Duration,
    /// Tokens by name.
    pub tokens: Vec<TokenConfig>,
    /// Sites.
    pub sites: Vec<SiteConfig>,
    /// Logging.
    pub log: LogSection,
    /// What an operator should know, though it does not stop the signer.
    pub warnings: Vec<String>,
}

/// Bounds on what proxies can ask for.
#[derive(Clone, Copy, Debug)]
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
}

/// A token to open.
pub struct TokenConfig {
    /// The name that sites' keys use.
    pub name: String,
    /// The module; none: SoftHSM2 where it is usually found.
    pub module: Option<PathBuf>,
    /// Which token.
    pub uri: Uri,
    /// Where its PIN is.
    pub pin_source: PinSource,
    /// The folder against which the PIN file's path is resolved.
    pub base: PathBuf,
    /// The line of the URI, for messages.
    pub line: usize,
}

impl Config {
    /// Reads and checks a file; the error lists every problem.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let document: Document<Raw> = keyhaven_service::config::read(path)?;
        let (raw, mut problems) = document.split();
        let base = problems.base().to_owned();
        let listen = parse_address(&raw.listen, &mut problems);
        let credentials = load_identity(&raw.identity, &mut problems);
        let limits = raw.limits.validate(&mut problems);
        let (threads, queue_max) = raw.workers.validate(&mut problems);
        let (seal_secret, connection_lifetime) = validate_rekey(&raw.rekey, &mut problems);
        let tokens = validate_tokens(&raw.token, &base, &mut problems);
        let names: Vec<&str> = raw
            .token
            .get_ref()
            .iter()
            .map(|token| token.name.get_ref().as_str())
            .collect();
        let sites = site::validate(&raw.site, &names, &mut problems);
        let warnings = problems
            .items()
            .iter()
            .filter(|problem| problem.warning)
            .map(|problem| {
                let line = problem.line.map(|line| format!("line {line}: "));
                format!(
                    "{}{}; {}",
                    line.unwrap_or_default(),
                    problem.what,
                    problem.remedy
                )
            })
            .collect();
        problems.into_result()?;
        match (listen, credentials) {
            (Some(listen), Some(credentials)) => Ok(Self {
                listen,
                credentials,
                limits,
                threads,
                queue_max,
                seal_secret,
                connection_lifetime,
                tokens,
                sites,
                log: raw.log,
                warnings,
            }),
            _ => unreachable!("a missing value is a problem, and problems end the reading"),
        }
    }
}

fn load_identity(section: &IdentitySection, problems: &mut Problems) -> Option<Credentials> {
    section.load(problems, Role::Signer)
}

fn parse_address(text: &Spanned<String>, problems: &mut Problems) -> Option<SocketAddr> {
    match text.get_ref().parse() {
        Ok(address) => Some(address),
        Err(_) => {
            problems.add(
                text.span(),
                format!("listen = \"{}\" is not an address", text.get_ref()),
                "write IP:PORT, for example 127.0.0.1:7443 or [::]:7443",
            );
            None
        }
    }
}

fn validate_rekey(raw: &raw::RekeySection, problems: &mut Problems) -> (Option<Secret>, Duration) {
    let lifetime = raw.connection_lifetime_s.get_ref();
    if !(1..=86_400).contains(lifetime) {
        problems.add(
            raw.connection_lifetime_s.span(),
            format!("connection_lifetime_s = {lifetime} is out of range"),
            "choose 1 to 86400: the seal's keys are kept for a day",
        );
    }
    let secret = raw
        .seal_key
        .as_ref()
        .and_then(|path| read_seal_key(path, problems));
    (secret, Duration::from_secs(*lifetime))
}

fn read_seal_key(path: &Spanned<PathBuf>, problems: &mut Problems) -> Option<Secret> {
    let file = problems.resolve(path.get_ref());
    let shown = file.display();
    let bytes = match fs::read(&file) {
        Ok(bytes) => Zeroizing::new(bytes),
        Err(error) => {
            problems.add(
                path.span(),
                format!("cannot read seal_key {shown}: {error}"),
                "make it with `openssl rand -out FILE 32` and give it to each signer of the site",
            );
            return None;
        }
    };
    if fs::metadata(&file).is_ok_and(|meta| meta.permissions().mode() & 0o077 != 0) {
        problems.add(
            path.span(),
            format!("seal_key {shown} can be read by others"),
            format!("chmod 600 {shown}"),
        );
    }
    if bytes.len() < 32 {
        problems.add(
            path.span(),
            format!("seal_key {shown} has {} bytes", bytes.len()),
            "it needs at least 32 random bytes: `openssl rand -out FILE 32`",
        );
        return None;
    }
    Some(Secret::copy_from(&bytes))
}

fn validate_tokens(
    raw: &Spanned<Vec<raw::TokenSection>>,
    base: &Path,
    problems: &mut Problems,
) -> Vec<TokenConfig> {
    let mut tokens: Vec<TokenConfig> = Vec::new();
    if raw.get_ref().is_empty() {
        problems.add(
            None,
            "there is no [[token]]",
            "name at least one token; see config/signer.toml",
        );
    }
    for section in raw.get_ref() {
        let name = section.name.get_ref();
        if tokens.iter().any(|token| token.name == *name) {
            problems.add(
                section.name.span(),
                format!("two tokens are named \"{name}\""),
                "give each token its own name",
            );
        }
        if let Some(token) = validate_token(section, base, problems) {
            tokens.push(token);
        }
    }
    tokens
}

fn validate_token(
    section: &raw::TokenSection,
    base: &Path,
    problems: &mut Problems,
) -> Option<TokenConfig> {
    let uri = match Uri::from_str(section.uri.get_ref()) {
        Ok(uri) => uri,
        Err(error) => {
            // The URI itself is not repeated: it may hold a PIN.
            problems.add(
                section.uri.span(),
                format!("the token's uri is not accepted: {error}"),
                "write pkcs11:token=LABEL?pin-source=file:PATH (RFC 7512)",
            );
            return None;
        }
    };
    for warning in uri.warnings() {
        problems.warn(
            section.uri.span(),
            warning,
            "name the token by label or serial",
        );
    }
    let module = match (&section.module, uri.module_path()) {
        (Some(path), _) => Some(problems.resolve(path.get_ref())),
        (None, Some(path)) => Some(problems.resolve(path)),
        (None, None) => None,
    };
    if let Some(path) = &module
        && !path.is_file()
    {
        problems.add(
            section
                .module
                .as_ref()
                .map_or(section.uri.span(), Spanned::span),
            format!("there is no PKCS#11 module at {}", path.display()),
            "correct the path, or leave it out to have SoftHSM2 looked for",
        );
    }
    let pin_source = uri.pin_source().cloned().unwrap_or(PinSource::Terminal);
    Some(TokenConfig {
        name: section.name.get_ref().clone(),
        module,
        line: problems.line(section.uri.span()),
        uri,
        pin_source,
        base: base.to_owned(),
    })
}
