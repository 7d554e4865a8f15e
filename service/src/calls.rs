//! The calls in flight on one connection.
//!
//! Gives each call its id, hands each reply to the one call that it answers, and fails them all when the
//! connection ends. Reads and writes no socket. One invariant: a reply that fits no waiting call is an error of
//! the connection, never somebody's reply.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use keyhaven_wire::{Expected, Reply, Request, encode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tracing::warn;
use zeroize::Zeroizing;

use crate::{
    link::{Frame, LinkError},
    tls::chain,
};

/// Why a call gave no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// Not connected; nothing was sent.
    #[error("the signer is unreachable")]
    Unreachable,
    /// The connection ended after the request was sent; whether it was done is not known.
    #[error("the connection to the signer was lost in mid-call")]
    Lost,
    /// No reply in time; whether it was done is not known.
    #[error("the signer did not answer in time")]
    Timeout,
    /// Too many requests wait already; nothing was sent.
    #[error("too many requests wait for the signer")]
    Busy,
    /// The request breaks a bound, or the reply was not one to it.
    #[error("the request or its reply breaks the protocol")]
    Protocol,
}

/// What the callers and the driver of one connection share.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) epoch: u64,
    next_id: AtomicU64,
    pub(crate) permits: Arc<Semaphore>,
    waiting: Mutex<Waiting>,
}

/// The calls in flight, and the way out; none once the connection is over.
type Waiting = Option<Calls>;

#[derive(Debug)]
struct Calls {
    queue: mpsc::Sender<Frame>,
    by_id: HashMap<u64, Call>,
}

#[derive(Debug)]
struct Call {
    expected: Expected,
    reply: oneshot::Sender<Result<Reply, CallError>>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Link {
    pub(crate) fn new(epoch: u64, outstanding_max: usize, queue: mpsc::Sender<Frame>) -> Self {
        Self {
            epoch,
            next_id: AtomicU64::new(0),
            permits: Arc::new(Semaphore::new(outstanding_max)),
            waiting: Mutex::new(Some(Calls {
                queue,
                by_id: HashMap::new(),
            })),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Nothing panics while it holds the lock, and what it guards is whole between statements.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_open(&self) -> bool {
        self.lock().is_some()
    }

    pub(crate) fn send(
        &self,
        request: &Request,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Result<oneshot::Receiver<Result<Reply, CallError>>, CallError> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let mut frame = Zeroizing::new(Vec::new());
        encode(id, request, &mut frame).map_err(|error| {
            warn!(error = chain(&error), "the request cannot be sent");
            CallError::Protocol
        })?;
        let (reply, receiver) = oneshot::channel();
        let call = Call {
            expected: Expected::of(request),
            reply,
            _permit: permit,
        };
        let mut waiting = self.lock();
        let calls = waiting.as_mut().ok_or(CallError::Unreachable)?;
        calls.queue.try_send(frame).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => CallError::Busy,
            mpsc::error::TrySendError::Closed(_) => CallError::Unreachable,
        })?;
        calls.by_id.insert(id, call);
        Ok(receiver)
    }

    /// Hands a reply to the call that it answers.
    pub(crate) fn answer(&self, id: u64, reply: Reply) -> Result<(), LinkError> {
        let call = self
            .lock()
            .as_mut()
            .and_then(|calls| calls.by_id.remove(&id))
            .ok_or(LinkError::Unasked)?;
        // A caller that no longer waits is no error; its reply is wiped here.
        if call.expected.accepts(&reply) {
            let _ = call.reply.send(Ok(reply));
            Ok(())
        } else {
            let _ = call.reply.send(Err(CallError::Protocol));
            Err(LinkError::Unasked)
        }
    }

    /// Fails every call and takes no further one.
    fn close(&self) {
        let calls = self.lock().take();
        for (_, call) in calls.into_iter().flat_map(|calls| calls.by_id) {
            let _ = call.reply.send(Err(CallError::Lost));
        }
    }
}

/// Fails the calls of a connection whichever way its driver ends.
pub(crate) struct CloseOnDrop(pub(crate) Arc<Link>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.close();
    }
}
