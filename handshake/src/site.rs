//! What is offered under a name: keys with their certificates, protocols, and what the token can do.
//!
//! rustls takes the group from the client's order and one suite list for all groups. So there is one rustls
//! configuration a group, with just the suites whose derivations the token has proven for that group, and the
//! choice between them is made here, in the token's order. Who may use a site is decided before.

use std::{
    sync::{Arc, LazyLock},
    time::{Duration, SystemTime},
};

use keyhaven_hsm::{PrivateKey, Profile, Token};
use keyhaven_types::{
    CustodyLevel, HashAlgorithm, KeyAlgorithm, NamedGroup, SignatureScheme, alert,
};
use rustls::{
    ServerConfig, SupportedCipherSuite,
    server::{ClientHello as RustlsHello, NoServerSessionStorage, ResolvesServerCert},
    sign::CertifiedKey,
    version::{TLS12, TLS13},
};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};

use crate::{
    client_hello::ClientHello,
    context,
    error::{Failure, Refusal},
    provider::{self, Suite},
    signing::{TokenSigningKey, rustls_scheme},
    tickets::TicketKey,
};

/// One key of a site with its chain, leaf first.
pub struct SiteKey {
    /// The key, bound to the leaf's public key when it was loaded.
    pub key: PrivateKey,
    /// DER certificates, leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// An OCSP response for the leaf, DER, to be stapled (RFC 6066, section 8).
    pub ocsp: Option<Vec<u8>>,
    /// The least level at which this key is used.
    pub custody_min: CustodyLevel,
    /// The end of the leaf's validity: no session is resumed after it.
    pub not_after: SystemTime,
}

/// Whether clients are asked for a certificate (RFC 8446, section 4.3.2).
#[derive(Clone, Debug, Default)]
pub enum ClientAuth {
    /// They are not.
    #[default]
    None,
    /// They are, and may have none.
    Optional(Authorities),
    /// They are, and must have one.
    Required(Authorities),
}

/// Who may vouch for clients.
#[derive(Clone, Debug, Default)]
pub struct Authorities {
    /// CA certificates, DER.
    pub roots: Vec<CertificateDer<'static>>,
    /// Revocation lists, DER (RFC 5280, section 5). With at least one, every certificate of a chain must be
    /// covered by one that is current.
    pub crls: Vec<CertificateRevocationListDer<'static>>,
}

/// How sessions are resumed.
#[derive(Clone)]
pub struct TicketSpec {
    /// Seals tickets in this process, where the level leaves resumption secrets in its memory anyway. Above
    /// `premaster` the exchange token's own keys do.
    pub key: TicketKey,
    /// Whether the token's keys are token objects that every signer of the token shares.
    pub persistent: bool,
    /// How long after its first full handshake a session may be resumed, over all resumptions; at most a day.
    pub lifetime: Duration,
    /// Whether TLS 1.2 has tickets, too.
    pub tls12: bool,
}

/// What an operator says of a site.
pub struct SiteSpec {
    /// One or more keys, in the order in which they are tried.
    pub keys: Vec<SiteKey>,
    /// Application protocols, in order of preference.
    pub alpn: Vec<Vec<u8>>,
    /// Whether a client that names no protocol is refused.
    pub alpn_required: bool,
    /// The least level to serve at.
    pub custody_min: CustodyLevel,
    /// The highest level to use, even where the token proves more.
    pub custody_max: CustodyLevel,
    /// Where the exchange and the first derivation run, when the level asks for it.
    pub exchange: Token,
    /// What that token has proven.
    pub profile: Profile,
    /// Names the site and its keys in sealed states and tickets.
    pub id: [u8; 32],
    /// Without it no session is resumed.
    pub tickets: Option<TicketSpec>,
    /// Whether clients are asked for a certificate. Sessions with one are not resumed.
    pub client_auth: ClientAuth,
    /// Whether X25519MLKEM768 goes first even where its ML-KEM half runs in this process, which takes the
    /// handshake's level down to `signature`.
    pub prefer_hybrid: bool,
    /// Whether the token's keys for rekey states are token objects that every signer of the token shares.
    pub rekey_persistent: bool,
}

/// Why a site cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum SiteError {
    /// No key at all.
    #[error("the site has no key")]
    NoKey,
    /// Neither TLS version reaches the level asked for.
    #[error(
        "custody_min is {min}, but the token proves {tls13} for TLS 1.3 and {tls12} for TLS 1.2"
    )]
    BelowMinimum {
        /// What is asked for.
        min: CustodyLevel,
        /// What is proven for TLS 1.3.
        tls13: CustodyLevel,
        /// What is proven for TLS 1.2.
        tls12: CustodyLevel,
    },
    /// rustls refuses the configuration.
    #[error("rustls refuses the site's configuration")]
    Rustls(#[from] rustls::Error),
}

/// A site, ready to serve.
pub struct Site {
    offers: Vec<Offer>,
    tls12: CustodyLevel,
    tls13: CustodyLevel,
    exchange: Token,
    alpn: Vec<Vec<u8>>,
    alpn_required: bool,
}

/// One group with the configuration that offers it.
struct Offer {
    group: u16,
    config: Arc<ServerConfig>,
    tls13: Vec<u16>,
    tls12: Vec<u16>,
}

/// What a ClientHello is answered with.
pub(crate) struct Choice {
    pub(crate) config: Arc<ServerConfig>,
    pub(crate) level: CustodyLevel,
    pub(crate) exchange: Option<Token>,
    pub(crate) is_tls13: bool,
    /// Whether the handshake must end with a protocol: a second ClientHello may name others than the first.
    pub(crate) alpn_required: bool,
}

impl Site {
    /// Works out what can be offered.
    pub fn new(spec: SiteSpec) -> Result<Self, SiteError> {
        if spec.keys.is_empty() {
            return Err(SiteError::NoKey);
        }
        let tls12 = spec.profile.tls12.min(spec.custody_max);
        let tls13 = spec.profile.tls13.min(spec.custody_max);
        if tls12.max(tls13) < spec.custody_min {
            return Err(SiteError::BelowMinimum {
                min: spec.custody_min,
                tls13: spec.profile.tls13,
                tls12: spec.profile.tls12,
            });
        }
        let resolver: Arc<dyn ResolvesServerCert> = Arc::new(Resolver::new(&spec.keys));
        let algorithms: Vec<_> = spec.keys.iter().map(|key| key.key.algorithm()).collect();
        let mut offers: Vec<Offer> = Vec::new();
        for group in group_order(&spec.profile, tls12, tls13) {
            let usable: Vec<&Suite> = provider::suites()
                .iter()
                .filter(|suite| {
                    let level = if suite.is_tls13() { tls13 } else { tls12 };
                    level >= spec.custody_min
                        && is_proven(&spec.profile, level, suite, group)
                        && (suite.is_tls13() || signs_for(suite, &algorithms))
                })
                .collect();
            if !usable.is_empty() {
                offers.push(Offer::new(group, &usable, &resolver, &spec.alpn)?);
            }
        }
        // A configuration without TLS 1.3 would not mark its TLS 1.2 as a downgrade (RFC 8446, section 4.1.3).
        if offers.iter().any(|offer| !offer.tls13.is_empty()) {
            offers.retain(|offer| !offer.tls13.is_empty());
        }
        Ok(Self {
            offers,
            tls12,
            tls13,
            exchange: spec.exchange,
            alpn: spec.alpn,
            alpn_required: spec.alpn_required,
        })
    }

    /// The level for TLS 1.2 and for TLS 1.3.
    pub fn levels(&self) -> (CustodyLevel, CustodyLevel) {
        (self.tls12, self.tls13)
    }

    /// Chooses by what the client can do. TLS 1.3: the token's first group among those that the client sent
    /// a share for, because a round trip costs more than any group; else the token's first.
    pub(crate) fn choose(&self, hello: &ClientHello) -> Result<Choice, Refusal> {
        self.check_alpn(hello)?;
        let is_tls13 =
            hello.offers_tls13 && self.offers.iter().any(|offer| !offer.tls13.is_empty());
        let can = |offer: &&Offer| {
            let suites = if is_tls13 { &offer.tls13 } else { &offer.tls12 };
            hello.groups.contains(&offer.group)
                && suites.iter().any(|suite| hello.suites.contains(suite))
        };
        let offer = self
            .offers
            .iter()
            .filter(can)
            .find(|offer| is_tls13 && hello.shares.contains(&offer.group))
            .or_else(|| self.offers.iter().find(can))
            // With nothing in common rustls finds the right alert.
            .or_else(|| self.offers.first())
            .ok_or_else(|| Refusal::ours(alert::HANDSHAKE_FAILURE, "the site offers nothing"))?;
        let level = if is_tls13 { self.tls13 } else { self.tls12 };
        let exchange = (level >= CustodyLevel::Premaster).then(|| self.exchange.clone());
        Ok(Choice {
            config: offer.config.clone(),
            level,
            exchange,
            is_tls13,
            alpn_required: self.needs_protocol(),
        })
    }
}

impl Site {
    /// A client that names no protocol speaks HTTP/1.1 by custom; where that is not served it must name another.
    fn needs_protocol(&self) -> bool {
        let serves_http1 = self.alpn.iter().any(|protocol| protocol == b"http/1.1");
        !self.alpn.is_empty() && (self.alpn_required || !serves_http1)
    }

    /// rustls would find a protocol that does not fit only after the token has worked (RFC 7301, section 3.2).
    fn check_alpn(&self, hello: &ClientHello) -> Result<(), Refusal> {
        let fits = match &hello.alpn {
            None => !self.needs_protocol(),
            Some(offered) => offered.iter().any(|protocol| self.alpn.contains(protocol)),
        };
        if fits || self.alpn.is_empty() {
            return Ok(());
        }
        Err(Refusal::ours(
            alert::NO_APPLICATION_PROTOCOL,
            "the client speaks none of the site's protocols",
        ))
    }
}

impl Offer {
    fn new(
        group: NamedGroup,
        suites: &[&Suite],
        resolver: &Arc<dyn ResolvesServerCert>,
        alpn: &[Vec<u8>],
    ) -> Result<Self, rustls::Error> {
        let codes = |is_tls13| {
            suites
                .iter()
                .filter(|s| s.is_tls13() == is_tls13)
                .map(|s| s.code())
                .collect::<Vec<_>>()
        };
        let mut config = base_config(group, suites.iter().map(|suite| suite.rustls).collect())?;
        config.cert_resolver = resolver.clone();
        config.alpn_protocols = alpn.to_vec();
        Ok(Self {
            group: group as u16,
            config: Arc::new(config),
            tls13: codes(true),
            tls12: codes(false),
        })
    }
}

/// The answer where there is no site, or none for this caller: rustls judges the message, then it is refused.
pub(crate) fn nowhere(hello: &ClientHello) -> Choice {
    static CONFIG: LazyLock<Arc<ServerConfig>> = LazyLock::new(|| {
        let suites = provider::suites()
            .iter()
            .map(|suite| suite.rustls)
            .collect();
        Arc::new(
            base_config(NamedGroup::Secp256r1, suites)
                .expect("every suite with P-256 is a configuration that rustls takes"),
        )
    });
    Choice {
        config: CONFIG.clone(),
        level: CustodyLevel::Signature,
        exchange: None,
        is_tls13: hello.offers_tls13,
        alpn_required: false,
    }
}

/// What every configuration has in common; it resolves no certificate.
fn base_config(
    group: NamedGroup,
    suites: Vec<SupportedCipherSuite>,
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
    let mut config = ServerConfig::builder_with_provider(provider::provider(group, suites).into())
        .with_protocol_versions(&versions)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Resolver { keys: Vec::new() }));
    // No session ids and no tickets: a session that rustls stored would hold a handle that is long dead.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    config.require_ems = true;
    config.enable_secret_extraction = true;
    Ok(config)
}

/// The groups in the order in which they are offered: the token's where any exchange runs in it.
fn group_order(profile: &Profile, tls12: CustodyLevel, tls13: CustodyLevel) -> Vec<NamedGroup> {
    let software = [
        NamedGroup::X25519,
        NamedGroup::Secp256r1,
        NamedGroup::Secp384r1,
    ];
    if tls12.max(tls13) < CustodyLevel::Premaster {
        return software.to_vec();
    }
    let mut order = profile.groups.clone();
    order.extend(
        software
            .iter()
            .filter(|group| !profile.groups.contains(group)),
    );
    order
}

/// Whether a suite's first derivation is proven for a group, where it has to be.
fn is_proven(profile: &Profile, level: CustodyLevel, suite: &Suite, group: NamedGroup) -> bool {
    if level < CustodyLevel::Premaster {
        return true;
    }
    let proven: &[(NamedGroup, HashAlgorithm)] = if suite.is_tls13() {
        &profile.extract
    } else {
        &profile.prf
    };
    profile.groups.contains(&group) && proven.contains(&(group, suite.hash))
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

/// Gives rustls the first key whose signature the client can verify.
#[derive(Debug)]
struct Resolver {
    keys: Vec<(KeyAlgorithm, Arc<CertifiedKey>)>,
}

impl Resolver {
    fn new(keys: &[SiteKey]) -> Self {
        let keys = keys
            .iter()
            .map(|SiteKey { key, chain, .. }| {
                let signing = Arc::new(TokenSigningKey(key.clone()));
                (
                    key.algorithm(),
                    Arc::new(CertifiedKey::new(chain.clone(), signing)),
                )
            })
            .collect();
        Self { keys }
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: RustlsHello<'_>) -> Option<Arc<CertifiedKey>> {
        let (expected, is_tls13) =
            context::with(|context| (context.server_name.clone(), context.is_tls13))?;
        if self.keys.is_empty() {
            return refuse(
                alert::UNRECOGNIZED_NAME,
                "no site for this caller under that name",
            );
        }
        if hello.server_name() != expected.as_deref() {
            context::fail(Failure::Engine(
                "rustls reads another name in the ClientHello",
            ));
            return None;
        }
        let verifies = |scheme: &SignatureScheme| {
            // PKCS#1 v1.5 is for TLS 1.2 alone (RFC 8446, section 4.2.3).
            let is_pkcs1 = matches!(
                scheme,
                SignatureScheme::RsaPkcs1Sha256
                    | SignatureScheme::RsaPkcs1Sha384
                    | SignatureScheme::RsaPkcs1Sha512
            );
            !(is_tls13 && is_pkcs1) && hello.signature_schemes().contains(&rustls_scheme(*scheme))
        };
        let found = self.keys.iter().find(|(algorithm, _)| {
            SignatureScheme::of(*algorithm).iter().any(verifies)
                && (is_tls13 || takes_curve(*algorithm, hello.named_groups()))
        });
        match found {
            Some((_, key)) => Some(key.clone()),
            None => refuse(
                alert::HANDSHAKE_FAILURE,
                "the client can verify none of the site's keys",
            ),
        }
    }
}

/// In TLS 1.2 an ECDSA key's curve must be among the client's groups (RFC 8422, section 5.1.1).
fn takes_curve(algorithm: KeyAlgorithm, groups: Option<&[rustls::NamedGroup]>) -> bool {
    let curve = match algorithm {
        KeyAlgorithm::EcdsaP256 => NamedGroup::Secp256r1,
        KeyAlgorithm::EcdsaP384 => NamedGroup::Secp384r1,
        KeyAlgorithm::Rsa(_) | KeyAlgorithm::Ed25519 => return true,
    };
    groups.is_none_or(|groups| groups.contains(&rustls::NamedGroup::from(curve as u16)))
}

fn refuse(alert: u8, reason: &'static str) -> Option<Arc<CertifiedKey>> {
    context::with(|context| context.resolver_alert = Some((alert, reason)));
    None
}
