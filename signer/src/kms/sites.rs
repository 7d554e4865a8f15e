//! Host names that are served with managed keys: a site is made when a proxy first asks, and again when its keys change.
//!
//! Whether a proxy may use a key is asked anew for each request; what sealed states call a key is in `seals`. Sites are
//! known by their keys and never by what a client asked for, which anybody can make up. Invariant: a name that no key
//! serves and a name whose key the proxy may not use go the same way.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, SystemTime},
};

use aws_lc_rs::digest;
use keyhaven_handshake::{ClientAuth, Clock, Site, SiteKey, SiteSpec, TicketSpec};
use keyhaven_hsm::{Profile, Token, Vault, VaultPurpose};
use keyhaven_kms::intermediate::{HandshakeKey, Intermediate};
use keyhaven_types::{CustodyLevel, Identity, KekId, KeyAlgorithm, KeyId, KeyState, Operation};
use keyhaven_wire::kms::TaskError;
use rustls_pki_types::CertificateDer;
use x509_parser::{prelude::FromDer as _, prelude::X509Certificate};

use super::seals;
use crate::{
    audit::error_chain,
    policy::{ServedKey, ServedSite, spki_hash},
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
    /// How many sites are kept.
    pub(super) sites_max: usize,
}

/// The keys behind a site, by which its use is allowed.
#[derive(Clone)]
pub struct ManagedKeys {
    intermediate: Intermediate,
    keys: Vec<ManagedKey>,
}

/// A managed key, and the hash of its public part.
#[derive(Clone, Debug)]
struct ManagedKey {
    id: KeyId,
    version: u32,
    spki_hash: [u8; 32],
}

impl ManagedKeys {
    /// Whether a proxy may go on with every one of them now: grant, state, lease.
    pub fn may_be_used_by(&self, proxy: &Identity) -> bool {
        let may = |key: &ManagedKey| {
            let operation = Operation::Handshake;
            self.intermediate
                .may_serve(proxy, key.id, key.version, operation)
        };
        self.keys.iter().all(|key| may(key).is_ok())
    }

    /// What sealed states call the one of them with this public part.
    pub(crate) fn seal_id(&self, key_hash: &[u8; 32]) -> Option<[u8; 32]> {
        let key = self.keys.iter().find(|key| key.spki_hash == *key_hash)?;
        Some(seals::name(key.id, key.version))
    }

    /// Notes how long a handshake's first step took in the token, by which lookup ranks sites.
    pub(crate) fn served(&self, elapsed: Duration) {
        self.intermediate.served(Operation::Handshake, elapsed);
    }
}

/// Why a name is not served here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotServed {
    /// No key, or none for this proxy.
    Denied,
    /// There is one that cannot be used here now; another signer may.
    Elsewhere,
    /// The signer is at its limit.
    Busy,
}

/// Sites by what makes them.
pub struct ManagedSites {
    ways: Ways,
    /// Wraps the traffic secrets of every site here, where they stay in the token.
    rekey_vault: Vault,
    made: RwLock<HashMap<Vec<Stamp>, Arc<ServedSite>>>,
}

/// What a site's key was made from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Stamp {
    id: KeyId,
    version: u32,
    /// Under another one the key in the token is another object.
    kek: Option<KekId>,
    chain: [u8; 32],
}

impl ManagedSites {
    pub(super) fn new(ways: Ways) -> Self {
        let vault = Vault::new(&ways.exchange, VaultPurpose::Rekey, ways.rekey_persistent);
        Self {
            ways,
            rekey_vault: vault,
            made: RwLock::default(),
        }
    }

    /// The site of a host name for a proxy. Whoever asks bounds the time: a key may have to be fetched.
    ///
    /// # Errors
    /// [`NotServed`].
    pub async fn site_for(
        &self,
        proxy: &Identity,
        server_name: &str,
    ) -> Result<Arc<ServedSite>, NotServed> {
        let keys = self.ways.intermediate.handshake_keys(proxy, server_name);
        let mut keys = keys.await.map_err(|error| match error {
            TaskError::Denied | TaskError::State | TaskError::Version => NotServed::Denied,
            TaskError::Busy => NotServed::Busy,
            _ => NotServed::Elsewhere,
        })?;
        // The same order at every signer, so that a ticket of one is good at the others.
        keys.sort_by_key(|key| (rank(key.key.algorithm()), key.id));
        let stamps: Vec<Stamp> = keys.iter().map(|key| self.stamp(key)).collect();
        if let Some(site) = self.known(&stamps) {
            return Ok(site);
        }
        match self.make(server_name, keys) {
            Ok(site) => Ok(self.remember(stamps, site)),
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

    /// The keys that a sealed state is opened with, if this proxy may still use the managed key that it names.
    pub fn vault_for(&self, proxy: &Identity, seal: &[u8; 32]) -> Option<&Vault> {
        let (id, version) = seals::read(seal)?;
        let intermediate = &self.ways.intermediate;
        intermediate
            .may_serve(proxy, id, version, Operation::Handshake)
            .ok()?;
        Some(&self.rekey_vault)
    }

    /// Drops every site.
    pub(super) fn forget_all(&self) {
        let mut made = self.made.write().unwrap_or_else(PoisonError::into_inner);
        made.clear();
    }

    /// Drops sites whose keys serve no new handshake any more, and with them the keys' objects in the token.
    pub(super) fn forget_stale(&self) {
        let table = self.ways.intermediate.table();
        let is_current = |stamp: &Stamp| {
            let version = table.version(stamp.id, stamp.version);
            version.is_some_and(|version| {
                let manifest = &version.manifest;
                manifest.state == KeyState::Active && Some(manifest.kek) == stamp.kek
            })
        };
        let all: Vec<Vec<Stamp>> = {
            let made = self.made.read().unwrap_or_else(PoisonError::into_inner);
            made.keys().cloned().collect()
        };
        // Looked up without the lock: a record may have to be read from disk.
        let stale = all.into_iter().filter(|keys| !keys.iter().all(is_current));
        let stale: Vec<_> = stale.collect();
        let mut made = self.made.write().unwrap_or_else(PoisonError::into_inner);
        for keys in stale {
            made.remove(&keys);
        }
    }

    fn stamp(&self, key: &HandshakeKey) -> Stamp {
        let version = self.ways.intermediate.table().version(key.id, key.version);
        let mut chain = digest::Context::new(&digest::SHA256);
        for certificate in &key.chain {
            chain.update(&(certificate.len() as u64).to_be_bytes());
            chain.update(certificate);
        }
        Stamp {
            id: key.id,
            version: key.version,
            kek: version.map(|version| version.manifest.kek),
            chain: bytes_of(chain.finish().as_ref()),
        }
    }

    fn known(&self, stamps: &[Stamp]) -> Option<Arc<ServedSite>> {
        let made = self.made.read().unwrap_or_else(PoisonError::into_inner);
        made.get(stamps).cloned()
    }

    fn remember(&self, stamps: Vec<Stamp>, site: ServedSite) -> Arc<ServedSite> {
        let site = Arc::new(site);
        let mut made = self.made.write().unwrap_or_else(PoisonError::into_inner);
        // A bound, and nothing finer: what is still asked for is made again.
        if made.len() >= self.ways.sites_max {
            made.clear();
        }
        made.insert(stamps, Arc::clone(&site));
        site
    }

    fn make(
        &self,
        server_name: &str,
        keys: Vec<HandshakeKey>,
    ) -> Result<ServedSite, Box<dyn std::error::Error + Send + Sync>> {
        let ways = &self.ways;
        let managed: Vec<ManagedKey> = keys.iter().map(managed).collect();
        let label = keys.first().and_then(|key| key.server_names.first());
        let label = label.map_or(server_name, String::as_str).to_owned();
        let (mut site_keys, mut served) = (Vec::new(), Vec::new());
        for key in keys {
            let (serial, not_after) = facts(&key)?;
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
        let id = site_id(&managed);
        let site = Site::new(SiteSpec {
            keys: site_keys,
            alpn: ways.alpn.clone(),
            alpn_required: false,
            custody_min: ways.custody_min,
            custody_max: ways.custody_max,
            exchange: ways.exchange.clone(),
            profile: ways.profile.clone(),
            id,
            tickets: ways.tickets.clone(),
            client_auth: ClientAuth::None,
            prefer_hybrid: false,
            rekey_persistent: ways.rekey_persistent,
            clock: Clock::default(),
        })?;
        let (tls12, tls13) = site.levels();
        let level = tls12.max(tls13);
        tracing::info!(
            site = label,
            keys = ?managed.iter().map(|key| (key.id, key.version)).collect::<Vec<_>>(),
            custody = %level,
            "a host name is served with managed keys"
        );
        Ok(ServedSite {
            site,
            label,
            id,
            proxies: HashSet::new(),
            keys: served,
            exchange: (level >= CustodyLevel::Premaster).then(|| ways.exchange.clone()),
            managed: Some(ManagedKeys {
                intermediate: ways.intermediate.clone(),
                keys: managed,
            }),
        })
    }
}

fn managed(key: &HandshakeKey) -> ManagedKey {
    ManagedKey {
        id: key.id,
        version: key.version,
        spki_hash: spki_hash(&key.key),
    }
}

/// What costs a token less goes first, for the clients that verify everything.
fn rank(algorithm: KeyAlgorithm) -> u16 {
    match algorithm {
        KeyAlgorithm::EcdsaP256 => 0,
        KeyAlgorithm::EcdsaP384 => 1,
        KeyAlgorithm::Ed25519 => 2,
        KeyAlgorithm::Rsa(bits) => bits,
    }
}

/// Serial number and end of validity of the leaf, which must be the key's own.
fn facts(
    key: &HandshakeKey,
) -> Result<(String, SystemTime), Box<dyn std::error::Error + Send + Sync>> {
    let leaf = key.chain.first().ok_or("the key has no certificate")?;
    let (_, leaf) =
        X509Certificate::from_der(leaf).map_err(|_| "its certificate cannot be read")?;
    if leaf.public_key().raw != key.key.spki() {
        return Err("its certificate is another key's".into());
    }
    let end = u64::try_from(leaf.validity().not_after.timestamp()).unwrap_or(0);
    let not_after = SystemTime::UNIX_EPOCH + Duration::from_secs(end);
    Ok((leaf.raw_serial_as_string(), not_after))
}

/// Apart from those of sites in the file. Names the versions, so that a ticket ends with them, also where the same key
/// was brought in again as another one (behaviour S9).
fn site_id(keys: &[ManagedKey]) -> [u8; 32] {
    let mut text = digest::Context::new(&digest::SHA256);
    text.update(b"keyhaven managed site\0");
    for key in keys {
        text.update(&key.id.0);
        text.update(&key.version.to_be_bytes());
    }
    bytes_of(text.finish().as_ref())
}

fn bytes_of(digest: &[u8]) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: u8, version: u32) -> ManagedKey {
        ManagedKey {
            id: KeyId([id; 16]),
            version,
            spki_hash: [9; 32],
        }
    }

    #[test]
    fn s9_a_site_is_another_one_with_another_key_or_version() {
        let first = site_id(&[key(1, 1)]);
        assert_eq!(first, site_id(&[key(1, 1)]));
        for other in [
            vec![key(1, 2)],
            vec![key(2, 1)],
            vec![key(1, 1), key(2, 1)],
            vec![],
        ] {
            assert_ne!(first, site_id(&other), "{other:?}");
        }
    }

    #[test]
    fn what_costs_less_goes_first() {
        let mut all = [
            KeyAlgorithm::Rsa(2048),
            KeyAlgorithm::Ed25519,
            KeyAlgorithm::EcdsaP256,
        ];
        all.sort_by_key(|algorithm| rank(*algorithm));
        assert_eq!(all[0], KeyAlgorithm::EcdsaP256);
        assert_eq!(all[2], KeyAlgorithm::Rsa(2048));
    }
}
