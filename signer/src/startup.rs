//! From a valid configuration to tokens that are open and proven, keys that are found, sites that can serve.
//!
//! Opens each module and token once and tries each PIN once. Everything here blocks.

use std::{collections::HashMap, path::PathBuf};

use aws_lc_rs::digest;
use keyhaven_handshake::{Site, SiteError, SiteKey, SiteSpec};
use keyhaven_hsm::{Module, PinError, PrivateKey, Profile, Token};

use crate::{
    config::{Config, SiteConfig, TokenConfig},
    policy::{Policy, ServedSite},
};

/// Everything that a signer serves with.
pub struct Opened {
    /// Sites and who may use them.
    pub policy: Policy,
    /// Every key, for the readiness check.
    pub keys: Vec<PrivateKey>,
    /// Tokens by their names in the file.
    pub tokens: HashMap<String, (Token, Profile)>,
}

/// Why a signer cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The module does not load.
    #[error("token \"{name}\" (line {line}): the PKCS#11 module does not load")]
    Module {
        /// The token's name in the file.
        name: String,
        /// Its line.
        line: usize,
        /// What the module room says.
        source: keyhaven_hsm::Error,
    },
    /// The PIN cannot be read.
    #[error("token \"{name}\" (line {line}): the PIN cannot be read")]
    Pin {
        /// The token's name in the file.
        name: String,
        /// Its line.
        line: usize,
        /// Why.
        source: PinError,
    },
    /// The token is absent, ambiguous, or refuses the login.
    #[error("token \"{name}\" (line {line}): cannot be opened")]
    Token {
        /// The token's name in the file.
        name: String,
        /// Its line.
        line: usize,
        /// Why.
        source: keyhaven_hsm::Error,
    },
    /// The self-tests could not be run.
    #[error("token \"{name}\": the self-tests could not be run")]
    Prove {
        /// The token's name in the file.
        name: String,
        /// Why.
        source: keyhaven_hsm::Error,
    },
    /// A key is absent, ambiguous, or not the certificate's.
    #[error("site \"{site}\" (line {line}): no usable key for {}", certificate.display())]
    Key {
        /// The site's first name.
        site: String,
        /// The key's line.
        line: usize,
        /// The certificate that the key must fit.
        certificate: PathBuf,
        /// Why.
        source: keyhaven_hsm::Error,
    },
    /// The site cannot be served as it is configured.
    #[error("site \"{site}\" cannot be served")]
    Site {
        /// The site's first name.
        site: String,
        /// Why.
        source: SiteError,
    },
}

/// Opens and proves everything.
pub fn open(config: &Config) -> Result<Opened, StartError> {
    let mut tokens = HashMap::new();
    for section in &config.tokens {
        tokens.insert(section.name.clone(), open_token(section)?);
    }
    let mut policy = Policy::default();
    let mut keys = Vec::new();
    for section in &config.sites {
        let site = open_site(section, &tokens, &mut keys)?;
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
    Ok(Opened {
        policy,
        keys,
        tokens,
    })
}

fn open_token(section: &TokenConfig) -> Result<(Token, Profile), StartError> {
    let name = || section.name.clone();
    let line = section.line;
    let module = Module::load(section.module.as_deref()).map_err(|source| StartError::Module {
        name: name(),
        line,
        source,
    })?;
    let pin = section
        .pin_source
        .read(&section.base, &section.name)
        .map_err(|source| StartError::Pin {
            name: name(),
            line,
            source,
        })?;
    let token = Token::open(&module, &section.uri, pin).map_err(|source| StartError::Token {
        name: name(),
        line,
        source,
    })?;
    let profile = token.prove().map_err(|source| StartError::Prove {
        name: name(),
        source,
    })?;
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
    let fail = |source| StartError::Site {
        site: label.clone(),
        source,
    };
    let first = section.keys.first().ok_or_else(|| fail(SiteError::NoKey))?;
    let (exchange, profile) = tokens
        .get(&first.token)
        .ok_or_else(|| fail(SiteError::NoKey))?;
    let mut keys = Vec::new();
    let mut id = digest::Context::new(&digest::SHA256);
    id.update(b"keyhaven site\0");
    id.update(label.as_bytes());
    for key_config in &section.keys {
        let (token, _) = tokens
            .get(&key_config.token)
            .ok_or_else(|| fail(SiteError::NoKey))?;
        let key = token
            .load_key(&key_config.uri, &key_config.spki)
            .map_err(|source| StartError::Key {
                site: label.clone(),
                line: key_config.line,
                certificate: key_config.certificate.clone(),
                source,
            })?;
        for warning in key.warnings() {
            tracing::warn!(site = label, key = key.label(), "{warning}");
        }
        id.update(digest::digest(&digest::SHA256, key.spki()).as_ref());
        loaded.push(key.clone());
        keys.push(SiteKey {
            key,
            chain: key_config.chain.clone(),
        });
    }
    let site = Site::new(SiteSpec {
        keys,
        alpn: section.alpn.clone(),
        alpn_required: section.alpn_required,
        custody_min: section.custody_min,
        custody_max: section.custody_max,
        exchange: exchange.clone(),
        profile: profile.clone(),
    })
    .map_err(fail)?;
    let mut id_bytes = [0; 32];
    id_bytes.copy_from_slice(id.finish().as_ref());
    Ok(ServedSite {
        site,
        label,
        id: id_bytes,
        proxies: section.proxies.clone(),
    })
}
