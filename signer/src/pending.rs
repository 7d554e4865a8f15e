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
///
/// At the bound the oldest entry of the connection that has the most makes room: a flood pushes itself out.
pub(crate) struct Waiting<T> {
    entries: HashMap<Key, (Instant, T)>,
    of_connection: HashMap<u64, usize>,
    entries_max: usize,
    patience: Duration,
}

/// The name is in use.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Taken;

impl<T> Waiting<T> {
    pub(crate) fn new(entries_max: usize, patience: Duration) -> Self {
        Self {
            entries: HashMap::new(),
            of_connection: HashMap::new(),
            entries_max: entries_max.max(1),
            patience,
        }
    }

    /// Keeps an entry until it is taken, pushed out or its time is over. Gives back what it pushed out.
    pub(crate) fn keep(&mut self, now: Instant, key: Key, value: T) -> Result<Option<T>, Taken> {
        if self.has_name(&key) {
            return Err(Taken);
        }
        let pushed_out = (self.entries.len() >= self.entries_max)
            .then(|| self.push_out())
            .flatten();
        self.entries.insert(key, (now + self.patience, value));
        *self.of_connection.entry(key.0).or_default() += 1;
        Ok(pushed_out)
    }

    /// Whether a name is in use.
    pub(crate) fn has_name(&self, key: &Key) -> bool {
        self.entries.contains_key(key)
    }

    fn push_out(&mut self) -> Option<T> {
        let (&connection, _) = self.of_connection.iter().max_by_key(|(_, count)| **count)?;
        let of_it = self.entries.iter().filter(|(key, _)| key.0 == connection);
        let (&oldest, _) = of_it.min_by_key(|(_, (deadline, _))| *deadline)?;
        self.remove(&oldest).map(|(_, value)| value)
    }

    fn remove(&mut self, key: &Key) -> Option<(Instant, T)> {
        let entry = self.entries.remove(key)?;
        self.uncount(key.0, 1);
        Some(entry)
    }

    fn uncount(&mut self, connection: u64, gone: usize) {
        if let Some(count) = self.of_connection.get_mut(&connection) {
            *count = count.saturating_sub(gone);
            if *count == 0 {
                self.of_connection.remove(&connection);
            }
        }
    }

    /// Takes an entry out, if its time is not over.
    pub(crate) fn take(&mut self, now: Instant, key: &Key) -> Option<T> {
        let (deadline, value) = self.remove(key)?;
        (now < deadline).then_some(value)
    }

    /// Takes out everything whose time is over.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<T> {
        self.extract(|_, deadline| deadline <= now)
    }

    /// Takes out everything of one connection.
    pub(crate) fn drain(&mut self, connection: u64) -> Vec<T> {
        self.extract(|key, _| key.0 == connection)
    }

    fn extract(&mut self, is_over: impl Fn(&Key, Instant) -> bool) -> Vec<T> {
        let over: Vec<_> = self
            .entries
            .extract_if(|key, (deadline, _)| is_over(key, *deadline))
            .collect();
        over.into_iter()
            .map(|(key, (_, value))| {
                self.uncount(key.0, 1);
                value
            })
            .collect()
    }

    /// Whether a connection has anything here.
    pub(crate) fn has(&self, connection: u64) -> bool {
        self.of_connection.contains_key(&connection)
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

    fn key(connection: u64, name: u8) -> Key {
        (connection, HandshakeId([name; 32]))
    }

    #[test]
    fn an_entry_is_used_once_and_only_in_time() {
        let now = Instant::now();
        let mut table = Waiting::new(10, Duration::from_secs(5));
        assert_eq!(table.keep(now, KEY, 'a'), Ok(None));
        assert_eq!(table.take(now, &key(2, 1)), None, "another connection");
        assert_eq!(table.take(now, &KEY), Some('a'));
        assert_eq!(table.take(now, &KEY), None);
        assert_eq!(table.keep(now, KEY, 'b'), Ok(None));
        assert_eq!(table.keep(now, KEY, 'c'), Err(Taken));
        assert_eq!(table.take(now + Duration::from_secs(5), &KEY), None);
        assert_eq!(table.len(), 0);
    }

    #[test]
    fn a_flood_pushes_itself_out() {
        let now = Instant::now();
        let mut table = Waiting::new(4, Duration::from_secs(5));
        assert_eq!(table.keep(now, key(1, 0), 'a'), Ok(None));
        for (name, value) in [(1, 'x'), (2, 'y'), (3, 'z')] {
            let later = now + Duration::from_millis(name.into());
            assert_eq!(table.keep(later, key(2, name), value), Ok(None));
        }
        let later = now + Duration::from_secs(1);
        assert_eq!(table.keep(later, key(2, 4), 'w'), Ok(Some('x')));
        assert_eq!(table.keep(later, key(3, 0), 'b'), Ok(Some('y')));
        assert_eq!(table.take(later, &key(1, 0)), Some('a'));
        assert_eq!(table.len(), 3);
    }

    #[test]
    fn a_connections_end_frees_what_is_its_own() {
        let now = Instant::now();
        let mut table = Waiting::new(10, Duration::from_secs(5));
        assert_eq!(table.keep(now, KEY, 'a'), Ok(None));
        assert_eq!(table.keep(now, key(2, 2), 'b'), Ok(None));
        assert_eq!(table.drain(1), ['a']);
        assert!(!table.has(1) && table.has(2));
        assert_eq!(table.expire(now + Duration::from_secs(5)), ['b']);
        assert!(!table.has(2));
    }
}
