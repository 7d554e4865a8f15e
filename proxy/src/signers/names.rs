//! What lookups have said of host names: which signers serve each, and until when that holds.
//!
//! No I/O; time is given. Names that nobody serves have a room of their own, so that a client that makes names up pushes
//! out no name that is served. Invariant: bounded; the least used goes first.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use keyhaven_types::Identity;

/// Names that are served and names that are not, each at most.
const NAMES_MAX: usize = 1024;
/// Servers that are kept of one answer, the fastest.
const SERVERS_MAX: usize = 16;
/// How long an answer is believed at most, whatever it says.
const GOOD_FOR_MAX: Duration = Duration::from_secs(60);

/// A server that was named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) identity: Identity,
    pub(super) address: String,
    /// What it is expected to take, as the answering signer saw it.
    pub(super) estimate: Duration,
}

/// What is known of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// This, and it is new enough.
    Fresh(Arc<[Named]>),
    /// This still holds, and it is time to ask again.
    Ageing(Arc<[Named]>),
    /// Nothing that holds.
    Nothing,
}

struct Entry {
    servers: Arc<[Named]>,
    asked: Instant,
    good_until: Instant,
    used: u64,
}

/// The names.
pub(super) struct Names {
    refresh: Duration,
    served: HashMap<String, Entry>,
    unserved: HashMap<String, Entry>,
    uses: u64,
}

impl Names {
    /// Answers are asked for anew after `refresh`.
    pub(super) fn new(refresh: Duration) -> Self {
        Self {
            refresh,
            served: HashMap::new(),
            unserved: HashMap::new(),
            uses: 0,
        }
    }

    /// What is known of a name at this moment.
    pub(super) fn get(&mut self, name: &str, now: Instant) -> Known {
        self.uses += 1;
        let entry = match self.served.get_mut(name) {
            Some(entry) => Some(entry),
            None => self.unserved.get_mut(name),
        };
        let Some(entry) = entry.filter(|entry| now < entry.good_until) else {
            return Known::Nothing;
        };
        entry.used = self.uses;
        let servers = entry.servers.clone();
        if now.saturating_duration_since(entry.asked) < self.refresh {
            Known::Fresh(servers)
        } else {
            Known::Ageing(servers)
        }
    }

    /// Notes an answer.
    pub(super) fn put(&mut self, name: &str, servers: &[Named], good_for: Duration, now: Instant) {
        self.uses += 1;
        self.served.remove(name);
        self.unserved.remove(name);
        let servers = &servers[..servers.len().min(SERVERS_MAX)];
        let room = if servers.is_empty() {
            &mut self.unserved
        } else {
            &mut self.served
        };
        if room.len() >= NAMES_MAX {
            let least = room.iter().min_by_key(|(_, entry)| entry.used);
            if let Some(name) = least.map(|(name, _)| name.clone()) {
                room.remove(&name);
            }
        }
        let entry = Entry {
            servers: servers.into(),
            asked: now,
            good_until: now + good_for.min(GOOD_FOR_MAX),
            used: self.uses,
        };
        room.insert(name.to_owned(), entry);
    }

    /// Whether a served name still goes to this server.
    pub(super) fn names(&self, identity: &Identity, address: &str, now: Instant) -> bool {
        let mut held = self.served.values().filter(|entry| now < entry.good_until);
        held.any(|entry| {
            let mut servers = entry.servers.iter();
            servers.any(|server| server.identity == *identity && server.address == address)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn server(name: &str) -> Named {
        Named {
            identity: format!("spiffe://keyhaven.test/signer/{name}")
                .parse()
                .unwrap(),
            address: format!("{name}.test:7443"),
            estimate: Duration::from_millis(5),
        }
    }

    #[test]
    fn l3_an_answer_is_asked_for_anew_in_time_and_then_ends() {
        let (mut names, now) = (Names::new(SECOND * 2), Instant::now());
        assert_eq!(names.get("a.test", now), Known::Nothing);
        let servers = [server("fra")];
        names.put("a.test", &servers, SECOND * 4, now);
        let servers: Arc<[Named]> = servers.into();
        assert_eq!(names.get("a.test", now), Known::Fresh(servers.clone()));
        let ageing = Known::Ageing(servers);
        assert_eq!(names.get("a.test", now + SECOND * 2), ageing);
        assert_eq!(names.get("a.test", now + SECOND * 4), Known::Nothing);
        assert!(names.names(&server("fra").identity, "fra.test:7443", now));
        assert!(!names.names(&server("fra").identity, "fra.test:7443", now + SECOND * 4));
        names.put("b.test", &[server("fra")], SECOND * 600, now);
        assert_eq!(names.get("b.test", now + SECOND * 60), Known::Nothing);
    }

    #[test]
    fn names_that_clients_make_up_push_out_no_name_that_is_served() {
        let (mut names, now) = (Names::new(SECOND), Instant::now());
        names.put("served.test", &[server("fra")], SECOND * 4, now);
        for number in 0..3 * NAMES_MAX {
            names.put(&format!("{number}.test"), &[], SECOND * 4, now);
        }
        assert_eq!(names.unserved.len(), NAMES_MAX);
        assert!(matches!(names.get("served.test", now), Known::Fresh(_)));
        for number in 0..3 * NAMES_MAX {
            names.get("served.test", now);
            names.put(&format!("{number}.test"), &[server("fra")], SECOND, now);
        }
        assert_eq!(names.served.len(), NAMES_MAX);
        assert!(matches!(names.get("served.test", now), Known::Fresh(_)));
    }

    #[test]
    fn a_name_that_is_no_longer_served_is_not_known_as_served() {
        let (mut names, now) = (Names::new(SECOND), Instant::now());
        names.put("a.test", &[server("fra")], SECOND * 4, now);
        names.put("a.test", &[], SECOND * 4, now);
        assert_eq!(names.get("a.test", now), Known::Fresh([].into()));
        assert_eq!(names.served.len() + names.unserved.len(), 1);
    }
}
