//! Certificates of handshake keys: requests for them, and which version one belongs to.
//!
//! Whether a client would trust one is not asked here. Invariant: a version has a chain whose first certificate is for its
//! public part.

use keyhaven_types::{KeyState, Purpose};
use keyhaven_wire::kms::{KeyRef, Manifest, Public, Record, admin::RefusedCode, chain_digest};
use x509_parser::{extensions::GeneralName, prelude::FromDer as _, prelude::X509Certificate};

use super::{
    Mirror, Step, Work,
    keys::host_claims,
    plan::{Draft, Planned, refuse},
};

impl Mirror {
    pub(super) fn plan_csr(&self, key: &KeyRef) -> Planned {
        let key = self.known(key)?;
        if key.purpose != Purpose::Handshake {
            return refuse(
                RefusedCode::Rule,
                "central signs requests for handshake keys alone",
            );
        }
        let newest = self
            .versions(key.id)
            .into_iter()
            .rev()
            .find(|(manifest, _)| manifest.state <= KeyState::Active);
        let Some((manifest, entry)) = newest else {
            return refuse(RefusedCode::Rule, "no version of the key is in use");
        };
        let root_wrap = entry.parts.as_ref().map(|parts| parts.root_wrap.clone());
        Ok(Step::Work(Work::Csr {
            manifest: Box::new(manifest.clone()),
            root_wrap: root_wrap.unwrap_or_default(),
            names: key.server_names.clone(),
        }))
    }

    pub(super) fn plan_chain(
        &self,
        key: &KeyRef,
        version: Option<u32>,
        chain: &[Vec<u8>],
    ) -> Planned {
        let key = self.known(key)?.clone();
        if key.purpose != Purpose::Handshake {
            return refuse(RefusedCode::Rule, "only a handshake key has certificates");
        }
        let versions = self.versions(key.id);
        let wanted = versions
            .into_iter()
            .rev()
            .find(|(manifest, _)| match version {
                Some(version) => manifest.version == version,
                None => fits(chain, &manifest.public),
            });
        let Some((manifest, entry)) = wanted else {
            return refuse(
                RefusedCode::Rule,
                "the first certificate is for none of the key's versions; was it made from `kms key csr`?",
            );
        };
        check_chain(chain, &manifest.public)?;
        if manifest.state > KeyState::Active {
            return refuse(
                RefusedCode::Rule,
                format!("version {} is {}", manifest.version, manifest.state),
            );
        }
        let mut draft = Draft {
            about: Some((key.id, manifest.version)),
            ..Draft::default()
        };
        let mut next = key.clone();
        if next.server_names.is_empty() {
            next.server_names = names_of(chain);
        }
        self.check_hosts(&next.server_names, Some(key.id))?;
        draft.claims = host_claims(&next.server_names, key.id);
        let mut certified = Manifest {
            chain: chain_digest(chain),
            ..manifest.clone()
        };
        if manifest.state == KeyState::Pending {
            certified.state = KeyState::Active;
            next.current = Some(manifest.version);
            if key.current != next.current {
                self.deactivate_current(&key, &mut draft);
            }
        }
        let mut parts = entry.parts.clone().unwrap_or_default();
        parts.chain = chain.to_vec();
        draft.write(self, Record::Version(certified), Some(parts));
        draft.write(self, Record::Key(next), None);
        Ok(Step::Write(draft))
    }
}

fn fits(chain: &[Vec<u8>], public: &Public) -> bool {
    let Public::Spki(spki) = public else {
        return false;
    };
    let leaf = chain
        .first()
        .and_then(|der| X509Certificate::from_der(der).ok());
    leaf.is_some_and(|(rest, leaf)| rest.is_empty() && leaf.public_key().raw == spki.as_slice())
}

pub(super) fn check_chain(chain: &[Vec<u8>], public: &Public) -> Planned<()> {
    if chain.is_empty() {
        return Ok(());
    }
    for der in chain {
        if !X509Certificate::from_der(der).is_ok_and(|(rest, _)| rest.is_empty()) {
            return refuse(
                RefusedCode::Rule,
                "the chain holds something that is no certificate",
            );
        }
    }
    if !fits(chain, public) {
        return refuse(
            RefusedCode::Rule,
            "the first certificate is for another key than this version",
        );
    }
    for pair in chain.windows(2) {
        let issuer = |der: &[u8]| {
            let (_, certificate) = X509Certificate::from_der(der).ok()?;
            Some((
                certificate.issuer().as_raw().to_vec(),
                certificate.subject().as_raw().to_vec(),
            ))
        };
        let (Some((wanted, _)), Some((_, subject))) = (issuer(&pair[0]), issuer(&pair[1])) else {
            return refuse(RefusedCode::Rule, "the chain cannot be read");
        };
        if wanted != subject {
            return refuse(
                RefusedCode::Rule,
                "the chain is out of order: each certificate must have been issued by the next one",
            );
        }
    }
    Ok(())
}

/// Host names of the first certificate.
pub(super) fn names_of(chain: &[Vec<u8>]) -> Vec<String> {
    let leaf = chain
        .first()
        .and_then(|der| X509Certificate::from_der(der).ok());
    let names = leaf.and_then(|(_, leaf)| {
        let names = leaf.subject_alternative_name().ok()??;
        let names = names.value.general_names.iter();
        Some(
            names
                .filter_map(|name| match name {
                    GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
                    _ => None,
                })
                .filter(|name| is_host_name(name))
                .take(keyhaven_wire::kms::SERVER_NAMES_MAX)
                .collect(),
        )
    });
    names.unwrap_or_default()
}

/// A host name in lower case (RFC 1123), or a wildcard for one label.
pub(super) fn is_host_name(name: &str) -> bool {
    let name = name.strip_prefix("*.").unwrap_or(name);
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-' || c == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(is_label)
}
