//! Who can do an operation with a key for a caller, and how fast: the answer to a lookup.
//!
//! No I/O; time is given. Whether a server is alive and how far it is comes from `measured`, everything else from
//! central's records. Invariant: the caller's grant is looked at before anything of a key is.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use keyhaven_types::{Identity, KeyState, Operation, Replication};
use keyhaven_wire::kms::{
    ClassRecord, Found, KeyRecord, KeyRef, Manifest, Scope, Server, SiteRecord, SiteStatus,
};

use super::{
    directory::Directory,
    measured::{Measured, is_measured, service_us},
};

/// The most servers that one answer names.
const SERVERS_MAX: usize = 64;

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question<'a> {
    /// For whom.
    pub(crate) caller: &'a Identity,
    /// With which key.
    pub(crate) key: &'a KeyRef,
    /// With which version; none: the one that a new request would meet.
    pub(crate) version: Option<u32>,
    /// What.
    pub(crate) operation: Operation,
}

/// What a server knows when it answers.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    /// The moment.
    pub(crate) now: Instant,
    /// How the server itself is.
    pub(crate) own: &'a SiteStatus,
    /// How long ago it had word from central.
    pub(crate) central_heard: Option<Duration>,
    /// What central has said.
    pub(crate) directory: &'a dyn Directory,
    /// What was measured.
    pub(crate) measured: &'a Measured,
    /// How often peers are asked.
    pub(crate) interval: Duration,
}

/// A capable server.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    /// Which.
    pub(crate) site: Arc<SiteRecord>,
    /// Estimated time of response from here.
    pub(crate) estimate_us: u64,
    /// Age of the newest measurement behind it.
    pub(crate) measured_ago: Option<Duration>,
    /// Whether it is this server.
    pub(crate) is_self: bool,
    /// How long its lease still lets it serve, as far as is known here.
    lease_left: Duration,
}

impl View<'_> {
    /// Capable servers, the fastest first; of equals this one.
    pub(crate) fn candidates(&self, question: Question<'_>) -> Vec<Candidate> {
        let wanted: Vec<Wanted> = self
            .directory
            .keys(question.key)
            .iter()
            .filter(|key| self.is_granted(question, key))
            .filter_map(|key| self.wanted(question, key))
            .collect();
        if wanted.is_empty() {
            return Vec::new();
        }
        let mut candidates: Vec<Candidate> = self
            .directory
            .sites()
            .into_iter()
            .filter(|site| !site.evicted)
            .filter_map(|site| self.candidate(question.operation, &wanted, site))
            .collect();
        candidates.sort_by_key(|found| (found.estimate_us, !found.is_self));
        candidates
    }

    /// The answer to a lookup.
    pub(crate) fn answer(&self, question: Question<'_>) -> Found {
        let candidates = self.candidates(question);
        let lease_left = candidates.iter().map(|found| found.lease_left).min();
        // Two intervals, so that who asks again in time never has to wait; the same for nobody as for a key unknown.
        let good_for = (self.interval * 2).min(lease_left.unwrap_or(Duration::MAX));
        Found {
            servers: candidates
                .iter()
                .take(SERVERS_MAX)
                .map(Candidate::server)
                .collect(),
            revision: self.directory.applied(),
            central_ms_ago: self.central_heard.map(millis),
            good_for_ms: millis(good_for),
        }
    }

    /// Whether a peer is further than this server: it may know what is not known here.
    pub(crate) fn is_behind(&self, peer: &SiteStatus) -> bool {
        peer.applied > self.directory.applied()
    }

    fn is_granted(&self, question: Question<'_>, key: &KeyRecord) -> bool {
        let scope = Scope::Key(key.id);
        self.directory
            .is_granted(question.caller, scope, question.operation)
    }

    /// The version that a request would meet, when its purpose and state allow the operation at all.
    fn wanted(&self, question: Question<'_>, key: &KeyRecord) -> Option<Wanted> {
        let operation = question.operation;
        let is_allowed = |manifest: &Manifest| {
            operation.allowed_in(manifest.state) && manifest.operations.contains(&operation)
        };
        let version = question.version.or(key.current);
        let manifest = match version {
            Some(version) => self.directory.manifest(key.id, version)?,
            // After a revocation there is none that makes new things; an older one may still undo old ones.
            None => (1..=key.versions)
                .rev()
                .take(VERSIONS_TRIED)
                .filter_map(|version| self.directory.manifest(key.id, version))
                .find(|manifest| manifest.state == KeyState::Deactivated)?,
        };
        let has_certificate = operation != Operation::Handshake || manifest.chain != [0; 32];
        if !is_allowed(&manifest) || !has_certificate {
            return None;
        }
        let class = self.directory.class(&manifest.class)?;
        Some(Wanted { manifest, class })
    }

    fn candidate(
        &self,
        operation: Operation,
        wanted: &[Wanted],
        site: Arc<SiteRecord>,
    ) -> Option<Candidate> {
        let is_self = site.name == self.own.site;
        let (status, age, round_trip) = if is_self {
            (self.own, Duration::ZERO, Duration::ZERO)
        } else {
            let peer = self.measured.alive(self.now, &site.name)?;
            (&peer.status, peer.age(self.now), peer.round_trip)
        };
        let lease_left = wanted
            .iter()
            .filter(|wanted| wanted.may_be_at(&site) && wanted.is_ready_at(status, operation))
            .filter_map(|wanted| wanted.lease_left(status, age))
            .max()?;
        let service = service_us(status, operation);
        let way = u64::try_from(round_trip.as_micros()).unwrap_or(u64::MAX);
        let is_measured = !is_self || is_measured(status, operation);
        Some(Candidate {
            estimate_us: service.saturating_add(way),
            measured_ago: is_measured.then_some(age),
            is_self,
            lease_left,
            site,
        })
    }
}

/// A version that a request would meet.
struct Wanted {
    manifest: Manifest,
    class: Arc<ClassRecord>,
}

impl Wanted {
    /// Whether class and enrolment let a site have it.
    fn may_be_at(&self, site: &SiteRecord) -> bool {
        let holds = |held: &keyhaven_wire::kms::Held| held.kek == self.manifest.kek;
        self.class.regions.contains(&site.region)
            && site.hardware >= self.class.hardware_min
            && site.holds.iter().any(holds)
    }

    /// Whether a server says that it has it, and that its token can.
    fn is_ready_at(&self, status: &SiteStatus, operation: Operation) -> bool {
        let comes_when_asked = self.class.replication == Replication::OnDemand;
        let mechanism = (self.manifest.kind, operation);
        (comes_when_asked || status.applied >= self.manifest.revision)
            && status.mechanisms.contains(&mechanism)
    }

    /// How long a server's lease still lets it use this class; none when it does not.
    fn lease_left(&self, status: &SiteStatus, age: Duration) -> Option<Duration> {
        let bound = Duration::from_secs(self.class.bound_s.into());
        let lease_age = Duration::from_millis(status.lease_age_ms?).saturating_add(age);
        bound.checked_sub(lease_age).filter(|left| !left.is_zero())
    }
}

impl Candidate {
    /// One for tests of what is made of it.
    #[cfg(test)]
    pub(crate) fn of(site: SiteRecord, estimate_us: u64, is_self: bool) -> Self {
        Self {
            site: Arc::new(site),
            estimate_us,
            measured_ago: None,
            is_self,
            lease_left: Duration::MAX,
        }
    }

    fn server(&self) -> Server {
        Server {
            site: self.site.name.clone(),
            identity: self.site.identity.clone(),
            address: self.site.address.clone(),
            region: self.site.region.clone(),
            estimate_us: self.estimate_us,
            measured_ms_ago: self.measured_ago.map(millis),
            is_self: self.is_self,
        }
    }
}

/// The newest versions that are looked through for one that still undoes old things.
const VERSIONS_TRIED: usize = 16;

pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[path = "answer_tests.rs"]
mod tests;
