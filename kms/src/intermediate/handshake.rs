//! Keys for what the signer does itself: TLS handshakes, and tickets.
//!
//! The handshakes are the signer's business; here is decided which keys it may use for them. Invariant: as for operations, a
//! key is given out only if it could be used both before and after it was unwrapped.

use std::{sync::Arc, time::Instant};

use keyhaven_types::{Identity, KeyId, Name, Operation};
use keyhaven_wire::kms::{KeyRef, TaskError};

use super::{
    HandshakeKey, Inner,
    serve::{TOKEN_TIMEOUT, User},
    work,
};

impl Inner {
    /// Keys for a host name; see [`super::Intermediate::handshake_keys`].
    pub(super) async fn for_handshakes(
        self: &Arc<Self>,
        proxy: &Identity,
        server_name: &str,
    ) -> Result<Vec<HandshakeKey>, TaskError> {
        const OPERATION: Operation = Operation::Handshake;
        let name = KeyRef::ServerName(server_name.to_ascii_lowercase());
        let mut keys = self.all_granted(proxy, &name, OPERATION);
        if keys.is_empty() {
            self.look_further((proxy.clone(), name.clone(), OPERATION))
                .await?;
            keys = self.all_granted(proxy, &name, OPERATION);
        }
        // Of each kind the newest.
        keys.sort_by_key(|key| std::cmp::Reverse(key.revision));
        let mut kinds = Vec::new();
        keys.retain(|key| {
            let is_new = !kinds.contains(&key.kind);
            kinds.push(key.kind);
            is_new
        });
        let mut found = Vec::new();
        let mut refused = TaskError::Denied;
        for key in keys {
            match self.for_handshake(proxy, key.id).await {
                Ok(key) => found.push(key),
                Err(error) => refused = error,
            }
        }
        if found.is_empty() {
            Err(refused)
        } else {
            Ok(found)
        }
    }

    async fn for_handshake(
        self: &Arc<Self>,
        proxy: &Identity,
        id: KeyId,
    ) -> Result<HandshakeKey, TaskError> {
        let user = User::Caller(proxy, Operation::Handshake);
        let admitted = self.admit(user, &KeyRef::Id(id), None)?;
        // It has no certificates yet.
        if admitted.version.chain.is_empty() {
            return Err(TaskError::State);
        }
        let managed = self.managed(&admitted, proxy, Operation::Handshake).await?;
        let key = managed.private_key().ok_or(TaskError::Internal)?;
        let version = admitted.version.manifest.version;
        let admitted = self.admit(user, &KeyRef::Id(id), Some(version))?;
        Ok(HandshakeKey {
            id,
            version,
            key,
            chain: admitted.version.chain.clone(),
            server_names: admitted.key.server_names.clone(),
            bound: admitted.bound,
        })
    }

    /// An HMAC for tickets.
    pub(super) async fn ticket_mac(
        self: &Arc<Self>,
        name: &Name,
        label: &[u8],
    ) -> Result<[u8; 32], TaskError> {
        let admitted = self.admit(User::Site, &KeyRef::Name(name.clone()), None)?;
        let managed = self
            .managed(&admitted, &self.identity, Operation::Mac)
            .await?;
        let label = label.to_vec();
        let mac = self
            .keys
            .workers()
            .run(Instant::now() + TOKEN_TIMEOUT, move |worker| {
                worker.managed_mac(&managed, &label)
            });
        let mac = mac.await.and_then(|mac| mac);
        let mac = mac.map_err(|error| work::refusal(&error))?;
        let version = admitted.version.manifest.version;
        self.admit(User::Site, &KeyRef::Id(admitted.key.id), Some(version))?;
        Ok(mac)
    }
}
