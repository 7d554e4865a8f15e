//! `custody`: what a token keeps to itself, what its module refuses, where its keys come from, and what sites get.
//!
//! Levels come from the token's self-tests and the hold from its attacks; both are repeated as they are. Invariant: no
//! fact is summed up into a better word than it deserves: a key that may have copies is said to have them.

mod describe;
mod document;
mod sites;

pub(super) use document::pairs;

use keyhaven_hsm::{
    HoldCheck, PrivateKey, Profile, Token, Uri,
    admin::{AdminSession, KeyEntry, Survey, survey},
};
use keyhaven_types::CustodyLevel;
use serde_json::json;

use self::sites::ExaminedSite;
use super::{
    args::CustodyArgs, failure::Failure, nature::Nature, report::Report, select::Selected, text,
};
use crate::config::Config;

/// A token with all that was found out about it.
struct Examined {
    /// Its name in the configuration.
    name: Option<String>,
    selected: Selected,
    nature: Nature,
    survey: Survey,
    token: Token,
    profile: Profile,
    hold: Vec<HoldCheck>,
    keys: Vec<ExaminedKey>,
    // Keeps the login.
    _session: AdminSession,
}

/// A key, and what it was proven to sign with.
struct ExaminedKey {
    entry: KeyEntry,
    proven: Result<PrivateKey, String>,
}

/// Examines and reports.
pub(super) fn run(args: &CustodyArgs) -> Result<Report, Failure> {
    let (tokens, sites) = match &args.config {
        Some(path) => {
            let config = Config::read(path)?;
            let tokens = config
                .tokens
                .iter()
                .map(|section| Examined::new(Selected::from_config(section)?, Some(&section.name)))
                .collect::<Result<Vec<_>, _>>()?;
            let sites = config.sites.iter();
            let sites: Vec<_> = sites.map(|site| ExaminedSite::new(site, &tokens)).collect();
            (tokens, Some(sites))
        }
        None => {
            let only = Examined::new(Selected::new(&args.token)?, None)?;
            (vec![only], None)
        }
    };
    let met = match &sites {
        Some(sites) => sites.iter().all(|site| site.is_met(args.min)),
        None => tokens.iter().all(|token| token.is_met(args.min)),
    };
    let json = json!({
        "min": args.min,
        "met": met,
        "tokens": tokens.iter().map(|token| document::token(token, args.min)).collect::<Vec<_>>(),
        "sites": sites.iter().flatten().map(document::site).collect::<Vec<_>>(),
    });
    let mut out = String::new();
    for token in &tokens {
        out.push_str(&describe::token(token, args.details));
    }
    for site in sites.iter().flatten() {
        out.push_str(&describe::site(site));
    }
    if let (false, Some(min)) = (met, args.min) {
        out.push_str(&format!(
            "NOT MET: {min} is asked for in every TLS version\n"
        ));
    }
    Ok(Report::new(json, out).failed_if(!met))
}

impl Examined {
    fn new(selected: Selected, name: Option<&str>) -> Result<Self, Failure> {
        let pin = selected.pin()?;
        let survey = survey(&selected.module, &selected.info)?;
        let token = selected.open_token(pin.clone())?;
        let profile = token.prove()?;
        let hold = token.examine_hold()?;
        let session = selected.open_with(&pin)?;
        let keys = session.keys()?.into_iter();
        let keys = keys.map(|entry| ExaminedKey {
            proven: prove(&token, &entry),
            entry,
        });
        Ok(Self {
            name: name.map(str::to_owned),
            nature: Nature::of(&selected.info, &survey.slot),
            keys: keys.collect(),
            selected,
            survey,
            token,
            profile,
            hold,
            _session: session,
        })
    }

    fn is_met(&self, min: Option<CustodyLevel>) -> bool {
        min.is_none_or(|min| self.profile.tls12.min(self.profile.tls13) >= min)
    }
}

/// Loads the key as the signer does, by its own public part.
pub(super) fn prove(token: &Token, entry: &KeyEntry) -> Result<PrivateKey, String> {
    let Some(spki) = &entry.spki else {
        return Err("not tried: the token has no public part for it".to_owned());
    };
    if entry.algorithm.is_none() {
        return Err("not tried: it is of no kind that is served".to_owned());
    }
    let uri: Uri = text::object_uri(&entry.name)
        .parse()
        .map_err(|error: keyhaven_hsm::UriError| error.to_string())?;
    token
        .load_key(&uri, spki)
        .map_err(|error| text::chain(&error))
}
