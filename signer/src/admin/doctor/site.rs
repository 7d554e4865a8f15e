//! The doctor on one site: its keys in their tokens, its certificates, its names, its level.
//!
//! Looks for each key as the signer will, by URI and public part. Invariant: what would stop the signer is a
//! problem, what would stop only some clients is one too.

use std::collections::HashMap;

use keyhaven_hsm::admin::KeyEntry;
use x509_parser::{certificate::X509Certificate, parse_x509_certificate};

use super::{
    finding::Findings,
    token::{self, Opened},
};
use crate::{
    admin::{cert, text},
    config::{SiteConfig, SiteKeyConfig, covers},
};

/// Examines a site.
pub(super) fn examine(site: &SiteConfig, tokens: &HashMap<&str, Opened>, findings: &mut Findings) {
    let label = site.names.first().map_or("(no name)", String::as_str);
    for key in &site.keys {
        let subject = format!("site {label}, certificate {}", key.certificate.display());
        certificate(site, key, &subject, findings);
        match tokens.get(key.token.as_str()) {
            Some(opened) => {
                // The URI writes the id in its own way; this is how signer-admin key list shows it.
                let id = key.uri.id().map(text::hex);
                let id = id.map_or(String::new(), |id| format!(" (id {id})"));
                let subject = format!("site {label}, key {}{id}", key.uri);
                key_in_token(key, opened, &subject, findings);
                level(site, opened, &format!("site {label}"), findings);
            }
            None => findings.problem(
                &format!("site {label}, key {}", key.uri),
                format!("its token \"{}\" could not be opened", key.token),
                "mend the token first, then run the doctor again",
            ),
        }
    }
}

/// Finds the key as the signer does.
fn key_in_token(key: &SiteKeyConfig, opened: &Opened, subject: &str, findings: &mut Findings) {
    let fits = |entry: &&KeyEntry| {
        key.uri
            .object()
            .is_none_or(|label| label == entry.name.label)
            && key.uri.id().is_none_or(|id| id == entry.name.id)
    };
    let found: Vec<&KeyEntry> = opened.keys.iter().filter(fits).collect();
    match found[..] {
        [] => findings.problem(
            subject,
            format!("token \"{}\" has no such private key", key.token),
            "signer-admin key list shows the keys there are; correct object= or id= in the key's uri",
        ),
        [entry] if entry.spki.as_deref() == Some(&key.spki) => {
            findings.good(subject, "found, and the certificate is its own");
        }
        [entry] if entry.spki.is_none() => findings.warning(
            subject,
            "found, but the token has no public part for it; the signer will prove it by a signature",
            "store its certificate beside it: signer-admin cert import",
        ),
        [entry] => findings.problem(
            subject,
            format!(
                "the certificate in {} is of another key (this one's public key has sha256 {})",
                key.certificate.display(),
                entry.spki.as_deref().map(text::sha256).unwrap_or_default()
            ),
            "name the certificate that was issued for this key, or the key that it was issued for",
        ),
        _ => findings.problem(
            subject,
            format!("{} private keys fit", found.len()),
            "add id= to the key's uri: signer-admin key list shows the ids",
        ),
    }
}

fn level(site: &SiteConfig, opened: &Opened, subject: &str, findings: &mut Findings) {
    let Some(profile) = &opened.profile else {
        return;
    };
    let lowest = profile.tls12.min(profile.tls13);
    if lowest < site.custody_min {
        findings.problem(
            subject,
            format!(
                "custody_min is {}, and the token proves {} for TLS 1.3 and {} for TLS 1.2",
                site.custody_min, profile.tls13, profile.tls12
            ),
            "lower custody_min, or keep the key in a token that proves more: signer-admin custody",
        );
    } else {
        findings.good(subject, format!("custody_min {} is met", site.custody_min));
    }
}

fn certificate(site: &SiteConfig, key: &SiteKeyConfig, subject: &str, findings: &mut Findings) {
    let Some(leaf) = key.chain.first() else {
        return;
    };
    token::expiry(subject, leaf, token::RENEW_SITE, findings);
    let Ok((_, parsed)) = parse_x509_certificate(leaf) else {
        return;
    };
    let covered = cert::names(&parsed);
    let missing: Vec<&str> = site
        .names
        .iter()
        .filter(|name| !covered.iter().any(|pattern| covers(pattern, name)))
        .map(String::as_str)
        .collect();
    if missing.is_empty() {
        findings.good(subject, "names every name of the site");
    } else {
        findings.problem(
            subject,
            format!("it does not name {}; clients will refuse it there", missing.join(", ")),
            "get a certificate with these names: signer-admin key csr --dns, or take the names off the site",
        );
    }
    if let Some(broken) = first_break(&parsed, key) {
        findings.problem(
            subject,
            format!(
                "certificate {} of the chain was not issued by the one after it",
                broken
            ),
            "put the chain in order, leaf first, each followed by its issuer",
        );
    }
    if key.chain.len() == 1 && parsed.issuer().as_raw() != parsed.subject().as_raw() {
        findings.hint(
            subject,
            format!(
                "the chain ends with a certificate whose issuer is not included ({})",
                text::clean(&parsed.issuer().to_string())
            ),
            "add the issuer's certificate behind it, unless that is a root which clients have: browsers often find a missing one, curl does not",
        );
    }
}

/// The place, from 1, of the first certificate that is not followed by its issuer.
fn first_break(leaf: &X509Certificate<'_>, key: &SiteKeyConfig) -> Option<usize> {
    let mut issuer = leaf.issuer().as_raw().to_vec();
    for (index, der) in key.chain.iter().enumerate().skip(1) {
        let Ok((_, next)) = parse_x509_certificate(der) else {
            return Some(index);
        };
        if next.subject().as_raw() != issuer {
            return Some(index);
        }
        issuer = next.issuer().as_raw().to_vec();
    }
    None
}
