//! What the tasks of an intermediate share.
//!
//! Each part is used where it belongs: the shell writes, serving reads. Invariant: the lease that is seen here never counts
//! before the table has its records.

use std::{
    sync::{Arc, Mutex, PoisonError, RwLock, atomic::AtomicU64},
    time::Instant,
};

use keyhaven_service::{Client, ClientConfig};
use keyhaven_types::{Identity, KeyId, Name};
use tokio::sync::{Mutex as AsyncMutex, Semaphore, mpsc, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    clock::{Clock, Now},
    core::Core,
    fetch::Probe,
    keys::Keys,
    lease::LeaseView,
    meter::Meter,
    misses::{Denials, Flights, Wanted},
    parts::{Endpoint, IntermediateParts, Peers},
    replica::Replica,
    shell::Told,
    table::Table,
};
use crate::records::CentralKey;

pub(super) struct Inner {
    pub(super) site: Name,
    pub(super) identity: Identity,
    pub(super) central_key: CentralKey,
    pub(super) clock: Clock,
    /// Which start of the machine it was when that was last looked at.
    pub(super) boot_id: RwLock<[u8; 16]>,
    pub(super) threads: u32,
    pub(super) centrals: Vec<Client>,
    pub(super) replica: Arc<Replica>,
    pub(super) table: Arc<Table>,
    pub(super) leases: RwLock<LeaseView>,
    pub(super) keys: Keys,
    pub(super) denials: Denials,
    /// Callers that look further.
    pub(super) lookups: Flights<Wanted>,
    /// Wraps that are being fetched.
    pub(super) fetches: Flights<(KeyId, u32)>,
    /// How often everything unwrapped was thrown away.
    pub(super) forgotten: AtomicU64,
    pub(super) misses: Semaphore,
    /// Places of callers that have a grant: whoever asks for what does not exist takes none of them.
    pub(super) wanted: Semaphore,
    pub(super) probe: AsyncMutex<Probe>,
    pub(super) probes: AtomicU64,
    pub(super) peers: RwLock<Option<Arc<dyn Peers>>>,
    pub(super) meter: Meter,
    pub(super) applied: watch::Sender<u64>,
    /// When central last answered.
    pub(super) heard: Mutex<Option<Instant>>,
    pub(super) events: mpsc::Sender<Told>,
    pub(super) tasks: TaskTracker,
    pub(super) end: CancellationToken,
}

impl Inner {
    pub(super) fn new(
        parts: IntermediateParts,
        replica: Arc<Replica>,
        table: Arc<Table>,
        core: &Core,
        now: Now,
    ) -> (Arc<Self>, mpsc::Receiver<Told>) {
        let (events, told) = mpsc::channel(EVENTS_MAX);
        let connect = |endpoint: &Endpoint| {
            Client::start(ClientConfig::new(
                endpoint.address.clone(),
                endpoint.identity.clone(),
                parts.credentials.clone(),
            ))
        };
        let inner = Self {
            centrals: parts.central.iter().map(connect).collect(),
            site: parts.site,
            identity: parts.identity,
            central_key: parts.central_key,
            clock: parts.clock,
            boot_id: RwLock::new(now.boot_id),
            threads: parts.threads,
            replica,
            applied: watch::Sender::new(table.applied()),
            table,
            leases: RwLock::new(core.leases()),
            keys: Keys::new(parts.token, parts.workers, parts.unwrapped_max),
            denials: Denials::new(),
            lookups: Flights::new(),
            fetches: Flights::new(),
            forgotten: AtomicU64::new(0),
            misses: Semaphore::new(MISSES_MAX),
            wanted: Semaphore::new(MISSES_MAX),
            probe: AsyncMutex::default(),
            probes: AtomicU64::new(0),
            peers: RwLock::default(),
            meter: Meter::default(),
            heard: Mutex::default(),
            events,
            tasks: TaskTracker::new(),
            end: CancellationToken::new(),
        };
        (Arc::new(inner), told)
    }

    /// The time, in the start of the machine that was last seen.
    pub(super) fn now(&self) -> Now {
        let boot_id = *self.boot_id.read().unwrap_or_else(PoisonError::into_inner);
        self.clock.now(boot_id)
    }

    /// Looks which start of the machine it is, too; none when it cannot be told.
    pub(super) fn look(&self) -> Option<Now> {
        match self.clock.look() {
            Ok(now) => {
                *self.boot_id.write().unwrap_or_else(PoisonError::into_inner) = now.boot_id;
                Some(now)
            }
            Err(error) => {
                tracing::error!(error = %error, "the machine does not tell which start it is");
                None
            }
        }
    }
}

/// Events that wait for the core: each has a task behind it that waits for its place.
const EVENTS_MAX: usize = 64;
/// Callers that look further at once.
const MISSES_MAX: usize = 256;
