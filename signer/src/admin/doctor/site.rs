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
    admin::{
        cert,
        served::{Served, serve},
        text,
    },
    config::{SiteConfig, SiteKeyConfig, covers},
};

/// Examines a site; what it would be served at.
pub(super) fn examine(
    site: &SiteConfig,
    tokens: &HashMap<&str, Opened>,
    findings: &mut Findings,
) -> Option<Served> {
    let label = site.names.first().map_or("(no name)", String::as_str);
    let mut all_found = true;
    for key in &site.keys {
        let subject = format!("site {label}, certificate {}", key.certificate.display());
        certificate(site, key, &subject, findings);
        match tokens.get(key.token.as_str()) {
            Some(opened) => {
                // The URI writes the id in its own way; this is how signer-admin key list shows it.
                let id = key.uri.id().map(text::hex);
                let id = id.map_or(String::new(), |id| format!(" (id {id})"));
                let subject = format!("site {label}, key {}{id}", key.uri);
                all_found &= key_in_token(key, opened, &subject, findings);
            }
            None => {
                all_found = false;
                findings.problem(
                    &format!("site {label}, key {}", key.uri),
                    format!("its token \"{}\" could not be opened", key.token),
                    "mend the token first, then run the doctor again",
                );
            }
        }
    }
    // What is wrong with a key was said; the site's levels would only say it again.
    all_found
        .then(|| level(site, tokens, &format!("site {label}"), findings))
        .flatten()
}

/// Finds the key as the signer does; false when it cannot be the certificate's.
fn key_in_token(
    key: &SiteKeyConfig,
    opened: &Opened,
    subject: &str,
    findings: &mut Findings,
) -> bool {
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
    matches!(found[..], [entry] if entry.spki.as_ref().is_none_or(|spki| *spki == key.spki))
}

/// What the signer would make of the site: its levels, and what each key is good for.
fn level(
    site: &SiteConfig,
    tokens: &HashMap<&str, Opened>,
    subject: &str,
    findings: &mut Findings,
) -> Option<Served> {
    let open = |name: &str| {
        let (token, profile) = tokens.get(name)?.proven.as_ref()?;
        Some((token, profile))
    };
    let served = match serve(site, open) {
        Ok(served) => served,
        Err(failure) => {
            findings.failure(subject, failure);
            return None;
        }
    };
    let versions = [("TLS 1.3", served.tls13), ("TLS 1.2", served.tls12)];
    let told = versions.map(|(version, level)| match level {
        Some(level) => format!("{version} at {level}"),
        None => format!("{version} not offered"),
    });
    findings.good(subject, format!("it is served: {}", told.join(", ")));
    for (version, level) in versions {
        if level.is_none() {
            findings.hint(
                subject,
                format!(
                    "{version} is not offered: custody_min is {}, or no suite of it fits the keys",
                    site.custody_min
                ),
                "leave it so if no client needs it; else lower custody_min or name another exchange_token",
            );
        }
        for key in &site.keys {
            if level.is_some_and(|level| level < key.custody_min) {
                findings.hint(
                    &format!("{subject}, key {}", key.uri),
                    format!(
                        "it is not used in {version}: its custody_min is {}",
                        key.custody_min
                    ),
                    "leave it so if that is meant; clients of this version need another key",
                );
            }
        }
    }
    Some(served)
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
