//! What is told of a site, at its start and when a reload changes it.
//!
//! Values without handles, to be compared. Invariant: nothing here decides anything.

use std::{
    collections::BTreeSet,
    fmt,
    time::{SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::digest;
use keyhaven_handshake::{Authorities, ClientAuth};
use keyhaven_types::CustodyLevel;
use x509_parser::time::ASN1Time;

use crate::{config::SiteConfig, policy::ServedSite};

/// A site, as it is told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SiteFacts {
    /// Its first name.
    pub label: String,
    /// All its names.
    pub names: Vec<String>,
    /// The level for TLS 1.3.
    pub tls13: CustodyLevel,
    /// The level for TLS 1.2.
    pub tls12: CustodyLevel,
    /// The tokens that sign, by their names in the configuration.
    pub signs: Vec<String>,
    /// The token that keeps exchange and schedule; none at `signature`.
    pub exchange: Option<String>,
    /// Its keys' certificates.
    pub keys: Vec<KeyFacts>,
    /// Who may use it.
    pub proxies: BTreeSet<String>,
    /// Protocols, client authentication and what else is negotiated, in words.
    pub ways: String,
}

/// A key's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyFacts {
    /// Its serial number, in hexadecimal.
    pub serial: String,
    /// The end of its validity.
    pub not_after: SystemTime,
    /// What is stapled: none, or when it ends.
    pub staple: Option<Option<SystemTime>>,
}

/// One thing that a reload changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A site that was not served before.
    Added(String),
    /// A site that is served no more.
    Removed(String),
    /// A site is served otherwise than before: what of it, what it was, what it is.
    Changed {
        /// The site.
        site: String,
        /// What of it.
        what: &'static str,
        /// As it was.
        from: String,
        /// As it is.
        to: String,
    },
}

impl SiteFacts {
    /// Gathers them.
    pub fn new(section: &SiteConfig, site: &ServedSite) -> Self {
        let (tls12, tls13) = site.site.levels();
        let first = section.keys.first().map(|key| &key.token);
        let exchange = section.exchange_token.as_ref().or(first);
        let mut signs: Vec<String> = section.keys.iter().map(|key| key.token.clone()).collect();
        signs.dedup();
        let keys = section.keys.iter().map(|key| KeyFacts {
            serial: key.serial.clone(),
            not_after: key.not_after,
            staple: key.ocsp.as_ref().map(|_| key.ocsp_until),
        });
        Self {
            label: site.label.clone(),
            names: section.names.clone(),
            tls13,
            tls12,
            signs,
            exchange: exchange.filter(|_| site.exchange.is_some()).cloned(),
            keys: keys.collect(),
            proxies: section.proxies.iter().map(ToString::to_string).collect(),
            ways: ways(section),
        }
    }

    /// Says that it is ready.
    pub fn log(&self) {
        tracing::info!(
            site = self.label,
            names = ?self.names,
            custody_tls13 = %self.tls13,
            custody_tls12 = %self.tls12,
            signing_tokens = ?self.signs,
            exchange_token = self.exchange,
            certificates = %Shown(&self.keys),
            "site is ready"
        );
    }

    /// What differs, in the order of the new ones.
    pub fn changes(old: &[Self], new: &[Self]) -> Vec<Change> {
        let of = |sites: &'_ [Self], label: &str| sites.iter().position(|site| site.label == label);
        let mut changes = Vec::new();
        for site in new {
            match of(old, &site.label) {
                None => changes.push(Change::Added(site.label.clone())),
                Some(before) => old[before].push_changes(site, &mut changes),
            }
        }
        let gone = old.iter().filter(|site| of(new, &site.label).is_none());
        changes.extend(gone.map(|site| Change::Removed(site.label.clone())));
        changes
    }

    fn push_changes(&self, new: &Self, changes: &mut Vec<Change>) {
        let levels = |site: &Self| format!("TLS 1.3 {}, TLS 1.2 {}", site.tls13, site.tls12);
        let tokens = |site: &Self| {
            let exchange = site.exchange.as_deref().unwrap_or("none");
            format!("signing {}, exchange {exchange}", site.signs.join(", "))
        };
        let proxies = |site: &Self| {
            let proxies: Vec<&str> = site.proxies.iter().map(String::as_str).collect();
            proxies.join(", ")
        };
        for (what, from, to) in [
            ("names", self.names.join(", "), new.names.join(", ")),
            ("levels", levels(self), levels(new)),
            ("tokens", tokens(self), tokens(new)),
            (
                "certificates",
                Shown(&self.keys).to_string(),
                Shown(&new.keys).to_string(),
            ),
            ("proxies", proxies(self), proxies(new)),
            ("ways", self.ways.clone(), new.ways.clone()),
        ] {
            if from != to {
                changes.push(Change::Changed {
                    site: new.label.clone(),
                    what,
                    from,
                    to,
                });
            }
        }
    }
}

impl Change {
    /// Says so.
    pub fn log(&self) {
        match self {
            Self::Added(site) => tracing::info!(site, "site added"),
            Self::Removed(site) => tracing::info!(site, "site removed"),
            Self::Changed {
                site,
                what,
                from,
                to,
            } => tracing::info!(site, what, from, to, "site changed"),
        }
    }
}

/// Certificates as text.
struct Shown<'a>(&'a [KeyFacts]);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, key) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            write!(f, "{} until {}", key.serial, seconds(key.not_after))?;
            match key.staple {
                None => {}
                Some(None) => f.write_str(", stapled")?,
                Some(Some(until)) => write!(f, ", stapled until {}", seconds(until))?,
            }
        }
        Ok(())
    }
}

fn seconds(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = i64::try_from(seconds.as_secs()).unwrap_or(i64::MAX);
    ASN1Time::from_timestamp(seconds).map_or_else(|_| seconds.to_string(), |time| time.to_string())
}

fn ways(section: &SiteConfig) -> String {
    let alpn: Vec<_> = section
        .alpn
        .iter()
        .map(|protocol| String::from_utf8_lossy(protocol))
        .collect();
    let mut ways = format!("protocols {}", alpn.join(", "));
    if section.alpn_required {
        ways.push_str(" (one is required)");
    }
    if section.default {
        ways.push_str("; default site");
    }
    if section.prefer_hybrid {
        ways.push_str("; hybrid first");
    }
    match &section.client_auth {
        ClientAuth::None => {}
        ClientAuth::Optional(by) => ways.push_str(&vouched("optional", by)),
        ClientAuth::Required(by) => ways.push_str(&vouched("required", by)),
    }
    ways
}

/// Enough of a hash to tell one bundle of authorities from another.
fn vouched(mode: &str, by: &Authorities) -> String {
    let mut hash = digest::Context::new(&digest::SHA256);
    by.roots.iter().for_each(|root| hash.update(root));
    by.crls.iter().for_each(|list| hash.update(list));
    let hash = hash.finish();
    let name: String = hash.as_ref()[..4]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!(
        "; client certificates {mode}, CAs {}, revocation lists {} ({name})",
        by.roots.len(),
        by.crls.len()
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn site(label: &str) -> SiteFacts {
        SiteFacts {
            label: label.to_owned(),
            names: vec![label.to_owned()],
            tls13: CustodyLevel::Schedule,
            tls12: CustodyLevel::Schedule,
            signs: vec!["main".to_owned()],
            exchange: Some("keeper".to_owned()),
            keys: vec![KeyFacts {
                serial: "01".to_owned(),
                not_after: UNIX_EPOCH + Duration::from_secs(1_800_000_000),
                staple: None,
            }],
            proxies: BTreeSet::from(["spiffe://a.b/proxy/c".to_owned()]),
            ways: "protocols h2".to_owned(),
        }
    }

    #[test]
    fn a_reload_that_changes_nothing_says_nothing() {
        let sites = [site("a"), site("b")];
        assert_eq!(SiteFacts::changes(&sites, &sites), []);
        let turned = [site("b"), site("a")];
        assert_eq!(SiteFacts::changes(&sites, &turned), []);
    }

    #[test]
    fn each_change_is_told_as_it_was_and_as_it_is() {
        let mut changed = site("a");
        changed.keys[0].serial = "02".to_owned();
        changed.keys[0].staple = Some(None);
        changed.proxies.clear();
        changed.tls13 = CustodyLevel::Master;
        changed.exchange = None;
        changed.names.push("c".to_owned());
        changed.ways.push('!');
        let changes = SiteFacts::changes(&[site("a"), site("b")], &[site("new"), changed]);
        let told = |what| {
            let found = changes.iter().find_map(|change| match change {
                Change::Changed {
                    what: told,
                    from,
                    to,
                    ..
                } if *told == what => Some((from.as_str(), to.as_str())),
                _ => None,
            });
            found.unwrap()
        };
        assert_eq!(changes[0], Change::Added("new".to_owned()));
        assert_eq!(changes.last(), Some(&Change::Removed("b".to_owned())));
        assert_eq!(changes.len(), 8, "{changes:?}");
        assert_eq!(told("names"), ("a", "a, c"));
        assert_eq!(told("levels").1, "TLS 1.3 master, TLS 1.2 schedule");
        assert_eq!(told("tokens").1, "signing main, exchange none");
        assert_eq!(told("proxies"), ("spiffe://a.b/proxy/c", ""));
        assert_eq!(told("ways"), ("protocols h2", "protocols h2!"));
        let (from, to) = told("certificates");
        assert!(from.starts_with("01 until Jan 15 08:00:00 2027"), "{from}");
        assert!(
            to.starts_with("02 until") && to.ends_with(", stapled"),
            "{to}"
        );
    }
}
