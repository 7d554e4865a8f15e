//! Makes handshakes, many at a time.
//!
//! Counts nothing but successes of the kind that was asked for: the first failure ends the measurement. Each connection
//! is closed in order by both sides, so that no server works on the next measurement's time.

use std::{
    net::SocketAddr,
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use keyhaven_xtask::{
    Error,
    client::{Client, Handshake},
    interrupt::Interrupt,
};

/// Clients that make handshakes of one kind.
pub(crate) struct Load {
    address: SocketAddr,
    expected: Handshake,
    /// One for each connection. Those that resume have their tickets each for itself.
    clients: Vec<Client>,
}

/// What was done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Done {
    pub(crate) handshakes: u32,
    pub(crate) took: Duration,
}

impl Load {
    /// Clients that make full handshakes with this group, or with `resumed` all but full ones.
    pub(crate) fn new(client: &Client, address: SocketAddr, expected: Handshake) -> Load {
        let resumes = expected.resumed;
        let clients = (0..CONNECTIONS).map(|_| match resumes {
            true => client.remembering(),
            false => client.clone(),
        });
        Load {
            address,
            expected,
            clients: clients.collect(),
        }
    }

    /// Has each client make a handshake that is not judged, by which it gets a ticket where it wants one.
    pub(crate) fn prime(&self) -> Result<(), Error> {
        self.clients.iter().try_for_each(|client| {
            let made = client.handshake(self.address);
            made.map(drop)
                .map_err(|error| self.failed(error.to_string()))
        })
    }

    /// Makes `count` handshakes one after the other with the first client.
    pub(crate) fn in_turn(&self, count: u32) -> Result<(), Error> {
        let clients = self.clients.iter().take(1);
        for client in clients.cycle().take(count as usize) {
            self.one(client).map_err(|why| self.failed(why))?;
        }
        Ok(())
    }

    /// Makes `count` handshakes, or fewer when the time is over before.
    pub(crate) fn run(
        &self,
        count: u32,
        time: Duration,
        interrupt: &Interrupt,
    ) -> Result<Done, Error> {
        let left = AtomicU32::new(count);
        let done = AtomicU32::new(0);
        let failure = Mutex::new(None);
        let begun = Instant::now();
        thread::scope(|scope| {
            for client in &self.clients {
                scope.spawn(|| {
                    while !interrupt.raised() && begun.elapsed() < time && take(&left) {
                        match self.one(client) {
                            Ok(()) => {
                                done.fetch_add(1, Ordering::SeqCst);
                            }
                            Err(why) => {
                                left.store(0, Ordering::SeqCst);
                                if let Ok(mut failure) = failure.lock() {
                                    failure.get_or_insert(why);
                                }
                            }
                        }
                    }
                });
            }
        });
        interrupt.check()?;
        match failure.into_inner() {
            Ok(None) => Ok(Done {
                handshakes: done.into_inner(),
                took: begun.elapsed(),
            }),
            Ok(Some(why)) => Err(self.failed(why)),
            Err(_) => Err(self.failed("a client thread panicked".to_owned())),
        }
    }

    fn one(&self, client: &Client) -> Result<(), String> {
        let made = client
            .handshake(self.address)
            .map_err(|error| error.to_string())?;
        if made == self.expected {
            return Ok(());
        }
        Err(format!("asked for {:?}, got {made:?}", self.expected))
    }

    fn failed(&self, why: String) -> Error {
        let version = self
            .clients
            .first()
            .map_or("TLS", |client| client.version().as_str());
        Error::Request { version, why }
    }
}

fn take(left: &AtomicU32) -> bool {
    left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
        left.checked_sub(1)
    })
    .is_ok()
}

const CONNECTIONS: usize = 32;
