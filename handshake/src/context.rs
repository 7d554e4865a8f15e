//! What rustls' callbacks need to know of the handshake they run in, and what they leave behind.
//!
//! rustls' traits carry no per-connection value, so the engine lays one on the thread for the length of a
//! step. A callback never fails a step by panicking: it notes a [`Failure`], and the engine drops the reply.
//! The context outlives a step only inside its own handshake.

use std::cell::RefCell;

use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use keyhaven_hsm::{Token, TokenSecret};
use keyhaven_types::Secret;

use crate::error::Failure;

/// The state of one handshake beside rustls' own.
pub(crate) struct Context {
    /// The name that a resolver may answer to; `None` when the client sent none.
    pub(crate) server_name: Option<String>,
    /// The client's random, for the signing guard.
    pub(crate) client_random: [u8; 32],
    /// Whether this handshake is TLS 1.3.
    pub(crate) is_tls13: bool,
    /// Where the exchange and the first derivation run: a token, or this process.
    pub(crate) exchange: Option<Token>,
    /// Every 32-byte random that rustls drew: one of them is the server's.
    pub(crate) randoms: Vec<[u8; 32]>,
    /// The exchange's group and our public value, for the signing guard.
    pub(crate) public_value: Option<(u16, Vec<u8>)>,
    /// Whether the one signature of this handshake was given.
    pub(crate) signed: bool,
    /// Secrets that were given to rustls as handles.
    secrets: Vec<TokenSecret>,
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
    pub(crate) client_handshake: Option<Secret>,
    /// client_application_traffic_secret_0.
    pub(crate) client_application: Option<Secret>,
    /// server_application_traffic_secret_0.
    pub(crate) server_application: Option<Secret>,
    /// The transcript hash up to the server's Finished.
    pub(crate) transcript_hash: Vec<u8>,
}

impl Context {
    pub(crate) fn new(
        server_name: Option<String>,
        client_random: [u8; 32],
        is_tls13: bool,
        exchange: Option<Token>,
    ) -> Self {
        Self {
            server_name,
            client_random,
            is_tls13,
            exchange,
            randoms: Vec::new(),
            public_value: None,
            signed: false,
            secrets: Vec::new(),
            captured: Captured::default(),
            failure: None,
            resolver_alert: None,
        }
    }

    /// Keeps a secret and gives the bytes that stand for it.
    pub(crate) fn keep(&mut self, secret: TokenSecret) -> Vec<u8> {
        let index = self.secrets.len() as u64;
        self.secrets.push(secret);
        [&handle_tag()[..], &index.to_be_bytes(), &[0; 8]].concat()
    }

    /// The secret that a handle stands for.
    pub(crate) fn secret(&self, handle: &[u8]) -> Option<&TokenSecret> {
        let index = handle.strip_prefix(handle_tag())?.first_chunk::<8>()?;
        self.secrets
            .get(usize::try_from(u64::from_be_bytes(*index)).ok()?)
    }

    /// Destroys every secret that was kept.
    pub(crate) fn forget_secrets(&mut self) {
        self.secrets.clear();
    }

    /// Notes a failure; the first one stays.
    pub(crate) fn fail(&mut self, failure: Failure) {
        self.failure.get_or_insert(failure);
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

    let lent = std::mem::replace(context, Context::new(None, [0; 32], false, None));
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

/// Notes a failure in the running step.
pub(crate) fn fail(failure: Failure) {
    with(|context| context.fail(failure));
}

thread_local! {
    static CURRENT: RefCell<Option<Context>> = const { RefCell::new(None) };
}

/// Random bytes, made once a process, by which a handle is told from anything else.
fn handle_tag() -> &'static [u8; 16] {
    static TAG: std::sync::OnceLock<[u8; 16]> = std::sync::OnceLock::new();
    TAG.get_or_init(|| {
        let mut tag = [0; 16];
        // Without randomness no handshake gets this far; a constant tag would still only name handles that exist.
        let _ = SystemRandom::new().fill(&mut tag);
        tag
    })
}
