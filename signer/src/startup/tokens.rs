//! Tokens: loaded, logged in to and proven once, however often the configuration is read again.
//!
//! Invariant: a token that is open is not opened, and its PIN is not sent, a second time.

use std::path::PathBuf;

use keyhaven_hsm::{Check, Module, PinSource, Profile, Token, admin};

use super::{StartError, Terminal};
use crate::{config::TokenConfig, policy::ServedToken};

/// An open token, and what it was opened by.
pub(super) struct OpenToken {
    pub(super) name: String,
    pub(super) token: Token,
    pub(super) profile: Profile,
    pub(super) opened_by: OpenedBy,
}

/// What makes a `[[token]]` the same one: the PIN's place does not count.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct OpenedBy {
    module: Option<PathBuf>,
    init_args: Option<String>,
    uri: String,
}

impl OpenToken {
    pub(super) fn served(&self) -> ServedToken {
        ServedToken {
            name: self.name.clone(),
            token: self.token.clone(),
            profile: self.profile.clone(),
        }
    }

    /// The first self-test that failed, in words.
    pub(super) fn first_failed(&self) -> Option<String> {
        self.profile
            .checks
            .iter()
            .find(|check| !check.passed)
            .map(tell)
    }
}

/// Takes a token that is open, or opens and proves it.
pub(super) fn open(
    section: &TokenConfig,
    known: &[OpenToken],
    terminal: Terminal,
) -> Result<OpenToken, StartError> {
    let opened_by = OpenedBy {
        module: section.module.clone(),
        init_args: section.init_args.clone(),
        // Without its query, where the PIN's place is.
        uri: section.uri.to_string(),
    };
    let found = known.iter().find(|token| token.opened_by == opened_by);
    let (token, profile) = match found {
        Some(known) => (known.token.clone(), known.profile.clone()),
        None => open_anew(section, terminal)?,
    };
    Ok(OpenToken {
        name: section.name.clone(),
        token,
        profile,
        opened_by,
    })
}

fn open_anew(section: &TokenConfig, terminal: Terminal) -> Result<(Token, Profile), StartError> {
    let subject = format!("token \"{}\" (line {})", section.name, section.line);
    let module =
        Module::load_with(section.module.as_deref(), section.init_args.as_deref()).map_err(
            StartError::new(&subject, "the PKCS#11 module does not load"),
        )?;
    if section.pin_source == PinSource::Terminal && terminal == Terminal::NotAsked {
        return Err(StartError::new(&subject, "the PIN cannot be read")(
            "nobody is asked for a PIN while the signer serves: give it a pin-source, or restart",
        ));
    }
    let pin = section
        .pin_source
        .read(&section.base, &section.name)
        .map_err(StartError::new(&subject, "the PIN cannot be read"))?;
    let token = Token::open(&module, &section.uri, pin)
        .map_err(StartError::new(&subject, "the token cannot be opened"))?;
    let profile = token
        .prove()
        .map_err(StartError::new(&subject, "the self-tests could not be run"))?;
    for check in profile.checks.iter().filter(|check| !check.passed) {
        tracing::debug!(
            token = section.name,
            check = check.name,
            detail = check.detail,
            "not proven"
        );
    }
    tracing::info!(
        token = section.name,
        label = token.info().label,
        model = token.info().model,
        module = %module.path().display(),
        says_it_is = says_it_is(&module, &token),
        custody_tls13 = %profile.tls13,
        custody_tls12 = %profile.tls12,
        groups = ?profile.groups,
        not_proven = not_proven(&profile.checks),
        "token is open and proven"
    );
    Ok((token, profile))
}

/// The first failed self-test of each kind, as many as a line can hold; nothing when all passed.
fn not_proven(checks: &[Check]) -> Option<String> {
    let mut firsts: Vec<&Check> = Vec::new();
    for check in checks.iter().filter(|check| !check.passed) {
        if firsts.iter().all(|first| kind(first) != kind(check)) {
            firsts.push(check);
        }
    }
    let more = firsts.len().saturating_sub(NOT_PROVEN_MAX);
    let mut told: Vec<String> = firsts.into_iter().take(NOT_PROVEN_MAX).map(tell).collect();
    if more > 0 {
        told.push(format!("and {more} kinds more"));
    }
    (!told.is_empty()).then(|| told.join("; "))
}

/// How many kinds of failed self-tests one log line names.
const NOT_PROVEN_MAX: usize = 5;

/// What a self-test asks for, whichever group and hash it does so with.
fn kind(check: &Check) -> &str {
    let act = check
        .name
        .split_once(": ")
        .map_or(&*check.name, |(_, act)| act);
    act.split_once(" with ").map_or(act, |(act, _)| act)
}

fn tell(check: &Check) -> String {
    format!("{}: {}", check.name, check.detail)
}

/// By CKF_HW_SLOT (PKCS#11 3.1, section 3.3): what a module says, which nobody can prove from here.
fn says_it_is(module: &Module, token: &Token) -> &'static str {
    match admin::survey(module, token.info()) {
        Ok(survey) if survey.slot.hardware => "hardware",
        Ok(_) => "software",
        Err(_) => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checks(results: &[(&str, bool)]) -> Vec<Check> {
        let checks = results.iter().map(|&(name, passed)| Check {
            name: name.to_owned(),
            passed,
            detail: "why".to_owned(),
        });
        checks.collect()
    }

    #[test]
    fn each_kind_of_failure_is_told_once_by_its_first() {
        let checks = checks(&[
            ("x25519: make a key pair", true),
            ("x25519: HKDF-Extract with Sha256 equals software", false),
            ("x25519: HKDF-Extract with Sha384 equals software", false),
            ("secp256r1: HKDF-Extract with Sha256 equals software", false),
            ("secp256r1: destroy an object", false),
        ]);
        assert_eq!(
            not_proven(&checks).as_deref(),
            Some(
                "x25519: HKDF-Extract with Sha256 equals software: why; secp256r1: destroy an object: why"
            )
        );
    }

    #[test]
    fn a_line_names_no_more_kinds_than_it_can_hold_and_counts_the_rest() {
        let failed = ["a", "b", "c", "d", "e", "f", "g"].map(|name| (name, false));
        assert_eq!(
            not_proven(&checks(&failed)).as_deref(),
            Some("a: why; b: why; c: why; d: why; e: why; and 2 kinds more")
        );
    }

    #[test]
    fn a_token_that_proves_everything_has_nothing_to_tell() {
        assert_eq!(not_proven(&checks(&[("a", true)])), None);
    }
}
