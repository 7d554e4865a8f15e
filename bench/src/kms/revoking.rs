//! How long a revocation takes: until it is committed, until a site has it, until a site refuses the key.
//!
//! One key after the other, with all sites following and a client that uses the key all the time. Everything is counted
//! from the moment at which the operator's request is sent.

use std::time::{Duration, Instant};

use keyhaven_types::KeyState;
use keyhaven_wire::kms::{TaskError, admin::Ask};
use keyhaven_xtask::{Error, interrupt::Interrupt};

use super::{
    channel::{Channel, failed, key_ref},
    crowd::Crowd,
    serving::Sealed,
};

/// How long the parts of all revocations took, each in order of time.
#[derive(Clone, Debug, Default)]
pub(crate) struct Revocations {
    /// Central has answered.
    pub(crate) committed: Vec<Duration>,
    /// A simulated site has the record; of every revocation, all sites.
    pub(crate) known: Vec<Duration>,
    /// The last simulated site has it.
    pub(crate) known_to_all: Vec<Duration>,
    /// The real site has refused the key to a client.
    pub(crate) refused: Vec<Duration>,
}

/// Revokes keys that a client has sealed something with.
pub(crate) async fn revoke(
    keys: Vec<Sealed>,
    admin: &Channel,
    site: &Channel,
    crowd: &Crowd,
    interrupt: &Interrupt,
) -> Result<Revocations, Error> {
    let mut all = Revocations::default();
    for key in keys {
        interrupt.check()?;
        let ask = Ask::KeyState {
            key: key_ref(&key.key)?,
            version: None,
            state: KeyState::Revoked,
        };
        let used = tokio::spawn(until_refused(key, site.clone()));
        let began = Instant::now();
        let revision = admin.commit(ask).await?;
        all.committed.push(began.elapsed());
        let known = crowd.reach(revision, began).await?;
        all.known_to_all.extend(known.last());
        all.known.extend(known);
        let refused = used.await.map_err(|error| failed("a client", error))??;
        all.refused.push(refused.saturating_duration_since(began));
        // The next one begins at rest.
        tokio::time::sleep(REST).await;
    }
    let times = [
        &mut all.committed,
        &mut all.known,
        &mut all.known_to_all,
        &mut all.refused,
    ];
    times.into_iter().for_each(|times| times.sort_unstable());
    Ok(all)
}

/// Uses a key again and again; when it was first refused.
async fn until_refused(key: Sealed, site: Channel) -> Result<Instant, Error> {
    let began = Instant::now();
    loop {
        match key.open(&site).await? {
            Err(TaskError::State) => return Ok(Instant::now()),
            Ok(()) if began.elapsed() < REFUSED_MAX => tokio::time::sleep(USE_AGAIN).await,
            other => return Err(failed("the site", format!("{other:?} for a revoked key"))),
        }
    }
}

const REFUSED_MAX: Duration = Duration::from_secs(60);
/// A client that waits less takes the processor from what it measures.
const USE_AGAIN: Duration = Duration::from_millis(1);
const REST: Duration = Duration::from_millis(20);
