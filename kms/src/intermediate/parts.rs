//! What an intermediate is made of, and what it gives.

use std::{future::Future, io, path::PathBuf, pin::Pin, time::Duration};

use keyhaven_hsm::{PrivateKey, Workers, managed::SiteToken};
use keyhaven_service::Credentials;
use keyhaven_types::{Identity, KeyId, Name};
use keyhaven_wire::kms::{Fetch, Fetched};

use super::{clock::Clock, replica::ReplicaError};
use crate::records::CentralKey;

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
    /// How many there are, for estimates.
    pub threads: u32,
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
    #[error(
        "the replica {} belongs to {found}, not to {wanted}; name another file, and the site fills it",
        path.display()
    )]
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

impl StartError {
    pub(super) fn replica(parts: &IntermediateParts, error: ReplicaError) -> Self {
        let path = parts.replica.clone();
        match error {
            ReplicaError::Foreign { found } => Self::Foreign {
                path,
                found: format!("site {found}, or a site of another central"),
                wanted: format!("site {}", parts.site),
            },
            error => Self::Replica {
                path,
                source: Box::new(error),
            },
        }
    }
}
