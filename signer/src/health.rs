//! Whether the signer can serve: each token must be there and sign.
//!
//! A session copy of a key goes on signing when its token is gone, so both are asked.
//! What is signed is a fixed text under a context string of its own, so that the signature fits no TLS
//! message, and it never leaves this file. One answer stands for a short while, so that many proxies asking
//! cost one signature a key; an answer about an older configuration does not.

use std::{
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use keyhaven_hsm::{Error, PrivateKey, Token, Workers};
use tokio::sync::Mutex;

use crate::{
    audit::error_chain,
    policy::{Policy, Shared},
};

/// The readiness check.
pub(crate) struct Health {
    policy: Shared,
    /// The token of managed keys, which may have no site in the file.
    managed: Option<Token>,
    last: Mutex<Option<Answer>>,
}

struct Answer {
    when: Instant,
    /// What was asked about.
    policy: Weak<Policy>,
    healthy: bool,
}

impl Health {
    pub(crate) fn new(policy: Shared, managed: Option<Token>) -> Self {
        Self {
            policy,
            managed,
            last: Mutex::new(None),
        }
    }

    /// Whether every key's token signed and every exchange token is there, now or a moment ago.
    pub(crate) async fn check(&self, workers: &Workers, timeout: Duration) -> bool {
        let mut last = self.last.lock().await;
        let policy = self.policy.current();
        if let Some(answer) = &*last
            && answer.when.elapsed() < ANSWER_STANDS
            && Weak::ptr_eq(&answer.policy, &Arc::downgrade(&policy))
        {
            return answer.healthy;
        }
        let healthy = ask_each(&policy, self.managed.as_ref(), workers, timeout).await;
        *last = Some(Answer {
            when: Instant::now(),
            policy: Arc::downgrade(&policy),
            healthy,
        });
        healthy
    }
}

async fn ask_each(
    policy: &Policy,
    managed: Option<&Token>,
    workers: &Workers,
    timeout: Duration,
) -> bool {
    let keys: Vec<PrivateKey> = policy
        .sites()
        .flat_map(|site| &site.keys)
        .map(|served| served.key.clone())
        .collect();
    let exchanges: Vec<Token> = policy
        .sites()
        .filter_map(|site| site.exchange.clone())
        .chain(managed.cloned())
        .collect();
    let asked = workers
        .run(Instant::now() + timeout.min(PATIENCE), move |worker| {
            exchanges.iter().try_for_each(Token::health)?;
            keys.iter().try_for_each(|key| {
                key.token().health()?;
                let scheme = key.schemes().first();
                scheme.map_or(Ok(()), |scheme| {
                    worker.sign(key, *scheme, READINESS).map(drop)
                })
            })
        })
        .await;
    match asked {
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

const ANSWER_STANDS: Duration = Duration::from_secs(2);
/// Shorter than the proxies wait for the answer, so that a slow token does not cost the channel.
const PATIENCE: Duration = Duration::from_secs(3);
const READINESS: &[u8] = b"keyhaven signer readiness check, not a TLS message\0";
