//! Serving one connection: requests in, replies out in any order.
//!
//! Reads only when a permit is free, runs each request in a task of its own, and lets one task write. What a
//! request means is the handler's business. One invariant: when [`Handler::closed`] is called, no request of
//! that connection runs any more, so nothing can be left behind for it.

use std::{future::Future, net::SocketAddr, sync::Arc, time::Duration};

use keyhaven_types::Identity;
use keyhaven_wire::{ErrorCode, Reply, Request, encode};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::{interval, sleep},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument as _, debug, error, info, info_span, warn};
use zeroize::Zeroizing;

use crate::{
    link::{Frame, FrameReader, LinkError, write_frames},
    tls::chain,
};

/// Who is asking.
#[derive(Debug)]
pub struct Caller {
    /// The identity that its certificate proved.
    pub identity: Identity,
    /// Names the connection; no other connection of this process ever has the same number.
    pub connection: u64,
    /// Where it comes from.
    pub peer: SocketAddr,
    pub(crate) evicted: CancellationToken,
}

impl Caller {
    /// A caller without a connection, for tests of handlers.
    pub fn detached(identity: Identity, connection: u64, peer: SocketAddr) -> Self {
        Self {
            identity,
            connection,
            peer,
            evicted: CancellationToken::new(),
        }
    }

    /// Ends the connection now; what is in flight is not answered.
    pub fn close(&self) {
        self.evicted.cancel();
    }
}

/// What a daemon does with requests.
pub trait Handler: Send + Sync + 'static {
    /// Answers one request. Runs beside the other requests of the same connection.
    fn call(&self, caller: Arc<Caller>, request: Request) -> impl Future<Output = Reply> + Send;

    /// The connection is over and none of its requests runs any more: free what waits for it.
    fn closed(&self, caller: &Caller) {
        let _ = caller;
    }

    /// Whether nothing waits for another request of this caller. Asked when the daemon stops or the connection
    /// is old; the connection stays open, for the time of grace, until the answer is yes.
    fn is_idle(&self, caller: &Caller) -> bool {
        let _ = caller;
        true
    }
}

/// Limits of one connection.
#[derive(Clone, Copy, Debug)]
pub struct ServeLimits {
    /// Requests at work at once; while so many are, no further one is read.
    pub in_flight: usize,
    /// Of these, handshake steps, which take time in a token; more are answered "busy" at once, so that the quick
    /// requests behind them (pings, outcomes, next keys) are not kept waiting.
    pub handshakes: usize,
    /// How long the next whole request may take to come; clients ping more often than this.
    pub idle_timeout: Duration,
    /// How long the other end may leave a reply unread.
    pub write_timeout: Duration,
    /// The whole life of a connection; the client then makes a new one, and is verified anew.
    pub connection_age_max: Duration,
}

impl Default for ServeLimits {
    fn default() -> Self {
        Self {
            in_flight: 128,
            handshakes: 128,
            idle_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(10),
            connection_age_max: Duration::from_secs(24 * 60 * 60),
        }
    }
}

/// When a connection is to end, as its driver sees it.
pub(crate) struct Ends {
    /// Finish what is in flight, then close.
    pub(crate) stop: CancellationToken,
    /// Close now.
    pub(crate) cut: CancellationToken,
    /// How long the other end's certificate is still valid.
    pub(crate) time_left: Option<Duration>,
}

/// How often a connection that is to end looks whether it is idle.
const DRAIN_INTERVAL: Duration = Duration::from_millis(20);
/// How long an old connection may wait for second calls; longer than any pending handshake lives.
const AGE_GRACE: Duration = Duration::from_secs(30);

/// Serves until the other end closes, breaks a rule, is evicted or too old, or the daemon stops.
pub(crate) async fn serve<S, H>(
    stream: S,
    caller: Arc<Caller>,
    handler: Arc<H>,
    limits: ServeLimits,
    ends: Ends,
) where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    H: Handler,
{
    let limits = ServeLimits {
        in_flight: limits.in_flight.max(1),
        ..limits
    };
    let (read, write) = tokio::io::split(stream);
    let (replies, queue) = mpsc::channel(limits.in_flight);
    let driver = Driver {
        caller: caller.clone(),
        handler: handler.clone(),
        limits,
        replies,
        permits: Arc::new(Semaphore::new(limits.in_flight)),
        handshakes: Arc::new(Semaphore::new(limits.handshakes)),
        tasks: TaskTracker::new(),
        cut: ends.cut.child_token(),
    };
    let tasks = driver.tasks.clone();
    let cut = driver.cut.clone();
    let outcome = tokio::select! {
        outcome = both(driver, FrameReader::new(read), write_frames(write, queue, limits.write_timeout), &ends) => outcome,
        () = cut.cancelled() => Ok("the grace is over"),
        () = caller.evicted.cancelled() => Ok("evicted"),
    };
    match outcome {
        Ok(why) => info!(why, "connection closed"),
        Err(reason) => warn!(error = chain(&reason), "connection closed"),
    }
    cut.cancel();
    tasks.close();
    tasks.wait().await;
    handler.closed(&caller);
}

/// Reads until the end. When the end is ours, what is in flight is still answered; when it is the other end's,
/// nobody is left to read the answers.
async fn both<R, H>(
    driver: Driver<H>,
    mut reader: FrameReader<R, Request>,
    writer: impl Future<Output = Result<(), LinkError>>,
    ends: &Ends,
) -> Result<&'static str, LinkError>
where
    R: AsyncRead + Unpin,
    H: Handler,
{
    let mut writer = std::pin::pin!(writer);
    let why = tokio::select! {
        outcome = driver.read_requests(&mut reader) => return outcome,
        why = driver.drained(ends) => why,
        outcome = &mut writer => return outcome.map(|()| "nothing more to write"),
    };
    // The writer ends when the last request in flight has sent its reply and dropped its sender.
    drop(driver);
    writer.await?;
    Ok(why)
}

struct Driver<H> {
    caller: Arc<Caller>,
    handler: Arc<H>,
    limits: ServeLimits,
    replies: mpsc::Sender<Frame>,
    permits: Arc<Semaphore>,
    handshakes: Arc<Semaphore>,
    tasks: TaskTracker,
    cut: CancellationToken,
}

impl<H: Handler> Driver<H> {
    async fn read_requests<R: AsyncRead + Unpin>(
        &self,
        reader: &mut FrameReader<R, Request>,
    ) -> Result<&'static str, LinkError> {
        loop {
            let Ok(permit) = self.permits.clone().acquire_owned().await else {
                return Ok("closed here");
            };
            match reader.next(self.limits.idle_timeout).await? {
                None => return Ok("closed by the other end"),
                Some((id, request)) => self.start(id, request, permit),
            }
        }
    }

    fn start(&self, id: u64, request: Request, permit: OwnedSemaphorePermit) {
        let span = info_span!(
            "request",
            id,
            kind = kind(&request),
            connection = self.caller.connection,
            caller = %self.caller.identity,
        );
        let answer = Answer {
            id,
            replies: self.replies.clone(),
            sent: false,
            _permit: permit,
        };
        let (caller, handler, cut) = (self.caller.clone(), self.handler.clone(), self.cut.clone());
        let place = self.place_for(&request);
        let work = async move {
            let reply = tokio::select! {
                reply = call(handler, caller, request, place) => reply,
                () = cut.cancelled() => {
                    debug!("cut");
                    Reply::Error(ErrorCode::Unavailable)
                }
            };
            answer.send(&reply, &cut).await;
        };
        self.tasks.spawn(work.instrument(span));
    }

    /// A handshake step needs a place of its own; anything else is quick.
    fn place_for(&self, request: &Request) -> Place {
        match request {
            Request::Start(_) | Request::Continue(_) => {
                match self.handshakes.clone().try_acquire_owned() {
                    Ok(permit) => Place::Taken(permit),
                    Err(_) => Place::None,
                }
            }
            _ => Place::NotNeeded,
        }
    }

    /// Returns when the connection should end and nothing waits on it.
    async fn drained(&self, ends: &Ends) -> &'static str {
        // An identity is not believed longer than its certificate.
        let age_max = self.limits.connection_age_max;
        let age_max = ends.time_left.map_or(age_max, |left| left.min(age_max));
        let (why, grace) = tokio::select! {
            () = ends.stop.cancelled() => ("stopping", None),
            () = sleep(age_max) => ("too old", Some(AGE_GRACE)),
        };
        let idle = async {
            let mut ticks = interval(DRAIN_INTERVAL);
            loop {
                ticks.tick().await;
                // The reader itself holds one permit while it waits for a request.
                let busy = self.limits.in_flight - self.permits.available_permits();
                if busy <= 1 && self.handler.is_idle(&self.caller) {
                    return;
                }
            }
        };
        match grace {
            // The daemon's own grace ends this from outside.
            None => idle.await,
            Some(grace) => {
                let _ = tokio::time::timeout(grace, idle).await;
            }
        }
        why
    }
}

/// Whether a request may be worked on now.
enum Place {
    NotNeeded,
    Taken(OwnedSemaphorePermit),
    None,
}

async fn call<H: Handler>(
    handler: Arc<H>,
    caller: Arc<Caller>,
    request: Request,
    place: Place,
) -> Reply {
    match place {
        Place::None => Reply::Error(ErrorCode::Busy),
        Place::NotNeeded => handler.call(caller, request).await,
        Place::Taken(permit) => {
            let reply = handler.call(caller, request).await;
            drop(permit);
            reply
        }
    }
}

/// The duty to answer one request: a task that dies without an answer still sends "internal".
struct Answer {
    id: u64,
    replies: mpsc::Sender<Frame>,
    sent: bool,
    _permit: OwnedSemaphorePermit,
}

impl Answer {
    async fn send(mut self, reply: &Reply, cut: &CancellationToken) {
        self.sent = true;
        let frame = frame(self.id, reply);
        tokio::select! {
            _ = self.replies.send(frame) => {}
            () = cut.cancelled() => {}
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if !self.sent {
            // There is a place in the queue for each permit, so this fails only when the connection is over.
            let _ = self
                .replies
                .try_send(frame(self.id, &Reply::Error(ErrorCode::Internal)));
        }
    }
}

fn frame(id: u64, reply: &Reply) -> Frame {
    let mut frame = Zeroizing::new(Vec::new());
    if let Err(reason) = encode(id, reply, &mut frame) {
        error!(error = chain(&reason), "the reply cannot be sent");
        let _ = encode(id, &Reply::Error(ErrorCode::Internal), &mut frame);
    }
    frame
}

fn kind(request: &Request) -> &'static str {
    match request {
        Request::Start(_) => "start",
        Request::Continue(_) => "continue",
        Request::Outcome(_) => "outcome",
        Request::Refuse(_) => "refuse",
        Request::Rekey(_) => "rekey",
        Request::Ping => "ping",
        Request::Operate(_) => "operate",
        Request::OperateSigned(_) => "operate-signed",
        Request::OperatePassed(_) => "operate-passed",
        Request::Lookup(_) => "lookup",
        Request::Follow(_) => "follow",
        Request::Fetch(_) => "fetch",
        Request::Lease(_) => "lease",
        Request::Status => "status",
        Request::Admin(_) => "admin",
    }
}
