//! rustls' configurations of a site: one a group, with the suites that the token has proven for it.
//!
//! rustls takes the group from the client's order and one suite list for all groups; so the choice between groups is
//! made before, by `site`. Invariant: a pair of group and hash is offered only at the site's level for its version,
//! but for a hybrid exchange with one half outside the token, which says `signature`.

use std::sync::{Arc, LazyLock};

use keyhaven_hsm::Profile;
use keyhaven_types::{CustodyLevel, HashAlgorithm, KeyAlgorithm, NamedGroup, SignatureScheme};
use rustls::{
    ServerConfig, SupportedCipherSuite,
    server::{NoServerSessionStorage, ResolvesServerCert, danger::ClientCertVerifier},
    time_provider::TimeProvider,
    version::{TLS12, TLS13},
};
use rustls_pki_types::UnixTime;

use crate::{
    clock::Clock,
    hybrid::X25519_ML_KEM_768,
    provider::{self, Exchange, Suite},
    resolver::Resolver,
    signing::rustls_scheme,
    tickets::Ticketer,
};

/// One group with the configuration that offers it.
pub(crate) struct Offer {
    pub(crate) group: u16,
    pub(crate) config: Arc<ServerConfig>,
    pub(crate) tls13: Vec<u16>,
    pub(crate) tls12: Vec<u16>,
    /// What a handshake may claim when it is not the version's level.
    pub(crate) level: Option<CustodyLevel>,
}

/// What offers are made from.
pub(crate) struct Offering<'a> {
    pub(crate) profile: &'a Profile,
    /// Where TLS 1.2 runs, and what it may say of itself.
    pub(crate) tls12: CustodyLevel,
    pub(crate) claim12: CustodyLevel,
    pub(crate) tls13: CustodyLevel,
    pub(crate) custody_min: CustodyLevel,
    pub(crate) algorithms: &'a [KeyAlgorithm],
    pub(crate) prefer_hybrid: bool,
    pub(crate) ways: Ways,
}

/// What all of a site's configurations have in common.
pub(crate) struct Ways {
    pub(crate) resolver: Arc<dyn ResolvesServerCert>,
    pub(crate) alpn: Vec<Vec<u8>>,
    pub(crate) client_verifier: Option<Arc<dyn ClientCertVerifier>>,
    pub(crate) has_tickets: bool,
    pub(crate) clock: Clock,
}

impl Offering<'_> {
    /// Every offer, in the order in which they are preferred.
    pub(crate) fn offers(&self) -> Result<Vec<Offer>, rustls::Error> {
        let mut offers = Vec::new();
        for group in self.group_order() {
            let suites = self.suites(group, self.tls13, true);
            offers.extend(self.offer(Exchange::Classic(group), &suites, None)?);
        }
        if let Some((hybrid, goes_first)) = self.hybrid()? {
            let at = if goes_first { 0 } else { offers.len() };
            offers.insert(at, hybrid);
        }
        // A configuration without TLS 1.3 would not mark its TLS 1.2 as a downgrade (RFC 8446, section 4.1.3).
        if offers.iter().any(|offer| !offer.tls13.is_empty()) {
            offers.retain(|offer| !offer.tls13.is_empty());
        }
        Ok(offers)
    }

    /// X25519MLKEM768 with what its level is; and whether it costs no custody, or is wanted all the same.
    fn hybrid(&self) -> Result<Option<(Offer, bool)>, rustls::Error> {
        let inside = self.tls13 == CustodyLevel::Signature || self.profile.ml_kem;
        let joins = inside || self.tls13 == CustodyLevel::Premaster || self.profile.prepends;
        let level = if inside {
            self.tls13
        } else {
            CustodyLevel::Signature
        };
        if !joins || level < self.custody_min {
            return Ok(None);
        }
        let suites = self.suites(NamedGroup::X25519, self.tls13, false);
        let offer = self.offer(Exchange::Hybrid, &suites, (!inside).then_some(level))?;
        Ok(offer.map(|offer| (offer, inside || self.prefer_hybrid)))
    }

    fn suites(
        &self,
        group: NamedGroup,
        tls13: CustodyLevel,
        with_tls12: bool,
    ) -> Vec<&'static Suite> {
        provider::suites()
            .iter()
            .filter(|suite| {
                let (level, claim) = if suite.is_tls13() {
                    (tls13, tls13)
                } else {
                    (self.tls12, self.claim12)
                };
                claim >= self.custody_min
                    && self.is_proven(level, suite, group)
                    && (suite.is_tls13() || (with_tls12 && signs_for(suite, self.algorithms)))
            })
            .collect()
    }

    fn offer(
        &self,
        exchange: Exchange,
        suites: &[&Suite],
        level: Option<CustodyLevel>,
    ) -> Result<Option<Offer>, rustls::Error> {
        if suites.is_empty() {
            return Ok(None);
        }
        let codes = |is_tls13| {
            suites
                .iter()
                .filter(|s| s.is_tls13() == is_tls13)
                .map(|s| s.code())
                .collect::<Vec<_>>()
        };
        let supported = suites.iter().map(|suite| suite.rustls).collect();
        Ok(Some(Offer {
            group: match exchange {
                Exchange::Classic(group) => group as u16,
                Exchange::Hybrid => X25519_ML_KEM_768,
            },
            config: Arc::new(self.ways.config(exchange, supported)?),
            tls13: codes(true),
            tls12: codes(false),
            level,
        }))
    }

    /// The groups in the order in which they are offered: the token's where any exchange runs in it.
    fn group_order(&self) -> Vec<NamedGroup> {
        let software = [
            NamedGroup::X25519,
            NamedGroup::Secp256r1,
            NamedGroup::Secp384r1,
        ];
        if self.tls12.max(self.tls13) < CustodyLevel::Premaster {
            return software.to_vec();
        }
        let mut order = self.profile.groups.clone();
        order.extend(
            software
                .iter()
                .filter(|group| !self.profile.groups.contains(group)),
        );
        order
    }

    /// Whether a group and a suite's hash are proven for a level, where that has to be.
    fn is_proven(&self, level: CustodyLevel, suite: &Suite, group: NamedGroup) -> bool {
        if level < CustodyLevel::Premaster {
            return true;
        }
        let proven: fn(&Profile, NamedGroup, HashAlgorithm) -> CustodyLevel = if suite.is_tls13() {
            Profile::level13
        } else {
            Profile::level12
        };
        self.profile.groups.contains(&group) && proven(self.profile, group, suite.hash) >= level
    }
}

impl Ways {
    fn config(
        &self,
        exchange: Exchange,
        suites: Vec<SupportedCipherSuite>,
    ) -> Result<ServerConfig, rustls::Error> {
        let mut config = base_config(exchange, suites, self.client_verifier.clone())?;
        config.cert_resolver = self.resolver.clone();
        config.alpn_protocols.clone_from(&self.alpn);
        config.time_provider = Arc::new(Time(self.clock.clone()));
        if self.has_tickets {
            config.ticketer = Arc::new(Ticketer);
            config.send_tls13_tickets = TICKETS;
        }
        Ok(config)
    }
}

/// The configuration of no site: every suite, and no certificate.
pub(crate) fn of_nowhere() -> Arc<ServerConfig> {
    static CONFIG: LazyLock<Arc<ServerConfig>> = LazyLock::new(|| {
        let suites = provider::suites()
            .iter()
            .map(|suite| suite.rustls)
            .collect();
        Arc::new(
            base_config(Exchange::Classic(NamedGroup::Secp256r1), suites, None)
                .expect("every suite with P-256 is a configuration that rustls takes"),
        )
    });
    CONFIG.clone()
}

/// What every configuration has in common; it resolves no certificate.
fn base_config(
    exchange: Exchange,
    suites: Vec<SupportedCipherSuite>,
    client_verifier: Option<Arc<dyn ClientCertVerifier>>,
) -> Result<ServerConfig, rustls::Error> {
    let mut versions = Vec::new();
    for (version, wanted) in [(&TLS13, true), (&TLS12, false)] {
        if suites
            .iter()
            .any(|suite| matches!(suite, SupportedCipherSuite::Tls13(_)) == wanted)
        {
            versions.push(version);
        }
    }
    let provider = provider::provider(exchange, suites);
    let builder =
        ServerConfig::builder_with_provider(provider.into()).with_protocol_versions(&versions)?;
    let builder = match client_verifier {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(Arc::new(Resolver::default()));
    // No session ids: a session that rustls stored would hold a handle that is long dead.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    config.require_ems = true;
    config.enable_secret_extraction = true;
    Ok(config)
}

/// Whether one of the site's keys can authenticate a TLS 1.2 suite.
fn signs_for(suite: &Suite, algorithms: &[KeyAlgorithm]) -> bool {
    let SupportedCipherSuite::Tls12(inner) = suite.rustls else {
        return true;
    };
    algorithms.iter().any(|algorithm| {
        SignatureScheme::of(*algorithm)
            .iter()
            .any(|scheme| inner.sign.contains(&rustls_scheme(*scheme)))
    })
}

/// Our clock for rustls, which judges clients' certificates by it.
#[derive(Debug)]
struct Time(Clock);

impl TimeProvider for Time {
    fn current_time(&self) -> Option<UnixTime> {
        let since = self.0.now().duration_since(std::time::UNIX_EPOCH).ok()?;
        Some(UnixTime::since_unix_epoch(since))
    }
}

/// Tickets for each TLS 1.3 handshake: clients use each once, and browsers open two connections at a time.
const TICKETS: usize = 2;
