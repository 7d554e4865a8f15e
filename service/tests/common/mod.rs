//! A private CA and the parties of a channel, for tests over loopback sockets.
//!
//! Every test makes its own, so nothing is shared but the code.

#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    reason = "each test file uses its own part"
)]

use std::{
    future::Future,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use keyhaven_service::{
    Caller, Client, ClientConfig, Credentials, Handler, Listener, ListenerConfig, ServeLimits,
    shutdown::Shutdown,
};
use keyhaven_types::{Identity, Role};
use keyhaven_wire::{ErrorCode, HandshakeId, HandshakeReply, Next, Outcome, Reply, Request, Start};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType, date_time_ymd,
};
use tempfile::TempDir;
use tokio::sync::Notify;

pub const SIGNER: &str = "spiffe://keyhaven.test/signer/main";
pub const PROXY: &str = "spiffe://keyhaven.test/proxy/edge-1";
/// Long enough for any machine; no test waits for it to pass.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A private CA with a folder for what it issues.
pub struct Ca {
    pub folder: TempDir,
    issuer: Issuer<'static, KeyPair>,
    issued: AtomicUsize,
}

impl Ca {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, "test CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), certificate.pem()).unwrap();
        Self {
            folder,
            issuer: Issuer::new(params, key),
            issued: AtomicUsize::new(0),
        }
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// Issues a certificate with these names and returns the paths of chain and key.
    pub fn issue(
        &self,
        names: &[SanType],
        change: impl FnOnce(&mut CertificateParams),
    ) -> (PathBuf, PathBuf) {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names.to_vec();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let name = self.issued.fetch_add(1, Ordering::Relaxed);
        let chain = self.folder.path().join(format!("{name}.pem"));
        let key_path = self.folder.path().join(format!("{name}.key"));
        std::fs::write(&chain, certificate.pem()).unwrap();
        write_private(&key_path, &key.serialize_pem());
        (chain, key_path)
    }

    pub fn credentials(&self, uri: &str) -> Credentials {
        let (chain, key) = self.issue(&[uri_name(uri)], |_| {});
        Credentials::load(&chain, &key, &self.path()).unwrap()
    }

    pub fn expired(&self, uri: &str) -> Credentials {
        let (chain, key) = self.issue(&[uri_name(uri)], |params| {
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(2021, 1, 1);
        });
        Credentials::load(&chain, &key, &self.path()).unwrap()
    }
}

pub fn uri_name(uri: &str) -> SanType {
    SanType::URI(uri.to_owned().try_into().unwrap())
}

pub fn dns_name(name: &str) -> SanType {
    SanType::DnsName(name.to_owned().try_into().unwrap())
}

fn write_private(path: &std::path::Path, text: &str) {
    use std::{io::Write as _, os::unix::fs::OpenOptionsExt as _};
    std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
}

pub fn identity(text: &str) -> Identity {
    text.parse().unwrap()
}

/// Answers in an order that the test decides.
///
/// `Start` is answered at once. `Outcome` waits until the test opens the gate, so that it can be overtaken.
#[derive(Default)]
pub struct Script {
    pub gate: Notify,
    pub gate_open: std::sync::atomic::AtomicBool,
    pub waiting: AtomicUsize,
    pub at_work: AtomicUsize,
    pub most_at_work: AtomicUsize,
    pub closed: AtomicUsize,
    pub pending: AtomicUsize,
    pub callers: Mutex<Vec<Arc<Caller>>>,
}

impl Script {
    pub fn open_gate(&self) {
        self.gate_open.store(true, Ordering::SeqCst);
        self.gate.notify_waiters();
    }

    async fn pass_gate(&self) {
        loop {
            let opened = self.gate.notified();
            if self.gate_open.load(Ordering::SeqCst) {
                return;
            }
            opened.await;
        }
    }

    fn enter(&self) -> AtWork<'_> {
        let now = self.at_work.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_at_work.fetch_max(now, Ordering::SeqCst);
        AtWork(self)
    }
}

struct AtWork<'a>(&'a Script);

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        self.0.at_work.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Handler for Script {
    async fn call(&self, caller: Arc<Caller>, request: Request) -> Reply {
        let _at_work = self.enter();
        match request {
            Request::Ping => {
                self.callers.lock().unwrap().push(caller);
                Reply::Pong
            }
            Request::Start(start) if start.client == "panic" => panic!("asked for by the test"),
            Request::Start(start) if start.client == "mixed up" => {
                Reply::Handshake(refused(keyhaven_wire::Binding([0; 32])))
            }
            Request::Start(start) => Reply::Handshake(refused(start.binding())),
            Request::Outcome(_) => {
                self.waiting.fetch_add(1, Ordering::SeqCst);
                self.pass_gate().await;
                Reply::Noted
            }
            _ => Reply::Error(ErrorCode::Denied),
        }
    }

    fn closed(&self, _caller: &Caller) {
        assert_eq!(
            self.at_work.load(Ordering::SeqCst),
            0,
            "requests run after the end"
        );
        self.closed.fetch_add(1, Ordering::SeqCst);
    }

    fn is_idle(&self, _caller: &Caller) -> bool {
        self.pending.load(Ordering::SeqCst) == 0
    }
}

fn refused(binding: keyhaven_wire::Binding) -> HandshakeReply {
    HandshakeReply {
        binding,
        consumed: 1,
        to_client: vec![1],
        next: Next::Refused { alert: 40 },
    }
}

pub fn start(client: &str) -> Request {
    Request::Start(Start {
        handshake: HandshakeId([7; 32]),
        client: client.to_owned(),
        records: vec![1, 2, 3],
    })
}

pub fn gated() -> Request {
    Request::Outcome(Outcome {
        handshake: HandshakeId([7; 32]),
        proof: None,
    })
}

/// A signer that runs a [`Script`].
pub struct Server {
    pub address: SocketAddr,
    pub script: Arc<Script>,
    pub shutdown: Shutdown,
}

impl Server {
    pub async fn start(credentials: Credentials) -> Self {
        Self::with(credentials, ServeLimits::default(), |_| {}).await
    }

    pub async fn with(
        credentials: Credentials,
        limits: ServeLimits,
        change: impl FnOnce(&mut ListenerConfig),
    ) -> Self {
        let mut config = ListenerConfig::new(loopback(0), credentials, vec![Role::Proxy]);
        change(&mut config);
        let listener = Listener::bind(config).await.unwrap();
        let server = Self {
            address: listener.local_addr(),
            script: Arc::new(Script::default()),
            shutdown: Shutdown::new(),
        };
        let (script, shutdown) = (server.script.clone(), server.shutdown.clone());
        tokio::spawn(async move { listener.serve(script, limits, &shutdown).await });
        server
    }

    pub fn client(&self, credentials: Credentials) -> Client {
        self.client_with(credentials, |_| {})
    }

    pub fn client_with(
        &self,
        credentials: Credentials,
        change: impl FnOnce(&mut ClientConfig),
    ) -> Client {
        let mut config = ClientConfig::new(self.address.to_string(), identity(SIGNER), credentials);
        change(&mut config);
        Client::start(config)
    }
}

pub fn loopback(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

/// Waits for a state, and fails when it does not come.
pub async fn until(what: &str, state: impl Fn() -> bool) {
    let reached = async {
        while !state() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    in_time(what, reached).await;
}

pub async fn in_time<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work)
        .await
        .unwrap_or_else(|_| panic!("in {PATIENCE:?} not: {what}"))
}

/// Waits until the client says why it is not connected.
pub async fn refusal(client: &Client) -> String {
    until("a reason", || client.last_error().is_some()).await;
    client.last_error().unwrap()
}

/// Everything this process has logged since the first call.
pub fn logged() -> String {
    use tracing_subscriber::util::SubscriberInitExt as _;
    static LOG: Mutex<Vec<u8>> = Mutex::new(Vec::new());
    struct Writer;
    impl std::io::Write for Writer {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            LOG.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    // A second call in the same process finds the log set up.
    let _ = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(|| Writer)
        .finish()
        .try_init();
    String::from_utf8(LOG.lock().unwrap().clone()).unwrap()
}
