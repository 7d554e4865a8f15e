//! Host names that are served with managed keys: a site is made when a proxy first asks, and again when its keys change.
//!
//! Whether a proxy may use a key is asked anew for each request. Invariant: a name that no key serves and a name whose key
//! the proxy may not use go the same way.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, SystemTime},
};

use aws_lc_rs::digest;
use keyhaven_handshake::{ClientAuth, Clock, Site, SiteKey, SiteSpec, TicketSpec};
use keyhaven_hsm::{Profile, Token};
use keyhaven_kms::intermediate::{HandshakeKey, Intermediate};
use keyhaven_types::{CustodyLevel, Identity, KeyId, Operation};
use keyhaven_wire::kms::TaskError;
use rustls_pki_types::CertificateDer;
use x509_parser::{prelude::FromDer as _, prelude::X509Certificate};

use crate::{
    audit::error_chain,
    policy::{ServedKey, ServedSite, seal_id, spki_hash},
};

/// How managed keys are served.
pub(super) struct Ways {
    pub(super) intermediate: Intermediate,
    pub(super) alpn: Vec<Vec<u8>>,
    pub(super) custody_min: CustodyLevel,
    pub(super) custody_max: CustodyLevel,
    pub(super) exchange: Token,
    pub(super) profile: Profile,
    pub(super) tickets: Option<TicketSpec>,
    pub(super) rekey_persistent: bool,
}

/// The keys behind a site, by which its use is allowed.
#[derive(Clone)]
pub struct ManagedKeys {
    intermediate: Intermediate,
    keys: Vec<(KeyId, u32)>,
}

impl ManagedKeys {
    /// Whether a proxy may go on with every one of them now: grant, state, lease.
    pub fn may_be_used_by(&self, proxy: &Identity) -> bool {
        self.keys.iter().all(|(id, version)| {
            let allowed = self
                .intermediate
                .may_serve(proxy, *id, *version, Operation::Handshake);
            allowed.is_ok()
        })
    }
}

/// Why a name is not served here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotServed {
    /// No key, or none for this proxy.
    Denied,
    /// There is one that cannot be used here now; another signer may.
    Elsewhere,
}

/// Sites by what makes them.
pub struct ManagedSites {
    ways: Ways,
    made: RwLock<Made>,
}

#[derive(Default)]
struct Made {
    by_name: HashMap<String, (Vec<Stamp>, Arc<ServedSite>)>,
    /// By what sealed states call a site and the key of their connection. Shared, so that a rekey can hold on to it.
    by_seal: Arc<HashMap<[u8; 32], Arc<ServedSite>>>,
}

/// What a site's key was made from.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    id: KeyId,
    version: u32,
    leaf: Vec<u8>,
}

impl ManagedSites {
    pub(super) fn new(ways: Ways) -> Self {
        Self {
            ways,
            made: RwLock::default(),
        }
    }

    /// The site of a host name for a proxy.
    ///
    /// # Errors
    /// [`NotServed`].
    pub async fn site_for(
        &self,
        proxy: &Identity,
        server_name: &str,
    ) -> Result<Arc<ServedSite>, NotServed> {
        let keys = self.ways.intermediate.handshake_keys(proxy, server_name);
        let keys = keys.await.map_err(|error| match error {
            TaskError::Denied | TaskError::State | TaskError::Version => NotServed::Denied,
            _ => NotServed::Elsewhere,
        })?;
        let stamps: Vec<Stamp> = keys.iter().map(stamp).collect();
        if let Some(site) = self.known(server_name, &stamps) {
            return Ok(site);
        }
        match self.make(server_name, keys) {
            Ok(site) => Ok(self.remember(server_name, stamps, site)),
            Err(error) => {
                tracing::error!(
                    server_name,
                    error = error_chain(&*error),
                    "a managed key cannot be served"
                );
                Err(NotServed::Elsewhere)
            }
        }
    }

    /// Every site that a sealed state may belong to.
    pub fn by_seal(&self) -> Arc<HashMap<[u8; 32], Arc<ServedSite>>> {
        let made = self.made.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&made.by_seal)
    }

    fn known(&self, server_name: &str, stamps: &[Stamp]) -> Option<Arc<ServedSite>> {
        let made = self.made.read().unwrap_or_else(PoisonError::into_inner);
        let (known, site) = made.by_name.get(server_name)?;
        (known == stamps).then(|| Arc::clone(site))
    }

    fn remember(&self, server_name: &str, stamps: Vec<Stamp>, site: ServedSite) -> Arc<ServedSite> {
        let site = Arc::new(site);
        let mut made = self.made.write().unwrap_or_else(PoisonError::into_inner);
        // A bound, and nothing finer: what is still asked for is made again.
        if made.by_name.len() >= NAMES_MAX {
            made.by_name.clear();
        }
        let mut by_seal = HashMap::clone(&made.by_seal);
        if by_seal.len() >= SEALS_MAX {
            by_seal.clear();
        }
        for key in &site.keys {
            by_seal.insert(seal_id(&site.id, &spki_hash(&key.key)), Arc::clone(&site));
        }
        made.by_seal = Arc::new(by_seal);
        made.by_name
            .insert(server_name.to_owned(), (stamps, Arc::clone(&site)));
        site
    }

    fn make(
        &self,
        server_name: &str,
        keys: Vec<HandshakeKey>,
    ) -> Result<ServedSite, Box<dyn std::error::Error + Send + Sync>> {
        let ways = &self.ways;
        let bound = keys.iter().map(|key| key.bound).min();
        let managed = ManagedKeys {
            intermediate: ways.intermediate.clone(),
            keys: keys.iter().map(|key| (key.id, key.version)).collect(),
        };
        let (mut site_keys, mut served) = (Vec::new(), Vec::new());
        for key in keys {
            let (serial, not_after) = facts(&key.chain)?;
            served.push(ServedKey {
                key: key.key.clone(),
                serial,
                not_after,
            });
            let chain = key.chain.into_iter().map(CertificateDer::from);
            site_keys.push(SiteKey {
                key: key.key,
                chain: chain.collect(),
                ocsp: None,
                custody_min: ways.custody_min,
                not_after,
            });
        }
        let id = site_id(server_name);
        // A session must not be resumed by a lease that a full handshake could not have.
        let tickets = ways.tickets.clone().map(|spec| TicketSpec {
            lifetime: spec.lifetime.min(bound.unwrap_or(Duration::MAX)),
            ..spec
        });
        let site = Site::new(SiteSpec {
            keys: site_keys,
            alpn: ways.alpn.clone(),
            alpn_required: false,
            custody_min: ways.custody_min,
            custody_max: ways.custody_max,
            exchange: ways.exchange.clone(),
            profile: ways.profile.clone(),
            id,
            tickets,
            client_auth: ClientAuth::None,
            prefer_hybrid: false,
            rekey_persistent: ways.rekey_persistent,
            clock: Clock::default(),
        })?;
        let (tls12, tls13) = site.levels();
        let level = tls12.max(tls13);
        tracing::info!(
            server_name,
            keys = ?managed.keys,
            custody = %level,
            "a host name is served with managed keys"
        );
        Ok(ServedSite {
            site,
            label: server_name.to_owned(),
            id,
            proxies: HashSet::new(),
            keys: served,
            exchange: (level >= CustodyLevel::Premaster).then(|| ways.exchange.clone()),
            managed: Some(managed),
        })
    }
}

fn stamp(key: &HandshakeKey) -> Stamp {
    Stamp {
        id: key.id,
        version: key.version,
        leaf: key.chain.first().cloned().unwrap_or_default(),
    }
}

/// Serial number and end of validity of the leaf.
fn facts(
    chain: &[Vec<u8>],
) -> Result<(String, SystemTime), Box<dyn std::error::Error + Send + Sync>> {
    let leaf = chain.first().ok_or("the key has no certificate")?;
    let (_, leaf) =
        X509Certificate::from_der(leaf).map_err(|_| "its certificate cannot be read")?;
    let end = u64::try_from(leaf.validity().not_after.timestamp()).unwrap_or(0);
    let not_after = SystemTime::UNIX_EPOCH + Duration::from_secs(end);
    Ok((leaf.raw_serial_as_string(), not_after))
}

/// Apart from those of sites in the file.
fn site_id(server_name: &str) -> [u8; 32] {
    let text = [b"keyhaven managed site\0", server_name.as_bytes()].concat();
    let mut id = [0; 32];
    id.copy_from_slice(digest::digest(&digest::SHA256, &text).as_ref());
    id
}

/// Host names whose sites are kept.
const NAMES_MAX: usize = 4096;
/// Sites that connections may still ask next keys for.
const SEALS_MAX: usize = 16_384;
