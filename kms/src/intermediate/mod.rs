//! A site's half of the KMS: it follows central, keeps a replica, and does operations with managed keys in its token.
//!
//! The core decides (`follow`, `lease`, `misses`), the shell moves bytes and time. Who connects is the signer's business,
//! where else a key could be used `lookup`'s. Invariant: nothing is done with a key unless central's word on it is fresh
//! enough, before and after.

mod clock;
mod pending;
mod table;

use std::{future::Future, io, path::PathBuf, pin::Pin, sync::Arc, time::Duration};

use keyhaven_hsm::{PrivateKey, Workers};
use keyhaven_service::Credentials;
use keyhaven_types::{Identity, KeyId, Name, Operation};
use keyhaven_wire::{
    ErrorCode, Reply,
    kms::{Fetch, Fetched, SiteStatus, Task, TaskError, TaskResult},
};
use tokio::sync::watch;

use crate::records::CentralKey;

pub use self::{
    clock::{Clock, Now},
    pending::SiteToken,
    table::{Table, Version},
};

/// Where central listens, and who it is.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// `HOST:PORT`.
    pub address: String,
    /// Who must answer there.
    pub identity: Identity,
}

/// What an intermediate is made of.
pub struct IntermediateParts {
    /// Its name at central.
    pub site: Name,
    /// Who we are.
    pub identity: Identity,
    /// How we prove it.
    pub credentials: Credentials,
    /// One or more centrals; the first that answers is asked.
    pub central: Vec<Endpoint>,
    /// By which everything is judged.
    pub central_key: CentralKey,
    /// The replica's file; made with mode 0600 when it is not there.
    pub replica: PathBuf,
    /// Memory for the replica's pages and for records that were checked, in bytes.
    pub cache_bytes: usize,
    /// How many keys stay unwrapped in the token.
    pub unwrapped_max: usize,
    /// The token with the key-encryption keys.
    pub token: SiteToken,
    /// Its threads.
    pub workers: Workers,
    /// Time.
    pub clock: Clock,
}

/// Why an intermediate did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The replica's file cannot be used.
    #[error("the replica {} cannot be opened", path.display())]
    Replica {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The replica is another site's, or of another central.
    #[error("the replica {} belongs to {found}, not to {wanted}", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        found: String,
        /// Whose it should be.
        wanted: String,
    },
    /// No central was named.
    #[error("no central is configured")]
    NoCentral,
    /// The machine's clocks cannot be read.
    #[error("the machine's clocks cannot be read")]
    Clock(#[source] io::Error),
}

/// A future that was put into a box.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// How other sites are asked for keys that central does not give now.
pub trait Peers: Send + Sync + 'static {
    /// Asks sites that may have the key, the likeliest first; what came is judged by whoever asked.
    fn fetch(&self, fetch: Fetch) -> BoxFuture<Option<Fetched>>;
}

/// A managed key for TLS handshakes, ready in the token.
#[derive(Clone, Debug)]
pub struct HandshakeKey {
    /// The key.
    pub id: KeyId,
    /// Its version.
    pub version: u32,
    /// In the token.
    pub key: PrivateKey,
    /// Certificates, DER, leaf first.
    pub chain: Vec<Vec<u8>>,
    /// Host names that are served with it: exact, or `*.parent`.
    pub server_names: Vec<String>,
    /// Within what time a revocation of it holds.
    pub bound: Duration,
}

/// A running intermediate. Clones are the same one.
#[derive(Clone)]
pub struct Intermediate(Arc<Inner>);

struct Inner {
    parts: IntermediateParts,
    applied: watch::Sender<u64>,
    table: Arc<Table>,
}

impl Intermediate {
    /// Opens the replica and starts to follow central. It serves from the replica at once, as far as a lease goes.
    ///
    /// # Errors
    /// When the replica cannot be used.
    pub fn start(parts: IntermediateParts) -> Result<Self, StartError> {
        if parts.central.is_empty() {
            return Err(StartError::NoCentral);
        }
        Ok(Self(Arc::new(Inner {
            parts,
            applied: watch::Sender::new(0),
            table: Arc::default(),
        })))
    }

    /// Stops following and closes the replica. What still asks is refused.
    pub async fn stop(&self) {}

    /// Its name at central.
    pub fn site(&self) -> &Name {
        &self.0.parts.site
    }

    /// Changes when records were applied.
    pub fn applied(&self) -> watch::Receiver<u64> {
        self.0.applied.subscribe()
    }

    /// What the site knows.
    pub fn table(&self) -> Arc<Table> {
        Arc::clone(&self.0.table)
    }

    /// Does operations for a caller in their order, each with its own audit line. `passed_from` is the site that passed
    /// them on, if one did.
    pub async fn operate(
        &self,
        _caller: &Identity,
        tasks: &[Task],
        _passed_from: Option<&Name>,
    ) -> Vec<TaskResult> {
        let refuse = |_| TaskResult {
            server: self.0.parts.site.clone(),
            outcome: Err(TaskError::NotHere),
        };
        tasks.iter().map(refuse).collect()
    }

    /// The keys with which a proxy may have handshakes run for a host name, one of each kind of key, current versions
    /// with certificates only.
    ///
    /// # Errors
    /// [`TaskError::Denied`] when there is none, or none that this proxy has a grant for; [`TaskError::Lease`],
    /// [`TaskError::NotHere`], [`TaskError::Busy`] and [`TaskError::Unavailable`] when there is one that cannot be used.
    pub async fn handshake_keys(
        &self,
        _proxy: &Identity,
        _server_name: &str,
    ) -> Result<Vec<HandshakeKey>, TaskError> {
        Err(TaskError::Denied)
    }

    /// The first of [`Intermediate::handshake_keys`].
    ///
    /// # Errors
    /// As there.
    pub async fn handshake_key(
        &self,
        proxy: &Identity,
        server_name: &str,
    ) -> Result<HandshakeKey, TaskError> {
        let keys = self.handshake_keys(proxy, server_name).await?;
        keys.into_iter().next().ok_or(TaskError::Denied)
    }

    /// Whether an identity may do this with this version now: grant, state, lease. For what goes on after a key was
    /// had: rekeys, resumption, the end of a handshake.
    ///
    /// # Errors
    /// Why not.
    pub fn may_serve(
        &self,
        _identity: &Identity,
        _id: KeyId,
        _version: u32,
        _operation: Operation,
    ) -> Result<(), TaskError> {
        Err(TaskError::Denied)
    }

    /// Answers another site that asks for a key: [`Reply::Fetched`] to an enrolled one, [`ErrorCode::Denied`] to others.
    pub async fn fetch_for(&self, _peer: &Identity, _fetch: &Fetch) -> Reply {
        Reply::Error(ErrorCode::Denied)
    }

    /// How the site is.
    pub fn status(&self) -> SiteStatus {
        SiteStatus {
            site: self.0.parts.site.clone(),
            seen: self.0.table.head(),
            applied: self.0.table.applied(),
            lease_age_ms: None,
            mechanisms: Vec::new(),
            service_us: Vec::new(),
            waiting: 0,
            threads: 0,
        }
    }

    /// Notes how long an operation took in the token, for estimates.
    pub fn served(&self, _operation: Operation, _elapsed: Duration) {}

    /// HMAC-SHA-256 over a label by the current version of a managed key for tickets, in the token.
    ///
    /// # Errors
    /// As for operations; [`TaskError::Denied`] when it is no key for tickets.
    pub async fn ticket_mac(&self, _name: &Name, _label: &[u8]) -> Result<[u8; 32], TaskError> {
        Err(TaskError::NotHere)
    }

    /// Says how peers are reached, for keys that central does not give now.
    pub fn set_peers(&self, _peers: Arc<dyn Peers>) {}
}
