//! The door of a module: many threads inside, or one that restarts it.
//!
//! C_Finalize under another thread's call is the end of the process, so a restart shuts the door and waits until
//! nobody is inside. Invariant: entering never waits, so that a thread that is inside may enter again, and a
//! restart that would have to wait for a hanging call gives up instead.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

/// Counts who is inside; the highest bit says that the door is shut.
#[derive(Debug, Default)]
pub(crate) struct Gate(AtomicUsize);

/// Being inside.
#[derive(Debug)]
pub(crate) struct Inside<'a>(&'a Gate);

/// Having it alone.
#[derive(Debug)]
pub(crate) struct Alone<'a>(&'a Gate);

impl Gate {
    /// Goes in, unless the door is shut.
    pub(crate) fn enter(&self) -> Option<Inside<'_>> {
        let before = self.0.fetch_add(1, Ordering::AcqRel);
        let inside = Inside(self);
        (before & SHUT == 0).then_some(inside)
    }

    /// Shuts the door and waits for those inside to leave, at most `patience`.
    pub(crate) fn shut(&self, patience: Duration) -> Option<Alone<'_>> {
        if self.0.fetch_or(SHUT, Ordering::AcqRel) & SHUT != 0 {
            return None;
        }
        let alone = Alone(self);
        let until = Instant::now() + patience;
        while self.0.load(Ordering::Acquire) != SHUT {
            if Instant::now() >= until {
                return None;
            }
            std::thread::sleep(PAUSE);
        }
        Some(alone)
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_and(!SHUT, Ordering::AcqRel);
    }
}

const SHUT: usize = 1 << (usize::BITS - 1);
const PAUSE: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(10);

    #[test]
    fn many_enter_and_one_enters_twice() {
        let gate = Gate::default();
        let (a, b) = (gate.enter().unwrap(), gate.enter().unwrap());
        assert!(gate.shut(SHORT).is_none(), "somebody is inside");
        drop((a, b));
        assert!(gate.enter().is_some(), "giving up opens the door again");
    }

    #[test]
    fn nobody_enters_a_shut_door() {
        let gate = Gate::default();
        let alone = gate.shut(SHORT).unwrap();
        assert!(gate.enter().is_none());
        assert!(gate.shut(SHORT).is_none());
        drop(alone);
        assert!(gate.enter().is_some());
    }

    #[test]
    fn shutting_waits_for_the_last_one() {
        let gate = Gate::default();
        std::thread::scope(|scope| {
            let inside = gate.enter().unwrap();
            let shutter = scope.spawn(|| gate.shut(Duration::from_secs(60)).is_some());
            while gate.0.load(Ordering::Acquire) & SHUT == 0 {
                std::thread::yield_now();
            }
            drop(inside);
            assert!(shutter.join().unwrap());
        });
    }
}
