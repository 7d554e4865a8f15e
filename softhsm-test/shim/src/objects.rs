//! Which session objects live, with which session they die, and of which the module lies.
//!
//! Leaves token objects out of the count: they are there by intent. An object is in here from the call that made
//! it to the call that destroyed it or ended its session.

use std::collections::HashMap;

use crate::lies::Asked;

/// The session objects of this process.
#[derive(Debug, Default)]
pub(crate) struct Objects {
    /// Object handle to session handle.
    sessions: HashMap<u64, u64>,
    /// What the caller of a readable object believes.
    believed: HashMap<u64, Asked>,
}

impl Objects {
    pub(crate) fn made(&mut self, session: u64, object: u64) {
        self.sessions.insert(object, session);
    }

    /// Whether it was one.
    pub(crate) fn destroyed(&mut self, object: u64) -> bool {
        self.believed.remove(&object);
        self.sessions.remove(&object).is_some()
    }

    /// How many went with the session.
    pub(crate) fn closed(&mut self, session: u64) -> u64 {
        let before = self.sessions.len();
        let Objects { sessions, believed } = self;
        sessions.retain(|object, of| {
            let stays = *of != session;
            if !stays {
                believed.remove(object);
            }
            stays
        });
        (before - self.sessions.len()) as u64
    }

    /// How many there were.
    pub(crate) fn all_gone(&mut self) -> u64 {
        let count = self.sessions.len() as u64;
        self.sessions.clear();
        self.believed.clear();
        count
    }

    pub(crate) fn is_session_object(&self, object: u64) -> bool {
        self.sessions.contains_key(&object)
    }

    /// From here on the object's flags are told as they were asked for.
    pub(crate) fn believe(&mut self, object: u64, asked: Asked) {
        self.believed.insert(object, asked);
    }

    pub(crate) fn believed(&self, object: u64) -> Option<Asked> {
        self.believed.get(&object).copied()
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
            objects.believe(object, Asked::default());
        }
        assert!(objects.destroyed(1));
        assert!(!objects.destroyed(1));
        assert_eq!(objects.closed(0), 2);
        assert_eq!(objects.believed(2), None);
        assert!(objects.believed(3).is_some());
        assert_eq!(objects.all_gone(), 1);
        assert_eq!(objects.believed(3), None);
    }
}
