//! Managed keys that are unwrapped in the token, as many as may be.
//!
//! Who may use them is not known here. Invariant: a key is unwrapped once for all who want it at the same time, and one that
//! is given out was unwrapped from the wrap that its record binds now.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use keyhaven_hsm::{
    Error, Workers,
    managed::{ManagedKey, PublicPart, SiteToken, Spec},
};
use keyhaven_types::{KeyId, KeyState};
use keyhaven_wire::kms::Public;
use tokio::sync::OnceCell;

use super::{ages::Ages, version::Version};

pub(super) struct Keys {
    token: SiteToken,
    workers: Workers,
    kept: Mutex<Ages<(KeyId, u32), Slot>>,
}

/// A key, or one that is being unwrapped.
struct Slot {
    /// SHA-256 of the wrap.
    wrap: [u8; 32],
    key: Arc<OnceCell<ManagedKey>>,
}

impl Keys {
    pub(super) fn new(token: SiteToken, workers: Workers, unwrapped_max: usize) -> Self {
        Self {
            token,
            workers,
            kept: Mutex::new(Ages::new(unwrapped_max)),
        }
    }

    pub(super) fn token(&self) -> &SiteToken {
        &self.token
    }

    pub(super) fn workers(&self) -> &Workers {
        &self.workers
    }

    /// The key of a version whose wrap is here.
    ///
    /// # Errors
    /// Of the token, and of the wrap.
    pub(super) async fn get(
        &self,
        version: &Arc<Version>,
        deadline: Instant,
    ) -> Result<ManagedKey, Error> {
        let manifest = &version.manifest;
        let at = (manifest.id, manifest.version);
        let slot = {
            let mut kept = self.lock();
            match kept.get(&at) {
                Some(slot) if slot.wrap == manifest.site_wrap => Arc::clone(&slot.key),
                _ => {
                    let key = Arc::default();
                    kept.insert(
                        at,
                        Slot {
                            wrap: manifest.site_wrap,
                            key: Arc::clone(&key),
                        },
                    );
                    key
                }
            }
        };
        let key = slot
            .get_or_try_init(|| self.unwrap(Arc::clone(version), deadline))
            .await?;
        Ok(key.clone())
    }

    async fn unwrap(&self, version: Arc<Version>, deadline: Instant) -> Result<ManagedKey, Error> {
        let token = self.token.clone();
        let unwrap = move |worker: &keyhaven_hsm::Worker| {
            let manifest = &version.manifest;
            let spec = Spec {
                id: manifest.id,
                version: manifest.version,
                kind: manifest.kind,
                purpose: manifest.purpose,
            };
            let public = match &manifest.public {
                Public::Spki(spki) => PublicPart::Spki(spki.clone()),
                Public::Kcv(kcv) => PublicPart::Kcv(*kcv),
            };
            token.unwrap(worker, &spec, &public, manifest.kek, &version.wrap)
        };
        self.workers.run(deadline, unwrap).await?
    }

    pub(super) fn has(&self, id: KeyId, version: u32) -> bool {
        self.lock().get(&(id, version)).is_some()
    }

    /// Drops what may not be used as it was unwrapped: the version is over, or is wrapped anew.
    pub(super) fn changed(&self, version: &Version) {
        let manifest = &version.manifest;
        self.lock().retain(|at, slot| {
            *at != (manifest.id, manifest.version)
                || (manifest.state < KeyState::Revoked && slot.wrap == manifest.site_wrap)
        });
    }

    pub(super) fn clear(&self) {
        self.lock().clear();
    }

    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, Ages<(KeyId, u32), Slot>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
