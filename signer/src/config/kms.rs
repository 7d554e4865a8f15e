//! `[kms]`: which site this signer is, whose word it takes, and how managed keys are served.
//!
//! Reads central's public key; opens neither token nor replica. Invariant: a managed key is served as the section says,
//! wherever it came from.

use std::{path::PathBuf, time::Duration};

use keyhaven_kms::{intermediate::Endpoint, records::CentralKey};
use keyhaven_service::config::Problems;
use keyhaven_types::{CustodyLevel, Identity, Name, Role};
use rustls_pki_types::{SubjectPublicKeyInfoDer, pem::PemObject as _};
use toml::Spanned;

use super::{limits::in_range, raw, site};

/// A valid section.
#[derive(Debug)]
pub struct KmsConfig {
    /// The site's name at central.
    pub site: Name,
    /// The token with class keys.
    pub token: String,
    /// By which everything is judged.
    pub central_key: CentralKey,
    /// One or more centrals.
    pub central: Vec<Endpoint>,
    /// The replica's file.
    pub replica: PathBuf,
    /// Memory for it.
    pub cache_bytes: usize,
    /// How many keys stay unwrapped in the token.
    pub unwrapped_max: usize,
    /// How often peers are asked how they are.
    pub peer_interval: Duration,
    /// The managed key that seals tickets.
    pub ticket_key: Option<Name>,
    /// Application protocols of managed handshake keys.
    pub alpn: Vec<Vec<u8>>,
    /// The least level to serve them at.
    pub custody_min: CustodyLevel,
    /// The highest level to use.
    pub custody_max: CustodyLevel,
    /// The token that keeps exchange and schedule; none: the one with class keys.
    pub exchange_token: Option<String>,
}

pub(super) fn validate(
    section: &raw::KmsSection,
    tokens: &[&str],
    problems: &mut Problems,
) -> Option<KmsConfig> {
    let site = name(&section.site, problems);
    let ticket_key = section.ticket_key.as_ref().map(|text| name(text, problems));
    check_token(&section.token, tokens, problems);
    if let Some(exchange) = &section.exchange_token {
        check_token(exchange, tokens, problems);
        if section.custody_max.as_ref().map(Spanned::get_ref) == Some(&CustodyLevel::Signature) {
            problems.warn(
                exchange.span(),
                "exchange_token is not used: custody_max is \"signature\"",
                "raise custody_max, or leave exchange_token out",
            );
        }
    }
    let central_key = central_key(&section.central_key, problems);
    let central = centrals(section, problems);
    let level = |level: &Option<Spanned<CustodyLevel>>, default| {
        level.as_ref().map_or(default, |level| *level.get_ref())
    };
    let custody_min = level(&section.custody_min, CustodyLevel::Signature);
    let custody_max = level(&section.custody_max, CustodyLevel::Schedule);
    if custody_min > custody_max {
        problems.add(
            section.custody_max.as_ref().map(Spanned::span),
            format!("custody_max = \"{custody_max}\" is below custody_min = \"{custody_min}\""),
            "raise custody_max or lower custody_min",
        );
    }
    let cache_mb = in_range(&section.cache_mb, "cache_mb", 1, 65_536, problems);
    let unwrapped_max = in_range(
        &section.unwrapped_max,
        "unwrapped_max",
        1,
        1_000_000,
        problems,
    );
    let interval = in_range(
        &section.peer_interval_ms,
        "peer_interval_ms",
        100,
        60_000,
        problems,
    );
    let alpn = section.alpn.iter();
    let alpn = alpn
        .filter_map(|protocol| site::check_alpn(protocol, problems))
        .collect();
    let replica = problems.resolve(section.replica.get_ref());
    // A file's name alone is one in the working directory.
    let folder = replica
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    if !folder.unwrap_or(std::path::Path::new(".")).is_dir() {
        problems.add(
            section.replica.span(),
            format!("there is no folder for the replica {}", replica.display()),
            "make it, owned by the signer's user alone",
        );
    }
    Some(KmsConfig {
        site: site?,
        token: section.token.get_ref().clone(),
        central_key: central_key?,
        central,
        replica,
        cache_bytes: cache_mb.saturating_mul(1024 * 1024),
        unwrapped_max,
        peer_interval: Duration::from_millis(interval),
        ticket_key: ticket_key.flatten(),
        alpn,
        custody_min,
        custody_max,
        exchange_token: section
            .exchange_token
            .as_ref()
            .map(|name| name.get_ref().clone()),
    })
}

fn name(text: &Spanned<String>, problems: &mut Problems) -> Option<Name> {
    let name = text.get_ref().parse();
    if let Err(error) = &name {
        problems.add(
            text.span(),
            format!("`{}` is no name: {error}", text.get_ref()),
            "write it as central knows it",
        );
    }
    name.ok()
}

fn check_token(name: &Spanned<String>, tokens: &[&str], problems: &mut Problems) {
    if !tokens.contains(&name.get_ref().as_str()) {
        problems.add(
            name.span(),
            format!("there is no token named \"{}\"", name.get_ref()),
            "name a [[token]] of this file",
        );
    }
}

fn central_key(path: &Spanned<PathBuf>, problems: &mut Problems) -> Option<CentralKey> {
    let file = problems.resolve(path.get_ref());
    let remedy = "it is the file that `signer-admin kms ceremony init` wrote, carried here by hand";
    let spki = match SubjectPublicKeyInfoDer::from_pem_file(&file) {
        Ok(spki) => spki,
        Err(error) => {
            problems.add(
                path.span(),
                format!("central_key {} cannot be read: {error}", file.display()),
                remedy,
            );
            return None;
        }
    };
    match CentralKey::from_spki(&spki) {
        Ok(key) => Some(key),
        Err(error) => {
            problems.add(
                path.span(),
                format!("central_key {}: {error}", file.display()),
                remedy,
            );
            None
        }
    }
}

fn centrals(section: &raw::KmsSection, problems: &mut Problems) -> Vec<Endpoint> {
    if section.central.is_empty() {
        problems.add(
            section.site.span(),
            "there is no [[kms.central]]",
            "name at least one central with its address and identity",
        );
    }
    let mut endpoints = Vec::new();
    for central in &section.central {
        if !is_host_and_port(central.address.get_ref()) {
            problems.add(
                central.address.span(),
                format!("`{}` is no address of a central", central.address.get_ref()),
                "write HOST:PORT, for example kms.example.org:7500",
            );
        }
        match central.identity.get_ref().parse::<Identity>() {
            Ok(identity) if identity.role() == Role::Central => endpoints.push(Endpoint {
                address: central.address.get_ref().clone(),
                identity,
            }),
            Ok(identity) => problems.add(
                central.identity.span(),
                format!("{identity} has not the role `central`"),
                "name spiffe://DOMAIN/central/NAME",
            ),
            Err(error) => problems.add(
                central.identity.span(),
                format!("`{}` is no identity: {error}", central.identity.get_ref()),
                "name spiffe://DOMAIN/central/NAME",
            ),
        }
    }
    endpoints
}

fn is_host_and_port(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0)
    })
}
