//! Makes keys at central, many at a time, and waits until the real site has them.
//!
//! As an operator's program would: one connection, one request a key, the next one when an answer is there.

use std::time::{Duration, Instant};

use keyhaven_types::{KeyKind, Purpose};
use keyhaven_wire::kms::admin::{Ask, NewKey};
use keyhaven_xtask::{Error, interrupt::Interrupt};
use tokio::task::JoinSet;

use super::channel::{Channel, failed, name};

/// The name of a key by its number.
pub(crate) fn key_name(number: u32) -> String {
    format!("key-{number:07}")
}

/// Makes this many keys (AES-256, for data) of a class.
pub(crate) async fn make(
    keys: u32,
    class: &str,
    admin: &Channel,
    interrupt: &Interrupt,
) -> Result<(), Error> {
    let mut asked = JoinSet::new();
    for first in 0..IN_FLIGHT {
        let (admin, interrupt, class) = (admin.clone(), interrupt.clone(), class.to_owned());
        asked.spawn(async move {
            for number in (first..keys).step_by(IN_FLIGHT as usize) {
                interrupt.check()?;
                let new = NewKey {
                    name: name(&key_name(number))?,
                    kind: KeyKind::Aes256,
                    purpose: Purpose::Data,
                    class: name(&class)?,
                    server_names: Vec::new(),
                };
                admin.commit(Ask::KeyCreate(new)).await?;
            }
            Ok(())
        });
    }
    all_of(asked).await.map(drop)
}

/// Waits until a site has said that everything up to a revision is on its disk.
pub(crate) async fn until_applied(
    site: &str,
    revision: u64,
    admin: &Channel,
) -> Result<Duration, Error> {
    let began = Instant::now();
    while began.elapsed() < APPLIED_MAX {
        if admin.applied(site).await?.is_some_and(|it| it >= revision) {
            return Ok(began.elapsed());
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    Err(failed(site, "it did not take up what central has"))
}

/// Waits for all; the first failure ends the others.
pub(crate) async fn all_of<T: 'static>(
    mut tasks: JoinSet<Result<T, Error>>,
) -> Result<Vec<T>, Error> {
    let mut done = Vec::new();
    while let Some(ended) = tasks.join_next().await {
        done.push(ended.map_err(|error| failed("a task", error))??);
    }
    Ok(done)
}

/// Requests that wait for an answer at once.
pub(crate) const IN_FLIGHT: u32 = 64;
const APPLIED_MAX: Duration = Duration::from_secs(900);
/// Each look is a status of all sites, which central makes at the cost of some lookups.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
