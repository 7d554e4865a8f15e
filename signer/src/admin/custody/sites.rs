//! What each site of a configuration is served at, and by which tokens.
//!
//! Asks the handshake's own rules. Invariant: a level is said of a key only when the key is used at it.

use keyhaven_types::CustodyLevel;

use super::Examined;
use crate::{
    admin::{
        failure::Failure,
        served::{Served, serve},
    },
    config::{SiteConfig, SiteKeyConfig},
};

/// A site with the tokens that serve it.
pub(super) struct ExaminedSite {
    pub(super) names: Vec<String>,
    pub(super) custody_min: CustodyLevel,
    pub(super) custody_max: CustodyLevel,
    /// The exchange token's name, and how people know it.
    pub(super) exchange: Place,
    pub(super) keys: Vec<SiteKey>,
    pub(super) served: Result<Served, Failure>,
}

/// A token as a site names it.
pub(super) struct Place {
    pub(super) token: String,
    /// Make and nature; none: it is not open.
    pub(super) is: Option<String>,
}

/// A key of a site.
pub(super) struct SiteKey {
    pub(super) place: Place,
    pub(super) uri: String,
    pub(super) certificate: String,
    pub(super) custody_min: CustodyLevel,
}

impl ExaminedSite {
    pub(super) fn new(section: &SiteConfig, tokens: &[Examined]) -> Self {
        let find = |name: &str| {
            tokens
                .iter()
                .find(|token| token.name.as_deref() == Some(name))
        };
        let place = |name: &str| Place {
            token: name.to_owned(),
            is: find(name).map(|token| {
                format!(
                    "{} {}, {}",
                    token.selected.info.manufacturer,
                    token.selected.info.model,
                    token.nature.in_words()
                )
            }),
        };
        let first = section.keys.first().map_or("", |key| &key.token);
        let key = |key: &SiteKeyConfig| SiteKey {
            place: place(&key.token),
            uri: key.uri.to_string(),
            certificate: key.certificate.display().to_string(),
            custody_min: key.custody_min,
        };
        Self {
            names: section.names.clone(),
            custody_min: section.custody_min,
            custody_max: section.custody_max,
            exchange: place(section.exchange_token.as_deref().unwrap_or(first)),
            keys: section.keys.iter().map(key).collect(),
            served: serve(section, |name| {
                find(name).map(|token| (&token.token, &token.profile))
            }),
        }
    }

    /// Whether it can be served, and every version that it offers reaches the level.
    pub(super) fn is_met(&self, min: Option<CustodyLevel>) -> bool {
        let Ok(served) = &self.served else {
            return false;
        };
        let mut levels = [served.tls13, served.tls12].into_iter().flatten();
        min.is_none_or(|min| levels.all(|level| level >= min))
    }
}
