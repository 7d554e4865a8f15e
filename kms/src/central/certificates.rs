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
        draft
            .warnings
            .extend(warn_of_names(&next.server_names, chain));
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
    let mut names = all_names_of(chain);
    names.truncate(keyhaven_wire::kms::SERVER_NAMES_MAX);
    names
}

fn all_names_of(chain: &[Vec<u8>]) -> Vec<String> {
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
                .collect(),
        )
    });
    names.unwrap_or_default()
}

/// What to say of a handshake key without host names, if it has none.
pub(super) fn unnamed(names: &[String]) -> Option<String> {
    names.is_empty().then(|| {
        "the key has no host name, so no handshake finds it: `kms key chain` gives it those of its first certificate, or \
         make it anew with --server-name"
            .to_owned()
    })
}

/// What clients will not like about a certificate, or why none will come, if so.
pub(super) fn warn_of_names(names: &[String], chain: &[Vec<u8>]) -> Option<String> {
    if names.is_empty() {
        return Some(
            "neither the key nor its certificate has a host name, so no handshake finds it: bring a certificate with names"
                .to_owned(),
        );
    }
    let covered = all_names_of(chain);
    let missing: Vec<&str> = names
        .iter()
        .filter(|name| !covered.iter().any(|pattern| covers(pattern, name)))
        .map(String::as_str)
        .collect();
    (!missing.is_empty()).then(|| {
        format!(
            "the certificate does not name {}: clients will refuse it there; bring one with these names by `kms key chain`",
            missing.join(", ")
        )
    })
}

/// A wildcard is one whole label (RFC 6125, section 6.4.3).
fn covers(has: &str, wanted: &str) -> bool {
    let parent = wanted.split_once('.').map(|(_, parent)| parent);
    has == wanted
        || has
            .strip_prefix("*.")
            .is_some_and(|domain| Some(domain) == parent)
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

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    #[test]
    fn names_that_a_certificate_lacks_are_told() {
        let key = KeyPair::generate().unwrap();
        let chain = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            let params = CertificateParams::new(names).unwrap();
            vec![params.self_signed(&key).unwrap().der().to_vec()]
        };
        let warn = |names: &[&str], certified: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            warn_of_names(&names, &chain(certified))
        };
        assert_eq!(warn(&["a.example"], &["a.example", "b.example"]), None);
        assert_eq!(
            warn(&["a.x.example", "*.x.example"], &["*.X.example"]),
            None
        );
        let told = warn(&["a.example", "b.example", "c.b.example"], &["*.b.example"]);
        let told = told.unwrap();
        assert!(
            told.contains("does not name a.example, b.example:"),
            "{told}"
        );
        assert!(warn(&[], &[]).unwrap().contains("no handshake finds it"));
        assert!(unnamed(&[]).is_some() && unnamed(&["a.example".to_owned()]).is_none());
    }

    #[test]
    fn a_certificate_may_name_more_than_a_key_can_have() {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = (0..=keyhaven_wire::kms::SERVER_NAMES_MAX)
            .map(|n| format!("n{n}.example"))
            .collect();
        let last = names.last().unwrap().clone();
        let params = CertificateParams::new(names).unwrap();
        let chain = [params.self_signed(&key).unwrap().der().to_vec()];
        assert_eq!(names_of(&chain).len(), keyhaven_wire::kms::SERVER_NAMES_MAX);
        assert_eq!(warn_of_names(&[last], &chain), None);
    }
}
