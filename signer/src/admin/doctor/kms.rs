//! The doctor on `[kms]`: whether the token can be a site's, and which class keys it holds.
//!
//! Central is not asked. Invariant: the token is opened as the signer opens it, attacks included.

use std::collections::HashMap;

use keyhaven_hsm::managed::{KekName, SiteToken};

use super::{finding::Findings, token::Opened};
use crate::{
    admin::failure::Failure,
    config::{Config, KmsConfig},
};

/// Examines the site that the signer is.
pub(super) fn examine(
    section: &KmsConfig,
    tokens: &HashMap<&str, Opened>,
    findings: &mut Findings,
) {
    let subject = format!("[kms], site `{}`", section.site);
    // Why a token could not be opened was said.
    let proven = tokens
        .get(section.token.as_str())
        .and_then(|opened| opened.proven.as_ref());
    let Some((token, _)) = proven else {
        return;
    };
    let keks = match SiteToken::open(token) {
        Ok(site) => site.holds(),
        Err(error) => {
            let why = Failure::from(error).what;
            return findings.problem(
                &subject,
                format!("token \"{}\" cannot be a site's: {why}", section.token),
                "name a token of another module: docs/kms.md says which can be a site's",
            );
        }
    };
    if keks.is_empty() {
        return findings.warning(
            &subject,
            format!(
                "token \"{}\" holds no class key, so no managed key can be used",
                section.token
            ),
            "have a ceremony bring them: signer-admin kms site enroll",
        );
    }
    let held: Vec<String> = keks.iter().map(in_words).collect();
    findings.good(
        &subject,
        format!(
            "token \"{}\" holds the class keys {}",
            section.token,
            held.join(", ")
        ),
    );
}

/// Whether a token is there for managed keys alone, so that it may have no private key of its own.
pub(super) fn is_for_managed_keys(config: &Config, token: &str) -> bool {
    let keys = config.sites.iter().flat_map(|site| &site.keys);
    let is_kms =
        |kms: &KmsConfig| kms.token == token || kms.exchange_token.as_deref() == Some(token);
    config.kms.as_ref().is_some_and(is_kms) && !keys.into_iter().any(|key| key.token == token)
}

/// As `kms site list` has it.
fn in_words(kek: &KekName) -> String {
    format!("{}/{} {}", kek.class, kek.purpose, kek.epoch)
}
