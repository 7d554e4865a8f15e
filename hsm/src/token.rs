//! One token, logged in, and put together again when it was lost.
//!
//! Sessions for work belong to `worker`, keys to `key`, what it proved to `proof`. Invariant: exactly one token
//! fits the URI at each (re)connection, a refused PIN ends all attempts, and a token that was proven is there only while
//! it proves as much.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use cryptoki::{
    object::{Attribute, ObjectClass},
    session::SessionState,
};

use crate::{
    Error, FaultClass, Module, Pin, PrivateKey, TokenInfo, Uri,
    gate::Inside,
    generation::{Counted, Generation},
    proof::Proof,
    queue::Queue,
    quirks::Quirks,
    session::OpenSession,
    slot::find_slot,
    vault::store::Stores,
};

/// A token with its login. Clones are the same token.
#[derive(Clone)]
pub struct Token(Arc<Inner>);

pub(crate) struct Inner {
    id: u64,
    module: Module,
    uri: Uri,
    pin: Pin,
    info: TokenInfo,
    quirks: &'static Quirks,
    pub(crate) proof: Proof,
    state: Mutex<State>,
    /// Objects whose owners were dropped on a thread without a session; workers destroy them. It never holds
    /// more than the objects that were alive.
    trash: Mutex<Vec<Counted>>,
    trash_len: AtomicUsize,
    queues: Mutex<Vec<Weak<Queue>>>,
    /// The keys of vaults, which outlive whoever asked for one.
    pub(crate) stores: Stores,
}

struct State {
    current: Arc<Generation>,
    /// When the next attempt to reconnect may be made.
    next_attempt: Instant,
    reconnecting: bool,
    /// A PIN error was seen: no attempt is made any more.
    pin_refused: bool,
    /// Why the token is away.
    reason: String,
}

impl Token {
    /// Opens the one token that fits the URI and logs in, once.
    ///
    /// # Errors
    /// [`Error::TokenNotFound`], [`Error::TokenAmbiguous`], [`Error::PinRefused`] and the like; after a refused
    /// PIN the same PIN is not sent to this token again by this process.
    pub fn open(module: &Module, uri: &Uri, pin: Pin) -> Result<Self, Error> {
        let (generation, info) = Generation::open(module, uri, &pin, 1)?;
        let generation = Arc::new(generation);
        module.note_login(&generation);
        let quirks = Quirks::of(&info);
        tracing::debug!(token = info.label, family = quirks.name, "token opened");
        Ok(Self(Arc::new(Inner {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            module: module.clone(),
            uri: uri.clone(),
            pin,
            info,
            quirks,
            proof: Proof::new(quirks),
            state: Mutex::new(State {
                current: generation,
                next_attempt: Instant::now(),
                reconnecting: false,
                pin_refused: false,
                reason: String::new(),
            }),
            trash: Mutex::new(Vec::new()),
            trash_len: AtomicUsize::new(0),
            queues: Mutex::new(Vec::new()),
            stores: Stores::default(),
        })))
    }

    /// What the token said about itself when it was opened.
    pub fn info(&self) -> &TokenInfo {
        &self.0.info
    }

    /// Finds the one private key that fits the URI, and binds it to the public key `spki_der` (DER
    /// SubjectPublicKeyInfo) by a signature made in the token and verified outside.
    ///
    /// # Errors
    /// [`Error::KeyNotFound`] and [`Error::KeyAmbiguous`] list what there is; [`Error::KeyMismatch`] when the
    /// key is another one.
    pub fn load_key(&self, uri: &Uri, spki_der: &[u8]) -> Result<PrivateKey, Error> {
        let generation = self.generation()?;
        let _inside = self.enter(&generation)?;
        PrivateKey::load(self, &generation, uri, spki_der)
            .map_err(|error| self.failed(&generation, error))
    }

    /// A cheap operation that needs the login and the token's own storage; reconnects when the token was lost.
    ///
    /// # Errors
    /// Why the token cannot be used now.
    pub fn health(&self) -> Result<(), Error> {
        let generation = self.generation()?;
        let _inside = self.enter(&generation)?;
        self.check(&generation)
            .map_err(|error| self.failed(&generation, error.of(&self.0.info.label)))
    }

    /// Whether [`Token::health`] is good.
    pub fn is_alive(&self) -> bool {
        self.health().is_ok()
    }

    /// Ephemeral objects (exchange keys and shared secrets) made and not yet destroyed.
    pub fn live_ephemerals(&self) -> usize {
        self.0.state().current.live()
    }

    /// Session objects of keys in use: a copy for each private key that was loaded and not yet dropped, where the module
    /// makes them, and one for each managed key that is unwrapped.
    pub fn key_copies(&self) -> usize {
        self.0.state().current.copies()
    }

    fn check(&self, generation: &Generation) -> Result<(), Error> {
        let operation = "a check of the token";
        let failed = |source| Error::token(operation, source);
        self.is_seen()?;
        let session = OpenSession::open(&self.0.module, generation.slot)?;
        let state = session.get_session_info().map_err(failed)?.session_state();
        if !matches!(state, SessionState::RwUser | SessionState::RoUser) {
            return Err(self.unavailable("the login is gone"));
        }
        let template = [
            Attribute::Class(ObjectClass::PRIVATE_KEY),
            Attribute::Token(true),
        ];
        session.find_objects(&template).map_err(failed).map(drop)
    }

    /// Whether the module still sees the token. While another process logs in, SoftHSM2 writes the token's file
    /// and sees none for a moment, so that one look is not enough.
    fn is_seen(&self) -> Result<(), Error> {
        let mut looks_left = LOOKS;
        loop {
            looks_left -= 1;
            let seen = match find_slot(&self.0.module, &self.0.uri) {
                Ok((_, info)) if info.user_pin_set => return Ok(()),
                Ok(_) => self.unavailable("its storage cannot be read"),
                Err(error) => error,
            };
            if looks_left == 0 {
                return Err(seen);
            }
            std::thread::sleep(LOOK_PAUSE);
        }
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.0
    }

    pub(crate) fn from_inner(inner: Arc<Inner>) -> Self {
        Self(inner)
    }

    pub(crate) fn module(&self) -> &Module {
        &self.0.module
    }

    pub(crate) fn id(&self) -> u64 {
        self.0.id
    }

    pub(crate) fn quirks(&self) -> &'static Quirks {
        self.0.quirks
    }

    pub(crate) fn open_session(&self, generation: &Generation) -> Result<OpenSession, Error> {
        let _inside = self.enter(generation)?;
        OpenSession::open(&self.0.module, generation.slot)
            .map_err(|error| self.failed(generation, error))
    }

    /// To be held during calls that belong to a login: the login is good, and the module stays.
    pub(crate) fn enter(&self, generation: &Generation) -> Result<Inside<'_>, Error> {
        let inside = self.0.module.enter()?;
        if generation.is_broken() {
            return Err(self.unavailable("it was lost"));
        }
        Ok(inside)
    }

    /// The current login; a broken one is replaced, at most once in [`ATTEMPT_EVERY`], by whoever comes first.
    /// All others fail at once.
    pub(crate) fn generation(&self) -> Result<Arc<Generation>, Error> {
        let mut state = self.0.state();
        if !state.current.is_broken() {
            return Ok(Arc::clone(&state.current));
        }
        if state.pin_refused || state.reconnecting || Instant::now() < state.next_attempt {
            return Err(self.unavailable(&state.reason));
        }
        state.reconnecting = true;
        state.next_attempt = Instant::now() + ATTEMPT_EVERY;
        let number = state.current.number + 1;
        drop(state);
        let opened = self.reopen(number);
        let mut state = self.0.state();
        state.reconnecting = false;
        match opened {
            Ok(generation) => {
                tracing::info!(token = self.0.info.label, "token is back");
                self.0.module.note_login(&generation);
                state.current = Arc::clone(&generation);
                drop(state);
                // An idle worker's session would keep the former login, and what was unwrapped in it, in the token.
                self.queues().iter().for_each(|queue| queue.sweep());
                Ok(generation)
            }
            Err(error) => {
                state.pin_refused =
                    matches!(error, Error::PinRefused { .. } | Error::PinLocked { .. });
                state.reason = chain(&error);
                tracing::warn!(
                    token = self.0.info.label,
                    reason = state.reason,
                    "token stays away"
                );
                Err(self.unavailable(&state.reason))
            }
        }
    }

    /// A new login; when the module does not see the token at all, once more after a restart of the module.
    fn reopen(&self, number: u64) -> Result<Arc<Generation>, Error> {
        let open = || Generation::open(&self.0.module, &self.0.uri, &self.0.pin, number);
        let opened = match open() {
            Err(error) if is_absent(&error) && self.0.module.restart() => open(),
            opened => opened,
        };
        let (generation, _) = opened?;
        if self.proven().is_some() {
            self.prove_in(&generation)?;
        }
        Ok(Arc::new(generation))
    }

    /// Looks at a failure: when it says that the login or the module is lost, the generation is given up.
    pub(crate) fn failed(&self, generation: &Generation, error: Error) -> Error {
        let error = error.of(&self.0.info.label);
        let lost = matches!(
            error.fault_class(),
            Some(FaultClass::SessionLost | FaultClass::ModuleDead)
        ) || matches!(
            error,
            Error::TokenUnavailable { .. } | Error::TokenNotFound { .. }
        );
        if lost && generation.break_off() {
            let reason = chain(&error);
            tracing::warn!(token = self.0.info.label, reason, "token is lost");
            self.0.state().reason = reason;
        }
        error
    }

    pub(crate) fn unavailable(&self, reason: &str) -> Error {
        Error::TokenUnavailable {
            token: self.0.info.label.clone(),
            reason: reason.to_owned(),
        }
    }

    /// Leaves an object to the workers, for their next job.
    pub(crate) fn put_back(&self, object: Counted) {
        let mut trash = self.0.trash.lock().unwrap_or_else(PoisonError::into_inner);
        trash.push(object);
        self.0.trash_len.store(trash.len(), Ordering::Release);
    }

    /// Leaves an object to the workers, and wakes one.
    pub(crate) fn throw_away(&self, object: Counted) {
        self.put_back(object);
        self.queues()
            .iter()
            .for_each(|queue| queue.wake_for_trash());
    }

    fn queues(&self) -> Vec<Arc<Queue>> {
        let queues = self.0.queues.lock().unwrap_or_else(PoisonError::into_inner);
        queues.iter().filter_map(Weak::upgrade).collect()
    }

    pub(crate) fn take_trash(&self) -> Vec<Counted> {
        if self.0.trash_len.load(Ordering::Acquire) == 0 {
            return Vec::new();
        }
        let mut trash = self.0.trash.lock().unwrap_or_else(PoisonError::into_inner);
        self.0.trash_len.store(0, Ordering::Release);
        std::mem::take(&mut trash)
    }

    /// Makes the queue's workers the ones to be woken for trash.
    pub(crate) fn served_by(&self, queue: &Arc<Queue>) {
        let mut queues = self.0.queues.lock().unwrap_or_else(PoisonError::into_inner);
        queues.retain(|known| known.strong_count() > 0);
        if !queues
            .iter()
            .any(|known| known.as_ptr() == Arc::as_ptr(queue))
        {
            queues.push(Arc::downgrade(queue));
        }
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({:?})", self.0.info.label)
    }
}

/// Failures after which a module may need a restart to see its token again.
fn is_absent(error: &Error) -> bool {
    matches!(
        error,
        Error::TokenNotFound { .. } | Error::UserPinNotSet { .. }
    ) || error.fault_class() == Some(FaultClass::ModuleDead)
}

/// An error with its sources, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}

/// A token that is away is asked for no oftener.
const ATTEMPT_EVERY: Duration = Duration::from_secs(2);

/// Looks at a token that seems to be gone, and the pause between them: far longer than a file is written.
const LOOKS: u32 = 5;
const LOOK_PAUSE: Duration = Duration::from_millis(20);

static NEXT_ID: AtomicU64 = AtomicU64::new(1);
