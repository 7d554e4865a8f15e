//! Moves an established connection's bytes, both ways at once, in one task.
//!
//! The pure halves in `session` decide; this room reads, writes and waits. What is read is bounded by one buffer a
//! direction, so that a slow reader slows its peer down. No direction cuts the other's data: an end of stream closes
//! only its own way, and only a fault, a deadline or a stop ends both.

mod buffers;
mod downward;
mod quiet;
mod traffic;
mod upward;

use std::{io, pin::pin, time::Duration};

use keyhaven_types::{Direction, alert};
use tokio::{net::TcpStream, time::Instant};

pub(crate) use buffers::Buffers;
pub(crate) use traffic::Traffic;

use crate::{
    client,
    connection::Context,
    flight::Refused,
    handshake::Unlocked,
    record::{Generation, KeyError, ReadKey, WriteKey},
    session::{BUFFER_LEN, Fault, Inbound, NextKey, Outbound, OutboundError, RekeyError, Rekeying},
    signers::{Signer, SignerError},
};
use quiet::Open;
use traffic::Signals;
use upward::Received;

/// How an established connection ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Stop {
    /// The client broke a rule, or ended it.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// The client's socket broke.
    #[error("the client's connection broke")]
    Client(#[source] io::Error),
    /// The backend's socket broke while we read.
    #[error("the backend's connection broke")]
    BackendRead(#[source] io::Error),
    /// The backend takes no more; it may still have sent an answer.
    #[error("the backend takes no more data")]
    BackendWrite(#[source] io::Error),
    /// The backend cannot be reached.
    #[error("the backend cannot be reached; check `backend` in the configuration and that it runs")]
    BackendConnect(#[source] io::Error),
    /// No signer gave the next key.
    #[error("no signer gave the next key")]
    Signer(#[from] SignerError),
    /// The next key cannot be used.
    #[error(transparent)]
    Rekey(#[from] RekeyError),
    /// A record cannot be made.
    #[error(transparent)]
    Outbound(#[from] OutboundError),
    /// A TLS 1.2 key has protected as many records as it may, or TLS 1.3 without a state for the next key.
    #[error("records_per_key is reached and the key cannot be replaced")]
    KeySpent,
    /// Nothing moved.
    #[error("no byte either way within idle_timeout_s")]
    Idle,
    /// The connection is too old.
    #[error("the connection has reached its lifetime")]
    Lifetime,
    /// The proxy is stopping and the grace is over.
    #[error("the proxy is stopping")]
    Shutdown,
}

/// The last thing that the client hears.
#[derive(Clone, Copy)]
enum LastWord {
    Nothing,
    CloseNotify,
    Alert(u8),
}

impl Stop {
    /// A close_notify says that nothing is missing: only a quiet connection may end with it.
    fn last_word(&self, is_quiet: bool) -> LastWord {
        match self {
            Self::Fault(Fault::Refused(Refused { alert, .. })) => LastWord::Alert(*alert),
            Self::Fault(Fault::ClientAlert(_)) | Self::Client(_) => LastWord::Nothing,
            Self::Idle | Self::Lifetime | Self::Shutdown if is_quiet => LastWord::CloseNotify,
            Self::BackendRead(_)
            | Self::BackendWrite(_)
            | Self::BackendConnect(_)
            | Self::Signer(_)
            | Self::Rekey(_)
            | Self::Outbound(_)
            | Self::KeySpent
            | Self::Idle
            | Self::Lifetime
            | Self::Shutdown => LastWord::Alert(alert::INTERNAL_ERROR),
        }
    }

    /// Whether something of ours failed, and not the client.
    pub(crate) fn is_ours(&self) -> bool {
        matches!(
            self,
            Self::BackendConnect(_) | Self::Signer(_) | Self::Rekey(_) | Self::Outbound(_)
        )
    }
}

/// An established connection and everything it is made of.
pub(crate) struct Session<'a> {
    context: &'a Context,
    client: &'a TcpStream,
    signer: Signer,
    lives_until: Instant,
    traffic: &'a Traffic,
    inbound: Inbound,
    outbound: Outbound,
    rekey_read: Rekeying,
    rekey_write: Rekeying,
    received: Received,
}

impl<'a> Session<'a> {
    /// Takes the keys into use.
    pub(crate) fn new(
        context: &'a Context,
        client: &'a TcpStream,
        traffic: &'a Traffic,
        unlocked: Unlocked,
    ) -> Result<Self, KeyError> {
        let Unlocked {
            established,
            rest,
            signer,
        } = unlocked;
        let version = established.version;
        let connection = established.connection;
        let read = ReadKey::new(version, Generation::FIRST, &established.read)?;
        let write = WriteKey::new(version, Generation::FIRST, &established.write)?;
        let limits = &context.limits;
        let mut outbound = Outbound::new(write, version, limits.records_per_key);
        outbound.start_with(established.tickets);
        let granted = Duration::from_secs(u64::from(established.lifetime_s));
        Ok(Self {
            context,
            client,
            signer,
            lives_until: Instant::now() + limits.connection_lifetime.min(granted),
            traffic,
            inbound: Inbound::new(read, version, std::time::Instant::now()),
            outbound,
            rekey_read: Rekeying::new(connection, Direction::Read, established.rekey_read),
            rekey_write: Rekeying::new(connection, Direction::Write, established.rekey_write),
            received: Received::new(rest),
        })
    }

    /// Pumps until both ways are closed, or something ends them.
    pub(crate) async fn run(mut self, backend: &TcpStream) -> Result<(), Stop> {
        let (end, open) = self.pump(backend).await;
        let last_word = match &end {
            Ok(()) => LastWord::Nothing,
            Err(stop) => stop.last_word(self.is_quiet(open, backend)),
        };
        // The backend must not take a cut request for a whole one.
        if end.is_err() && !matches!(last_word, LastWord::CloseNotify) {
            client::abort_on_close(backend);
        }
        self.close(end, last_word).await
    }

    /// Does what comes before the data, unless the connection must end first.
    pub(crate) async fn before_data<T>(
        &self,
        act: impl Future<Output = Result<T, Stop>>,
    ) -> Result<T, Stop> {
        tokio::select! {
            done = act => done,
            stop = over(self.context, self.lives_until) => Err(stop),
        }
    }

    /// Ends a connection whose backend could not be reached.
    pub(crate) async fn refuse(self, stop: Stop) -> Result<(), Stop> {
        let last_word = stop.last_word(false);
        self.close(Err(stop), last_word).await
    }

    /// How it ended, and which ways had not ended by themselves.
    async fn pump(&mut self, backend: &TcpStream) -> (Result<(), Stop>, Open) {
        let signals = Signals::default();
        let link = Link {
            context: self.context,
            client: self.client,
            backend,
            signer: self.signer.clone(),
            traffic: self.traffic,
            signals: &signals,
        };
        let mut up = pin!(upward::run(
            &link,
            &mut self.inbound,
            &mut self.rekey_read,
            &mut self.received
        ));
        let mut down = pin!(downward::run(
            &link,
            &mut self.outbound,
            &mut self.rekey_write
        ));
        let mut watch = pin!(watch(self.context, self.traffic, self.lives_until));
        let mut open = Open {
            up: true,
            down: true,
        };
        while open.up || open.down {
            tokio::select! {
                ended = &mut up, if open.up => match ended {
                    // The backend may have answered before it stopped to listen.
                    Ok(()) | Err(Stop::BackendWrite(_)) => open.up = false,
                    Err(stop) => return (Err(stop), open),
                },
                ended = &mut down, if open.down => match ended {
                    Ok(()) => open.down = false,
                    Err(stop) => return (Err(stop), open),
                },
                stop = &mut watch => return (Err(stop), open),
            }
        }
        (Ok(()), open)
    }

    async fn close(mut self, end: Result<(), Stop>, last_word: LastWord) -> Result<(), Stop> {
        // Refused when the writing side is closed already: then the client has heard its last word.
        let _ = match last_word {
            LastWord::Nothing => Ok(()),
            LastWord::CloseNotify => self.outbound.close_notify(),
            LastWord::Alert(description) => self.outbound.fatal_alert(description),
        };
        if !matches!(end, Err(Stop::Client(_))) {
            let pending = self.outbound.pending();
            client::say_goodbye(self.client, pending, &self.context.shutdown).await;
        }
        self.outbound.advance(usize::MAX);
        let buffers = &self.context.buffers;
        // Plaintext that could not be sealed may be in it.
        buffers.give_back(self.outbound.take_buffer(), BUFFER_LEN);
        self.received.give_back(buffers);
        end
    }
}

/// What both directions share.
struct Link<'a> {
    context: &'a Context,
    client: &'a TcpStream,
    backend: &'a TcpStream,
    signer: Signer,
    traffic: &'a Traffic,
    signals: &'a Signals,
}

impl Link<'_> {
    /// Asks a signer for the next key of one direction. Whoever waits here moves no data of that direction.
    async fn next_key(&self, rekeying: &mut Rekeying) -> Result<NextKey, Stop> {
        let ask = rekeying.ask()?;
        let answer = self.context.signers.rekey(&self.signer, ask).await?;
        Ok(rekeying.answer(answer)?)
    }
}

/// Lets the other direction and the other tasks go on, now and then: a socket that is always ready never makes a
/// direction wait by itself.
#[derive(Default)]
struct Turns(u8);

impl Turns {
    /// Reads of one direction before the others have their turn; a read is at most one buffer.
    const IN_A_ROW: u8 = 16;

    async fn next(&mut self) {
        self.0 += 1;
        if self.0 >= Self::IN_A_ROW {
            self.0 = 0;
            tokio::task::yield_now().await;
        }
    }
}

/// Waits for a reason to end that comes from no socket.
async fn watch(context: &Context, traffic: &Traffic, lives_until: Instant) -> Stop {
    let idle = async {
        loop {
            let left = traffic.idle_left(context.limits.idle_timeout);
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left).await;
        }
    };
    tokio::select! {
        () = idle => Stop::Idle,
        stop = over(context, lives_until) => stop,
    }
}

/// Waits for the end that comes even to a busy connection.
async fn over(context: &Context, lives_until: Instant) -> Stop {
    tokio::select! {
        () = tokio::time::sleep_until(lives_until) => Stop::Lifetime,
        () = context.cut.cancelled() => Stop::Shutdown,
    }
}
