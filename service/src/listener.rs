//! Where callers connect: TCP, then mutually authenticated TLS, then a served connection.
//!
//! Decides who is let in by certificate and role, and how many at once; what they may do is decided for each
//! request by the handler. One invariant: what has not proven its identity can never take the place of what has.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use keyhaven_types::Role;
use keyhaven_wire::ALPN;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, info, info_span, warn};

use crate::{
    credentials::Credentials,
    identity::{peer_identity, time_left},
    server::{Caller, Ends, Handler, ServeLimits, serve},
    shares::Shares,
    shutdown::Shutdown,
    tls,
};

/// What a listener needs.
#[derive(Clone, Debug)]
pub struct ListenerConfig {
    /// Where to listen; port 0 takes a free one.
    pub address: SocketAddr,
    /// What we prove ourselves with.
    pub credentials: Credentials,
    /// Whose certificates are let in.
    pub roles: Vec<Role>,
    /// Authenticated connections at once; more are closed. One identity may have a quarter of them.
    pub connections_max: usize,
    /// How long a TLS handshake may take.
    pub handshake_timeout: Duration,
}

impl ListenerConfig {
    /// With 256 connections and 5 seconds for a handshake.
    pub fn new(address: SocketAddr, credentials: Credentials, roles: Vec<Role>) -> Self {
        Self {
            address,
            credentials,
            roles,
            connections_max: 256,
            handshake_timeout: Duration::from_secs(5),
        }
    }
}

/// Why there is no listener.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The address cannot be had.
    #[error(
        "cannot listen on {address}; is another process there, or is the address not this machine's?"
    )]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The credentials cannot be used.
    #[error("the identity's certificate, key or CA cannot be used")]
    Tls(#[source] rustls::Error),
}

/// A bound socket with everything that its connections need.
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    acceptor: TlsAcceptor,
    config: ListenerConfig,
}

/// Connections in their TLS handshake at once. Beyond it the oldest is closed: a flood of silent connections
/// pushes itself out, while one that speaks is through in milliseconds.
const HALF_OPEN_MAX: usize = 512;
/// Connections that the system completes before they are accepted.
const BACKLOG: u32 = 4096;
/// How long to wait when the system gives no socket.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Numbers the connections of the process.
static NEXT_CONNECTION: AtomicU64 = AtomicU64::new(1);

impl Listener {
    /// Takes the address.
    pub async fn bind(config: ListenerConfig) -> Result<Self, ListenError> {
        let tls =
            tls::server_config(&config.credentials, &config.roles).map_err(ListenError::Tls)?;
        let bind = |source| ListenError::Bind {
            address: config.address,
            source,
        };
        let socket = listen(config.address).map_err(bind)?;
        let address = socket.local_addr().map_err(bind)?;
        Ok(Self {
            socket,
            address,
            acceptor: TlsAcceptor::from(tls),
            config,
        })
    }

    /// Where it listens, with the real port.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Accepts and serves until `shutdown` says "stop". Connections are tasks of `shutdown`, which waits for
    /// them; this returns as soon as nothing more is accepted.
    pub async fn serve<H: Handler>(
        self,
        handler: Arc<H>,
        limits: ServeLimits,
        shutdown: &Shutdown,
    ) {
        let door = Arc::new(Door {
            acceptor: self.acceptor,
            places: Arc::new(Semaphore::new(self.config.connections_max)),
            handshake_timeout: self.config.handshake_timeout,
            half_open: HalfOpen::default(),
            shares: Shares::new(self.config.connections_max / 4),
            handler,
            limits,
            shutdown: shutdown.clone(),
        });
        let stop = shutdown.token();
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = self.socket.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let connection = NEXT_CONNECTION.fetch_add(1, Ordering::Relaxed);
                    let pushed_out = door.half_open.enter(connection);
                    let span = info_span!("connection", connection, %peer);
                    shutdown.spawn(
                        door.clone()
                            .admit(stream, peer, connection, pushed_out)
                            .instrument(span),
                    );
                }
                Err(error) => {
                    warn!(%error, "cannot accept a connection; raise the limit of open files?");
                    door.half_open.push_oldest_out();
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// Listens with room for a crowd: with the usual backlog its connections would push a proxy's out for seconds.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// What every connection on its way in shares.
struct Door<H> {
    acceptor: TlsAcceptor,
    places: Arc<Semaphore>,
    handshake_timeout: Duration,
    half_open: HalfOpen,
    shares: Shares,
    handler: Arc<H>,
    limits: ServeLimits,
    shutdown: Shutdown,
}

impl<H: Handler> Door<H> {
    async fn admit(
        self: Arc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        connection: u64,
        pushed_out: CancellationToken,
    ) {
        let handshake = timeout(self.handshake_timeout, self.handshake(stream));
        let stop = self.shutdown.token();
        let outcome = tokio::select! {
            outcome = handshake => outcome.unwrap_or_else(|_| Err("no TLS handshake in time".to_owned())),
            () = pushed_out.cancelled() => Err("too many connections without a handshake".to_owned()),
            () = stop.cancelled() => Err("stopping".to_owned()),
        };
        self.half_open.leave(connection);
        let stream = match outcome {
            Ok(stream) => stream,
            Err(why) => return warn!(why, "connection refused"),
        };
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let time_left = time_left(chain);
        let identity = match peer_identity(chain) {
            Ok(identity) => identity,
            Err(error) => return warn!(%error, "connection refused"),
        };
        let Ok(_place) = self.places.clone().try_acquire_owned() else {
            return warn!(%identity, "connection refused: connections_max is reached");
        };
        let Some(_share) = self.shares.take(&identity) else {
            return warn!(%identity, "connection refused: this identity has its share of connections_max");
        };
        info!(%identity, "connection open");
        let caller = Arc::new(Caller {
            identity,
            connection,
            peer,
            evicted: CancellationToken::new(),
        });
        let ends = Ends {
            stop,
            cut: self.shutdown.cut_token(),
            time_left,
        };
        Box::pin(serve(
            stream,
            caller,
            self.handler.clone(),
            self.limits,
            ends,
        ))
        .await;
    }

    async fn handshake(&self, stream: TcpStream) -> Result<TlsStream<TcpStream>, String> {
        stream
            .set_nodelay(true)
            .map_err(|error| error.to_string())?;
        let stream = self
            .acceptor
            .accept(stream)
            .await
            .map_err(|error| tls::describe(&error))?;
        // A client that names no protocol at all passes rustls; here it does not.
        if stream.get_ref().1.alpn_protocol() != Some(ALPN) {
            return Err("it does not speak keyhaven/1".to_owned());
        }
        Ok(stream)
    }
}

/// The connections that have proven nothing yet, oldest first.
#[derive(Default)]
struct HalfOpen(Mutex<BTreeMap<u64, CancellationToken>>);

impl HalfOpen {
    fn enter(&self, connection: u64) -> CancellationToken {
        let token = CancellationToken::new();
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.insert(connection, token.clone());
        if waiting.len() > HALF_OPEN_MAX
            && let Some((_, oldest)) = waiting.pop_first()
        {
            oldest.cancel();
        }
        token
    }

    fn leave(&self, connection: u64) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.remove(&connection);
    }

    fn push_oldest_out(&self) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, oldest)) = waiting.pop_first() {
            oldest.cancel();
        }
    }
}
