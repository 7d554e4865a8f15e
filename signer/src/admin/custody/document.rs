//! The JSON of `custody`: names that stay, for scripts. docs/custody.md explains each.
//!
//! Repeats what was found; nothing is judged here. Invariant: a name that is there is never given another meaning.

use keyhaven_hsm::Profile;
use keyhaven_types::{CustodyLevel, HashAlgorithm, NamedGroup};
use serde_json::{Value, json};

use super::{Examined, ExaminedKey, sites::ExaminedSite};
use crate::admin::{key::key_json, tls_names, token::token_json};

/// One token.
pub(super) fn token(examined: &Examined, min: Option<CustodyLevel>) -> Value {
    let profile = &examined.profile;
    json!({
        "name": examined.name,
        "module": examined.selected.module.path(),
        "token": token_json(&examined.selected.info),
        "nature": examined.nature,
        "hardware_slot": examined.survey.slot.hardware,
        "tls12": profile.tls12,
        "tls13": profile.tls13,
        "groups": profile.groups,
        "pairs": pairs(profile),
        "ml_kem": profile.ml_kem,
        "prepends": profile.prepends,
        "vault": profile.vault,
        "met": examined.is_met(min),
        "checks": profile.checks,
        "hold": examined.hold,
        "keys": examined.keys.iter().map(|key| one_key(examined, key)).collect::<Vec<_>>(),
    })
}

/// Every pair of group and hash that is proven for more than `signature`, with the ciphers that follow.
pub(in crate::admin) fn pairs(profile: &Profile) -> Vec<Value> {
    type Level = fn(&Profile, NamedGroup, HashAlgorithm) -> CustodyLevel;
    let versions: [(&str, Level); 2] = [("1.3", Profile::level13), ("1.2", Profile::level12)];
    let mut pairs = Vec::new();
    for (version, level) in versions {
        for &group in &profile.groups {
            for hash in [HashAlgorithm::Sha256, HashAlgorithm::Sha384] {
                let level = level(profile, group, hash);
                if level > CustodyLevel::Signature {
                    pairs.push(json!({
                        "version": version,
                        "group": group,
                        "hash": tls_names::hash(hash),
                        "level": level,
                        "ciphers": tls_names::ciphers(hash),
                    }));
                }
            }
        }
    }
    pairs
}

fn one_key(examined: &Examined, key: &ExaminedKey) -> Value {
    let mut value = key_json(&examined.selected.info, &key.entry);
    let (schemes, warnings, error) = match &key.proven {
        Ok(proven) => (proven.schemes(), proven.warnings(), None),
        Err(error) => (&[][..], &[][..], Some(error)),
    };
    if let Some(map) = value.as_object_mut() {
        map.insert("schemes".to_owned(), json!(schemes));
        map.insert("warnings".to_owned(), json!(warnings));
        map.insert("not_proven".to_owned(), json!(error));
    }
    value
}

/// One site.
pub(super) fn site(site: &ExaminedSite) -> Value {
    let served = site.served.as_ref().ok();
    let failure = site.served.as_ref().err();
    let tls13 = served.and_then(|served| served.tls13);
    let tls12 = served.and_then(|served| served.tls12);
    let keys = site.keys.iter().enumerate().map(|(index, key)| {
        let used = |level: Option<CustodyLevel>| level.filter(|&level| level >= key.custody_min);
        let proven = served.and_then(|served| served.keys.get(index));
        json!({
            "token": key.place.token,
            "uri": key.uri,
            "certificate": key.certificate,
            "custody_min": key.custody_min,
            "tls13": used(tls13),
            "tls12": used(tls12),
            "schemes": proven.map_or(&[][..], |key| key.schemes()),
        })
    });
    let offers = served.iter().flat_map(|served| &served.offers);
    let offers = offers.map(|(group, suites)| {
        json!({
            "group": tls_names::group(*group),
            "suites": suites.iter().map(|&suite| tls_names::suite(suite)).collect::<Vec<_>>(),
        })
    });
    json!({
        "names": site.names,
        "custody_min": site.custody_min,
        "custody_max": site.custody_max,
        "exchange_token": site.exchange.token,
        "tls13": tls13,
        "tls12": tls12,
        "hybrid": served.and_then(|served| served.hybrid),
        "offers": offers.collect::<Vec<_>>(),
        "keys": keys.collect::<Vec<_>>(),
        "not_served": failure.map(|failure| &failure.what),
    })
}
