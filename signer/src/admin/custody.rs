//! `custody`: what a token keeps to itself, and where its keys come from.
//!
//! Levels come from the token's self-tests and are repeated as they are. Invariant: no fact is summed up into a
//! better word than it deserves: a key that may have copies is said to have them.

use keyhaven_hsm::{Profile, admin::KeyEntry};
use keyhaven_types::CustodyLevel;
use serde_json::{Value, json};

use super::{
    args::CustodyArgs, failure::Failure, key::key_json, report::Report, select::Selected, text,
    token,
};
use crate::config::Config;

/// Proves and reports.
pub(super) fn run(args: &CustodyArgs) -> Result<Report, Failure> {
    let mut documents = Vec::new();
    let mut out = String::new();
    let mut unmet = false;
    for selected in tokens(args)? {
        let pin = selected.pin()?;
        let opened = selected.open_token(pin.clone())?;
        let profile = opened.prove()?;
        let session = selected.open_with(&pin)?;
        let keys = session.keys()?;
        let lowest = profile.tls12.min(profile.tls13);
        let short = args.min.is_some_and(|min| lowest < min);
        unmet |= short;
        documents.push(document(&selected, &profile, &keys, short));
        out.push_str(&describe(&selected, &profile, &keys));
        if let (true, Some(min)) = (short, args.min) {
            out.push_str(&unmet_line(min, &profile));
        }
    }
    let json = json!({ "min": args.min, "met": !unmet, "tokens": documents });
    Ok(Report::new(json, out).failed_if(unmet))
}

fn tokens(args: &CustodyArgs) -> Result<Vec<Selected>, Failure> {
    match &args.config {
        Some(path) => Config::read(path)?
            .tokens
            .iter()
            .map(Selected::from_config)
            .collect(),
        None => Ok(vec![Selected::new(&args.token)?]),
    }
}

fn describe(selected: &Selected, profile: &Profile, keys: &[KeyEntry]) -> String {
    let groups: Vec<&str> = profile.groups.iter().map(|group| group.as_str()).collect();
    let groups = if groups.is_empty() {
        "none".to_owned()
    } else {
        groups.join(", ")
    };
    let mut out = format!(
        "token `{}` ({}, serial {})\n  TLS 1.3        {}: {}\n  TLS 1.2        {}: {}\n  groups         {groups} (proven in the token, cheapest first)\n",
        text::clean(&selected.info.label),
        text::clean(&selected.info.model),
        text::clean(&selected.info.serial),
        profile.tls13,
        kept(profile.tls13),
        profile.tls12,
        kept(profile.tls12),
    );
    for check in &profile.checks {
        let mark = if check.passed { "passed" } else { "cannot" };
        out.push_str(&format!(
            "  self-test      {mark}  {}: {}\n",
            text::clean(&check.name),
            text::clean(&check.detail)
        ));
    }
    if keys.is_empty() {
        out.push_str("  no private key\n");
    }
    for key in keys {
        out.push_str(&format!(
            "  key            {} {}: {}\n",
            text::clean(&key.to_text()),
            text::kind_of(key),
            text::origin(&key.flags)
        ));
        for weakness in key.flags.weaknesses() {
            out.push_str(&format!("                 weak: {weakness}\n"));
        }
    }
    out
}

/// What a level means, in one line.
fn kept(level: CustodyLevel) -> &'static str {
    match level {
        CustodyLevel::Signature => {
            "the long-term key stays in the token; the exchange and all that follows are in the signer's memory"
        }
        CustodyLevel::Premaster => {
            "long-term key, ephemeral keys and shared secret stay in the token; what is derived from it passes through the signer's memory"
        }
        CustodyLevel::Master => {
            "handshake and master secrets stay in the token too; traffic secrets pass through the signer's memory"
        }
        CustodyLevel::Schedule => {
            "the whole key schedule stays in the token; AEAD keys alone come out"
        }
    }
}

fn unmet_line(min: CustodyLevel, profile: &Profile) -> String {
    format!(
        "  NOT MET        {min} is asked for; this token proves {} for TLS 1.3 and {} for TLS 1.2\n",
        profile.tls13, profile.tls12
    )
}

fn document(selected: &Selected, profile: &Profile, keys: &[KeyEntry], short: bool) -> Value {
    json!({
        "token": token::token_json(&selected.info),
        "tls12": profile.tls12,
        "tls13": profile.tls13,
        "groups": profile.groups,
        "checks": profile.checks,
        "met": !short,
        "keys": keys.iter().map(|key| key_json(&selected.info, key)).collect::<Vec<_>>(),
    })
}
