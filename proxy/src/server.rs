//! Accepts clients and gives each a task, up to a limit.
//!
//! Leaves what happens in a connection to `connection`. Over the limit a client gets an alert instead of a handshake,
//! before anything of it is read; when even those answers are too many, just a close.

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use keyhaven_service::{Client, ClientConfig, shutdown::Shutdown};
use keyhaven_types::alert;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};

use crate::{
    client::say_goodbye,
    config::Config,
    connection::{self, Context},
    crowd::Crowd,
    pump::Buffers,
    record::plain_alert,
    signers::Signers,
};

/// Refused clients that are being answered at once.
const REFUSALS_MAX: usize = 256;
/// Pause after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// At most one line in the log per this time about refused clients.
const REFUSAL_LOG_EVERY: Duration = Duration::from_secs(1);
const BACKLOG: i32 = 4096;
const TOO_MANY: &str = "too many connections: refusing; raise connections_max, or add a proxy";
const TOO_MANY_OF_ONE: &str = "too many handshakes of one client address at once: refusing; raise \
     handshakes_per_client_max if many clients share that address";

/// Why the proxy cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}; check `listen`, and that nothing else uses the address")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

/// A proxy that listens.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    context: Arc<Context>,
}

impl Server {
    /// Listens, and starts to connect to the signers. Call it inside a runtime.
    pub fn bind(config: Config, shutdown: &Shutdown) -> Result<Self, ServerError> {
        let failed = |source| ServerError::Listen {
            address: config.listen,
            source,
        };
        let listener = listen(config.listen).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let clients = config.signers.iter().map(|signer| {
            Client::start(ClientConfig::new(
                signer.address.clone(),
                signer.identity.clone(),
                config.credentials.clone(),
            ))
        });
        let mut signers = Signers::new(clients.collect(), config.limits.signer_timeout);
        if let Some(lookup) = config.lookup {
            signers = signers.with_lookup(lookup, config.credentials.clone());
        }
        let crowd = Crowd::new(config.limits.handshakes_per_client_max);
        let context = Context {
            identity: config.credentials.identity().clone(),
            signers,
            limits: config.limits,
            backend: config.backend,
            proxy_protocol: config.proxy_protocol,
            buffers: Buffers::default(),
            crowd: Arc::new(crowd),
            reports: Arc::default(),
            cut: shutdown.cut_token(),
            shutdown: shutdown.clone(),
        };
        Ok(Self {
            listener,
            address,
            context: Arc::new(context),
        })
    }

    /// Where it listens; with port 0 in the configuration, the port that the system chose.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Accepts until the stop signal. Connections go on in the tracker of `shutdown`.
    pub async fn serve(self) {
        let Self {
            listener,
            address,
            context,
        } = self;
        tracing::info!(listening = %address, backend = context.backend, "listening");
        let room = Arc::new(Semaphore::new(context.limits.connections_max));
        let mut refusals = Refusals::new();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = context.shutdown.stopping() => return,
            };
            let (client, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a client; check the limit of open files");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            // Without it small records wait for acknowledgements; a failure costs time and nothing else.
            let _ = client.set_nodelay(true);
            let Ok(permit) = room.clone().try_acquire_owned() else {
                refusals.refuse(&context, client, peer, TOO_MANY);
                continue;
            };
            let Some(in_handshake) = context.crowd.enter(peer.ip()) else {
                refusals.refuse(&context, client, peer, TOO_MANY_OF_ONE);
                continue;
            };
            let serving = connection::serve(context.clone(), client, peer, in_handshake);
            context.shutdown.spawn(async move {
                serving.await;
                drop(permit);
            });
        }
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Answers clients over the limit.
struct Refusals {
    permits: Arc<Semaphore>,
    unlogged: u64,
    logged: Option<Instant>,
}

impl Refusals {
    fn new() -> Self {
        Self {
            permits: Arc::new(Semaphore::new(REFUSALS_MAX)),
            unlogged: 0,
            logged: None,
        }
    }

    fn refuse(&mut self, context: &Context, client: TcpStream, peer: SocketAddr, why: &str) {
        self.unlogged += 1;
        let is_due = |logged: Instant| logged.elapsed() >= REFUSAL_LOG_EVERY;
        if self.logged.is_none_or(is_due) {
            tracing::warn!(
                client = %peer,
                refused = self.unlogged,
                connections_max = context.limits.connections_max,
                handshakes_per_client_max = context.limits.handshakes_per_client_max,
                "{why}"
            );
            self.logged = Some(Instant::now());
            self.unlogged = 0;
        }
        if let Ok(permit) = self.permits.clone().try_acquire_owned() {
            let shutdown = context.shutdown.clone();
            context.shutdown.spawn(answer(client, permit, shutdown));
        }
    }
}

async fn answer(client: TcpStream, permit: OwnedSemaphorePermit, shutdown: Shutdown) {
    say_goodbye(&client, &plain_alert(alert::INTERNAL_ERROR), &shutdown).await;
    drop(permit);
}
