//! What rustls' callbacks need to know of the handshake they run in, and what they leave behind.
//!
//! rustls' traits carry no per-connection value, so the engine lays one on the thread for the length of a
//! step. A callback never fails a step by panicking: it notes a [`Failure`], and the engine drops the reply.
//! The context outlives a step only inside its own handshake.

use std::{cell::RefCell, sync::Arc, time::SystemTime};

use keyhaven_hsm::{Token, Worker};
use keyhaven_types::{CustodyLevel, HashAlgorithm, Secret};

use crate::{
    error::Failure,
    secrets::{Index, Secrets},
    tickets::{Resumed, TicketPolicy},
};

/// What is decided before a handshake begins.
#[derive(Clone, Default)]
pub(crate) struct Facts {
    /// The name that a resolver may answer to; `None` when the client sent none.
    pub(crate) server_name: Option<String>,
    /// The client's random, for the signing guard.
    pub(crate) client_random: [u8; 32],
    /// Whether this handshake is TLS 1.3.
    pub(crate) is_tls13: bool,
    /// How the schedule runs, and where above `signature`.
    pub(crate) place: Place,
    /// What the handshake may claim: at most the place's level.
    pub(crate) level: CustodyLevel,
    /// How the session may be resumed; `None`: not at all.
    pub(crate) tickets: Option<Arc<TicketPolicy>>,
    /// When the handshake began.
    pub(crate) now: Option<SystemTime>,
}

/// Where exchange and key schedule run.
#[derive(Clone, Default)]
pub(crate) enum Place {
    /// In this process.
    #[default]
    Software,
    /// In a token, to this level.
    Token {
        /// The token.
        token: Token,
        /// `premaster` or more.
        level: CustodyLevel,
        /// Whether the token does ML-KEM, too.
        ml_kem: bool,
    },
}

/// The state of one handshake beside rustls' own.
#[derive(Default)]
pub(crate) struct Context {
    pub(crate) facts: Facts,
    /// Every 32-byte random that rustls drew: one of them is the server's.
    pub(crate) randoms: Vec<[u8; 32]>,
    /// The exchange's group and our public value, for the signing guard.
    pub(crate) public_value: Option<(u16, Vec<u8>)>,
    /// Whether the one signature of this handshake was given.
    pub(crate) signed: bool,
    /// SHA-256 of the public key that the resolver chose, and the end of its certificate.
    pub(crate) chosen: Option<([u8; 32], SystemTime)>,
    /// The session that a ticket of this client opened.
    pub(crate) resumed: Option<Resumed>,
    /// Tickets of ours that were looked at.
    pub(crate) tickets_tried: usize,
    /// Secrets that were given to rustls as handles.
    pub(crate) secrets: Secrets,
    /// Traffic secrets as rustls derived them.
    pub(crate) captured: Captured,
    /// The first thing of ours that failed.
    pub(crate) failure: Option<Failure>,
    /// The alert that a resolver wants in place of rustls' own.
    pub(crate) resolver_alert: Option<(u8, &'static str)>,
}

/// What the TLS 1.3 key schedule shows while it runs (RFC 8446, section 7.1).
#[derive(Default)]
pub(crate) struct Captured {
    /// client_handshake_traffic_secret.
    pub(crate) client_handshake: Option<Shown>,
    /// client_application_traffic_secret_0.
    pub(crate) client_application: Option<Shown>,
    /// server_application_traffic_secret_0.
    pub(crate) server_application: Option<Shown>,
    /// The transcript hash up to the server's Finished.
    pub(crate) transcript_hash: Vec<u8>,
}

/// A traffic secret as this process has it.
pub(crate) enum Shown {
    /// Its bytes, where the level leaves them here.
    Bytes(Secret),
    /// A handle.
    Handle(Index),
}

impl Context {
    pub(crate) fn new(facts: Facts) -> Self {
        Self {
            facts,
            ..Self::default()
        }
    }

    /// Notes a failure; the first one stays.
    pub(crate) fn fail(&mut self, failure: Failure) {
        self.failure.get_or_insert(failure);
    }

    /// The level to which the schedule runs in a token.
    pub(crate) fn runs_at(&self) -> CustodyLevel {
        match &self.facts.place {
            Place::Software => CustodyLevel::Signature,
            Place::Token { level, .. } => *level,
        }
    }
}

/// Runs one step with its context laid on the thread.
pub(crate) fn run<T>(context: &mut Context, step: impl FnOnce() -> T) -> T {
    /// Puts the context back where it came from, also when the step unwinds.
    struct Guard<'a>(&'a mut Context);
    impl Drop for Guard<'_> {
        fn drop(&mut self) {
            if let Some(context) = CURRENT.take() {
                *self.0 = context;
            }
        }
    }

    let lent = std::mem::take(context);
    let guard = Guard(context);
    CURRENT.set(Some(lent));
    let value = step();
    drop(guard);
    value
}

/// Gives a callback its context; `None` outside a step, which is a bug of ours.
pub(crate) fn with<T>(f: impl FnOnce(&mut Context) -> T) -> Option<T> {
    CURRENT.with_borrow_mut(|current| current.as_mut().map(f))
}

/// Gives a callback its context and this thread's token sessions. Outside a step, or outside a worker, it fails.
pub(crate) fn with_worker<T>(
    f: impl FnOnce(&mut Context, &Worker) -> Result<T, Failure>,
) -> Result<T, Failure> {
    with(|context| Worker::with_current(|worker| f(context, worker))?)
        .unwrap_or(Err(Failure::Engine("a derivation outside a step")))
}

/// Notes a failure in the running step.
pub(crate) fn fail(failure: Failure) {
    with(|context| context.fail(failure));
}

/// The level to which the running step's schedule is in a token.
pub(crate) fn runs_at() -> CustodyLevel {
    with(|context| context.runs_at()).unwrap_or(CustodyLevel::Signature)
}

/// HKDF-Expand of a secret of the table, as rustls asks for it: noted, or done where the result comes out anyway.
pub(crate) fn expand(
    from: Index,
    hash: HashAlgorithm,
    label: &[u8],
    info: Vec<u8>,
) -> Result<Shown, Failure> {
    with_worker(|context, worker| {
        if !crate::secrets::comes_out(context.runs_at(), label) {
            let kept = crate::secrets::kept(label);
            return Ok(Shown::Handle(
                context.secrets.expansion(from, hash, info, kept),
            ));
        }
        let mut bytes = zeroize::Zeroizing::new(vec![0; hash.output_len()]);
        context
            .secrets
            .leave(worker, from, &info, &mut bytes, |secret, out| {
                worker.expand_bytes(hash, secret, &info, out)
            })?;
        Ok(Shown::Bytes(Secret::copy_from(&bytes)))
    })
}

thread_local! {
    static CURRENT: RefCell<Option<Context>> = const { RefCell::new(None) };
}
