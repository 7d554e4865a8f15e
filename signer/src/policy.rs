//! Who may use which site: identity → site → handshake.
//!
//! Decides before anything is done. What is decided by can be replaced as a whole while the signer serves. One
//! invariant: a name that is unknown and a name that is forbidden give the same answer by the same path.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, PoisonError, RwLock},
    time::SystemTime,
};

use aws_lc_rs::digest;
use keyhaven_handshake::Site;
use keyhaven_hsm::{PrivateKey, Profile, Token};
use keyhaven_types::Identity;

use crate::kms::ManagedKeys;

/// A site with those who may use it.
pub struct ServedSite {
    /// What is offered.
    pub site: Site,
    /// The first of its names, for the log.
    pub label: String,
    /// Names the site in tickets, whichever keys it has.
    pub id: [u8; 32],
    /// Who may use it.
    pub proxies: HashSet<Identity>,
    /// Its keys.
    pub keys: Vec<ServedKey>,
    /// The token that keeps exchange and schedule, if the level asks for one.
    pub exchange: Option<Token>,
    /// With managed keys, their grants decide who may use it, and not `proxies`.
    pub managed: Option<ManagedKeys>,
}

impl ServedSite {
    /// What sealed states call this site and its key with this public part.
    pub(crate) fn seal_id(&self, key_hash: &[u8; 32]) -> [u8; 32] {
        let managed = self.managed.as_ref();
        managed
            .and_then(|keys| keys.seal_id(key_hash))
            .unwrap_or_else(|| seal_id(&self.id, key_hash))
    }

    /// The site's name in counts. Managed keys have one together: nobody bounds how many they are.
    pub(crate) fn counted_as(&self) -> &str {
        match self.managed {
            Some(_) => "managed keys",
            None => &self.label,
        }
    }
}

/// A key of a site, as far as it is asked after beside handshakes.
pub struct ServedKey {
    /// The key.
    pub key: PrivateKey,
    /// The serial number of its certificate, in hexadecimal.
    pub serial: String,
    /// The end of its certificate's validity.
    pub not_after: SystemTime,
}

/// An open token.
pub struct ServedToken {
    /// Its name in the configuration.
    pub name: String,
    /// The token.
    pub token: Token,
    /// What it has proven.
    pub profile: Profile,
}

/// What the signer serves by, replaced as a whole. Clones are the same.
#[derive(Clone, Default)]
pub struct Shared(Arc<RwLock<Arc<Policy>>>);

impl Shared {
    /// Begins with a policy.
    pub fn new(policy: Policy) -> Self {
        let shared = Self::default();
        shared.replace(policy);
        shared
    }

    /// The policy of now. Whoever holds on to it goes on by it.
    pub fn current(&self) -> Arc<Policy> {
        let current = self.0.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&current)
    }

    /// Puts another one in its place; gives the old one.
    pub fn replace(&self, policy: Policy) -> Arc<Policy> {
        let mut current = self.0.write().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *current, Arc::new(policy))
    }
}

/// All sites, by the names that clients ask for.
#[derive(Default)]
pub struct Policy {
    exact: HashMap<String, Arc<ServedSite>>,
    wildcard: HashMap<String, Arc<ServedSite>>,
    default: Option<Arc<ServedSite>>,
    all: Vec<Arc<ServedSite>>,
    /// By what sealed states call a site and the key of their connection.
    by_seal: HashMap<[u8; 32], Arc<ServedSite>>,
    tokens: Vec<ServedToken>,
}

impl Policy {
    /// A policy with no site yet.
    pub fn new(tokens: Vec<ServedToken>) -> Self {
        Self {
            tokens,
            ..Self::default()
        }
    }

    /// The open tokens.
    pub fn tokens(&self) -> &[ServedToken] {
        &self.tokens
    }

    /// The sites, in no order.
    pub fn sites(&self) -> impl Iterator<Item = &ServedSite> {
        self.all.iter().map(Arc::as_ref)
    }

    /// Adds a site under its names.
    pub fn add(&mut self, site: ServedSite, names: &[String], default: bool) {
        let site = Arc::new(site);
        for name in names {
            match name.strip_prefix("*.") {
                Some(parent) => self.wildcard.insert(parent.to_owned(), site.clone()),
                None => self.exact.insert(name.clone(), site.clone()),
            };
        }
        if default {
            self.default = Some(site.clone());
        }
        for key in &site.keys {
            let seal = seal_id(&site.id, &spki_hash(&key.key));
            self.by_seal.insert(seal, site.clone());
        }
        self.all.push(site);
    }

    /// The site that this identity may use under this name. `None`: there is none, or not for this identity.
    pub fn site_for(
        &self,
        identity: &Identity,
        server_name: Option<&str>,
    ) -> Option<Arc<ServedSite>> {
        let named = server_name.and_then(|name| self.named(name));
        let site = named.or(self.default.as_ref())?;
        site.proxies.contains(identity).then(|| site.clone())
    }

    /// Whether a site has this name, whoever may use it. The default one has only its own.
    pub fn has_name(&self, server_name: &str) -> bool {
        self.named(server_name).is_some()
    }

    fn named(&self, name: &str) -> Option<&Arc<ServedSite>> {
        let parent = name.split_once('.').map(|(_, parent)| parent);
        self.exact.get(name).or_else(|| self.wildcard.get(parent?))
    }

    /// The site of a sealed state, if it still has the state's key and this identity may still use it (security rule
    /// T3).
    pub fn site_by_seal(&self, identity: &Identity, id: &[u8; 32]) -> Option<&ServedSite> {
        let site = self.by_seal.get(id)?;
        site.proxies.contains(identity).then_some(site)
    }
}

/// What sealed states call a site and the key, by the hash of its public part, that authenticated their connection.
pub(crate) fn seal_id(site: &[u8; 32], key_hash: &[u8; 32]) -> [u8; 32] {
    let mut id = [0; 32];
    let text = [&b"keyhaven site and key\0"[..], site, key_hash].concat();
    id.copy_from_slice(digest::digest(&digest::SHA256, &text).as_ref());
    id
}

pub(crate) fn spki_hash(key: &PrivateKey) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, key.spki()).as_ref());
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seal_names_site_and_key() {
        let ids: HashSet<_> = [([1; 32], [2; 32]), ([1; 32], [3; 32]), ([2; 32], [1; 32])]
            .iter()
            .map(|(site, key)| seal_id(site, key))
            .collect();
        assert_eq!(ids.len(), 3);
        assert_eq!(seal_id(&[1; 32], &[2; 32]), seal_id(&[1; 32], &[2; 32]));
    }
}
