//! What is offered under a name: keys with their certificates, protocols, and what the token can do.
//!
//! Chooses among the offers by what a client can do, in the token's order. Who may use a site is decided before.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use aws_lc_rs::digest;
use keyhaven_hsm::{PrivateKey, Profile, Token, Vault, VaultPurpose};
use keyhaven_types::{CustodyLevel, alert};
use rustls::ServerConfig;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};

use crate::{
    client_auth,
    client_hello::ClientHello,
    clock::Clock,
    context::{Facts, Place},
    error::Refusal,
    offer::{self, Offer, Offering, Ways},
    resolver::Resolver,
    ticket_key::TicketKey,
    tickets::TicketPolicy,
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
    /// Names the site in tickets.
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
    /// Tells the time; another one only in tests.
    pub clock: Clock,
}

/// Why a site cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum SiteError {
    /// No key at all.
    #[error("the site has no key")]
    NoKey,
    /// Neither TLS version reaches the level asked for.
    #[error(
        "custody_min is {min}, but TLS 1.3 reaches {tls13} here and TLS 1.2 {tls12}: the token proves {proven}{}",
        if *has_vault { "" } else { ", and no keys that wrap secrets, without which TLS 1.3 ends at master" }
    )]
    BelowMinimum {
        /// What is asked for.
        min: CustodyLevel,
        /// What TLS 1.3 reaches with the site's own bounds.
        tls13: CustodyLevel,
        /// What TLS 1.2 reaches with the site's own bounds.
        tls12: CustodyLevel,
        /// The most that the token proves.
        proven: CustodyLevel,
        /// Whether it can wrap secrets for rekey states.
        has_vault: bool,
    },
    /// The clients' authorities or revocation lists are not usable.
    #[error("clients' certificates cannot be judged: {0}")]
    Authorities(String),
    /// rustls refuses the configuration.
    #[error("rustls refuses the site's configuration")]
    Rustls(#[from] rustls::Error),
}

/// A site, ready to serve.
pub struct Site {
    offers: Vec<Offer>,
    tls12: CustodyLevel,
    /// What TLS 1.2 may say of itself.
    claim12: CustodyLevel,
    tls13: CustodyLevel,
    exchange: Token,
    ml_kem: bool,
    alpn: Vec<Vec<u8>>,
    alpn_required: bool,
    tickets: Option<Arc<TicketPolicy>>,
    rekey_vault: Option<Vault>,
    asks_clients: bool,
    prefer_hybrid: bool,
    clock: Clock,
}

/// What a ClientHello is answered with.
pub(crate) struct Choice {
    pub(crate) config: Arc<ServerConfig>,
    pub(crate) facts: Facts,
    /// Whether the handshake must end with a protocol: a second ClientHello may name others than the first.
    pub(crate) alpn_required: bool,
    /// Whether the client is asked for a certificate.
    pub(crate) asks_client: bool,
    /// Whether half of the exchange runs outside the token.
    pub(crate) is_half_outside: bool,
}

impl Site {
    /// Works out what can be offered.
    pub fn new(spec: SiteSpec) -> Result<Self, SiteError> {
        if spec.keys.is_empty() {
            return Err(SiteError::NoKey);
        }
        let tls12 = spec.profile.tls12.min(spec.custody_max);
        let mut tls13 = spec.profile.tls13.min(spec.custody_max);
        // Traffic secrets must survive in a rekey state: without keys to wrap them they cannot stay in the token.
        if !spec.profile.vault {
            tls13 = tls13.min(CustodyLevel::Master);
        }
        let keys_min = spec.keys.iter().map(|key| key.custody_min).max();
        let min = keys_min.map_or(spec.custody_min, |of_keys| of_keys.max(spec.custody_min));
        let claim12 = tls12_claim(&spec, tls12);
        if claim12.max(tls13) < min {
            return Err(SiteError::BelowMinimum {
                min,
                tls13,
                tls12: claim12,
                proven: spec.profile.tls13.max(spec.profile.tls12),
                has_vault: spec.profile.vault,
            });
        }
        let algorithms: Vec<_> = spec.keys.iter().map(|key| key.key.algorithm()).collect();
        let client_verifier = client_auth::verifier(&spec.client_auth)?;
        let asks_clients = client_verifier.is_some();
        let tickets = ticket_policy(&spec, tls12.max(tls13)).filter(|_| !asks_clients);
        let least = spec.keys.iter().map(|key| key.custody_min).min();
        let offers = Offering {
            profile: &spec.profile,
            tls12,
            claim12,
            tls13,
            custody_min: least.map_or(spec.custody_min, |of_keys| of_keys.max(spec.custody_min)),
            algorithms: &algorithms,
            prefer_hybrid: spec.prefer_hybrid,
            ways: Ways {
                resolver: Arc::new(Resolver::new(&spec.keys)),
                alpn: spec.alpn.clone(),
                client_verifier,
                has_tickets: tickets.is_some(),
                clock: spec.clock.clone(),
            },
        }
        .offers()?;
        let rekey_vault = (tls13 == CustodyLevel::Schedule)
            .then(|| Vault::new(&spec.exchange, VaultPurpose::Rekey, spec.rekey_persistent));
        Ok(Self {
            offers,
            tls12,
            claim12,
            tls13,
            exchange: spec.exchange,
            ml_kem: spec.profile.ml_kem,
            alpn: spec.alpn,
            alpn_required: spec.alpn_required,
            tickets: tickets.map(Arc::new),
            rekey_vault,
            asks_clients,
            prefer_hybrid: spec.prefer_hybrid,
            clock: spec.clock,
        })
    }

    /// The level for TLS 1.2 and for TLS 1.3.
    pub fn levels(&self) -> (CustodyLevel, CustodyLevel) {
        (self.claim12, self.tls13)
    }

    /// What is offered, most preferred first: the group's code point with the code points of its suites.
    pub fn offers(&self) -> Vec<(u16, Vec<u16>)> {
        let suites = |offer: &Offer| [&offer.tls13[..], &offer.tls12].concat();
        self.offers
            .iter()
            .map(|offer| (offer.group, suites(offer)))
            .collect()
    }

    /// The keys that rekey states of this site are sealed with, when traffic secrets stay in the token.
    pub fn rekey_vault(&self) -> Option<&Vault> {
        self.rekey_vault.as_ref()
    }

    /// Chooses by what the client can do. TLS 1.3: the token's first group among those that the client sent
    /// a share for, because a round trip costs more than any group; else the token's first. A group that takes the
    /// level down comes last, share or not, unless it is preferred.
    pub(crate) fn choose(&self, hello: &ClientHello) -> Result<Choice, Refusal> {
        self.check_alpn(hello)?;
        let is_tls13 =
            hello.offers_tls13 && self.offers.iter().any(|offer| !offer.tls13.is_empty());
        let can = |offer: &&Offer| {
            let suites = if is_tls13 { &offer.tls13 } else { &offer.tls12 };
            hello.groups.contains(&offer.group)
                && suites.iter().any(|suite| hello.suites.contains(suite))
        };
        let has_version = |offer: &&Offer| {
            let suites = if is_tls13 { &offer.tls13 } else { &offer.tls12 };
            !suites.is_empty()
        };
        let keeps_level = |offer: &&Offer| offer.level.is_none() || self.prefer_hybrid;
        let offer = self
            .offers
            .iter()
            .filter(can)
            .filter(keeps_level)
            .find(|offer| is_tls13 && hello.shares.contains(&offer.group))
            .or_else(|| self.offers.iter().filter(can).find(keeps_level))
            .or_else(|| self.offers.iter().find(can))
            // With nothing in common rustls finds the right alert.
            .or_else(|| self.offers.iter().find(has_version))
            .or_else(|| self.offers.first())
            .ok_or_else(|| Refusal::ours(alert::HANDSHAKE_FAILURE, "the site offers nothing"))?;
        let (runs_at, claim) = if is_tls13 {
            (self.tls13, self.tls13)
        } else {
            (self.tls12, self.claim12)
        };
        Ok(Choice {
            config: offer.config.clone(),
            facts: Facts {
                server_name: hello.server_name.clone(),
                client_random: hello.random,
                is_tls13,
                place: self.place(runs_at),
                level: offer.level.unwrap_or(claim),
                tickets: self.tickets.clone(),
                now: Some(self.clock.now()),
            },
            alpn_required: self.needs_protocol(),
            asks_client: self.asks_clients,
            is_half_outside: offer.level.is_some(),
        })
    }

    fn place(&self, level: CustodyLevel) -> Place {
        if level < CustodyLevel::Premaster {
            return Place::Software;
        }
        Place::Token {
            token: self.exchange.clone(),
            level,
            ml_kem: self.ml_kem,
        }
    }

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

/// The answer where there is no site, or none for this caller: rustls judges the message, then it is refused.
pub(crate) fn nowhere(hello: &ClientHello) -> Choice {
    Choice {
        config: offer::of_nowhere(),
        facts: Facts {
            server_name: hello.server_name.clone(),
            client_random: hello.random,
            is_tls13: hello.offers_tls13,
            ..Facts::default()
        },
        alpn_required: false,
        asks_client: false,
        is_half_outside: false,
    }
}

/// What TLS 1.2 may say of itself. A ticket of TLS 1.2 holds the master secret of the whole connection: sealed in this
/// process it is no better kept than at `signature`.
fn tls12_claim(spec: &SiteSpec, tls12: CustodyLevel) -> CustodyLevel {
    let has_tickets = spec.tickets.as_ref().is_some_and(|tickets| tickets.tls12)
        && matches!(spec.client_auth, ClientAuth::None);
    if has_tickets && tls12 == CustodyLevel::Premaster {
        CustodyLevel::Signature
    } else {
        tls12
    }
}

/// Binds tickets to the site and to its ways: a change of either makes old tickets worthless.
fn ticket_policy(spec: &SiteSpec, level: CustodyLevel) -> Option<TicketPolicy> {
    let tickets = spec.tickets.as_ref()?;
    let is_in_token = level > CustodyLevel::Premaster;
    let mut ways = digest::Context::new(&digest::SHA256);
    ways.update(client_auth::name(&spec.client_auth).as_bytes());
    for protocol in &spec.alpn {
        ways.update(&[protocol.len() as u8]);
        ways.update(protocol);
    }
    ways.update(&[0, u8::from(spec.alpn_required)]);
    Some(TicketPolicy {
        key: tickets.key.clone(),
        vault: (is_in_token && spec.profile.vault)
            .then(|| Vault::new(&spec.exchange, VaultPurpose::Ticket, tickets.persistent)),
        lifetime: tickets.lifetime.min(LIFETIME_MAX),
        tls12: tickets.tls12,
        binding: [&spec.id[..], ways.finish().as_ref()].concat(),
    })
}

/// However often it is resumed, a session ends a day after its first full handshake (security rule S2).
const LIFETIME_MAX: Duration = Duration::from_secs(86_400);
