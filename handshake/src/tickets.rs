//! Session tickets: sealed here, carried by clients, and opened only where everything still fits.
//!
//! Keys in the token are `hsm`'s vault. Invariant: whatever does not fit ends in a full handshake.

use std::sync::Arc;

use aws_lc_rs::{
    hkdf,
    rand::{SecureRandom as _, SystemRandom},
};
use keyhaven_types::Secret;
use zeroize::Zeroizing;

/// What seals tickets in this process: at least 32 random bytes, from which a key comes each day. Clones are the
/// same key.
#[derive(Clone)]
pub struct TicketKey(Arc<hkdf::Prk>);

impl TicketKey {
    /// Takes a secret that the site's signers share; `None` when it is shorter than 32 bytes.
    pub fn new(secret: &Secret) -> Option<Self> {
        (secret.len() >= 32).then(|| {
            let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, b"keyhaven ticket seal 1");
            Self(Arc::new(salt.extract(secret.expose_secret())))
        })
    }

    /// A key for this process alone; `None` when there is no randomness.
    pub fn generate() -> Option<Self> {
        let mut bytes = Zeroizing::new(vec![0; 32]);
        SystemRandom::new().fill(&mut bytes).ok()?;
        Self::new(&Secret::copy_from(&bytes))
    }
}
