//! One lasting connection to one signer, or to central, shared by everything in the process that asks it.
//!
//! Requests go out in batches and replies come back in any order. Connecting again, and asking whether the
//! signer can serve, go on in the background. Which signer to ask is left to the proxy. One invariant: callers
//! see a connection only after the signer has answered on it.

use std::{sync::Arc, time::Duration};

use keyhaven_types::Identity;
use keyhaven_wire::{ErrorCode, Reply, Request};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{mpsc, watch},
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{Instrument as _, debug, info, info_span, warn};

use crate::{
    calls::{CallError, CloseOnDrop, Link},
    dial::{ClientConfig, dial, who},
    identity::time_left,
    link::{FrameReader, LinkError, write_frames},
    tls::chain,
};

/// A handle on the connection to one signer. When the last clone is dropped, the connection ends.
#[derive(Clone, Debug)]
pub struct Client(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: ClientConfig,
    status: watch::Receiver<Status>,
    _ends_with_us: DropGuard,
}

/// What the background task knows.
#[derive(Clone, Debug, Default)]
struct Status {
    link: Option<Arc<Link>>,
    healthy: bool,
    last_error: Option<Arc<str>>,
}

impl Client {
    /// Starts to connect in the background. Call it inside a runtime.
    pub fn start(config: ClientConfig) -> Self {
        let (publish, status) = watch::channel(Status::default());
        let end = CancellationToken::new();
        let span = info_span!("signer", address = config.address, identity = %config.identity);
        let keeper = Keeper {
            config: config.clone(),
            publish,
            end: end.clone(),
            epoch: 0,
        };
        tokio::spawn(keeper.run().instrument(span));
        Self(Arc::new(Inner {
            config,
            status,
            _ends_with_us: end.drop_guard(),
        }))
    }

    /// Sends a request and waits for its reply. An error code from the signer is a reply.
    pub async fn call(&self, request: Request, timeout: Duration) -> Result<Reply, CallError> {
        let connection = self.pin().ok_or(CallError::Unreachable)?;
        connection.call(request, timeout).await
    }

    /// The connection as it is now, for calls that must go the same way. None when there is none.
    pub fn pin(&self) -> Option<PinnedConnection> {
        self.0.status.borrow().link.clone().map(PinnedConnection)
    }

    /// Whether there is a connection and the signer last said that it can serve.
    pub fn is_healthy(&self) -> bool {
        self.0.status.borrow().healthy
    }

    /// Waits until [`Client::is_healthy`], at most this long, and says whether it is.
    pub async fn healthy(&self, at_most: Duration) -> bool {
        let mut status = self.0.status.clone();
        let healthy = timeout(at_most, status.wait_for(|status| status.healthy)).await;
        matches!(healthy, Ok(Ok(_)))
    }

    /// The number of the connection as it is now: another one means that pending handshakes are gone.
    pub fn connection_epoch(&self) -> Option<u64> {
        self.0.status.borrow().link.as_ref().map(|link| link.epoch)
    }

    /// Who answers.
    pub fn identity(&self) -> &Identity {
        &self.0.config.identity
    }

    /// Where, as configured.
    pub fn address(&self) -> &str {
        &self.0.config.address
    }

    /// Why there is no connection, or why the last one ended.
    pub fn last_error(&self) -> Option<String> {
        self.0
            .status
            .borrow()
            .last_error
            .as_deref()
            .map(ToOwned::to_owned)
    }
}

/// One connection, which never becomes another one.
#[derive(Clone, Debug)]
pub struct PinnedConnection(Arc<Link>);

impl PinnedConnection {
    /// Sends a request on this connection and waits for its reply.
    pub async fn call(&self, request: Request, at_most: Duration) -> Result<Reply, CallError> {
        let permit = self
            .0
            .permits
            .clone()
            .try_acquire_owned()
            .map_err(|_| CallError::Busy)?;
        let reply = self.0.send(&request, Some(permit))?;
        drop(request);
        match timeout(at_most, reply).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(_)) => Err(CallError::Lost),
            // The place stays taken until the reply comes or the connection ends: a late reply is no breach.
            Err(_) => Err(CallError::Timeout),
        }
    }

    /// The connection's number, unique within its client.
    pub fn epoch(&self) -> u64 {
        self.0.epoch
    }

    /// Whether it still stands.
    pub fn is_open(&self) -> bool {
        self.0.is_open()
    }
}

/// Keeps the connection: dials, drives, and dials again.
struct Keeper {
    config: ClientConfig,
    publish: watch::Sender<Status>,
    end: CancellationToken,
    epoch: u64,
}

impl Keeper {
    async fn run(mut self) {
        let end = self.end.clone();
        let mut pause = self.config.backoff_min;
        loop {
            let was_connected = tokio::select! {
                () = end.cancelled() => false,
                was_connected = self.connect_and_drive() => was_connected,
            };
            if end.is_cancelled() {
                return self.lost(None);
            }
            if was_connected {
                pause = self.config.backoff_min;
            }
            tokio::select! {
                () = end.cancelled() => return,
                () = sleep(jittered(pause, self.epoch)) => {}
            }
            pause = (pause * 2).min(self.config.backoff_max);
        }
    }

    /// One connection from its start to its end. Says whether it ever worked.
    async fn connect_and_drive(&mut self) -> bool {
        self.epoch += 1;
        let stream = match Box::pin(dial(&self.config)).await {
            Ok(stream) => stream,
            Err(error) => {
                self.lost(Some(chain(&error)));
                return false;
            }
        };
        let time_left = time_left(stream.get_ref().1.peer_certificates().unwrap_or_default());
        let outcome = tokio::select! {
            outcome = self.drive(stream) => outcome,
            // An identity is not believed longer than its certificate.
            () = sleep(time_left.unwrap_or(Duration::MAX)) => Err(LinkError::Expired),
        };
        let worked = self.publish.borrow().link.is_some();
        let why = match outcome {
            Ok(()) => format!("closed by {}", self.who()),
            Err(LinkError::Io(error)) => crate::tls::describe(&error),
            Err(error) => chain(&error),
        };
        self.lost(Some(why));
        worked
    }

    async fn drive<S>(&self, stream: S) -> Result<(), LinkError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let (read, write) = tokio::io::split(stream);
        // One place more than there are permits: pings need none.
        let (queue, frames) = mpsc::channel(self.config.outstanding_max + 1);
        let link = Arc::new(Link::new(self.epoch, self.config.outstanding_max, queue));
        let _ends = CloseOnDrop(link.clone());
        let read = async {
            let mut reader = FrameReader::<_, Reply>::new(read);
            // Pings keep replies coming, so silence this long means that the other end is gone.
            let idle_timeout =
                self.config.ping_interval + self.config.ping_timeout + self.config.connect_timeout;
            while let Some((id, reply)) = reader.next(idle_timeout).await? {
                link.answer(id, reply)?;
            }
            Ok(())
        };
        tokio::select! {
            outcome = read => outcome,
            outcome = write_frames(write, frames, self.config.write_timeout) => outcome,
            outcome = self.watch_health(&link) => outcome,
        }
    }

    /// Asks the signer again and again whether it can serve. The first answer of any kind makes the connection
    /// known to callers: with TLS 1.3 a client learns only then that its own certificate was accepted.
    async fn watch_health(&self, link: &Arc<Link>) -> Result<(), LinkError> {
        let mut ticks = interval(self.config.ping_interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let Ok(reply) = link.send(&Request::Ping, None) else {
                return Err(LinkError::Unasked);
            };
            let reply = match timeout(self.config.ping_timeout, reply).await {
                Ok(Ok(Ok(reply))) => reply,
                Ok(_) => return Err(LinkError::Unasked),
                Err(_) => return Err(LinkError::Ping(self.config.ping_timeout)),
            };
            let healthy = match reply {
                Reply::Pong => true,
                // Busy is a sign of life, and says nothing new about the token.
                Reply::Error(ErrorCode::Busy) => self.publish.borrow().healthy,
                _ => false,
            };
            self.alive(link, healthy);
        }
    }

    fn who(&self) -> &'static str {
        who(self.config.identity.role())
    }

    fn alive(&self, link: &Arc<Link>, healthy: bool) {
        self.publish.send_if_modified(|status| {
            let first = status.link.is_none();
            let changed = first || status.healthy != healthy;
            if first {
                status.link = Some(link.clone());
                info!(epoch = link.epoch, "connected");
            }
            if changed && !healthy {
                warn!(
                    "{} says that it cannot serve: it stops, or its token does not answer",
                    self.who()
                );
            } else if changed && !first {
                info!("{} can serve again", self.who());
            }
            status.healthy = healthy;
            if healthy {
                status.last_error = None;
            }
            changed
        });
    }

    /// Takes the connection from callers and says why, once for each new reason.
    fn lost(&self, why: Option<String>) {
        self.publish.send_modify(|status| {
            status.link = None;
            status.healthy = false;
            if let Some(why) = why {
                if status.last_error.as_deref() == Some(why.as_str()) {
                    debug!(why, "not connected");
                } else {
                    warn!(why, "not connected");
                }
                status.last_error = Some(why.into());
            }
        });
    }
}

/// Spreads the clients of a signer that came back: between three quarters and all of the pause.
fn jittered(pause: Duration, epoch: u64) -> Duration {
    let spread = epoch.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(std::process::id());
    let share = u32::try_from(spread % 64).unwrap_or(0);
    pause - pause / 256 * share
}
