//! Sites: their keys are found in their tokens, and what the tokens have proven decides what is offered.
//!
//! Invariant: a key that was found before, for the same certificate's public key, is not looked for again.

use aws_lc_rs::digest;
use keyhaven_handshake::{Clock, Site, SiteError, SiteKey, SiteSpec, TicketSpec};
use keyhaven_hsm::{PrivateKey, Uri};
use keyhaven_types::CustodyLevel;

use super::{
    StartError,
    tokens::{OpenToken, OpenedBy},
};
use crate::{
    config::{SiteConfig, SiteKeyConfig},
    policy::{ServedKey, ServedSite},
};

/// A key that was found, and what it was found by.
pub(super) struct OpenKey {
    pub(super) key: PrivateKey,
    token: OpenedBy,
    uri: Uri,
}

/// What a site is made from.
pub(super) struct Known<'a> {
    pub(super) tokens: &'a [OpenToken],
    /// Keys that are in use already.
    pub(super) keys: &'a [OpenKey],
    pub(super) tickets: Option<&'a TicketSpec>,
    pub(super) rekey_persistent: bool,
}

impl Known<'_> {
    fn token(&self, name: &str) -> Option<&OpenToken> {
        self.tokens.iter().find(|token| token.name == name)
    }

    /// Whether every token that the site names is open.
    pub(super) fn has_tokens_of(&self, section: &SiteConfig) -> bool {
        let of_keys = section.keys.iter().map(|key| &key.token);
        of_keys
            .chain(&section.exchange_token)
            .all(|name| self.token(name).is_some())
    }
}

/// Finds a site's keys and works out what it offers.
pub(super) fn open(
    section: &SiteConfig,
    known: &Known<'_>,
    found: &mut Vec<OpenKey>,
    warnings: &mut Vec<String>,
) -> Result<ServedSite, StartError> {
    let label = section.names.first().cloned().unwrap_or_default();
    let subject = format!("site \"{label}\"");
    let unserved = |error| StartError::new::<SiteError>(&subject, "it cannot be served")(error);
    let first = section.keys.first().map(|key| &key.token);
    let exchange = section
        .exchange_token
        .as_ref()
        .or(first)
        .and_then(|name| known.token(name))
        .ok_or_else(|| unserved(SiteError::NoKey))?;
    let mut keys = Vec::new();
    let mut served = Vec::new();
    for key_config in &section.keys {
        let token = known
            .token(&key_config.token)
            .ok_or_else(|| unserved(SiteError::NoKey))?;
        let key = find_key(token, key_config, known.keys, found, &subject)?;
        served.push(ServedKey {
            key: key.clone(),
            serial: key_config.serial.clone(),
            not_after: key_config.not_after,
        });
        keys.push(SiteKey {
            key,
            chain: key_config.chain.clone(),
            ocsp: key_config.ocsp.clone(),
            custody_min: key_config.custody_min,
            not_after: key_config.not_after,
        });
    }
    let id = site_id(&label);
    let site = Site::new(SiteSpec {
        keys,
        alpn: section.alpn.clone(),
        alpn_required: section.alpn_required,
        custody_min: section.custody_min,
        custody_max: section.custody_max,
        exchange: exchange.token.clone(),
        profile: exchange.profile.clone(),
        id,
        tickets: known.tickets.cloned(),
        client_auth: section.client_auth.clone(),
        prefer_hybrid: section.prefer_hybrid,
        rekey_persistent: known.rekey_persistent,
        clock: Clock::default(),
    })
    .map_err(|error| match (&error, exchange.first_failed()) {
        // What keeps the token below, for whoever has only the log.
        (SiteError::BelowMinimum { .. }, Some(check)) => {
            StartError::new(&subject, "it cannot be served")(format!(
                "{error}; first failed self-test: {check}"
            ))
        }
        _ => unserved(error),
    })?;
    let (tls12, tls13) = site.levels();
    let level = tls12.max(tls13);
    warn(section, &subject, exchange, level, known, warnings);
    Ok(ServedSite {
        site,
        label,
        id,
        proxies: section.proxies.clone(),
        keys: served,
        exchange: (level >= CustodyLevel::Premaster).then(|| exchange.token.clone()),
        managed: None,
    })
}

/// A site is known by its first name. What is sealed for a connection also names the key that authenticated it.
fn site_id(label: &str) -> [u8; 32] {
    let hash = digest::digest(
        &digest::SHA256,
        &[b"keyhaven site\0", label.as_bytes()].concat(),
    );
    let mut id = [0; 32];
    id.copy_from_slice(hash.as_ref());
    id
}

fn find_key(
    token: &OpenToken,
    config: &SiteKeyConfig,
    known: &[OpenKey],
    found: &mut Vec<OpenKey>,
    site: &str,
) -> Result<PrivateKey, StartError> {
    let is_it = |open: &&OpenKey| {
        open.token == token.opened_by && open.uri == config.uri && open.key.spki() == config.spki
    };
    if let Some(open) = found.iter().find(is_it) {
        return Ok(open.key.clone());
    }
    let key = match known.iter().find(is_it) {
        Some(open) => open.key.clone(),
        None => load_key(token, config, site)?,
    };
    found.push(OpenKey {
        key: key.clone(),
        token: token.opened_by.clone(),
        uri: config.uri.clone(),
    });
    Ok(key)
}

fn load_key(
    token: &OpenToken,
    config: &SiteKeyConfig,
    site: &str,
) -> Result<PrivateKey, StartError> {
    let loaded = token.token.load_key(&config.uri, &config.spki);
    loaded.map_err(|error| {
        let subject = format!(
            "{site}, key {} (line {}) for the certificate {}",
            config.uri,
            config.line,
            config.certificate.display()
        );
        StartError::new(&subject, "no usable key")(error)
    })
}

/// What the exchange token cannot do although the site would have it.
fn warn(
    section: &SiteConfig,
    subject: &str,
    exchange: &OpenToken,
    level: CustodyLevel,
    known: &Known<'_>,
    warnings: &mut Vec<String>,
) {
    let OpenToken { name, profile, .. } = exchange;
    if !profile.vault && known.tickets.is_some() && level > CustodyLevel::Premaster {
        warnings.push(format!(
            "{subject}: token \"{name}\" proves no keys that wrap and seal, so at level {level} no ticket is given; \
             lower custody_max to \"premaster\" to have tickets"
        ));
    }
    if !profile.vault && section.custody_max.min(profile.tls13) == CustodyLevel::Schedule {
        warnings.push(format!(
            "{subject}: token \"{name}\" proves no keys that wrap and seal, so TLS 1.3 is served at level master: \
             at schedule no connection could change its keys"
        ));
    }
    let is_half_outside = !profile.ml_kem && section.custody_min > CustodyLevel::Signature;
    if section.prefer_hybrid && is_half_outside {
        warnings.push(format!(
            "{subject}: prefer_hybrid has no effect: token \"{name}\" proves no ML-KEM, and with it in the signer the \
             level would be below custody_min"
        ));
    }
}
