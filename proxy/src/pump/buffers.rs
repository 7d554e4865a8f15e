//! Lends the large buffers of the pump, so that a quiet connection holds none.
//!
//! Keeps a bounded number of returned buffers for the next connection that has something to move. What a buffer held
//! is overwritten by its next use and never read as anything else.

use std::sync::{Mutex, PoisonError};

use crate::session::BUFFER_LEN;

/// Buffers kept for reuse.
const KEPT_MAX: usize = 64;

/// The store of buffers.
#[derive(Default)]
pub(crate) struct Buffers {
    kept: Mutex<Vec<Vec<u8>>>,
}

impl Buffers {
    /// A buffer of [`BUFFER_LEN`] bytes.
    pub(crate) fn take(&self) -> Vec<u8> {
        let kept = self
            .kept
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        kept.unwrap_or_else(|| vec![0; BUFFER_LEN])
    }

    /// Takes a buffer back.
    pub(crate) fn give_back(&self, buffer: Vec<u8>) {
        if buffer.len() != BUFFER_LEN {
            return;
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < KEPT_MAX {
            kept.push(buffer);
        }
    }
}
