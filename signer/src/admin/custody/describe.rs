//! `custody` for people.
//!
//! What succeeds against a token is always printed, what it withstands only with `--details`. Invariant: text from a
//! token is cleaned before it is printed.

use keyhaven_hsm::{HoldCheck, Profile};
use keyhaven_types::{CustodyLevel, HashAlgorithm, NamedGroup};

use super::{
    Examined, ExaminedKey,
    sites::{ExaminedSite, Place},
};
use crate::admin::{
    served::Served,
    text::{self, clean},
    tls_names,
};

/// One token.
pub(super) fn token(examined: &Examined, details: bool) -> String {
    let (info, profile) = (&examined.selected.info, &examined.profile);
    let mut out = format!(
        "token `{}` ({} {}, serial {}): {}\n",
        clean(&info.label),
        clean(&info.manufacturer),
        clean(&info.model),
        clean(&info.serial),
        examined.nature.in_words()
    );
    if let Some(name) = &examined.name {
        line(
            &mut out,
            "name",
            &format!("\"{name}\" in the configuration"),
        );
    }
    let module = examined.selected.module.path().display().to_string();
    line(&mut out, "module", &clean(&module));
    let of = |level: CustodyLevel| format!("{level}: {}", kept(level));
    line(&mut out, "TLS 1.3", &of(profile.tls13));
    line(&mut out, "TLS 1.2", &of(profile.tls12));
    line(&mut out, "groups", &groups(profile));
    suites(
        &mut out,
        "suites 1.3",
        profile,
        profile.tls13,
        Profile::level13,
    );
    suites(
        &mut out,
        "suites 1.2",
        profile,
        profile.tls12,
        Profile::level12,
    );
    line(&mut out, "ML-KEM-768", ml_kem(profile));
    line(&mut out, "vault", vault(profile));
    checks(&mut out, profile, details);
    hold(&mut out, &examined.hold, details);
    if examined.keys.is_empty() {
        out.push_str("  no private key\n");
    }
    for key in &examined.keys {
        one_key(&mut out, key);
    }
    out
}

fn line(out: &mut String, noun: &str, text: &str) {
    out.push_str(&format!("  {noun:<14} {text}\n"));
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
            "the whole key schedule stays in the token; AEAD keys, IVs and Finished MACs alone come out"
        }
    }
}

fn groups(profile: &Profile) -> String {
    if profile.groups.is_empty() {
        return "none proven in the token; the exchange is in the signer's memory".to_owned();
    }
    let names: Vec<&str> = profile.groups.iter().map(|group| group.as_str()).collect();
    format!("{} (proven in the token, cheapest first)", names.join(", "))
}

type Level = fn(&Profile, NamedGroup, HashAlgorithm) -> CustodyLevel;

/// For each hash the suites' ciphers, and the groups for which they are proven at the version's level.
fn suites(out: &mut String, noun: &str, profile: &Profile, at: CustodyLevel, level: Level) {
    if at == CustodyLevel::Signature {
        return line(
            out,
            noun,
            "all, with every group: nothing of them is in the token",
        );
    }
    let mut noun = noun;
    for hash in [HashAlgorithm::Sha256, HashAlgorithm::Sha384] {
        let proven = profile.groups.iter();
        let proven: Vec<&str> = proven
            .filter(|&&group| level(profile, group, hash) == at)
            .map(|group| group.as_str())
            .collect();
        if !proven.is_empty() {
            let ciphers = tls_names::ciphers(hash).join(", ");
            let text = format!("{ciphers} at {at} with {}", proven.join(", "));
            line(out, noun, &text);
            noun = "";
        }
    }
}

fn ml_kem(profile: &Profile) -> &'static str {
    if profile.ml_kem {
        "in the token: X25519MLKEM768 has the level of TLS 1.3"
    } else if profile.prepends || profile.tls13 <= CustodyLevel::Premaster {
        "not in the token: X25519MLKEM768 has its ML-KEM half in the signer's memory, and the level signature"
    } else {
        "not in the token, and its secrets cannot be joined with others: no X25519MLKEM768"
    }
}

fn vault(profile: &Profile) -> &'static str {
    if profile.vault {
        "keys of the token wrap and seal what tickets and rekey states carry"
    } else if profile.tls13 == CustodyLevel::Schedule {
        "none: TLS 1.3 is served at master, because at schedule no connection could change its keys"
    } else {
        "none: no secret can be wrapped and sealed by keys of the token"
    }
}

fn checks(out: &mut String, profile: &Profile, details: bool) {
    let passed = profile.checks.iter().filter(|check| check.passed).count();
    let failed = profile.checks.len() - passed;
    line(
        out,
        "self-tests",
        &format!("{passed} passed, {failed} did not"),
    );
    if details {
        for check in &profile.checks {
            let mark = if check.passed { "passed" } else { "cannot" };
            let text = format!("{mark}  {}: {}", clean(&check.name), clean(&check.detail));
            line(out, "", &text);
        }
        return;
    }
    // One mechanism that is missing fails a test for each group and hash: one line for each reason.
    let mut reasons: Vec<(&str, &str, usize)> = Vec::new();
    for check in profile.checks.iter().filter(|check| !check.passed) {
        match reasons
            .iter_mut()
            .find(|(_, reason, _)| *reason == check.detail)
        {
            Some((.., more)) => *more += 1,
            None => reasons.push((&check.name, &check.detail, 0)),
        }
    }
    for (name, reason, more) in reasons {
        let more = match more {
            0 => String::new(),
            more => format!(" (and {more} more)"),
        };
        line(
            out,
            "",
            &format!("cannot  {}{more}: {}", clean(name), clean(reason)),
        );
    }
}

/// Attacks that succeed; with details all of them.
fn hold(out: &mut String, attacks: &[HoldCheck], details: bool) {
    let count = |outcome| {
        let all = attacks.iter();
        all.filter(|attack| attack.refused == outcome).count()
    };
    let (refused, done, untried) = (count(Some(true)), count(Some(false)), count(None));
    line(
        out,
        "hold",
        &format!("{refused} attacks refused, {done} not, {untried} could not be tried"),
    );
    for attack in attacks {
        let (name, detail) = (clean(&attack.name), clean(&attack.detail));
        match attack.refused {
            Some(false) => {
                let text = format!("with the login, code can: {name} ({detail})");
                line(out, "", &text);
            }
            Some(true) if details => line(out, "", &format!("refused: {name} ({detail})")),
            None if details => line(out, "", &format!("not tried: {name} ({detail})")),
            _ => {}
        }
    }
}

fn one_key(out: &mut String, key: &ExaminedKey) {
    let entry = &key.entry;
    let text = format!(
        "{} {}: {}",
        clean(&entry.to_text()),
        text::kind_of(entry),
        text::origin(&entry.flags)
    );
    line(out, "key", &text);
    match &key.proven {
        Ok(proven) => {
            let schemes = tls_names::schemes(proven.schemes());
            line(out, "", &format!("signs: {schemes}"));
        }
        Err(reason) => line(out, "", &format!("signature schemes {}", clean(reason))),
    }
    for weakness in entry.flags.weaknesses() {
        line(out, "", &format!("weak: {weakness}"));
    }
}

/// One site.
pub(super) fn site(site: &ExaminedSite) -> String {
    let label = site.names.first().map_or("(no name)", String::as_str);
    let mut out = format!(
        "site {label}: custody_min {}, custody_max {}\n",
        site.custody_min, site.custody_max
    );
    let served = match &site.served {
        Ok(served) => served,
        Err(failure) => {
            line(&mut out, "NOT SERVED", &clean(&failure.what));
            line(&mut out, "try", &failure.remedy);
            return out;
        }
    };
    let versions = [("TLS 1.3", served.tls13), ("TLS 1.2", served.tls12)];
    for (version, level) in versions {
        let text = match level {
            Some(level) => format!("{level}: {}", whereabouts(level, &site.exchange)),
            None => "not offered".to_owned(),
        };
        line(&mut out, version, &text);
    }
    for (index, key) in site.keys.iter().enumerate() {
        let used = versions.map(|(version, level)| match level {
            Some(level) if level >= key.custody_min => format!("{version} at {level}"),
            _ => format!("not {version}"),
        });
        line(
            &mut out,
            "key",
            &format!(
                "{} is in {}; custody_min {}: {}",
                clean(&key.uri),
                shown(&key.place),
                key.custody_min,
                used.join(", ")
            ),
        );
        if let Some(private) = served.keys.get(index) {
            let schemes = tls_names::schemes(private.schemes());
            line(&mut out, "", &format!("signs: {schemes}"));
        }
    }
    offers(&mut out, served);
    out
}

fn shown(place: &Place) -> String {
    match &place.is {
        Some(is) => format!("`{}` ({})", place.token, clean(is)),
        None => format!("`{}`, which is not open", place.token),
    }
}

/// Where the exchange and what follows from it are.
fn whereabouts(level: CustodyLevel, exchange: &Place) -> String {
    let exchange = shown(exchange);
    match level {
        CustodyLevel::Signature => {
            "exchange and key schedule are in the signer's memory".to_owned()
        }
        CustodyLevel::Premaster => format!(
            "the exchange is in {exchange}; what is derived from the shared secret passes through the signer's memory"
        ),
        CustodyLevel::Master => format!(
            "exchange, handshake and master secrets are in {exchange}; traffic secrets pass through the signer's memory"
        ),
        CustodyLevel::Schedule => format!("exchange and key schedule are in {exchange}"),
    }
}

fn offers(out: &mut String, served: &Served) {
    let mut noun = "offers";
    for (group, suites) in &served.offers {
        let suites: Vec<_> = suites
            .iter()
            .map(|&suite| tls_names::suite(suite))
            .collect();
        let level = match served.hybrid {
            Some(level) if *group == tls_names::X25519_ML_KEM_768 => format!(" at {level}"),
            _ => String::new(),
        };
        let group = tls_names::group(*group);
        line(out, noun, &format!("{group}{level}: {}", suites.join(", ")));
        noun = "";
    }
}
