//! Handshakes that wait: for a client's next flight, or for word of how they ended.
//!
//! Plain tables with the time given by the caller. Both are keyed by the channel's connection and the
//! handshake's name, so that another connection meets only "no such handshake". An entry is used once.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use keyhaven_wire::HandshakeId;

/// One channel connection's handshake.
pub(crate) type Key = (u64, HandshakeId);

/// Entries with a deadline and a bound on their number.
pub(crate) struct Waiting<T> {
    entries: HashMap<Key, (Instant, T)>,
    entries_max: usize,
    patience: Duration,
}

/// There is no room, or the name is taken.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NotAdmitted {
    /// The bound is reached.
    Full,
    /// The name is in use.
    Taken,
}

impl<T> Waiting<T> {
    pub(crate) fn new(entries_max: usize, patience: Duration) -> Self {
        Self {
            entries: HashMap::new(),
            entries_max,
            patience,
        }
    }

    /// Keeps an entry until it is taken or its time is over; gives it back when it is not admitted.
    pub(crate) fn keep(
        &mut self,
        now: Instant,
        key: Key,
        value: T,
    ) -> Result<(), (NotAdmitted, T)> {
        if self.entries.contains_key(&key) {
            return Err((NotAdmitted::Taken, value));
        }
        if self.entries.len() >= self.entries_max {
            return Err((NotAdmitted::Full, value));
        }
        self.entries.insert(key, (now + self.patience, value));
        Ok(())
    }

    /// Whether there is room for another entry under this name.
    pub(crate) fn admits(&self, key: &Key) -> Result<(), NotAdmitted> {
        if self.entries.contains_key(key) {
            Err(NotAdmitted::Taken)
        } else if self.entries.len() >= self.entries_max {
            Err(NotAdmitted::Full)
        } else {
            Ok(())
        }
    }

    /// Takes an entry out, if its time is not over.
    pub(crate) fn take(&mut self, now: Instant, key: &Key) -> Option<T> {
        let (deadline, value) = self.entries.remove(key)?;
        (now < deadline).then_some(value)
    }

    /// Takes out everything whose time is over.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<T> {
        self.entries
            .extract_if(|_, (deadline, _)| *deadline <= now)
            .map(|(_, (_, v))| v)
            .collect()
    }

    /// Takes out everything of one connection.
    pub(crate) fn drain(&mut self, connection: u64) -> Vec<T> {
        self.entries
            .extract_if(|key, _| key.0 == connection)
            .map(|(_, (_, v))| v)
            .collect()
    }

    /// Whether a connection has anything here.
    pub(crate) fn has(&self, connection: u64) -> bool {
        self.entries.keys().any(|key| key.0 == connection)
    }

    /// The number of entries.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Key = (1, HandshakeId([1; 32]));

    #[test]
    fn an_entry_is_used_once_and_only_in_time() {
        let now = Instant::now();
        let mut table = Waiting::new(10, Duration::from_secs(5));
        assert_eq!(table.keep(now, KEY, 'a'), Ok(()));
        assert_eq!(table.take(now, &(2, KEY.1)), None, "another connection");
        assert_eq!(table.take(now, &KEY), Some('a'));
        assert_eq!(table.take(now, &KEY), None);
        assert_eq!(table.keep(now, KEY, 'b'), Ok(()));
        assert_eq!(table.take(now + Duration::from_secs(5), &KEY), None);
        assert_eq!(table.len(), 0);
    }

    #[test]
    fn a_name_is_taken_once_and_the_bound_holds() {
        let now = Instant::now();
        let mut table = Waiting::new(1, Duration::from_secs(5));
        assert_eq!(table.keep(now, KEY, 'a'), Ok(()));
        assert_eq!(table.keep(now, KEY, 'b'), Err((NotAdmitted::Taken, 'b')));
        assert_eq!(
            table.keep(now, (2, KEY.1), 'c'),
            Err((NotAdmitted::Full, 'c'))
        );
        assert_eq!(table.expire(now + Duration::from_secs(5)), ['a']);
        assert_eq!(table.admits(&(2, KEY.1)), Ok(()));
    }

    #[test]
    fn a_connections_end_frees_what_is_its_own() {
        let now = Instant::now();
        let mut table = Waiting::new(10, Duration::from_secs(5));
        let other = (2, HandshakeId([2; 32]));
        assert_eq!(table.keep(now, KEY, 'a'), Ok(()));
        assert_eq!(table.keep(now, other, 'b'), Ok(()));
        assert_eq!(table.drain(1), ['a']);
        assert!(!table.has(1) && table.has(2));
    }
}
