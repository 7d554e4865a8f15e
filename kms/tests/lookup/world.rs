//! Sites on loopback with real routers and real channels; tokens and replicas are stood in for.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use keyhaven_kms::{
    intermediate::BoxFuture,
    lookup::{
        Directory, Local, Operate, Router, RouterParts,
        testing::{Records, identity, name, status},
    },
};
use keyhaven_service::{
    Caller, Client, ClientConfig, Credentials, Handler, Listener, ListenerConfig, ServeLimits,
    shutdown::Shutdown, signed,
};
use keyhaven_types::{Identity, KeyKind, Name, Operation, Purpose, Role};
use keyhaven_wire::{
    ErrorCode, Reply, Request,
    kms::{
        BatchBody, Done, Entry, Fetched, Found, KeyRef, Lookup, Scope, Signed, SignedBatch,
        SiteStatus, Task, TaskError, TaskResult, batch_text,
    },
};

use super::ca::Ca;

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
const INTERVAL: Duration = Duration::from_millis(100);

/// Operations that a site did: for whom, how many, passed on by whom.
type Did = Vec<(Identity, usize, Option<Name>)>;

/// A site's own half.
pub(crate) struct Half {
    name: Name,
    pub(crate) records: Mutex<Records>,
    pub(crate) status: Mutex<SiteStatus>,
    pub(crate) did: Mutex<Did>,
    /// What it answers in place of doing anything.
    pub(crate) fails: Mutex<Option<TaskError>>,
}

impl Half {
    fn holds(&self, key: &KeyRef) -> bool {
        let records = self.records.lock().unwrap();
        let site = records.sites.iter().find(|site| site.name == self.name);
        let manifest = records
            .keys(key)
            .first()
            .and_then(|key| records.manifest(key.id, 1));
        let held = site.zip(manifest);
        held.is_some_and(|(site, manifest)| site.holds.iter().any(|held| held.kek == manifest.kek))
    }

    fn outcome(&self, caller: &Identity, task: &Task) -> Result<Done, TaskError> {
        let key = task.key().ok_or(TaskError::Input)?;
        let records = self.records.lock().unwrap();
        let known = records.keys(key).into_iter().next();
        let known = known.ok_or(TaskError::Denied)?;
        if !records.is_granted(caller, Scope::Key(known.id), task.operation()) {
            return Err(TaskError::Denied);
        }
        drop(records);
        if let Some(error) = *self.fails.lock().unwrap() {
            return Err(error);
        }
        if !self.holds(key) {
            return Err(TaskError::NotHere);
        }
        Ok(Done::Wrapped {
            version: 1,
            wrapped: known.name.as_str().as_bytes().to_vec(),
        })
    }
}

impl Local for Half {
    fn site(&self) -> Name {
        self.name.clone()
    }

    fn directory(&self) -> Arc<dyn Directory> {
        Arc::new(self.records.lock().unwrap().clone())
    }

    fn status(&self) -> SiteStatus {
        self.status.lock().unwrap().clone()
    }

    fn central_heard(&self) -> Option<Duration> {
        Some(Duration::ZERO)
    }

    fn operate(
        &self,
        caller: Identity,
        tasks: Vec<Task>,
        passed_from: Option<Name>,
    ) -> BoxFuture<Vec<TaskResult>> {
        let results = tasks.iter().map(|task| TaskResult {
            server: self.name.clone(),
            outcome: self.outcome(&caller, task),
        });
        let results = results.collect();
        let mut did = self.did.lock().unwrap();
        did.push((caller, tasks.len(), passed_from));
        Box::pin(async move { results })
    }
}

/// A site that runs.
pub(crate) struct Site {
    pub(crate) half: Arc<Half>,
    pub(crate) router: Router,
    pub(crate) credentials: Credentials,
    pub(crate) address: SocketAddr,
    /// Lookups that reached it.
    pub(crate) lookups: Arc<AtomicU64>,
    shutdown: Shutdown,
}

/// What a signer does with requests of this kind.
struct Server {
    half: Arc<Half>,
    router: Router,
    lookups: Arc<AtomicU64>,
}

impl Handler for Server {
    async fn call(&self, caller: Arc<Caller>, request: Request) -> Reply {
        let who = &caller.identity;
        let is_peer = who.role() == Role::Signer;
        match request {
            Request::Ping => Reply::Pong,
            Request::Status if is_peer => Reply::Status(Box::new(self.half.status())),
            Request::Operate(batch) => self.router.operate(who, Operate::Here(batch)).await,
            Request::OperateSigned(batch) => {
                self.router.operate(who, Operate::Anywhere(batch)).await
            }
            Request::OperatePassed(passed) => {
                self.router.operate(who, Operate::Passed(passed)).await
            }
            Request::Lookup(lookup) => {
                self.lookups.fetch_add(1, SeqCst);
                self.router.lookup(who, &lookup).await
            }
            Request::Fetch(_) if is_peer => fetched(&self.half.name),
            _ => Reply::Error(ErrorCode::Denied),
        }
    }
}

/// Something that says from which site it is.
fn fetched(site: &Name) -> Reply {
    let signed = Signed {
        body: site.as_str().as_bytes().to_vec(),
        signature: Vec::new(),
    };
    Reply::Fetched(Fetched {
        entries: vec![Entry {
            signed: signed.clone(),
            parts: None,
        }],
        head: signed,
    })
}

/// fra in Europe, nyc in America, sgp, which has nothing; `shop` may wrap with the keys `euro`, `dollar` and `world`.
pub(crate) struct World {
    pub(crate) ca: Ca,
    pub(crate) fra: Site,
    pub(crate) nyc: Site,
    pub(crate) sgp: Site,
    pub(crate) shop: Credentials,
}

impl World {
    pub(crate) async fn new() -> Self {
        let ca = Ca::new();
        let mut listeners = Vec::new();
        let mut records = records();
        for record in &mut records.sites {
            let credentials = ca.credentials(&record.identity);
            let listener = listen(&credentials, "127.0.0.1:0".parse().unwrap()).await;
            record.address = listener.local_addr().to_string();
            listeners.push((listener, credentials));
        }
        let mut sites = listeners
            .into_iter()
            .zip(["fra", "nyc", "sgp"])
            .map(|((listener, credentials), site)| start(site, &records, listener, credentials));
        let (fra, nyc, sgp) = (sites.next(), sites.next(), sites.next());
        drop(sites);
        let world = Self {
            shop: ca.credentials(&identity("client", "shop")),
            ca,
            fra: fra.unwrap(),
            nyc: nyc.unwrap(),
            sgp: sgp.unwrap(),
        };
        for site in [&world.fra, &world.nyc, &world.sgp] {
            until("all know each other", || {
                site.router.counts().peers_alive == 2
            })
            .await;
        }
        world
    }

    /// Changes what every site knows.
    pub(crate) fn everywhere(&self, change: impl Fn(&mut Records)) {
        for site in [&self.fra, &self.nyc, &self.sgp] {
            change(&mut site.half.records.lock().unwrap());
        }
    }

    /// A batch of the shop's for a server, good for half a minute.
    pub(crate) fn batch(&self, server: &Site, keys: &[&str]) -> SignedBatch {
        sign(&self.shop, &body(&self.shop, server, keys))
    }
}

pub(crate) fn body(caller: &Credentials, server: &Site, keys: &[&str]) -> BatchBody {
    static NONCE: AtomicU64 = AtomicU64::new(1);
    let mut nonce = [0; 16];
    nonce[..8].copy_from_slice(&NONCE.fetch_add(1, SeqCst).to_be_bytes());
    let now = std::time::SystemTime::now();
    let since = now.duration_since(std::time::UNIX_EPOCH).unwrap();
    BatchBody {
        caller: caller.identity().clone(),
        server: server.credentials.identity().clone(),
        nonce,
        expires_ms: since.as_millis() as u64 + 30_000,
        tasks: wraps(keys),
    }
}

pub(crate) fn wraps(keys: &[&str]) -> Vec<Task> {
    let task = |key: &&str| Task::Wrap {
        key: KeyRef::Name(name(key)),
    };
    keys.iter().map(task).collect()
}

pub(crate) fn sign(credentials: &Credentials, body: &BatchBody) -> SignedBatch {
    let body = postcard::to_stdvec(body).unwrap();
    let made = signed::sign(credentials, &batch_text(&body)).unwrap();
    SignedBatch {
        chain: made.chain,
        body,
        scheme: made.scheme,
        signature: made.signature,
    }
}

fn records() -> Records {
    let mut records = Records::default();
    records.add_class("eu", &["eu"]);
    records.add_class("us", &["us"]);
    records.add_class("both", &["eu", "us"]);
    records.add_site("fra", "eu", &["eu", "both"]);
    records.add_site("nyc", "us", &["us", "both"]);
    records.add_site("sgp", "asia", &[]);
    for (key, class) in [("euro", "eu"), ("dollar", "us"), ("world", "both")] {
        let id = records.add_key(key, KeyKind::Aes256, Purpose::Wrap, class);
        records.grant("shop", id, &[Operation::Wrap]);
    }
    records.applied = 9;
    records
}

async fn listen(credentials: &Credentials, address: SocketAddr) -> Listener {
    let roles = vec![Role::Signer, Role::Client, Role::Proxy];
    let config = ListenerConfig::new(address, credentials.clone(), roles);
    Listener::bind(config).await.unwrap()
}

fn start(site: &str, records: &Records, listener: Listener, credentials: Credentials) -> Site {
    let half = Arc::new(Half {
        name: name(site),
        records: Mutex::new(records.clone()),
        status: Mutex::new(status(site)),
        did: Mutex::default(),
        fails: Mutex::default(),
    });
    let router = Router::start(RouterParts {
        local: half.clone(),
        credentials: credentials.clone(),
        interval: INTERVAL,
    });
    let mut site = Site {
        half,
        router,
        credentials,
        address: listener.local_addr(),
        lookups: Arc::default(),
        shutdown: Shutdown::new(),
    };
    site.serve(listener);
    site
}

impl Site {
    fn serve(&mut self, listener: Listener) {
        let server = Arc::new(Server {
            half: self.half.clone(),
            router: self.router.clone(),
            lookups: self.lookups.clone(),
        });
        self.shutdown = Shutdown::new();
        let shutdown = self.shutdown.clone();
        tokio::spawn(async move {
            let limits = ServeLimits::default();
            listener.serve(server, limits, &shutdown).await;
        });
    }

    /// Ends its listener and cuts its connections.
    pub(crate) async fn stop(&self) {
        self.shutdown.finish(Duration::ZERO).await;
    }

    /// Listens again where it was.
    pub(crate) async fn restart(&mut self) {
        let listener = listen(&self.credentials, self.address).await;
        self.serve(listener);
    }

    /// Asks it over a connection of its own.
    pub(crate) async fn ask(&self, who: &Credentials, request: Request) -> Reply {
        let identity = self.credentials.identity().clone();
        let config = ClientConfig::new(self.address.to_string(), identity, who.clone());
        let client = Client::start(config);
        assert!(client.healthy(PATIENCE).await, "{:?}", client.last_error());
        client.call(request, PATIENCE).await.unwrap()
    }

    pub(crate) async fn lookup(&self, who: &Credentials, key: &str) -> Found {
        let lookup = lookup_of(key, None);
        match self.ask(who, Request::Lookup(lookup)).await {
            Reply::Found(found) => found,
            other => panic!("{other:?}"),
        }
    }

    /// Who did what since the last call.
    pub(crate) fn did(&self) -> Vec<(usize, Option<String>)> {
        let did = std::mem::take(&mut *self.half.did.lock().unwrap());
        let line = |(_, count, from): (_, _, Option<Name>)| (count, from.map(|f| f.to_string()));
        did.into_iter().map(line).collect()
    }
}

pub(crate) fn lookup_of(key: &str, caller: Option<Identity>) -> Lookup {
    Lookup {
        key: KeyRef::Name(name(key)),
        operation: Operation::Wrap,
        caller,
    }
}

pub(crate) fn places(found: &Found) -> Vec<&str> {
    found.servers.iter().map(|s| s.site.as_str()).collect()
}

/// Where each result came from, and what it is.
pub(crate) fn outcomes(reply: &Reply) -> Vec<(String, Result<String, TaskError>)> {
    let Reply::Results(results) = reply else {
        panic!("no results: {reply:?}");
    };
    let outcome = |result: &TaskResult| match &result.outcome {
        Ok(Done::Wrapped { wrapped, .. }) => Ok(String::from_utf8(wrapped.clone()).unwrap()),
        Ok(other) => panic!("{other:?}"),
        Err(error) => Err(*error),
    };
    let results = results.iter();
    results
        .map(|result| (result.server.to_string(), outcome(result)))
        .collect()
}

/// Waits for a state, and fails when it does not come.
pub(crate) async fn until(what: &str, state: impl Fn() -> bool) {
    let reached = async {
        while !state() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let in_time = tokio::time::timeout(PATIENCE, reached).await;
    assert!(in_time.is_ok(), "in {PATIENCE:?} not: {what}");
}
