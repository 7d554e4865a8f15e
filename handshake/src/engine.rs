//! A handshake in steps: records in, one reply out, and where it stands then.
//!
//! Runs on a token worker thread from beginning to end of a step. A handshake that waits for its client is a
//! value; dropping it destroys what it holds in the token. Never sees an identity or a socket.

use keyhaven_hsm::Worker;
use keyhaven_types::{CustodyLevel, HashAlgorithm, Secret, alert};
use rustls::Error;

use crate::{
    client_hello::ClientHello,
    connection::{Connection, Pumped},
    context::{self, Context},
    error::{Failure, Refusal},
    finished,
    keys::{self, SessionKey},
    site::{self, Choice, Site},
};

/// What one step did.
#[derive(Debug)]
pub struct Step {
    /// How many bytes of the input were used; the rest belongs to whatever comes next.
    pub consumed: usize,
    /// Records for the client.
    pub to_client: Vec<u8>,
    /// Where the handshake stands.
    pub result: StepResult,
}

/// Where a handshake stands after a step.
#[derive(Debug)]
pub enum StepResult {
    /// The client's next flight is needed.
    More(Box<Handshake>, Expect),
    /// TLS 1.3: complete, but for the client's proof.
    Released(Box<Released>),
    /// TLS 1.2: the client's Finished was accepted.
    Established(Box<Established>),
    /// Over: the client is refused, or left. `to_client` holds the alert, if one is to be sent.
    Refused(Refusal),
    /// Over: something of ours failed. `to_client` holds internal_error.
    Failed(Failure),
}

/// Which flight of the client comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// A second ClientHello, after HelloRetryRequest.
    ClientHello,
    /// TLS 1.2: ClientKeyExchange, ChangeCipherSpec, Finished.
    KeyExchange,
}

/// A connection's keys and facts.
#[derive(Debug)]
pub struct Established {
    /// TLS 1.3, or else 1.2.
    pub is_tls13: bool,
    /// Cipher suite code point.
    pub suite: u16,
    /// Encrypts to the client.
    pub write: SessionKey,
    /// Decrypts from the client.
    pub read: SessionKey,
    /// The name asked for; empty when there was none.
    pub server_name: String,
    /// The application protocol agreed on.
    pub alpn: Option<Vec<u8>>,
    /// What the token kept to itself.
    pub level: CustodyLevel,
}

/// A TLS 1.3 handshake whose client has not yet proven anything.
#[derive(Debug)]
pub struct Released {
    /// Reads the client's handshake records.
    pub handshake_read: SessionKey,
    /// What the client's Finished must hold.
    pub verify_data: Secret,
    /// The server's application key, for the one alert that refuses a Finished.
    pub refusal_key: SessionKey,
    /// server_application_traffic_secret_0.
    pub server_application: Secret,
    /// client_application_traffic_secret_0.
    pub client_application: Secret,
    /// The suite's hash.
    pub hash: HashAlgorithm,
    /// Hash of the transcript up to the server's Finished.
    pub transcript_hash: Vec<u8>,
    /// What goes behind the lock.
    pub established: Established,
}

/// A handshake between two steps.
pub struct Handshake {
    connection: Connection,
    context: Context,
    level: CustodyLevel,
    alpn_required: bool,
}

impl std::fmt::Debug for Handshake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handshake")
            .field("level", &self.level)
            .finish_non_exhaustive()
    }
}

impl Handshake {
    /// Begins with the client's first records. `site` is what the caller may use under the name asked for;
    /// without one the client is refused, in the same way whether the name is unknown or forbidden.
    pub fn start(
        worker: &Worker,
        site: Option<&Site>,
        hello: Option<&ClientHello>,
        records: &[u8],
    ) -> Step {
        let unreadable = ClientHello::default();
        let readable = hello.unwrap_or(&unreadable);
        let Choice {
            config,
            level,
            exchange,
            is_tls13,
            alpn_required,
        } = match site {
            Some(site) => match site.choose(readable) {
                Ok(choice) => choice,
                Err(refusal) => return Step::refused(refusal),
            },
            None => site::nowhere(readable),
        };
        let connection = match Connection::new(config) {
            Ok(connection) => connection,
            Err(error) => return Step::failed(Failure::Rustls(error)),
        };
        let context = Context::new(
            readable.server_name.clone(),
            readable.random,
            is_tls13,
            exchange,
        );
        Self {
            connection,
            context,
            level,
            alpn_required,
        }
        .step(worker, records)
    }

    /// Goes on with the client's next records. Uses the handshake up, whatever comes of it.
    pub fn proceed(self, worker: &Worker, records: &[u8]) -> Step {
        self.step(worker, records)
    }

    fn step(mut self, _on_this_thread: &Worker, records: &[u8]) -> Step {
        let mut to_client = Vec::new();
        let mut consumed = 0;
        let pumped = {
            let connection = &mut self.connection;
            context::run(&mut self.context, || {
                connection.pump_records(records, &mut consumed, &mut to_client)
            })
        };
        self.context.forget_secrets();
        if let Some(failure) = self.context.failure.take() {
            return Step::failed(failure);
        }
        match pumped {
            Err(error) => self.refuse(&error, consumed, to_client),
            Ok(Pumped::Done) => self.establish(consumed, to_client),
            Ok(Pumped::Blocked) if !self.context.captured.transcript_hash.is_empty() => {
                self.release(consumed, to_client)
            }
            Ok(Pumped::Blocked) => {
                let expect = if self.context.is_tls13 {
                    Expect::ClientHello
                } else {
                    Expect::KeyExchange
                };
                Step {
                    consumed,
                    to_client,
                    result: StepResult::More(Box::new(self), expect),
                }
            }
        }
    }

    fn release(self, consumed: usize, to_client: Vec<u8>) -> Step {
        let Self {
            connection,
            mut context,
            level,
            alpn_required,
        } = self;
        // The first ClientHello was checked before the token worked; a second one may take its protocols back.
        if alpn_required && connection.alpn().is_none() {
            return Step::refused(Refusal::ours(
                alert::NO_APPLICATION_PROTOCOL,
                "the client names no protocol any more",
            ));
        }
        let captured = std::mem::take(&mut context.captured);
        let server_name = context.server_name.take().unwrap_or_default();
        // rustls verifies the Finished inside the pump, and derives nothing more in the token.
        let released = context::run(&mut context, || {
            finished::release(connection, captured, level, server_name)
        });
        match (context.failure.take(), released) {
            (Some(failure), _) | (None, Err(failure)) => Step::failed(failure),
            (None, Ok(released)) => Step {
                consumed,
                to_client,
                result: StepResult::Released(Box::new(released)),
            },
        }
    }

    fn establish(self, consumed: usize, to_client: Vec<u8>) -> Step {
        let Self {
            connection,
            mut context,
            level,
            ..
        } = self;
        if context.is_tls13 {
            return Step::failed(Failure::Engine(
                "a TLS 1.3 handshake without the Finished-lock",
            ));
        }
        let Some(suite) = connection.suite().map(|suite| suite.suite().into()) else {
            return Step::failed(Failure::Engine("no suite after the handshake"));
        };
        let server_name = context.server_name.take().unwrap_or_default();
        let alpn = connection.alpn();
        match connection.into_keys() {
            Err(failure) => Step::failed(failure),
            Ok((write, read)) => {
                let established = Established {
                    is_tls13: false,
                    suite,
                    write,
                    read,
                    server_name,
                    alpn,
                    level,
                };
                Step {
                    consumed,
                    to_client,
                    result: StepResult::Established(Box::new(established)),
                }
            }
        }
    }

    fn refuse(mut self, error: &Error, consumed: usize, to_client: Vec<u8>) -> Step {
        if let Some((alert, reason)) = self.context.resolver_alert.take() {
            return Step::refused(Refusal::ours(alert, reason));
        }
        let refusal = Refusal::from_rustls(error, keys::read_plaintext_alert(&to_client));
        let to_client = if refusal.from_client {
            Vec::new()
        } else if to_client.is_empty() {
            keys::plaintext_alert(refusal.alert)
        } else {
            to_client
        };
        Step {
            consumed,
            to_client,
            result: StepResult::Refused(refusal),
        }
    }
}

impl Step {
    fn refused(refusal: Refusal) -> Self {
        Self {
            consumed: 0,
            to_client: keys::plaintext_alert(refusal.alert),
            result: StepResult::Refused(refusal),
        }
    }

    fn failed(failure: Failure) -> Self {
        Self {
            consumed: 0,
            to_client: keys::plaintext_alert(alert::INTERNAL_ERROR),
            result: StepResult::Failed(failure),
        }
    }
}
