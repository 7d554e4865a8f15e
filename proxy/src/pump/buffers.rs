//! Lends the large buffers of the pump, so that a quiet connection holds none.
//!
//! Keeps a bounded number of returned buffers for the next connection that has something to move. What a connection
//! had in a buffer is wiped before another one gets it, or nobody.

use std::sync::{Mutex, PoisonError};

use zeroize::Zeroize as _;

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

    /// Takes a buffer back, of which no more than the first `used` bytes ever held anything since it was taken.
    pub(crate) fn give_back(&self, mut buffer: Vec<u8>, used: usize) {
        let used = used.min(buffer.len());
        if buffer.len() == BUFFER_LEN {
            // Whoever takes it can read this, so that the compiler cannot leave it out, and it is fast.
            buffer[..used].fill(0);
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            if kept.len() < KEPT_MAX {
                return kept.push(buffer);
            }
        }
        buffer[..used].zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_user_of_a_buffer_finds_nothing_in_it() {
        let buffers = Buffers::default();
        let mut buffer = buffers.take();
        buffer[..100].fill(7);
        buffers.give_back(buffer, 100);
        assert!(buffers.take().iter().all(|&byte| byte == 0));
        buffers.give_back(vec![7; 10], 100);
        assert!(buffers.take().iter().all(|&byte| byte == 0));
    }
}
