//! Who may use which site: identity → site → handshake.
//!
//! Decides before anything is done. A name that is unknown and a name that is forbidden give the same answer
//! by the same path.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use keyhaven_handshake::Site;
use keyhaven_types::Identity;

/// A site with those who may use it.
pub struct ServedSite {
    /// What is offered.
    pub site: Site,
    /// The first of its names, for the log.
    pub label: String,
    /// Names the site and its keys in sealed states.
    pub id: [u8; 32],
    /// Who may use it.
    pub proxies: HashSet<Identity>,
}

/// All sites, by the names that clients ask for.
#[derive(Default)]
pub struct Policy {
    exact: HashMap<String, Arc<ServedSite>>,
    wildcard: HashMap<String, Arc<ServedSite>>,
    default: Option<Arc<ServedSite>>,
    by_id: HashMap<[u8; 32], Arc<ServedSite>>,
}

impl Policy {
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
        self.by_id.insert(site.id, site);
    }

    /// The site that this identity may use under this name. `None`: there is none, or not for this identity.
    pub fn site_for(
        &self,
        identity: &Identity,
        server_name: Option<&str>,
    ) -> Option<Arc<ServedSite>> {
        let named = server_name.and_then(|name| {
            let parent = name.split_once('.').map(|(_, parent)| parent);
            self.exact.get(name).or_else(|| self.wildcard.get(parent?))
        });
        let site = named.or(self.default.as_ref())?;
        site.proxies.contains(identity).then(|| site.clone())
    }

    /// The site with this id, if this identity may still use it.
    pub fn site_by_id(&self, identity: &Identity, id: &[u8; 32]) -> Option<&ServedSite> {
        let site = self.by_id.get(id)?;
        site.proxies.contains(identity).then_some(site)
    }
}
