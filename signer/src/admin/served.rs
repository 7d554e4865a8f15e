//! A site as the signer would serve it: its keys found and proven, its levels and offers worked out.
//!
//! The rules are `handshake`'s own, so that nothing said here differs from what the signer does. Invariant: a version
//! that is not offered has no level.

use keyhaven_handshake::{Clock, Site, SiteError, SiteKey, SiteSpec};
use keyhaven_hsm::{PrivateKey, Profile, Token};
use keyhaven_types::CustodyLevel;

use super::{failure::Failure, tls_names};
use crate::config::SiteConfig;

/// What a site offers.
pub(super) struct Served {
    /// The level of TLS 1.3, if it is offered.
    pub(super) tls13: Option<CustodyLevel>,
    /// The level of TLS 1.2, if it is offered.
    pub(super) tls12: Option<CustodyLevel>,
    /// Groups with their suites, by code points, most preferred first.
    pub(super) offers: Vec<(u16, Vec<u16>)>,
    /// The keys, in the site's order.
    pub(super) keys: Vec<PrivateKey>,
    /// The level of a hybrid exchange, if it is offered.
    pub(super) hybrid: Option<CustodyLevel>,
}

/// Works it out; `token` gives an open token of the configuration, and what it proved, by name.
pub(super) fn serve<'a>(
    section: &SiteConfig,
    token: impl Fn(&str) -> Option<(&'a Token, &'a Profile)>,
) -> Result<Served, Failure> {
    let open = |name: &str| {
        token(name).ok_or_else(|| {
            Failure::new(
                format!("its token \"{name}\" could not be opened"),
                "mend the token first, then run this again",
            )
        })
    };
    let mut keys = Vec::new();
    for key in &section.keys {
        let found = open(&key.token)?.0.load_key(&key.uri, &key.spki)?;
        keys.push(SiteKey {
            key: found,
            chain: key.chain.clone(),
            ocsp: None,
            custody_min: key.custody_min,
            not_after: key.not_after,
        });
    }
    let first = section.keys.first().map(|key| key.token.as_str());
    let exchange = section.exchange_token.as_deref().or(first);
    let (exchange, profile) = open(exchange.unwrap_or_default())?;
    let privates = keys.iter().map(|key| key.key.clone()).collect();
    let site = Site::new(SiteSpec {
        keys,
        alpn: section.alpn.clone(),
        alpn_required: section.alpn_required,
        custody_min: section.custody_min,
        custody_max: section.custody_max,
        exchange: exchange.clone(),
        profile: profile.clone(),
        id: [0; 32],
        tickets: None,
        client_auth: section.client_auth.clone(),
        prefer_hybrid: section.prefer_hybrid,
        rekey_persistent: false,
        clock: Clock::default(),
    })
    .map_err(|error| unserved(&error, profile))?;
    Ok(of(&site, profile, privates))
}

fn of(site: &Site, profile: &Profile, keys: Vec<PrivateKey>) -> Served {
    let (tls12, tls13) = site.levels();
    let offers = site.offers();
    let has = |is_tls13: bool| {
        let mut suites = offers.iter().flat_map(|(_, suites)| suites);
        suites.any(|&suite| tls_names::is_tls13(suite) == is_tls13)
    };
    let of_hybrid = if profile.ml_kem {
        tls13
    } else {
        CustodyLevel::Signature
    };
    let hybrid = offers
        .iter()
        .any(|&(group, _)| group == tls_names::X25519_ML_KEM_768)
        .then_some(of_hybrid);
    Served {
        tls13: has(true).then_some(tls13),
        tls12: has(false).then_some(tls12),
        hybrid,
        offers,
        keys,
    }
}

fn unserved(error: &SiteError, profile: &Profile) -> Failure {
    let what = format!("the signer would not serve it: {error}");
    match error {
        SiteError::BelowMinimum { .. } => Failure::new(
            format!("{what}; {}", what_failed(profile)),
            "lower custody_min, or name an exchange_token that proves more: signer-admin custody --details",
        ),
        SiteError::Authorities(_) => Failure::new(
            what,
            "fetch the CA bundle and the lists again; a list must be of version 2 (RFC 5280, section 5): openssl ca -gencrl with crl_extensions",
        ),
        _ => Failure::new(what, "compare the site with config/signer.toml"),
    }
}

/// The self-tests that failed, as many as a line can hold.
pub(super) fn what_failed(profile: &Profile) -> String {
    const SHOWN: usize = 3;
    let failed: Vec<String> = profile
        .checks
        .iter()
        .filter(|check| !check.passed)
        .map(|check| check.name.clone())
        .collect();
    match failed.len() {
        0 => "no self-test failed".to_owned(),
        count if count > SHOWN => format!(
            "self-tests that failed: {}, and {} more",
            failed[..SHOWN].join(", "),
            count - SHOWN
        ),
        _ => format!("self-tests that failed: {}", failed.join(", ")),
    }
}
