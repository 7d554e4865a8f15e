//! A handshake in steps: records in, one reply out, and where it stands then.
//!
//! Runs on a token worker thread from beginning to end of a step. A handshake that waits for its client is a
//! value; dropping it destroys what it holds in the token. Never sees an identity or a socket.

use keyhaven_hsm::{TokenSecret, Worker};
use keyhaven_types::{AeadAlgorithm, HashAlgorithm, Secret, alert};
use rustls::Error;

use crate::{
    client_hello::ClientHello,
    connection::{Connection, Pumped},
    context::{self, Context, Shown},
    custody::Custody,
    error::{Failure, Refusal},
    finished::{self, Parameters},
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
    /// TLS 1.3 in one round trip: complete, but for the client's proof.
    Released(Box<Released>),
    /// The client's Finished was accepted.
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
    /// TLS 1.2: ClientKeyExchange, ChangeCipherSpec, Finished; with a certificate also Certificate and
    /// CertificateVerify.
    KeyExchange,
    /// TLS 1.3 with client authentication: the next record of Certificate, CertificateVerify, Finished.
    ClientFlight,
    /// TLS 1.2, resumed: ChangeCipherSpec, Finished.
    Finished,
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
    /// What stayed where.
    pub custody: Custody,
    /// Records with tickets, to be sent before anything else; `write` counts them.
    pub tickets: Vec<u8>,
    /// Whether an earlier session was resumed.
    pub is_resumed: bool,
    /// The client's certificate, verified; DER.
    pub client_certificate: Option<Vec<u8>>,
    /// SHA-256 of the public key that authenticates the session.
    pub key_hash: [u8; 32],
    /// TLS 1.3: what the next keys come from.
    pub rekey: Option<RekeySecrets>,
}

/// What the next traffic keys of a TLS 1.3 connection come from.
#[derive(Debug)]
pub struct RekeySecrets {
    /// server_application_traffic_secret_0.
    pub write: TrafficSecret,
    /// client_application_traffic_secret_0.
    pub read: TrafficSecret,
    /// The suite's AEAD.
    pub aead: AeadAlgorithm,
    /// The suite's hash.
    pub hash: HashAlgorithm,
    /// Hash of the transcript up to the server's Finished.
    pub transcript_hash: Vec<u8>,
}

/// A traffic secret (RFC 8446, section 7.1).
#[derive(Debug)]
pub enum TrafficSecret {
    /// In this process.
    Bytes(Secret),
    /// In the token; it can be wrapped there.
    Token(TokenSecret),
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
    /// What goes behind the lock.
    pub established: Established,
}

/// A handshake between two steps.
pub struct Handshake {
    connection: Connection,
    context: Context,
    custody: Custody,
    alpn_required: bool,
    asks_client: bool,
}

impl std::fmt::Debug for Handshake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handshake")
            .field("custody", &self.custody)
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
        let choice = match site {
            Some(site) => match site.choose(readable) {
                Ok(choice) => choice,
                Err(refusal) => return Step::refused(refusal),
            },
            None => site::nowhere(readable),
        };
        let Choice {
            config,
            facts,
            alpn_required,
            asks_client,
            is_half_outside,
        } = choice;
        let connection = match Connection::new(config) {
            Ok(connection) => connection,
            Err(error) => return Step::failed(Failure::Rustls(error)),
        };
        Self {
            connection,
            custody: Custody::new(&facts, is_half_outside),
            context: Context::new(facts),
            alpn_required,
            asks_client,
        }
        .step(worker, records)
    }

    /// Goes on with the client's next records. Uses the handshake up, whatever comes of it.
    pub fn proceed(self, worker: &Worker, records: &[u8]) -> Step {
        self.step(worker, records)
    }

    fn step(mut self, worker: &Worker, records: &[u8]) -> Step {
        let mut to_client = Vec::new();
        let mut consumed = 0;
        let pumped = {
            let connection = &mut self.connection;
            context::run(&mut self.context, || {
                connection.pump_records(records, &mut consumed, &mut to_client)
            })
        };
        if let Some(failure) = self.context.failure.take() {
            return Step::failed(failure);
        }
        match pumped {
            Err(error) => self.refuse(&error, consumed, to_client),
            Ok(Pumped::Done) => {
                let established = self.establish(worker, Vec::new());
                Step::of(established, consumed, to_client, StepResult::Established)
            }
            Ok(Pumped::Blocked) => match self.expects() {
                None => self.release(worker, consumed, to_client),
                Some(expect) => self.wait(worker, expect, consumed, to_client),
            },
        }
    }

    /// Stands still until the client goes on. In the middle of TLS 1.3 only what its flight needs stays in the token.
    fn wait(
        mut self,
        worker: &Worker,
        expect: Expect,
        consumed: usize,
        to_client: Vec<u8>,
    ) -> Step {
        if expect == Expect::ClientFlight {
            if let Some(refusal) = self.lacks_protocol() {
                return Step::refused(refusal);
            }
            let captured = &self.context.captured;
            let wanted: Vec<_> = [
                &captured.client_handshake,
                &captured.client_application,
                &captured.server_application,
            ]
            .into_iter()
            .filter_map(|shown| match shown {
                Some(Shown::Handle(index)) => Some(*index),
                _ => None,
            })
            .collect();
            if let Err(failure) = self.context.secrets.keep_only(worker, &wanted) {
                return Step::failed(failure);
            }
        }
        Step {
            consumed,
            to_client,
            result: StepResult::More(Box::new(self), expect),
        }
    }

    /// The first ClientHello was checked before the token worked; a second one may take its protocols back.
    fn lacks_protocol(&self) -> Option<Refusal> {
        (self.alpn_required && self.connection.alpn().is_none()).then(|| {
            Refusal::ours(
                alert::NO_APPLICATION_PROTOCOL,
                "the client names no protocol any more",
            )
        })
    }

    /// What the client must send next; nothing when the server's flight is whole and only a Finished is missing.
    fn expects(&self) -> Option<Expect> {
        let is_whole = !self.context.captured.transcript_hash.is_empty();
        match (self.context.facts.is_tls13, is_whole) {
            (true, false) => Some(Expect::ClientHello),
            (true, true) if self.asks_client && !self.connection.is_resumed() => {
                Some(Expect::ClientFlight)
            }
            (true, true) => None,
            (false, _) if self.connection.is_resumed() => Some(Expect::Finished),
            (false, _) => Some(Expect::KeyExchange),
        }
    }

    fn release(mut self, worker: &Worker, consumed: usize, to_client: Vec<u8>) -> Step {
        if let Some(refusal) = self.lacks_protocol() {
            return Step::refused(refusal);
        }
        let Some(client_handshake) = self.context.captured.client_handshake.take() else {
            return Step::failed(NOT_SHOWN);
        };
        let transcript_hash = self.context.captured.transcript_hash.clone();
        let completed = {
            let connection = &mut self.connection;
            context::run(&mut self.context, || {
                finished::complete(connection, &client_handshake, &transcript_hash)
            })
        };
        let (expected, tickets) = match (self.context.failure.take(), completed) {
            (Some(failure), _) | (None, Err(failure)) => return Step::failed(failure),
            (None, Ok(completed)) => completed,
        };
        let released = self.establish(worker, tickets).map(|established| Released {
            handshake_read: expected.handshake_read,
            verify_data: expected.verify_data,
            refusal_key: established.write.for_refusal(),
            established,
        });
        Step::of(released, consumed, to_client, StepResult::Released)
    }

    /// Takes the keys out of a handshake that rustls has brought to its end.
    fn establish(self, worker: &Worker, tickets: Vec<u8>) -> Result<Established, Failure> {
        let Self {
            connection,
            mut context,
            custody,
            alpn_required,
            ..
        } = self;
        let is_tls13 = context.facts.is_tls13;
        let alpn = connection.alpn();
        if alpn_required && alpn.is_none() {
            return Err(Failure::Engine(
                "a handshake without the protocol it must have",
            ));
        }
        let suite = connection
            .suite()
            .map(|suite| suite.suite().into())
            .ok_or(Failure::Engine("no suite after the handshake"))?;
        let parameters = is_tls13.then(|| finished::parameters(&connection));
        let (key_hash, _) = context
            .chosen
            .ok_or(Failure::Engine("no key after the handshake"))?;
        let is_resumed = connection.is_resumed();
        let client_certificate = connection.client_certificate();
        // The keys of TLS 1.3 were derived before, those of TLS 1.2 are derived now.
        let keys = context::run(&mut context, || connection.into_keys());
        if let Some(failure) = context.failure.take() {
            return Err(failure);
        }
        let (write, read) = keys?;
        let rekey = match parameters {
            Some(parameters) => Some(rekey_secrets(parameters?, &mut context, worker)?),
            None => None,
        };
        Ok(Established {
            is_tls13,
            suite,
            write,
            read,
            server_name: context.facts.server_name.take().unwrap_or_default(),
            alpn,
            custody,
            tickets,
            is_resumed,
            client_certificate,
            key_hash,
            rekey,
        })
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

    fn of<T>(
        made: Result<T, Failure>,
        consumed: usize,
        to_client: Vec<u8>,
        result: fn(Box<T>) -> StepResult,
    ) -> Self {
        match made {
            Err(failure) => Self::failed(failure),
            Ok(value) => Self {
                consumed,
                to_client,
                result: result(Box::new(value)),
            },
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

/// The application traffic secrets as the schedule showed them; those in the token are taken out of the table.
fn rekey_secrets(
    parameters: Parameters,
    context: &mut Context,
    worker: &Worker,
) -> Result<RekeySecrets, Failure> {
    let captured = std::mem::take(&mut context.captured);
    let mut take = |shown| match shown {
        None => Err(NOT_SHOWN),
        Some(Shown::Bytes(secret)) => Ok(TrafficSecret::Bytes(secret)),
        Some(Shown::Handle(index)) => context
            .secrets
            .take_object(worker, index)
            .map(TrafficSecret::Token),
    };
    Ok(RekeySecrets {
        write: take(captured.server_application)?,
        read: take(captured.client_application)?,
        aead: parameters.aead,
        hash: parameters.hash,
        transcript_hash: captured.transcript_hash,
    })
}

const NOT_SHOWN: Failure = Failure::Engine("the key schedule did not show its traffic secrets");
