//! A client's work at the real site: sealing, opening, looking up.
//!
//! All over one connection, as a program would that shares one. An answer other than the one that is meant is an error:
//! no figure has failures in it.

use std::time::{Duration, Instant};

use keyhaven_types::{Operation, Secret};
use keyhaven_wire::{
    Reply, Request,
    kms::{Batch, Done, Lookup, Task, TaskError},
};
use keyhaven_xtask::{Error, interrupt::Interrupt};
use tokio::task::JoinSet;

use super::{
    channel::{Channel, failed, key_ref},
    making::{IN_FLIGHT, all_of},
};

/// A key that a client may use, with something that was sealed with it.
#[derive(Clone, Debug)]
pub(crate) struct Sealed {
    /// The key's name.
    pub(crate) key: String,
    ciphertext: Vec<u8>,
}

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// Which servers can decrypt with a key.
    Lookup,
    /// Opening what was sealed: one AES-256-GCM decryption in the token.
    Decrypt,
}

impl Sealed {
    /// Seals something, as soon as the site lets the client do so, and how long the first use took.
    pub(crate) async fn with(key: String, site: &Channel) -> Result<(Sealed, Duration), Error> {
        let began = Instant::now();
        loop {
            let task = Task::Encrypt {
                key: key_ref(&key)?,
                plaintext: Secret::new(PLAINTEXT.to_vec()),
                aad: Vec::new(),
            };
            let asked = Instant::now();
            match operate(task, site).await? {
                Ok(Done::Ciphertext { ciphertext, .. }) => {
                    return Ok((Sealed { key, ciphertext }, asked.elapsed()));
                }
                Ok(other) => return Err(failed("the site", format!("{other:?}"))),
                Err(error) if began.elapsed() > USABLE_MAX => {
                    return Err(failed("the site", format!("{key}: {error}")));
                }
                Err(_) => tokio::time::sleep(LOOK_AGAIN).await,
            }
        }
    }

    /// Opens it.
    pub(crate) async fn open(&self, site: &Channel) -> Result<Result<(), TaskError>, Error> {
        let task = Task::Decrypt {
            key: key_ref(&self.key)?,
            version: None,
            ciphertext: self.ciphertext.clone(),
            aad: Vec::new(),
        };
        match operate(task, site).await? {
            Ok(Done::Plaintext { plaintext, .. }) if plaintext.expose_secret() == PLAINTEXT => {
                Ok(Ok(()))
            }
            Ok(other) => Err(failed(
                "the site",
                format!("{other:?} is not what was sealed"),
            )),
            Err(error) => Ok(Err(error)),
        }
    }

    async fn look_up(&self, site: &Channel) -> Result<(), Error> {
        let lookup = Lookup {
            key: key_ref(&self.key)?,
            operation: Operation::Decrypt,
            caller: None,
        };
        match site.call(Request::Lookup(lookup)).await? {
            Reply::Found(found) if !found.servers.is_empty() => Ok(()),
            other => Err(failed("the site", format!("{other:?} to a lookup"))),
        }
    }
}

/// Asks so many times, with many requests in flight, over these keys in turn.
pub(crate) async fn ask(
    what: Ask,
    times: u32,
    keys: &[Sealed],
    site: &Channel,
    interrupt: &Interrupt,
) -> Result<(), Error> {
    let mut asked = JoinSet::new();
    for first in 0..IN_FLIGHT {
        let (keys, site, interrupt) = (keys.to_vec(), site.clone(), interrupt.clone());
        asked.spawn(async move {
            let mine = (first..times).step_by(IN_FLIGHT as usize);
            for (_, key) in mine.zip(keys.iter().cycle().skip(first as usize)) {
                interrupt.check()?;
                match what {
                    Ask::Lookup => key.look_up(&site).await?,
                    Ask::Decrypt => {
                        let opened = key.open(&site).await?;
                        opened.map_err(|error| failed("the site", error))?;
                    }
                }
            }
            Ok(())
        });
    }
    all_of(asked).await.map(drop)
}

async fn operate(task: Task, site: &Channel) -> Result<Result<Done, TaskError>, Error> {
    let batch = Batch { tasks: vec![task] };
    match site.call(Request::Operate(batch)).await? {
        Reply::Results(mut results) if results.len() == 1 => Ok(results.remove(0).outcome),
        other => Err(failed("the site", format!("{other:?}"))),
    }
}

const PLAINTEXT: &[u8] = &[7; 32];
const USABLE_MAX: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(5);
