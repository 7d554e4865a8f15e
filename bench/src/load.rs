//! Makes handshakes, many at a time.
//!
//! Counts nothing but successes: the first failure ends the measurement. Each connection is closed in order by
//! both sides, so that no server works on the next measurement's time.

use std::{
    net::SocketAddr,
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use keyhaven_xtask::{Error, client::Client, interrupt::Interrupt};

/// Makes `count` handshakes over [`CONNECTIONS`] connections at a time; gives the time that took.
pub(crate) fn run(
    client: &Client,
    address: SocketAddr,
    group: &str,
    count: u32,
    interrupt: &Interrupt,
) -> Result<Duration, Error> {
    let left = AtomicU32::new(count);
    let failure = Mutex::new(None);
    let begun = Instant::now();
    thread::scope(|scope| {
        for _ in 0..CONNECTIONS {
            scope.spawn(|| {
                while !interrupt.raised() && take(&left) {
                    if let Err(why) = one(client, address, group) {
                        left.store(0, Ordering::SeqCst);
                        if let Ok(mut failure) = failure.lock() {
                            failure.get_or_insert(why);
                        }
                    }
                }
            });
        }
    });
    interrupt.check()?;
    match failure.into_inner() {
        Ok(None) => Ok(begun.elapsed()),
        Ok(Some(why)) => Err(Error::Request {
            version: client.version().as_str(),
            why,
        }),
        Err(_) => Err(Error::Request {
            version: client.version().as_str(),
            why: "a client thread panicked".to_owned(),
        }),
    }
}

fn one(client: &Client, address: SocketAddr, group: &str) -> Result<(), String> {
    let used = client
        .handshake(address)
        .map_err(|error| error.to_string())?;
    if used.group == group {
        return Ok(());
    }
    Err(format!("asked for {group}, got {}", used.group))
}

fn take(left: &AtomicU32) -> bool {
    left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
        left.checked_sub(1)
    })
    .is_ok()
}

const CONNECTIONS: usize = 32;
