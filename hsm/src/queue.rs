//! The bounded queue in front of the worker threads.
//!
//! Knows jobs, and which tokens may have objects to destroy; calls no token. Invariant: no more jobs wait than the bound says; a job that is not run is
//! dropped on a worker thread, where what it owns can be destroyed.

use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak},
};

use crate::{Error, Token, Worker, token::Inner as TokenInner};

/// A job; it looks at its own deadline.
pub(crate) type Job = Box<dyn FnOnce(&Worker) + Send>;

/// What a worker is to do next.
pub(crate) enum Next {
    Run(Job),
    /// Drop it unrun.
    Discard(Job),
    /// Tokens have objects to destroy.
    EmptyTrash,
    Stop,
}

pub(crate) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
    queue_max: usize,
    /// The tokens that the workers have sessions at.
    tokens: Mutex<Vec<Weak<TokenInner>>>,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    trash: bool,
    /// How often every worker was to look after its sessions.
    sweeps: u64,
    /// No job is taken any more.
    closed: bool,
    /// What waits is dropped unrun.
    abandoned: bool,
}

impl Queue {
    pub(crate) fn new(queue_max: usize) -> Self {
        Self {
            state: Mutex::new(State::default()),
            changed: Condvar::new(),
            queue_max,
            tokens: Mutex::new(Vec::new()),
        }
    }

    /// Takes a job or answers at once that there is no room.
    pub(crate) fn push(&self, job: Job) -> Result<(), Error> {
        let mut state = self.lock();
        if state.closed {
            return Err(Error::Stopped);
        }
        if state.jobs.len() >= self.queue_max {
            return Err(Error::Busy);
        }
        state.jobs.push_back(job);
        drop(state);
        self.changed.notify_one();
        Ok(())
    }

    pub(crate) fn wake_for_trash(&self) {
        self.lock().trash = true;
        self.changed.notify_one();
    }

    /// Wakes every worker, not one: each closes its own sessions of a login that is over.
    pub(crate) fn sweep(&self) {
        self.lock().sweeps += 1;
        self.changed.notify_all();
    }

    pub(crate) fn add_token(&self, token: &Token) {
        let inner = token.inner();
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.retain(|known| known.strong_count() > 0);
        if !tokens
            .iter()
            .any(|known| known.as_ptr() == Arc::as_ptr(inner))
        {
            tokens.push(Arc::downgrade(inner));
        }
    }

    pub(crate) fn tokens(&self) -> Vec<Token> {
        let tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        tokens
            .iter()
            .filter_map(Weak::upgrade)
            .map(Token::from_inner)
            .collect()
    }

    /// Waits for something to do; `swept` is how many sweeps the calling worker has seen.
    pub(crate) fn next(&self, swept: &mut u64) -> Next {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                return if state.abandoned {
                    Next::Discard(job)
                } else {
                    Next::Run(job)
                };
            }
            let to_sweep = std::mem::replace(swept, state.sweeps) != state.sweeps;
            if std::mem::take(&mut state.trash) || to_sweep {
                return Next::EmptyTrash;
            }
            if state.closed {
                return Next::Stop;
            }
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Takes no more jobs; what waits is still done.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// Takes no more jobs and drops what waits.
    pub(crate) fn abandon(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.abandoned = true;
        drop(state);
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
