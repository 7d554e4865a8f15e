//! Counts what moves, and when something last did; and what one direction asks of the other.
//!
//! Numbers only, shared between the two directions of one connection and its log line.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use tokio::sync::Notify;

/// What one connection has moved.
pub(crate) struct Traffic {
    started: Instant,
    last_ms: AtomicU64,
    was_last_up: AtomicBool,
    up: AtomicU64,
    down: AtomicU64,
}

impl Traffic {
    /// Nothing yet.
    pub(crate) fn new() -> Self {
        Self {
            started: Instant::now(),
            last_ms: AtomicU64::new(0),
            was_last_up: AtomicBool::new(false),
            up: AtomicU64::new(0),
            down: AtomicU64::new(0),
        }
    }

    /// Something has moved; the connection is not idle.
    pub(super) fn touch(&self) {
        self.last_ms.store(self.elapsed_ms(), Relaxed);
    }

    pub(super) fn add_up(&self, bytes: usize) {
        self.up.fetch_add(bytes as u64, Relaxed);
        self.was_last_up.store(true, Relaxed);
        self.touch();
    }

    pub(super) fn add_down(&self, bytes: usize) {
        self.down.fetch_add(bytes as u64, Relaxed);
        self.was_last_up.store(false, Relaxed);
        self.touch();
    }

    /// Application bytes from the client to the backend.
    pub(crate) fn up(&self) -> u64 {
        self.up.load(Relaxed)
    }

    /// Application bytes from the backend to the client.
    pub(crate) fn down(&self) -> u64 {
        self.down.load(Relaxed)
    }

    /// Whether the last bytes that moved came from the client.
    pub(super) fn was_last_up(&self) -> bool {
        self.was_last_up.load(Relaxed)
    }

    /// How much of the idle time is left.
    pub(super) fn idle_left(&self, idle: Duration) -> Duration {
        let quiet = self.elapsed_ms() - self.last_ms.load(Relaxed).min(self.elapsed_ms());
        idle.saturating_sub(Duration::from_millis(quiet))
    }

    fn elapsed_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }
}

/// What the reading direction asks of the writing one.
#[derive(Default)]
pub(super) struct Signals {
    wake: Notify,
    update_key: AtomicBool,
    ask_client: AtomicBool,
}

impl Signals {
    /// The client wants our key to change.
    pub(super) fn update_key(&self) {
        self.update_key.store(true, Relaxed);
        self.wake.notify_one();
    }

    /// The client's key has read enough: it is to be asked for a new one, which takes a KeyUpdate of ours.
    pub(super) fn ask_client(&self) {
        self.ask_client.store(true, Relaxed);
        self.update_key();
    }

    /// Returns when something may have been asked.
    pub(super) async fn raised(&self) {
        self.wake.notified().await;
    }

    /// Whether our key is to change; several wishes are one.
    pub(super) fn take_update(&self) -> bool {
        self.update_key.swap(false, Relaxed)
    }

    /// Whether the KeyUpdate is to ask the client for one, too.
    pub(super) fn take_ask(&self) -> bool {
        self.ask_client.swap(false, Relaxed)
    }
}
