//! `[[site]]`: names, keys, protocols, levels, and the identities that may use them.
//!
//! A name belongs to one site only; certificates are read here, keys are looked for later in their tokens.

use std::{collections::HashSet, path::PathBuf, str::FromStr as _};

use keyhaven_hsm::Uri;
use keyhaven_service::config::Problems;
use keyhaven_types::{CustodyLevel, Identity, Role};
use rustls_pki_types::CertificateDer;
use toml::Spanned;

use super::{
    certificate::{self, Leaf},
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
    /// Its keys, one or more.
    pub keys: Vec<SiteKeyConfig>,
}

/// One key of a site.
pub struct SiteKeyConfig {
    /// The token's name in this file.
    pub token: String,
    /// Which key.
    pub uri: Uri,
    /// DER certificates, leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// Where the chain came from.
    pub certificate: PathBuf,
    /// SubjectPublicKeyInfo of the leaf, DER.
    pub spki: Vec<u8>,
    /// The line of the URI, for messages.
    pub line: usize,
}

pub(super) fn validate(
    raw: &Spanned<Vec<raw::SiteSection>>,
    tokens: &[&str],
    problems: &mut Problems,
) -> Vec<SiteConfig> {
    if raw.get_ref().is_empty() {
        problems.add(
            None,
            "there is no [[site]]",
            "name at least one site; see config/signer.toml",
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
    let keys = section
        .key
        .iter()
        .filter_map(|key| check_key(key, &names, tokens, problems))
        .collect();
    let custody_min = section
        .custody_min
        .as_ref()
        .map_or(CustodyLevel::Signature, |v| *v.get_ref());
    let custody_max = section
        .custody_max
        .as_ref()
        .map_or(CustodyLevel::Schedule, |v| *v.get_ref());
    if let Some(asked) = &section.custody_min
        && custody_min > CustodyLevel::Premaster
    {
        problems.add(
            asked.span(),
            format!("custody_min = \"{custody_min}\" cannot be reached by this version"),
            "ask for \"signature\" or \"premaster\"",
        );
    }
    if custody_min > custody_max {
        problems.add(
            section.custody_max.as_ref().map(Spanned::span),
            format!("custody_max = \"{custody_max}\" is below custody_min = \"{custody_min}\""),
            "raise custody_max or lower custody_min",
        );
    }
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
        custody_min,
        custody_max,
        proxies: check_proxies(&section.proxies, problems),
        keys,
    }
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

fn check_alpn(protocol: &Spanned<String>, problems: &mut Problems) -> Option<Vec<u8>> {
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

fn check_key(
    section: &raw::SiteKeySection,
    names: &[String],
    tokens: &[&str],
    problems: &mut Problems,
) -> Option<SiteKeyConfig> {
    let token = section.token.get_ref();
    if !tokens.contains(&token.as_str()) {
        problems.add(
            section.token.span(),
            format!("there is no [[token]] named \"{token}\""),
            "use the name of a [[token]] in this file",
        );
    }
    let uri = Uri::from_str(section.uri.get_ref())
        .map_err(|error| {
            problems.add(
                section.uri.span(),
                format!("the key's uri is not accepted: {error}"),
                "write pkcs11:object=LABEL;type=private (RFC 7512)",
            );
        })
        .ok();
    let certificate = problems.resolve(section.certificate.get_ref());
    let chain = certificate::read_chain(&certificate, &section.certificate, problems)?;
    let leaf = Leaf::read(&chain, &certificate, &section.certificate, problems)?;
    leaf.warn_of_missing_names(names, &certificate, &section.certificate, problems);
    Some(SiteKeyConfig {
        token: token.clone(),
        uri: uri?,
        chain,
        certificate,
        spki: leaf.spki,
        line: problems.line(section.uri.span()),
    })
}
