//! From a valid configuration to tokens that are open and proven, keys that are found, sites that can serve.
//!
//! Opens each module and token once and tries each PIN once. Everything here blocks.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use aws_lc_rs::digest;
use keyhaven_handshake::{ClientAuth, Clock, Site, SiteError, SiteKey, SiteSpec};
use keyhaven_hsm::{Module, PrivateKey, Profile, Token};

use crate::{
    audit::error_chain,
    config::{Config, SiteConfig, SiteKeyConfig, TokenConfig},
    policy::{Policy, ServedSite},
};

/// Everything that a signer serves with.
pub struct Opened {
    /// Sites and who may use them.
    pub policy: Policy,
    /// Every key, for the readiness check.
    pub keys: Vec<PrivateKey>,
    /// What an operator should know, though it does not stop the signer.
    pub warnings: Vec<String>,
}

/// Everything that keeps a signer from starting.
#[derive(Debug, thiserror::Error)]
#[error("not everything that the configuration names can be used:{}", list(.0))]
pub struct StartErrors(Vec<StartError>);

fn list(errors: &[StartError]) -> String {
    errors
        .iter()
        .map(|error| format!("\n- {}", error_chain(error)))
        .collect()
}

/// One thing that keeps a signer from starting.
#[derive(Debug, thiserror::Error)]
#[error("{subject}: {what}")]
pub struct StartError {
    /// Which token, or which key of which site, with its line in the file.
    subject: String,
    what: &'static str,
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl StartError {
    fn new<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
        subject: &str,
        what: &'static str,
    ) -> impl FnOnce(E) -> Self {
        move |source| Self {
            subject: subject.to_owned(),
            what,
            source: source.into(),
        }
    }
}

/// Opens and proves everything, and says everything that is wrong. What depends on a token that does not open is
/// not complained of again.
pub fn open(config: &Config) -> Result<Opened, StartErrors> {
    let mut errors = Vec::new();
    let mut tokens = HashMap::new();
    for section in &config.tokens {
        match open_token(section) {
            Ok(opened) => {
                tokens.insert(section.name.clone(), opened);
            }
            Err(error) => errors.push(error),
        }
    }
    let mut policy = Policy::default();
    let mut keys = Vec::new();
    for section in &config.sites {
        if !section
            .keys
            .iter()
            .all(|key| tokens.contains_key(&key.token))
        {
            continue;
        }
        match open_site(section, &tokens, &mut keys) {
            Ok(site) => {
                let (tls12, tls13) = site.site.levels();
                tracing::info!(
                    site = site.label,
                    names = ?section.names,
                    custody_tls13 = %tls13,
                    custody_tls12 = %tls12,
                    "site is ready"
                );
                policy.add(site, &section.names, section.default);
            }
            Err(error) => errors.push(error),
        }
    }
    if !errors.is_empty() {
        return Err(StartErrors(errors));
    }
    let warnings = keys.iter().flat_map(warnings_of).collect();
    Ok(Opened {
        policy,
        keys,
        warnings,
    })
}

fn open_token(section: &TokenConfig) -> Result<(Token, Profile), StartError> {
    let subject = format!("token \"{}\" (line {})", section.name, section.line);
    let module =
        Module::load_with(section.module.as_deref(), section.init_args.as_deref()).map_err(
            StartError::new(&subject, "the PKCS#11 module does not load"),
        )?;
    let pin = section
        .pin_source
        .read(&section.base, &section.name)
        .map_err(StartError::new(&subject, "the PIN cannot be read"))?;
    let token = Token::open(&module, &section.uri, pin)
        .map_err(StartError::new(&subject, "the token cannot be opened"))?;
    let profile = token
        .prove()
        .map_err(StartError::new(&subject, "the self-tests could not be run"))?;
    for check in profile.checks.iter().filter(|check| !check.passed) {
        tracing::debug!(
            token = section.name,
            check = check.name,
            detail = check.detail,
            "not proven"
        );
    }
    tracing::info!(
        token = section.name,
        module = %module.path().display(),
        custody_tls13 = %profile.tls13,
        custody_tls12 = %profile.tls12,
        groups = ?profile.groups,
        "token is open and proven"
    );
    Ok((token, profile))
}

fn open_site(
    section: &SiteConfig,
    tokens: &HashMap<String, (Token, Profile)>,
    loaded: &mut Vec<PrivateKey>,
) -> Result<ServedSite, StartError> {
    let label = section.names.first().cloned().unwrap_or_default();
    let subject = format!("site \"{label}\"");
    let unserved = |error: SiteError| StartError::new(&subject, "it cannot be served")(error);
    let first = section
        .keys
        .first()
        .ok_or_else(|| unserved(SiteError::NoKey))?;
    let (exchange, profile) = tokens
        .get(&first.token)
        .ok_or_else(|| unserved(SiteError::NoKey))?;
    let mut keys = Vec::new();
    let mut id = digest::Context::new(&digest::SHA256);
    id.update(b"keyhaven site\0");
    id.update(label.as_bytes());
    for key_config in &section.keys {
        let (token, _) = tokens
            .get(&key_config.token)
            .ok_or_else(|| unserved(SiteError::NoKey))?;
        let key = load_key(token, key_config, &subject)?;
        id.update(digest::digest(&digest::SHA256, key.spki()).as_ref());
        loaded.push(key.clone());
        keys.push(SiteKey {
            key,
            chain: key_config.chain.clone(),
            ocsp: None,
            custody_min: section.custody_min,
            not_after: SystemTime::now() + Duration::from_secs(86_400),
        });
    }
    let mut id_bytes = [0; 32];
    id_bytes.copy_from_slice(id.finish().as_ref());
    let site = Site::new(SiteSpec {
        keys,
        alpn: section.alpn.clone(),
        alpn_required: section.alpn_required,
        custody_min: section.custody_min,
        custody_max: section.custody_max,
        exchange: exchange.clone(),
        profile: profile.clone(),
        id: id_bytes,
        tickets: None,
        client_auth: ClientAuth::None,
        prefer_hybrid: false,
        rekey_persistent: false,
        clock: Clock::default(),
    })
    .map_err(unserved)?;
    Ok(ServedSite {
        site,
        label,
        id: id_bytes,
        proxies: section.proxies.clone(),
    })
}

fn load_key(token: &Token, config: &SiteKeyConfig, site: &str) -> Result<PrivateKey, StartError> {
    let key = token.load_key(&config.uri, &config.spki).map_err(|error| {
        let subject = format!(
            "{site}, key {} (line {}) for the certificate {}",
            config.uri,
            config.line,
            config.certificate.display()
        );
        StartError::new(&subject, "no usable key")(error)
    })?;
    Ok(key)
}

fn warnings_of(key: &PrivateKey) -> Vec<String> {
    let token = &key.token().info().label;
    key.warnings()
        .iter()
        .map(|warning| format!("token \"{token}\": {warning}"))
        .collect()
}
