//! The doctor on one token: module, PIN and its source, login, keys, certificates, levels.
//!
//! Each step stands on the one before, so it stops at the first that fails. Invariant: the PIN is not sent when the
//! token says that it is the last try or that it is locked.

use std::{os::unix::fs::MetadataExt, path::Path};

use keyhaven_hsm::{
    Module, Pin, Profile, Token, TokenInfo,
    admin::{AdminSession, KeyEntry, survey},
};
use x509_parser::parse_x509_certificate;

use super::{finding::Findings, softhsm};
use crate::admin::{cert, failure::Failure, nature::Nature, select::Selected, text};

/// Days before a certificate's end when the doctor begins to speak of it.
const EXPIRY_WARNING_DAYS: i64 = 30;

/// How the certificate of a key in a token is renewed.
pub(super) const RENEW_SITE: &str = "renew it: signer-admin key csr makes the request";

/// A token that could be logged in to.
pub(super) struct Opened {
    pub(super) keys: Vec<KeyEntry>,
    /// Open as the signer has it, with what it proved.
    pub(super) proven: Option<(Token, Profile)>,
    /// It takes no token objects (CKF_WRITE_PROTECTED).
    pub(super) write_protected: bool,
    // Keeps the login.
    _session: AdminSession,
}

/// Examines a token, and keeps it open. `module` is the one that was named; SoftHSM2 if none was. `may_be_bare`: it is
/// well without a private key, too.
pub(super) fn examine(
    selected: Result<Selected, Failure>,
    module: Option<&Path>,
    may_be_bare: bool,
    findings: &mut Findings,
) -> Option<Opened> {
    let selected = match selected {
        Ok(selected) => selected,
        Err(failure) => {
            findings.failure("module and token", failure);
            softhsm::look_after_failure(module, findings);
            return None;
        }
    };
    let subject = format!("token `{}`", text::clean(&selected.info.label));
    findings.good(
        "module",
        format!("{} is loaded", selected.module.path().display()),
    );
    module_file(&selected.module, findings);
    if selected.info.manufacturer.starts_with("SoftHSM") {
        softhsm::look(findings);
    }
    let write_protected = look(&selected, &subject, findings);
    let (session, pin) = log_in(&selected, &subject, findings)?;
    let proven = levels(&selected, pin, &subject, findings);
    let keys = keys(&session, &subject, may_be_bare, findings);
    Some(Opened {
        keys,
        proven,
        write_protected,
        _session: session,
    })
}

/// What it says of itself; whether it is write-protected.
fn look(selected: &Selected, subject: &str, findings: &mut Findings) -> bool {
    let serial = text::clean(&selected.info.serial);
    match survey(&selected.module, &selected.info) {
        Ok(survey) => {
            let nature = Nature::of(&selected.info, &survey.slot).in_words();
            findings.good(subject, format!("found, serial {serial}; {nature}"));
            survey.token.write_protected
        }
        Err(error) => {
            findings.good(subject, format!("found, serial {serial}"));
            findings.failure(subject, error);
            false
        }
    }
}

fn module_file(module: &Module, findings: &mut Findings) {
    if let Ok(metadata) = module.path().metadata()
        && metadata.mode() & 0o022 != 0
    {
        findings.problem(
            "module",
            format!(
                "{} can be changed by others than its owner",
                module.path().display()
            ),
            format!("chmod go-w {}", module.path().display()),
        );
    }
}

/// Judges the PIN's state and source before it is used, then logs in once.
fn log_in(
    selected: &Selected,
    subject: &str,
    findings: &mut Findings,
) -> Option<(AdminSession, Pin)> {
    if !may_try(&selected.info, subject, findings) {
        return None;
    }
    let pin = match selected.pin() {
        Ok(pin) => pin,
        Err(failure) => {
            findings.failure("PIN source", failure);
            return None;
        }
    };
    findings.good(
        "PIN source",
        "a PIN is there, and only its owner can read it",
    );
    match selected.open_with(&pin) {
        Ok(session) => {
            findings.good(subject, "the PIN is right");
            Some((session, pin))
        }
        Err(failure) => {
            findings.failure(subject, failure);
            None
        }
    }
}

pub(super) fn may_try(info: &TokenInfo, subject: &str, findings: &mut Findings) -> bool {
    if !info.user_pin_set {
        findings.problem(
            subject,
            "no user PIN is set",
            "signer-admin token init --label … sets one (and destroys what the token holds)",
        );
    } else if info.user_pin_locked {
        findings.problem(
            subject,
            "the user PIN is locked; it was not tried",
            "let the security officer set a new one with the vendor's tool",
        );
    } else if info.user_pin_final_try {
        findings.problem(
            subject,
            "one more wrong PIN locks the token; the PIN was not tried",
            "make sure of the PIN, then log in by hand: signer-admin token status",
        );
    } else {
        if info.user_pin_count_low {
            findings.warning(
                subject,
                "wrong PINs were given since the last good one",
                "find out who tries: another program may have an old PIN",
            );
        }
        return true;
    }
    false
}

fn levels(
    selected: &Selected,
    pin: Pin,
    subject: &str,
    findings: &mut Findings,
) -> Option<(Token, Profile)> {
    let proven = selected.open_token(pin).and_then(|token| {
        let profile = token.prove()?;
        Ok((token, profile))
    });
    match proven {
        Ok((token, profile)) => {
            findings.good(
                subject,
                format!(
                    "custody: {} for TLS 1.3, {} for TLS 1.2 (signer-admin custody says more)",
                    profile.tls13, profile.tls12
                ),
            );
            Some((token, profile))
        }
        Err(failure) => {
            findings.failure(subject, failure);
            None
        }
    }
}

fn keys(
    session: &AdminSession,
    subject: &str,
    may_be_bare: bool,
    findings: &mut Findings,
) -> Vec<KeyEntry> {
    let keys = match session.keys() {
        Ok(keys) => keys,
        Err(error) => {
            findings.failure(subject, error);
            return Vec::new();
        }
    };
    if keys.is_empty() && !may_be_bare {
        findings.warning(
            subject,
            "it has no private key",
            "signer-admin key generate makes one, signer-admin key import takes one",
        );
    }
    for key in &keys {
        one_key(session, key, &keys, findings);
    }
    certificates(session, &keys, findings);
    keys
}

/// Attributes, twins, and whether the key signs.
fn one_key(session: &AdminSession, key: &KeyEntry, keys: &[KeyEntry], findings: &mut Findings) {
    let subject = format!("key {}", text::clean(&key.to_text()));
    let twins = keys
        .iter()
        .filter(|other| other.name.label == key.name.label)
        .count();
    if twins > 1 {
        findings.warning(
            &subject,
            format!("{twins} private keys have this label"),
            "name the key by id= in signer.toml, or delete the other",
        );
    }
    for weakness in key.flags.weaknesses() {
        findings.warning(
            &subject,
            weakness,
            "make a new key with signer-admin key generate: what a key may do is fixed when it is made",
        );
    }
    if key.algorithm.is_none() || key.spki.is_none() {
        findings.warning(
            &subject,
            "it is of no kind that is served, or has no public part in the token",
            "signer-admin key show shows what is known of it",
        );
        return;
    }
    match session.sign(key, b"keyhaven: the doctor asks for a signature") {
        Ok(_) => findings.good(
            &subject,
            format!(
                "{}, signs rightly; {}",
                text::kind_of(key),
                text::origin(&key.flags)
            ),
        ),
        Err(error) => findings.failure(&subject, error),
    }
}

fn certificates(session: &AdminSession, keys: &[KeyEntry], findings: &mut Findings) {
    let certificates = match session.certificates() {
        Ok(certificates) => certificates,
        Err(error) => return findings.failure("certificates in the token", error),
    };
    for certificate in certificates
        .iter()
        .filter(|certificate| !certificate.name.id.is_empty())
    {
        let subject = format!(
            "certificate object `{}`",
            text::clean(&certificate.name.label)
        );
        expiry(&subject, &certificate.der, RENEW_SITE, findings);
        let key = keys.iter().find(|key| key.name.id == certificate.name.id);
        if let (Some(key), Ok((_, parsed))) = (key, parse_x509_certificate(&certificate.der))
            && key.spki.as_deref() != Some(parsed.public_key().raw)
        {
            findings.problem(
                &subject,
                "it does not belong to the key with its id",
                "store the right one: signer-admin cert import",
            );
        }
    }
}

/// Whether a certificate is at its end; `renewal` is how one of its kind is renewed.
pub(super) fn expiry(subject: &str, der: &[u8], renewal: &str, findings: &mut Findings) {
    let Ok((_, certificate)) = parse_x509_certificate(der) else {
        findings.problem(
            subject,
            "it cannot be read",
            "put a whole certificate in its place",
        );
        return;
    };
    let days = cert::seconds_left(&certificate).div_euclid(86_400);
    let end = cert::date(certificate.validity().not_after);
    if days < 0 {
        findings.problem(
            subject,
            format!("it expired {} days ago, on {end}", -days),
            renewal,
        );
    } else if days < EXPIRY_WARNING_DAYS {
        findings.warning(
            subject,
            format!("it expires in {days} days, on {end}"),
            renewal,
        );
    } else if cert::seconds_since_start(&certificate) < 0 {
        findings.problem(
            subject,
            format!(
                "it is not valid yet, only from {}",
                cert::date(certificate.validity().not_before)
            ),
            "check the machine's clock, and the certificate's dates",
        );
    } else {
        findings.good(subject, format!("valid for {days} more days"));
    }
}
