//! A cluster of etcd nodes, over mutual TLS.
//!
//! One connection a node: a read that meets a dead one goes on to the next, a write does not, since it may have been
//! done. Whether a lock or a lease of etcd's holds is nothing that we rest on. Invariant: a write is sent once.

mod fault;
mod watch;

use std::{
    future::Future,
    path::PathBuf,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use etcd_client::{
    Certificate, Client, Compare, CompareOp, ConnectOptions, Error, GetOptions, GetResponse,
    Identity, KvClient, TlsOptions, TxnOp, WatchClient, WatchOptions,
};
use tokio::time::timeout;

use self::fault::{is_transient, judge};
pub(super) use self::watch::EtcdWatch;
use super::{Committed, Guard, Key, Page, Source, StateStore, StoreError, Stored, Txn, Watch};

/// Where the cluster is, and who we are to it.
#[derive(Clone, Debug)]
pub struct EtcdConfig {
    /// `https://HOST:PORT` of each node.
    pub endpoints: Vec<String>,
    /// The CA of the nodes, PEM.
    pub ca: PathBuf,
    /// Our certificate, PEM.
    pub certificate: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
    /// What every key of ours begins with.
    pub prefix: String,
    /// How long one request may take.
    pub timeout: Duration,
}

/// The cluster.
pub struct EtcdStore {
    nodes: Vec<Node>,
    preferred: AtomicUsize,
    prefix: Vec<u8>,
    timeout: Duration,
    name: String,
}

/// One node. Clones share its connection.
#[derive(Clone)]
struct Node {
    kv: KvClient,
    watch: WatchClient,
}

impl From<Client> for Node {
    fn from(client: Client) -> Self {
        let (kv, watch) = (client.kv_client(), client.watch_client());
        Self {
            kv: kv.max_decoding_message_size(MESSAGE_BYTES_MAX),
            watch: watch.max_decoding_message_size(MESSAGE_BYTES_MAX),
        }
    }
}

impl EtcdStore {
    /// Reads the files and makes the connections, which are set up when they are first used.
    ///
    /// # Errors
    /// [`StoreError::Open`] when a file cannot be read or is none, or an endpoint is no URL.
    pub async fn connect(config: &EtcdConfig) -> Result<Self, StoreError> {
        let read = |path: &PathBuf| {
            std::fs::read(path).map_err(|source| StoreError::Open {
                path: path.clone(),
                remedy: "check the paths in [store]",
                source: source.into(),
            })
        };
        let (ca, certificate, key) = (
            read(&config.ca)?,
            read(&config.certificate)?,
            zeroize::Zeroizing::new(read(&config.key)?),
        );
        let mut nodes = Vec::new();
        for endpoint in &config.endpoints {
            let tls = TlsOptions::new()
                .ca_certificate(Certificate::from_pem(&ca))
                .identity(Identity::from_pem(&certificate, &*key));
            let options = ConnectOptions::new()
                .with_tls(tls)
                .with_connect_timeout(CONNECT_TIMEOUT)
                .with_keep_alive(KEEP_ALIVE, KEEP_ALIVE)
                .with_keep_alive_while_idle(true)
                .with_require_leader(true);
            let client = Client::connect([endpoint], Some(options))
                .await
                .map_err(|source| StoreError::Open {
                    path: PathBuf::from(endpoint),
                    remedy: "check `endpoints`, `ca`, `certificate` and `key` in [store]",
                    source: source.into(),
                })?;
            nodes.push(Node::from(client));
        }
        Ok(Self {
            nodes,
            preferred: AtomicUsize::new(0),
            prefix: config.prefix.clone().into_bytes(),
            timeout: config.timeout,
            name: format!("etcd, {}", config.endpoints.join(", ")),
        })
    }

    fn full(&self, key: &[u8]) -> Key {
        [&self.prefix, key].concat()
    }

    fn short(&self, key: &[u8]) -> Key {
        key.strip_prefix(self.prefix.as_slice())
            .unwrap_or(key)
            .to_vec()
    }

    /// The node that answered last.
    fn node(&self) -> (usize, Node) {
        let number = self.preferred.load(Ordering::Relaxed) % self.nodes.len();
        (number, self.nodes[number].clone())
    }

    /// Another node from now on, if this one was the preferred one.
    fn leave(&self, at: usize) {
        let next = (at + 1) % self.nodes.len();
        let _ = self
            .preferred
            .compare_exchange(at, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// A read: from one node after the other until one answers. `at`: the revision that is asked for.
    async fn read<T, F>(
        &self,
        doing: &'static str,
        at: u64,
        ask: impl Fn(Node) -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let mut last = None;
        // Twice round: an election takes longer than one refusal.
        for _ in 0..self.nodes.len() * 2 {
            let (number, node) = self.node();
            match timeout(self.timeout, ask(node)).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) if is_transient(&error) => last = Some(error.into()),
                Ok(Err(error)) => return Err(judge(doing, at, error)),
                Err(elapsed) => last = Some(elapsed.into()),
            }
            self.leave(number);
            tokio::time::sleep(PAUSE).await;
        }
        Err(StoreError::Unavailable {
            doing,
            source: last.unwrap_or_else(|| "no node is configured".into()),
        })
    }

    /// The cluster's revision, after everything that was acknowledged: a node may be behind what another one told.
    async fn now(&self) -> Result<u64, StoreError> {
        let answer = self
            .read("reading its revision", 0, |mut node| {
                let options = GetOptions::new().with_keys_only();
                let key = self.prefix.clone();
                async move { node.kv.get(key, Some(options)).await }
            })
            .await?;
        Ok(header_revision(&answer))
    }
}

impl StateStore for EtcdStore {
    async fn get(&self, key: &[u8]) -> Result<Option<Stored>, StoreError> {
        let key = self.full(key);
        let answer = self
            .read("reading", 0, |mut node| {
                let key = key.clone();
                async move { node.kv.get(key, None).await }
            })
            .await?;
        Ok(answer.kvs().first().map(|found| Stored {
            value: found.value().to_vec(),
            modified: revision(found.mod_revision()),
        }))
    }

    async fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        at: Option<u64>,
        limit: usize,
    ) -> Result<Page, StoreError> {
        let (from, to) = (self.full(from), self.full(to));
        let answer = self
            .read("reading a range", at.unwrap_or(0), |mut node| {
                let mut options = GetOptions::new()
                    .with_range(to.clone())
                    .with_limit(i64::try_from(limit.max(1)).unwrap_or(i64::MAX));
                if let Some(at) = at {
                    options = options.with_revision(i64::try_from(at).unwrap_or(i64::MAX));
                }
                let from = from.clone();
                async move { node.kv.get(from, Some(options)).await }
            })
            .await?;
        let items = answer.kvs().iter().map(|found| {
            let stored = Stored {
                value: found.value().to_vec(),
                modified: revision(found.mod_revision()),
            };
            (self.short(found.key()), stored)
        });
        Ok(Page {
            items: items.collect(),
            revision: at.unwrap_or_else(|| header_revision(&answer)),
            more: answer.more(),
        })
    }

    async fn txn(&self, txn: Txn) -> Result<Committed, StoreError> {
        txn.check()?;
        let guards: Vec<Compare> = txn
            .guards
            .iter()
            .map(|(key, guard)| match guard {
                Guard::Absent => Compare::create_revision(self.full(key), CompareOp::Equal, 0),
                // etcd says 0 of what is not there, and nothing is ever written at 0.
                Guard::At(0) => Compare::mod_revision(self.full(key), CompareOp::Less, 0),
                Guard::At(at) => Compare::mod_revision(
                    self.full(key),
                    CompareOp::Equal,
                    i64::try_from(*at).unwrap_or(i64::MAX),
                ),
            })
            .collect();
        let puts: Vec<TxnOp> = txn
            .puts
            .into_iter()
            .map(|(key, value)| TxnOp::put(self.full(&key), value, None))
            .collect();
        let request = etcd_client::Txn::new().when(guards).and_then(puts);
        let (number, mut node) = self.node();
        let answer = match timeout(self.timeout, node.kv.txn(request)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                self.leave(number);
                return Err(if is_transient(&error) {
                    StoreError::Unknown {
                        source: error.into(),
                    }
                } else {
                    judge("writing", 0, error)
                });
            }
            Err(elapsed) => {
                self.leave(number);
                return Err(StoreError::Unknown {
                    source: elapsed.into(),
                });
            }
        };
        if !answer.succeeded() {
            return Ok(Committed::Conflict);
        }
        let at = answer
            .header()
            .map_or(0, |header| revision(header.revision()));
        Ok(Committed::At(at))
    }

    async fn watch(&self, from: u64) -> Result<Watch, StoreError> {
        let from = from.max(1);
        // etcd would wait in silence until a restored cluster has written its way to that revision.
        let now = self.now().await?;
        if from > now + 1 {
            let behind = EtcdWatch::behind(now + 1);
            return Ok(Watch(Source::Etcd(Box::new(behind))));
        }
        let options = WatchOptions::new()
            .with_prefix()
            .with_start_revision(i64::try_from(from).unwrap_or(i64::MAX));
        let stream = self
            .read("watching", from, |mut node| {
                let (prefix, options) = (self.prefix.clone(), options.clone());
                async move { node.watch.watch(prefix, Some(options)).await }
            })
            .await?;
        let watch = EtcdWatch::new(stream, self.prefix.clone(), from);
        Ok(Watch(Source::Etcd(Box::new(watch))))
    }

    fn describe(&self) -> String {
        self.name.clone()
    }
}

/// Revisions are positive.
fn revision(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

fn header_revision(answer: &GetResponse) -> u64 {
    answer
        .header()
        .map_or(0, |header| revision(header.revision()))
}

/// The most of one answer: a watch that catches up gets up to a thousand transactions in one message.
const MESSAGE_BYTES_MAX: usize = 256 * 1024 * 1024;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A node that says nothing for so long is gone.
const KEEP_ALIVE: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(100);
