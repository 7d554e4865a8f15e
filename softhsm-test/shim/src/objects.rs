//! Which session objects live, and with which session they die.
//!
//! Leaves token objects out: they are there by intent. An object is in here from the call that made it to the
//! call that destroyed it or ended its session.

use std::collections::HashMap;

/// The session objects of this process.
#[derive(Debug, Default)]
pub(crate) struct Objects {
    /// Object handle to session handle.
    sessions: HashMap<u64, u64>,
}

impl Objects {
    pub(crate) fn made(&mut self, session: u64, object: u64) {
        self.sessions.insert(object, session);
    }

    /// Whether it was one.
    pub(crate) fn destroyed(&mut self, object: u64) -> bool {
        self.sessions.remove(&object).is_some()
    }

    /// How many went with the session.
    pub(crate) fn closed(&mut self, session: u64) -> u64 {
        let before = self.sessions.len();
        self.sessions.retain(|_, of| *of != session);
        (before - self.sessions.len()) as u64
    }

    /// How many there were.
    pub(crate) fn all_gone(&mut self) -> u64 {
        let count = self.sessions.len() as u64;
        self.sessions.clear();
        count
    }

    pub(crate) fn is_session_object(&self, object: u64) -> bool {
        self.sessions.contains_key(&object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_objects_to_their_end() {
        let mut objects = Objects::default();
        for object in 1..=4 {
            objects.made(object % 2, object);
        }
        assert!(objects.destroyed(1));
        assert!(!objects.destroyed(1));
        assert_eq!(objects.closed(0), 2);
        assert_eq!(objects.all_gone(), 1);
    }
}
