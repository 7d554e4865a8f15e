//! `[rekey]` and `[tickets]`: what seals the states and tickets that others carry.
//!
//! Reads the secrets' files; keys are made from them elsewhere. Invariant: a secret's file is its owner's alone, and
//! serves one purpose.

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf, time::Duration};

use keyhaven_service::config::Problems;
use keyhaven_types::Secret;
use toml::Spanned;
use zeroize::Zeroizing;

use super::{limits::in_range, raw};

/// The seal of rekey states.
pub struct RekeyConfig {
    /// The secret under which they are sealed; none: one is made at start.
    pub seal_secret: Option<Secret>,
    /// How long a connection may live.
    pub connection_lifetime: Duration,
    /// Whether the token's keys for them are token objects, shared by every signer of the token.
    pub persistent: bool,
}

/// How sessions are resumed.
pub struct TicketsConfig {
    /// The secret under which tickets are sealed up to `premaster`; none: one is made at start.
    pub secret: Option<Secret>,
    /// How long after its first full handshake a session may be resumed.
    pub lifetime: Duration,
    /// Whether the token's keys for tickets are token objects, shared by every signer of the token.
    pub persistent: bool,
    /// Whether TLS 1.2 has tickets, too.
    pub tls12: bool,
}

pub(super) fn validate_rekey(raw: &raw::RekeySection, problems: &mut Problems) -> RekeyConfig {
    let lifetime = raw.connection_lifetime_s.get_ref();
    if !(1..=86_400).contains(lifetime) {
        problems.add(
            raw.connection_lifetime_s.span(),
            format!("connection_lifetime_s = {lifetime} is out of range"),
            "choose 1 to 86400: the seal's keys are kept for a day",
        );
    }
    RekeyConfig {
        seal_secret: raw
            .seal_key
            .as_ref()
            .and_then(|path| read_secret("seal_key", path, problems)),
        connection_lifetime: Duration::from_secs(*lifetime),
        persistent: raw.token_keys == raw::TokenKeys::Token,
    }
}

pub(super) fn validate_tickets(
    raw: &raw::TicketsSection,
    rekey: &RekeyConfig,
    problems: &mut Problems,
) -> TicketsConfig {
    let secret = raw.secret.as_ref().and_then(|path| {
        let secret = read_secret("secret", path, problems)?;
        let is_the_seals = rekey
            .seal_secret
            .as_ref()
            .is_some_and(|seal| seal.expose_secret() == secret.expose_secret());
        if is_the_seals {
            problems.add(
                path.span(),
                "secret is the same as seal_key of [rekey]",
                "one secret serves one purpose: make another with `openssl rand -out FILE 32`",
            );
        }
        Some(secret)
    });
    let lifetime = in_range(&raw.lifetime_s, "lifetime_s", 60, 86_400, problems);
    TicketsConfig {
        secret,
        lifetime: Duration::from_secs(lifetime),
        persistent: raw.token_keys == raw::TokenKeys::Token,
        tls12: raw.tls12,
    }
}

fn read_secret(key: &str, path: &Spanned<PathBuf>, problems: &mut Problems) -> Option<Secret> {
    let file = problems.resolve(path.get_ref());
    let shown = file.display();
    let bytes = match fs::read(&file) {
        Ok(bytes) => Zeroizing::new(bytes),
        Err(error) => {
            problems.add(
                path.span(),
                format!("cannot read {key} {shown}: {error}"),
                "make it with `openssl rand -out FILE 32` and give it to each signer of the site",
            );
            return None;
        }
    };
    if fs::metadata(&file).is_ok_and(|meta| meta.permissions().mode() & 0o077 != 0) {
        problems.add(
            path.span(),
            format!("{key} {shown} can be read by others"),
            format!("chmod 600 {shown}"),
        );
    }
    if bytes.len() < 32 {
        problems.add(
            path.span(),
            format!("{key} {shown} has {} bytes", bytes.len()),
            "it needs at least 32 random bytes: `openssl rand -out FILE 32`",
        );
        return None;
    }
    Some(Secret::copy_from(&bytes))
}
