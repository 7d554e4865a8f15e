//! A handshake as the proxy sees it: bytes to the signer, bytes to the client, until there are session keys.
//!
//! Leaves every decision of TLS to the signer. In TLS 1.3 keys come only out of the Finished-lock (`unlock`), in TLS
//! 1.2 only from a signer that has accepted the client's Finished; there is no third way to get an [`Unlocked`].

mod outcome;
mod unlock;

use std::{io, net::SocketAddr};

use keyhaven_service::PinnedConnection;
use keyhaven_types::{TlsVersion, alert};
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
    flight::{FlightError, HelloReader, KeyExchangeReader, Refused, Tolerance},
    record::{KeyError, RecordError},
    report::Report,
    signers::{Begun, SignerError},
};
use outcome::Outcome;
pub(crate) use outcome::ReportRoom;

/// Calls that one handshake may take: a TLS 1.2 client may send its Finished, 16 bytes, in as many records, and a few
/// warnings before it; HelloRetryRequest adds one.
const CALLS_MAX: usize = 24;

/// A connection with its keys.
pub(crate) struct Unlocked {
    /// What the signer released for it.
    pub(crate) established: Established,
    /// What the client has sent already after its handshake.
    pub(crate) rest: Vec<u8>,
    /// The signer that made it.
    pub(crate) signer: usize,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeError {
    /// The client broke a rule, and is to get an unprotected alert.
    #[error("the client sent {0}")]
    Refused(Refused),
    /// The client broke a rule after the server's Finished; the alert that the signer sealed has been sent.
    #[error("the client sent {0}")]
    RefusedSealed(Refused),
    /// The signer refused the client and its alert has been sent.
    #[error("the signer refused the handshake with alert {0} {name}", name = alert::name(*.0))]
    SignerRefused(u8),
    /// The client sent an alert.
    #[error("the client left with alert {0} {name}", name = alert::name(*.0))]
    ClientAlert(u8),
    /// The client was too slow with its ClientHello.
    #[error("no whole ClientHello within client_hello_timeout_ms")]
    SlowHello,
    /// The handshake took too long.
    #[error("no whole handshake within handshake_timeout_ms")]
    Slow {
        /// Whether the client can still read an unprotected alert.
        is_plain: bool,
    },
    /// The proxy is stopping and the grace is over.
    #[error("the proxy is stopping")]
    Stopping,
    /// The client's connection broke or ended.
    #[error("the client's connection ended in the handshake")]
    Client(#[source] io::Error),
    /// The signer could not do it.
    #[error(transparent)]
    Signer(#[from] SignerError),
    /// The signer's answer cannot be used.
    #[error("the signer's answer cannot be used: {0}")]
    Answer(&'static str),
    /// As before, after the server's Finished was sent, when only the signer could make an alert.
    #[error("the signer's answer cannot be used: {0}")]
    LockedAnswer(&'static str),
}

impl HandshakeError {
    /// The unprotected alert that the client is still to get.
    pub(crate) fn alert(&self) -> Option<u8> {
        match self {
            Self::Refused(refused) => Some(refused.alert),
            Self::Signer(_) | Self::Answer(_) => Some(alert::INTERNAL_ERROR),
            Self::SlowHello | Self::Slow { is_plain: true } => Some(alert::USER_CANCELED),
            Self::RefusedSealed(_)
            | Self::SignerRefused(_)
            | Self::ClientAlert(_)
            | Self::Slow { is_plain: false }
            | Self::Stopping
            | Self::Client(_)
            | Self::LockedAnswer(_) => None,
        }
    }

    /// Whether something of ours failed, and not the client.
    pub(crate) fn is_ours(&self) -> bool {
        matches!(
            self,
            Self::Signer(_) | Self::Answer(_) | Self::LockedAnswer(_)
        )
    }
}

impl From<Refused> for HandshakeError {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

impl From<FlightError> for HandshakeError {
    fn from(error: FlightError) -> Self {
        match error {
            FlightError::Refused(refused) => Self::Refused(refused),
            FlightError::ClientAlert(description) => Self::ClientAlert(description),
        }
    }
}

impl From<KeyError> for HandshakeError {
    fn from(_: KeyError) -> Self {
        Self::LockedAnswer("a key or IV has the wrong length")
    }
}

impl From<RecordError> for HandshakeError {
    fn from(error: RecordError) -> Self {
        Self::Refused(error.into())
    }
}

/// A handshake's name, and where it lives.
struct Named {
    signer: usize,
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
    key_exchange: KeyExchangeReader,
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
            key_exchange: KeyExchangeReader::default(),
            is_plain: true,
        }
    }

    /// Runs it to its end, within the deadlines that count from `accepted`.
    pub(crate) async fn run(
        mut self,
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
            .unwrap_or_else(|_| {
                let is_plain = self.is_plain;
                Err(HandshakeError::Slow { is_plain })
            })
    }

    async fn with_signer(
        &mut self,
        hello: Vec<u8>,
        report: &mut Report,
    ) -> Result<Unlocked, HandshakeError> {
        let context = self.context;
        let begun = context
            .signers
            .start(&self.peer.to_string(), &hello)
            .await?;
        report.signer = Some(context.signers.name(begun.signer));
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
                Next::More(_) if calls == CALLS_MAX => break,
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
                    return self.opened(begun.signer, *established);
                }
            };
            let records = self.next_flight(expect, report).await?;
            reply = self.go_on(&begun, records).await?;
        }
        Err(HandshakeError::Answer("it wants more flights than TLS has"))
    }

    /// Sends a reply's records, and puts back what the signer did not use of `records`.
    async fn take(&mut self, records: &[u8], reply: &HandshakeReply) -> Result<(), HandshakeError> {
        let rest = records
            .get(reply.consumed as usize..)
            .ok_or(HandshakeError::Answer("it used more bytes than it got"))?;
        self.inbox.put_back(rest);
        self.is_plain = false;
        write_all(self.client, &reply.to_client)
            .await
            .map_err(HandshakeError::Client)?;
        // Behind a HelloRetryRequest and behind a TLS 1.2 server's first flight nothing is protected yet.
        self.is_plain = matches!(reply.next, Next::More(_));
        Ok(())
    }

    async fn next_flight(
        &mut self,
        expect: Expect,
        report: &mut Report,
    ) -> Result<Vec<u8>, HandshakeError> {
        match expect {
            Expect::ClientHello => self.client_hello(HelloReader::second(), report).await,
            Expect::KeyExchange => self.key_exchange().await,
            Expect::ClientFlight | Expect::Finished => Err(HandshakeError::Answer(
                "it wants a flight that was not offered",
            )),
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

    async fn key_exchange(&mut self) -> Result<Vec<u8>, HandshakeError> {
        loop {
            if let Some(len) = self.key_exchange.read(self.inbox.bytes())? {
                let records = self.inbox.bytes()[..len].to_vec();
                self.inbox.consume(len);
                return Ok(records);
            }
            self.fill().await?;
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
        match signers.call(begun.signer, &begun.link, request).await? {
            Reply::Handshake(reply) if reply.binding == binding => {
                self.take(&records, &reply).await?;
                Ok(reply)
            }
            _ => Err(signers.mismatch(begun.signer).into()),
        }
    }

    /// TLS 1.2: the signer has accepted the client's Finished.
    fn opened(
        &mut self,
        signer: usize,
        established: Established,
    ) -> Result<Unlocked, HandshakeError> {
        if established.version != TlsVersion::Tls12 {
            return Err(HandshakeError::Answer("TLS 1.3 keys outside the lock"));
        }
        Ok(Unlocked {
            established,
            rest: std::mem::take(&mut self.inbox).into_rest(),
            signer,
        })
    }
}
