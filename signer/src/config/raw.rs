//! `config/signer.toml` as it is written: serde types and defaults.
//!
//! Nothing is checked here but the form. Invariant: a key that is not known here is an error.

use std::path::PathBuf;

use keyhaven_service::config::{IdentitySection, LogSection};
use keyhaven_types::CustodyLevel;
use serde::Deserialize;
use toml::Spanned;

use super::limits::{LimitsSection, WorkersSection};

/// The whole file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Raw {
    pub(super) listen: Spanned<String>,
    pub(super) identity: IdentitySection,
    #[serde(default)]
    pub(super) workers: WorkersSection,
    #[serde(default)]
    pub(super) limits: LimitsSection,
    #[serde(default)]
    pub(super) rekey: RekeySection,
    pub(super) tickets: Option<TicketsSection>,
    pub(super) metrics: Option<MetricsSection>,
    #[serde(default)]
    pub(super) log: LogSection,
    pub(super) token: Spanned<Vec<TokenSection>>,
    #[serde(default = "no_sites")]
    pub(super) site: Spanned<Vec<SiteSection>>,
    pub(super) kms: Option<KmsSection>,
}

/// A signer that serves managed keys alone has no site of its own.
fn no_sites() -> Spanned<Vec<SiteSection>> {
    unwritten(Vec::new())
}

/// What makes a signer a site of the KMS.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KmsSection {
    pub(super) site: Spanned<String>,
    pub(super) token: Spanned<String>,
    pub(super) central_key: Spanned<PathBuf>,
    pub(super) replica: Spanned<PathBuf>,
    #[serde(default = "cache_mb")]
    pub(super) cache_mb: Spanned<usize>,
    #[serde(default = "unwrapped_max")]
    pub(super) unwrapped_max: Spanned<usize>,
    #[serde(default = "peer_interval_ms")]
    pub(super) peer_interval_ms: Spanned<u64>,
    pub(super) ticket_key: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) alpn: Vec<Spanned<String>>,
    pub(super) custody_min: Option<Spanned<CustodyLevel>>,
    pub(super) custody_max: Option<Spanned<CustodyLevel>>,
    pub(super) exchange_token: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) central: Vec<CentralSection>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CentralSection {
    pub(super) address: Spanned<String>,
    pub(super) identity: Spanned<String>,
}

fn cache_mb() -> Spanned<usize> {
    unwritten(64)
}

fn unwrapped_max() -> Spanned<usize> {
    unwritten(4096)
}

fn peer_interval_ms() -> Spanned<u64> {
    unwritten(2000)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RekeySection {
    pub(super) seal_key: Option<Spanned<PathBuf>>,
    pub(super) connection_lifetime_s: Spanned<u64>,
    pub(super) token_keys: TokenKeys,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct TicketsSection {
    pub(super) lifetime_s: Spanned<u64>,
    pub(super) secret: Option<Spanned<PathBuf>>,
    pub(super) token_keys: TokenKeys,
    pub(super) tls12: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MetricsSection {
    pub(super) listen: Option<Spanned<String>>,
}

/// Where the token's own keys for secrets on the road live.
#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum TokenKeys {
    /// Session objects of this process.
    #[default]
    Process,
    /// Token objects, shared by every signer of the token.
    Token,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TokenSection {
    pub(super) name: Spanned<String>,
    pub(super) module: Option<Spanned<PathBuf>>,
    pub(super) init_args: Option<Spanned<String>>,
    pub(super) uri: Spanned<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SiteSection {
    pub(super) names: Spanned<Vec<Spanned<String>>>,
    #[serde(default)]
    pub(super) default: bool,
    #[serde(default)]
    pub(super) alpn: Vec<Spanned<String>>,
    #[serde(default)]
    pub(super) alpn_required: bool,
    pub(super) custody_min: Option<Spanned<CustodyLevel>>,
    pub(super) custody_max: Option<Spanned<CustodyLevel>>,
    pub(super) exchange_token: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) prefer_hybrid: bool,
    pub(super) client_auth: Option<Spanned<ClientAuthMode>>,
    pub(super) client_ca: Option<Spanned<PathBuf>>,
    #[serde(default)]
    pub(super) client_crl: Vec<Spanned<PathBuf>>,
    pub(super) proxies: Spanned<Vec<Spanned<String>>>,
    pub(super) key: Vec<SiteKeySection>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SiteKeySection {
    pub(super) token: Spanned<String>,
    pub(super) uri: Spanned<String>,
    pub(super) certificate: Spanned<PathBuf>,
    pub(super) custody_min: Option<Spanned<CustodyLevel>>,
    pub(super) ocsp: Option<Spanned<PathBuf>>,
}

/// Whether clients are asked for a certificate.
#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum ClientAuthMode {
    #[default]
    None,
    Optional,
    Required,
}

impl Default for RekeySection {
    fn default() -> Self {
        Self {
            seal_key: None,
            connection_lifetime_s: unwritten(86_400),
            token_keys: TokenKeys::default(),
        }
    }
}

impl Default for TicketsSection {
    fn default() -> Self {
        Self {
            lifetime_s: unwritten(43_200),
            secret: None,
            token_keys: TokenKeys::default(),
            tls12: false,
        }
    }
}

/// A default has no place in the file; its span is never shown, since defaults are in range.
pub(super) fn unwritten<T>(value: T) -> Spanned<T> {
    Spanned::new(0..0, value)
}
