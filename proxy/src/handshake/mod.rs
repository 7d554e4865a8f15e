//! A handshake as the proxy sees it: bytes to the signer, bytes to the client, until there are session keys.
//!
//! Leaves every decision of TLS to the signer. Keys come out of the Finished-lock (`unlock`), or from a signer that has
//! accepted the client's Finished, at the moment that `path` allows; there is no third way to get an [`Unlocked`].

mod error;
mod outcome;
mod path;
mod unlock;

use std::net::SocketAddr;

use keyhaven_service::PinnedConnection;
use keyhaven_wire::{
    Continue, Established, Expect, HandshakeId, HandshakeReply, Next, Reply, Request,
};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout_at},
};

use crate::{
    client::{Inbox, write_all},
    connection::Context,
    flight::{ClientFlightReader, FlightPart, HelloReader, KeyExchangeReader, Refused, Tolerance},
    report::Report,
    signers::{Begun, Signer, mismatch},
};
pub(crate) use error::{Failed, HandshakeError};
use outcome::Outcome;
pub(crate) use outcome::ReportRoom;
use path::Path;

/// Calls that one handshake may take: a TLS 1.2 client may send its Finished, 16 bytes, in as many records, and a few
/// warnings before it; HelloRetryRequest adds one. A TLS 1.3 client's flight has bounds of its own.
const CALLS_MAX: usize = 24;

/// A connection with its keys.
pub(crate) struct Unlocked {
    /// What the signer released for it.
    pub(crate) established: Established,
    /// What the client has sent already after its handshake.
    pub(crate) rest: Vec<u8>,
    /// The signer that made it.
    pub(crate) signer: Signer,
}

/// A handshake's name, and where it lives.
struct Named {
    signer: Signer,
    link: PinnedConnection,
    handshake: HandshakeId,
}

/// One client's handshake.
pub(crate) struct Handshake<'a> {
    context: &'a Context,
    client: &'a TcpStream,
    peer: SocketAddr,
    inbox: Inbox,
    tolerance: Tolerance,
    path: Path,
    /// One for the whole handshake, from the first TLS 1.2 flight on.
    key_exchange: Option<KeyExchangeReader>,
    client_flight: ClientFlightReader,
    /// Whether what the client has got of us so far is whole records, and none of them changes to protected ones.
    is_plain: bool,
}

impl<'a> Handshake<'a> {
    /// A handshake that has not begun.
    pub(crate) fn new(context: &'a Context, client: &'a TcpStream, peer: SocketAddr) -> Self {
        Self {
            context,
            client,
            peer,
            inbox: Inbox::default(),
            tolerance: Tolerance::default(),
            path: Path::default(),
            key_exchange: None,
            client_flight: ClientFlightReader::default(),
            is_plain: true,
        }
    }

    /// Runs it to its end, within the deadlines that count from `accepted`.
    pub(crate) async fn run(
        mut self,
        accepted: Instant,
        report: &mut Report,
    ) -> Result<Unlocked, Failed> {
        let unlocked = self.in_time(accepted, report).await;
        unlocked.map_err(|error| error.failed(self.is_plain))
    }

    async fn in_time(
        &mut self,
        accepted: Instant,
        report: &mut Report,
    ) -> Result<Unlocked, HandshakeError> {
        let limits = &self.context.limits;
        let end = accepted + limits.handshake_timeout;
        let hello_end = end.min(accepted + limits.client_hello_timeout);
        let hello = timeout_at(hello_end, self.client_hello(HelloReader::first(), report))
            .await
            .unwrap_or(Err(HandshakeError::SlowHello))?;
        timeout_at(end, self.with_signer(hello, report))
            .await
            .unwrap_or(Err(HandshakeError::Slow))
    }

    async fn with_signer(
        &mut self,
        hello: Vec<u8>,
        report: &mut Report,
    ) -> Result<Unlocked, HandshakeError> {
        let context = self.context;
        let begun = context
            .signers
            .start(&self.peer.to_string(), named(report), &hello)
            .await?;
        report.signer = Some(begun.signer.name());
        let outcome = Outcome::new(context, begun.link.clone(), begun.handshake);
        let Begun {
            signer,
            link,
            handshake,
            mut reply,
        } = begun;
        let begun = Named {
            signer,
            link,
            handshake,
        };
        self.take(&hello, &reply).await?;
        for calls in 1.. {
            let expect = match reply.next {
                Next::More(expect) if calls >= CALLS_MAX && expect != Expect::ClientFlight => break,
                Next::More(expect) => expect,
                Next::Refused { alert } => {
                    outcome.leave_known();
                    return Err(HandshakeError::SignerRefused(alert));
                }
                Next::Locked(locked) => {
                    let flight = reply.to_client;
                    return self.unlock(&begun, outcome, &flight, locked).await;
                }
                Next::Open(established) => {
                    outcome.leave_known();
                    return Ok(self.unlocked(&begun.signer, *established));
                }
            };
            let records = self.next_flight(expect, report).await?;
            reply = self.go_on(&begun, records).await?;
        }
        Err(HandshakeError::Answer("it wants more flights than TLS has"))
    }

    /// Sends a reply's records, and puts back what the signer did not use of `records`. Nothing is sent of a reply
    /// that may not come now.
    async fn take(&mut self, records: &[u8], reply: &HandshakeReply) -> Result<(), HandshakeError> {
        self.path
            .follow(&reply.next)
            .map_err(HandshakeError::Answer)?;
        let rest = records
            .get(reply.consumed as usize..)
            .ok_or(HandshakeError::Answer("it used more bytes than it got"))?;
        self.inbox.put_back(rest);
        self.is_plain = false;
        write_all(self.client, &reply.to_client)
            .await
            .map_err(HandshakeError::Client)?;
        // Behind a HelloRetryRequest and behind a TLS 1.2 server's first flight nothing is protected yet.
        self.is_plain = matches!(
            reply.next,
            Next::More(Expect::ClientHello | Expect::KeyExchange)
        );
        Ok(())
    }

    async fn next_flight(
        &mut self,
        expect: Expect,
        report: &mut Report,
    ) -> Result<Vec<u8>, HandshakeError> {
        match expect {
            Expect::ClientHello => self.client_hello(HelloReader::second(), report).await,
            Expect::KeyExchange => self.key_exchange(KeyExchangeReader::default()).await,
            Expect::Finished => self.key_exchange(KeyExchangeReader::resumed()).await,
            Expect::ClientFlight => self.client_flight().await,
        }
    }

    async fn client_hello(
        &mut self,
        mut reader: HelloReader,
        report: &mut Report,
    ) -> Result<Vec<u8>, HandshakeError> {
        loop {
            if let Some(hello) = reader.read(self.inbox.bytes(), &mut self.tolerance)? {
                self.inbox.consume(hello.end);
                self.tolerance.set_early_data(hello.facts.early_data);
                report.server_name = hello.facts.server_name.unwrap_or_default();
                return Ok(hello.records);
            }
            self.fill().await?;
        }
    }

    /// What belongs together of a TLS 1.2 client's flight; `first` reads it unless another reader has begun.
    async fn key_exchange(&mut self, first: KeyExchangeReader) -> Result<Vec<u8>, HandshakeError> {
        let mut reader = self.key_exchange.take().unwrap_or(first);
        loop {
            if let Some(len) = reader.read(self.inbox.bytes())? {
                self.key_exchange = Some(reader);
                let records = self.inbox.bytes()[..len].to_vec();
                self.inbox.consume(len);
                return Ok(records);
            }
            self.fill().await?;
        }
    }

    async fn client_flight(&mut self) -> Result<Vec<u8>, HandshakeError> {
        loop {
            let part = self
                .client_flight
                .read(self.inbox.bytes(), &mut self.tolerance)?;
            match part {
                Some(FlightPart::Passed { len }) => {
                    let record = self.inbox.bytes()[..len].to_vec();
                    self.inbox.consume(len);
                    return Ok(record);
                }
                Some(FlightPart::Skipped { len }) => self.inbox.consume(len),
                None => self.fill().await?,
            }
        }
    }

    async fn fill(&mut self) -> Result<(), HandshakeError> {
        if self.inbox.is_full() {
            return Err(Refused::malformed("more bytes than a handshake has").into());
        }
        self.inbox
            .fill(self.client)
            .await
            .map_err(HandshakeError::Client)
    }

    /// The next call, to the signer and on the connection where the handshake lives.
    async fn go_on(
        &mut self,
        begun: &Named,
        records: Vec<u8>,
    ) -> Result<HandshakeReply, HandshakeError> {
        let signers = &self.context.signers;
        let request = Continue {
            handshake: begun.handshake,
            records: records.clone(),
        };
        let binding = request.binding();
        let request = Request::Continue(request);
        match signers.call(&begun.signer, &begun.link, request).await? {
            Reply::Handshake(reply) if reply.binding == binding => {
                self.take(&records, &reply).await?;
                Ok(reply)
            }
            _ => Err(mismatch(&begun.signer).into()),
        }
    }

    /// The end: keys, and what the client has sent behind its handshake.
    fn unlocked(&mut self, signer: &Signer, established: Established) -> Unlocked {
        Unlocked {
            established,
            rest: std::mem::take(&mut self.inbox).into_rest(),
            signer: signer.clone(),
        }
    }
}

/// The name that the client asked for, by which a signer is found.
fn named(report: &Report) -> Option<&str> {
    Some(report.server_name.as_str()).filter(|name| !name.is_empty())
}
