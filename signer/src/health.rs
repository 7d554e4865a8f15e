//! Whether the signer can serve: each token must be there and sign.
//!
//! A session copy of a key goes on signing when its token is gone, so both are asked.
//! What is signed is a fixed text under a context string of its own, so that the signature fits no TLS
//! message, and it never leaves this file. One answer stands for a short while, so that many proxies asking
//! cost one signature a key.

use std::time::{Duration, Instant};

use keyhaven_hsm::{Error, PrivateKey, Workers};
use keyhaven_types::SignatureScheme;
use tokio::sync::Mutex;

use crate::audit::error_chain;

/// The readiness check.
pub(crate) struct Health {
    keys: Vec<PrivateKey>,
    last: Mutex<Option<(Instant, bool)>>,
}

impl Health {
    pub(crate) fn new(keys: Vec<PrivateKey>) -> Self {
        Self {
            keys,
            last: Mutex::new(None),
        }
    }

    /// Whether every key's token signed, now or a moment ago.
    pub(crate) async fn check(&self, workers: &Workers, timeout: Duration) -> bool {
        let mut last = self.last.lock().await;
        if let Some((when, healthy)) = *last
            && when.elapsed() < ANSWER_STANDS
        {
            return healthy;
        }
        let healthy = self.sign_with_each(workers, timeout).await;
        *last = Some((Instant::now(), healthy));
        healthy
    }

    async fn sign_with_each(&self, workers: &Workers, timeout: Duration) -> bool {
        let keys = self.keys.clone();
        let signed = workers
            .run(Instant::now() + timeout.min(PATIENCE), move |worker| {
                keys.iter().try_for_each(|key| {
                    key.token().health()?;
                    let scheme = SignatureScheme::of(key.algorithm())[0];
                    worker.sign(key, scheme, READINESS).map(drop)
                })
            })
            .await;
        match signed {
            Ok(Ok(())) => true,
            // A full queue is load, not illness.
            Err(Error::Busy) => true,
            Ok(Err(error)) | Err(error) => {
                tracing::error!(
                    error = error_chain(&error),
                    "not ready: a token is away or does not sign"
                );
                false
            }
        }
    }
}

const ANSWER_STANDS: Duration = Duration::from_secs(2);
/// Shorter than the proxies wait for the answer, so that a slow token does not cost the channel.
const PATIENCE: Duration = Duration::from_secs(3);
const READINESS: &[u8] = b"keyhaven signer readiness check, not a TLS message\0";
