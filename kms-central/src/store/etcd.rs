//! A cluster of etcd nodes, over mutual TLS.
//!
//! One connection a node: a read that meets a dead one goes on to the next, a write does not, since it may have been
//! done. Whether a lock or a lease of etcd's holds is nothing that we rest on. Invariant: every write is guarded.

use std::{
    future::Future,
    path::PathBuf,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use etcd_client::{
    Certificate, Client, Compare, CompareOp, ConnectOptions, Error, EventType, GetOptions,
    Identity, TlsOptions, TxnOp, WatchOptions, WatchResponse, WatchStream,
};
use tokio::time::timeout;

use super::{
    Committed, Event, Guard, Key, PUTS_MAX, Page, Source, StateStore, StoreError, Stored, Txn,
    Watch, WatchEnd,
};

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
    clients: Vec<Client>,
    preferred: AtomicUsize,
    prefix: Vec<u8>,
    timeout: Duration,
    name: String,
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
        let mut clients = Vec::new();
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
            clients.push(client);
        }
        Ok(Self {
            clients,
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
    fn client(&self) -> (usize, Client) {
        let at = self.preferred.load(Ordering::Relaxed) % self.clients.len();
        (at, self.clients[at].clone())
    }

    /// Another node from now on, if this one was the preferred one.
    fn leave(&self, at: usize) {
        let next = (at + 1) % self.clients.len();
        let _ = self
            .preferred
            .compare_exchange(at, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// A read: from one node after the other until one answers.
    async fn read<T, F>(
        &self,
        doing: &'static str,
        ask: impl Fn(Client) -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let mut last = None;
        // Twice round: an election takes longer than one refusal.
        for _ in 0..self.clients.len() * 2 {
            let (at, client) = self.client();
            match timeout(self.timeout, ask(client)).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) if is_transient(&error) => last = Some(error.into()),
                Ok(Err(error)) => return Err(judge(doing, error)),
                Err(elapsed) => last = Some(elapsed.into()),
            }
            self.leave(at);
            tokio::time::sleep(PAUSE).await;
        }
        Err(StoreError::Unavailable {
            doing,
            source: last.unwrap_or_else(|| "no node is configured".into()),
        })
    }
}

impl StateStore for EtcdStore {
    async fn get(&self, key: &[u8]) -> Result<Option<Stored>, StoreError> {
        let key = self.full(key);
        let answer = self
            .read("reading", |mut client| {
                let key = key.clone();
                async move { client.get(key, None).await }
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
            .read("reading a range", |mut client| {
                let mut options = GetOptions::new()
                    .with_range(to.clone())
                    .with_limit(i64::try_from(limit).unwrap_or(i64::MAX));
                if let Some(at) = at {
                    options = options.with_revision(i64::try_from(at).unwrap_or(i64::MAX));
                }
                let from = from.clone();
                async move { client.get(from, Some(options)).await }
            })
            .await?;
        let items = answer.kvs().iter().map(|found| {
            let stored = Stored {
                value: found.value().to_vec(),
                modified: revision(found.mod_revision()),
            };
            (self.short(found.key()), stored)
        });
        let read_at = answer
            .header()
            .map_or(0, |header| revision(header.revision()));
        Ok(Page {
            items: items.collect(),
            revision: at.unwrap_or(read_at),
            more: answer.more(),
        })
    }

    async fn txn(&self, txn: Txn) -> Result<Committed, StoreError> {
        if txn.puts.len() > PUTS_MAX {
            return Err(StoreError::TooLarge);
        }
        let guards: Vec<Compare> = txn
            .guards
            .iter()
            .map(|(key, guard)| match guard {
                Guard::Absent => Compare::create_revision(self.full(key), CompareOp::Equal, 0),
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
        let (at, mut client) = self.client();
        let answer = match timeout(self.timeout, client.txn(request)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                self.leave(at);
                return Err(if is_transient(&error) {
                    StoreError::Unknown {
                        source: error.into(),
                    }
                } else {
                    judge("writing", error)
                });
            }
            Err(elapsed) => {
                self.leave(at);
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
        let options = WatchOptions::new()
            .with_prefix()
            .with_start_revision(i64::try_from(from).unwrap_or(i64::MAX));
        let stream = self
            .read("watching", |mut client| {
                let (prefix, options) = (self.prefix.clone(), options.clone());
                async move { client.watch(prefix, Some(options)).await }
            })
            .await?;
        Ok(Watch(Source::Etcd(Box::new(EtcdWatch {
            stream,
            prefix: self.prefix.clone(),
            ready: std::collections::VecDeque::new(),
        }))))
    }

    fn describe(&self) -> String {
        self.name.clone()
    }
}

/// A watch on the prefix.
pub(super) struct EtcdWatch {
    stream: WatchStream,
    prefix: Vec<u8>,
    /// Transactions that came in one message.
    ready: std::collections::VecDeque<Event>,
}

impl EtcdWatch {
    pub(super) async fn next(&mut self) -> Result<Event, WatchEnd> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(event);
            }
            let lost = |source: Box<dyn std::error::Error + Send + Sync>| {
                WatchEnd::Lost(StoreError::Unavailable {
                    doing: "watching",
                    source,
                })
            };
            let message = self.stream.message().await;
            let message = message
                .map_err(|error| lost(error.into()))?
                .ok_or_else(|| lost("the node ended it".into()))?;
            if message.compact_revision() > 0 {
                return Err(WatchEnd::Compacted {
                    at: revision(message.compact_revision()),
                });
            }
            if message.canceled() {
                return Err(lost(message.cancel_reason().to_owned().into()));
            }
            self.take(&message);
        }
    }

    /// A message may hold several transactions; each is whole in it.
    fn take(&mut self, message: &WatchResponse) {
        for event in message.events() {
            let (EventType::Put, Some(pair)) = (event.event_type(), event.kv()) else {
                // Nothing of ours is ever deleted; whoever does has the reload at the next start against him.
                continue;
            };
            let at = revision(pair.mod_revision());
            let key = pair.key().strip_prefix(self.prefix.as_slice());
            let change = (
                key.unwrap_or(pair.key()).to_vec(),
                Stored {
                    value: pair.value().to_vec(),
                    modified: at,
                },
            );
            match self.ready.back_mut() {
                Some(last) if last.revision == at => last.changes.push(change),
                _ => self.ready.push_back(Event {
                    revision: at,
                    changes: vec![change],
                }),
            }
        }
    }
}

/// Revisions are positive.
fn revision(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// gRPC's codes by number: Cancelled 1, Unknown 2, DeadlineExceeded 4, Unavailable 14.
fn code(error: &Error) -> Option<i32> {
    match error {
        Error::GRpcStatus(status) => Some(status.code() as i32),
        _ => None,
    }
}

/// Whether another node, or the same one later, may answer.
fn is_transient(error: &Error) -> bool {
    match error {
        Error::TransportError(_) | Error::IoError(_) => true,
        Error::GRpcStatus(_) => matches!(code(error), Some(1 | 2 | 4 | 14)),
        _ => false,
    }
}

fn judge(doing: &'static str, error: Error) -> StoreError {
    // ResourceExhausted 8, PermissionDenied 7, Unauthenticated 16, OutOfRange 11 (compacted).
    match code(&error) {
        Some(8) => StoreError::Full {
            source: error.into(),
        },
        Some(7 | 16) => StoreError::Denied {
            source: error.into(),
        },
        Some(11) => StoreError::Forgotten { at: 0 },
        _ => StoreError::Unavailable {
            doing,
            source: error.into(),
        },
    }
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A node that says nothing for so long is gone.
const KEEP_ALIVE: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(100);
