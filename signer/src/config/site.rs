//! `[[site]]`: names, keys, protocols, levels, and the identities that may use them.
//!
//! Keys are `key`'s business, client certificates that of `clients`. Invariant: a name belongs to one site only.

use std::{collections::HashSet, str::FromStr as _};

use keyhaven_handshake::ClientAuth;
use keyhaven_service::config::Problems;
use keyhaven_types::{CustodyLevel, Identity, Role};
use toml::Spanned;

use super::{
    clients,
    key::{self, SiteKeyConfig},
    raw,
};

/// A site to serve.
pub struct SiteConfig {
    /// Names in lower case; one may begin with `*.`.
    pub names: Vec<String>,
    /// Whether it serves clients with no or an unknown name.
    pub default: bool,
    /// Application protocols in order of preference.
    pub alpn: Vec<Vec<u8>>,
    /// Whether a client that names no protocol is refused.
    pub alpn_required: bool,
    /// The least level.
    pub custody_min: CustodyLevel,
    /// The highest level to use.
    pub custody_max: CustodyLevel,
    /// Who may use the site.
    pub proxies: HashSet<Identity>,
    /// The name of the token that keeps exchange and schedule; none: that of the first key.
    pub exchange_token: Option<String>,
    /// Whether X25519MLKEM768 goes first wherever it can be offered.
    pub prefer_hybrid: bool,
    /// Whether clients are asked for a certificate.
    pub client_auth: ClientAuth,
    /// Its keys, one or more.
    pub keys: Vec<SiteKeyConfig>,
}

pub(super) fn validate(
    raw: &Spanned<Vec<raw::SiteSection>>,
    tokens: &[&str],
    has_kms: bool,
    problems: &mut Problems,
) -> Vec<SiteConfig> {
    if raw.get_ref().is_empty() && !has_kms {
        problems.add(
            None,
            "there is no [[site]] and no [kms]",
            "name at least one site, or the KMS that brings keys; see config/signer.toml",
        );
    }
    let mut taken = HashSet::new();
    let mut has_default = false;
    let mut sites = Vec::new();
    for section in raw.get_ref() {
        if section.default && std::mem::replace(&mut has_default, true) {
            problems.add(
                section.names.span(),
                "two sites are the default",
                "keep one `default = true`",
            );
        }
        sites.push(validate_site(section, tokens, &mut taken, problems));
    }
    sites
}

fn validate_site(
    section: &raw::SiteSection,
    tokens: &[&str],
    taken: &mut HashSet<String>,
    problems: &mut Problems,
) -> SiteConfig {
    if section.names.get_ref().is_empty() {
        problems.add(
            section.names.span(),
            "the site has no name",
            "name it as clients ask for it",
        );
    }
    let names: Vec<String> = section
        .names
        .get_ref()
        .iter()
        .filter_map(|name| check_name(name, taken, problems))
        .collect();
    let levels = check_levels(section, problems);
    let keys = section
        .key
        .iter()
        .filter_map(|key| key::validate(key, &names, levels, tokens, problems))
        .collect();
    if section.key.is_empty() {
        problems.add(
            section.names.span(),
            "the site has no key",
            "add a [[site.key]]",
        );
    }
    SiteConfig {
        names,
        default: section.default,
        alpn: section
            .alpn
            .iter()
            .filter_map(|protocol| check_alpn(protocol, problems))
            .collect(),
        alpn_required: section.alpn_required,
        custody_min: levels.min,
        custody_max: levels.max,
        proxies: check_proxies(&section.proxies, problems),
        exchange_token: check_exchange(section, levels, tokens, problems),
        prefer_hybrid: section.prefer_hybrid,
        client_auth: clients::validate(section, problems),
        keys,
    }
}

/// The levels between which a site is served.
#[derive(Clone, Copy)]
pub(super) struct Levels {
    pub(super) min: CustodyLevel,
    pub(super) max: CustodyLevel,
}

fn check_levels(section: &raw::SiteSection, problems: &mut Problems) -> Levels {
    let value = |level: &Option<Spanned<CustodyLevel>>, default| {
        level.as_ref().map_or(default, |level| *level.get_ref())
    };
    let levels = Levels {
        min: value(&section.custody_min, CustodyLevel::Signature),
        max: value(&section.custody_max, CustodyLevel::Schedule),
    };
    if levels.min > levels.max {
        problems.add(
            section.custody_max.as_ref().map(Spanned::span),
            format!(
                "custody_max = \"{}\" is below custody_min = \"{}\"",
                levels.max, levels.min
            ),
            "raise custody_max or lower custody_min",
        );
    }
    levels
}

fn check_exchange(
    section: &raw::SiteSection,
    levels: Levels,
    tokens: &[&str],
    problems: &mut Problems,
) -> Option<String> {
    let name = section.exchange_token.as_ref()?;
    if !tokens.contains(&name.get_ref().as_str()) {
        problems.add(
            name.span(),
            format!("there is no [[token]] named \"{}\"", name.get_ref()),
            "use the name of a [[token]] in this file",
        );
    }
    if levels.max == CustodyLevel::Signature {
        problems.warn(
            name.span(),
            "exchange_token is not used: custody_max is \"signature\"",
            "raise custody_max, or leave exchange_token out",
        );
    }
    Some(name.get_ref().clone())
}

fn check_name(
    name: &Spanned<String>,
    taken: &mut HashSet<String>,
    problems: &mut Problems,
) -> Option<String> {
    let lower = name.get_ref().to_ascii_lowercase();
    let host = lower.strip_prefix("*.").unwrap_or(&lower);
    let is_label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    if host.len() > 253 || !host.split('.').all(is_label) {
        problems.add(
            name.span(),
            format!("\"{}\" is not a host name", name.get_ref()),
            "write it as clients send it in SNI: example.org, or *.example.org",
        );
        return None;
    }
    if !taken.insert(lower.clone()) {
        problems.add(
            name.span(),
            format!("\"{lower}\" belongs to two sites"),
            "keep it in one of them",
        );
        return None;
    }
    Some(lower)
}

pub(super) fn check_alpn(protocol: &Spanned<String>, problems: &mut Problems) -> Option<Vec<u8>> {
    let bytes = protocol.get_ref().as_bytes();
    if bytes.is_empty() || bytes.len() > 255 {
        problems.add(
            protocol.span(),
            "an application protocol has 1 to 255 bytes",
            "write names such as \"http/1.1\" or \"h2\"",
        );
        return None;
    }
    Some(bytes.to_vec())
}

fn check_proxies(
    proxies: &Spanned<Vec<Spanned<String>>>,
    problems: &mut Problems,
) -> HashSet<Identity> {
    if proxies.get_ref().is_empty() {
        problems.warn(
            proxies.span(),
            "nobody may use the site",
            "add proxies' identities, for example spiffe://example.org/proxy/edge-1",
        );
    }
    let mut identities = HashSet::new();
    for text in proxies.get_ref() {
        match Identity::from_str(text.get_ref()) {
            Ok(identity) if identity.role() == Role::Proxy => {
                identities.insert(identity);
            }
            Ok(identity) => problems.add(
                text.span(),
                format!("{identity} has the role {}", identity.role().as_str()),
                "only identities with the role proxy run handshakes",
            ),
            Err(error) => problems.add(
                text.span(),
                format!("\"{}\" is not an identity: {error}", text.get_ref()),
                "write spiffe://DOMAIN/proxy/NAME",
            ),
        }
    }
    identities
}
