//! A whole proxy on loopback between a client, a signer and a backend that do what a test wants.
//!
//! The signer speaks the real channel and makes up its handshakes: its keys are known to the client. No TLS
//! library and no token is involved; the proxy does not notice.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use keyhaven_proxy::{
    Server,
    config::{Config, Limits, ProxyProtocol, SignerAddress},
    record::{Bound, Generation, ReadKey, WriteKey, next_record},
};
use keyhaven_service::{
    Caller, Credentials, Handler, Listener, ListenerConfig, ServeLimits,
    config::LogSection,
    shutdown::{Ended, Shutdown},
};
use keyhaven_types::{AeadAlgorithm, CustodyLevel, Direction, Role, Secret, TlsVersion};
use keyhaven_wire::{
    ConnectionId, ErrorCode, Established, Expect, HandshakeId, HandshakeReply, Locked, Next,
    Rekeyed, Reply, Request, TrafficKey, lock,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

pub(crate) const VERIFY_DATA: [u8; 32] = [0x5a; 32];
/// What the signer sends in place of a server's flight.
pub(crate) const FLIGHT: &[u8] = &[22, 3, 3, 0, 4, b'f', b'l', b'y', b'!'];
/// Keys by purpose: each has all of its bytes equal.
pub(crate) const HANDSHAKE: u8 = 1;
pub(crate) const TO_CLIENT: u8 = 100;
pub(crate) const FROM_CLIENT: u8 = 200;

pub(crate) fn key(byte: u8, seq: u64) -> TrafficKey {
    TrafficKey {
        aead: AeadAlgorithm::Aes128Gcm,
        key: Secret::new(vec![byte; 16]),
        iv: Secret::new(vec![byte; 12]),
        seq,
    }
}

/// Certificates of a private CA, in files.
pub(crate) struct Pki {
    folder: tempfile::TempDir,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
}

impl Pki {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let mut ca = rcgen::CertificateParams::default();
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let certificate = ca.self_signed(&key).unwrap();
        std::fs::write(folder.path().join("ca.pem"), certificate.pem()).unwrap();
        let issuer = rcgen::Issuer::new(ca, key);
        Self { folder, issuer }
    }

    pub(crate) fn credentials(&self, name: &str) -> Credentials {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut leaf = rcgen::CertificateParams::default();
        let uri = format!("spiffe://keyhaven.test/{name}");
        leaf.subject_alt_names = vec![rcgen::SanType::URI(uri.as_str().try_into().unwrap())];
        let leaf = leaf.signed_by(&key, &self.issuer).unwrap();
        let file = |kind: &str| self.path(&format!("{}.{kind}", name.replace('/', "-")));
        std::fs::write(file("pem"), leaf.pem()).unwrap();
        write_private(&file("key"), &key.serialize_pem());
        Credentials::load(&file("pem"), &file("key"), &self.path("ca.pem")).unwrap()
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

fn write_private(path: &Path, text: &str) {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = std::fs::OpenOptions::new();
    let file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path);
    std::io::Write::write_all(&mut file.unwrap(), text.as_bytes()).unwrap();
}

/// A signer that makes its handshakes up.
#[derive(Default)]
pub(crate) struct FakeSigner {
    /// Answers every Start with this.
    pub(crate) start_error: Mutex<Option<ErrorCode>>,
    /// Refuses every Rekey.
    pub(crate) rekey_fails: AtomicBool,
    /// Speaks TLS 1.2.
    pub tls12: AtomicBool,
    /// In TLS 1.2: how often it wants more of the Finished before it gives the keys.
    pub(crate) wants_more: AtomicUsize,
    /// Asks for a second ClientHello first.
    pub(crate) retry: AtomicBool,
    /// Never answers a Start.
    pub(crate) stalls: AtomicBool,
    /// Answers so many outcomes with "busy" first.
    pub(crate) outcomes_busy: AtomicUsize,
    pub(crate) starts: AtomicUsize,
    pub(crate) rekeys: AtomicUsize,
    pub(crate) proven: AtomicUsize,
    pub(crate) aborted: AtomicUsize,
    pub(crate) refused: Mutex<Vec<u8>>,
    pub(crate) continued: Mutex<Vec<Vec<u8>>>,
}

impl FakeSigner {
    fn established(&self, version: TlsVersion, seq: u64) -> Established {
        let state = |byte| match version {
            TlsVersion::Tls13 => vec![byte],
            TlsVersion::Tls12 => Vec::new(),
        };
        Established {
            connection: ConnectionId([3; 32]),
            version,
            suite: 0x1301,
            write: key(TO_CLIENT, seq),
            read: key(FROM_CLIENT, seq),
            rekey_write: state(1),
            rekey_read: state(2),
            lifetime_s: 3600,
            server_name: "example.org".to_owned(),
            alpn: None,
            level: CustodyLevel::Premaster,
            tickets: Vec::new(),
            resumed: false,
            client: None,
        }
    }

    fn locked(&self, caller: &Caller, handshake: &HandshakeId) -> Next {
        let established = self.established(TlsVersion::Tls13, 0);
        let sealed = lock::seal(
            handshake,
            &VERIFY_DATA,
            FLIGHT,
            &caller.identity,
            &established,
        )
        .unwrap();
        Next::Locked(Locked {
            handshake_read: key(HANDSHAKE, 0),
            verify_data_len: 32,
            sealed_box: sealed,
        })
    }

    fn next(&self, caller: &Caller, handshake: &HandshakeId) -> Next {
        if self.tls12.load(SeqCst) {
            Next::More(Expect::KeyExchange)
        } else if self.retry.load(SeqCst) {
            Next::More(Expect::ClientHello)
        } else {
            self.locked(caller, handshake)
        }
    }

    fn answer(&self, caller: &Caller, request: Request) -> Reply {
        let reply = |binding, consumed: usize, next| {
            Reply::Handshake(HandshakeReply {
                binding,
                consumed: consumed as u32,
                to_client: FLIGHT.to_vec(),
                next,
            })
        };
        match request {
            Request::Ping => Reply::Pong,
            Request::Start(start) => {
                self.starts.fetch_add(1, SeqCst);
                if let Some(code) = *self.start_error.lock().unwrap() {
                    return Reply::Error(code);
                }
                let next = self.next(caller, &start.handshake);
                reply(start.binding(), start.records.len(), next)
            }
            Request::Continue(go_on) => {
                self.continued.lock().unwrap().push(go_on.records.clone());
                let more = |left: usize| left.checked_sub(1);
                let next = if self.wants_more.fetch_update(SeqCst, SeqCst, more).is_ok() {
                    Next::More(Expect::KeyExchange)
                } else if self.tls12.load(SeqCst) {
                    Next::Open(Box::new(self.established(TlsVersion::Tls12, 1)))
                } else {
                    self.locked(caller, &go_on.handshake)
                };
                let mut reply = HandshakeReply {
                    binding: go_on.binding(),
                    consumed: go_on.records.len() as u32,
                    to_client: FLIGHT.to_vec(),
                    next,
                };
                if matches!(reply.next, Next::More(_)) {
                    reply.to_client.clear();
                }
                Reply::Handshake(reply)
            }
            Request::Outcome(outcome) => {
                let busy = |left: usize| left.checked_sub(1);
                if self
                    .outcomes_busy
                    .fetch_update(SeqCst, SeqCst, busy)
                    .is_ok()
                {
                    return Reply::Error(ErrorCode::Busy);
                }
                let expected = lock::outcome_proof(&outcome.handshake, &VERIFY_DATA).unwrap();
                let count = match outcome.proof {
                    Some(proof) if proof == expected => &self.proven,
                    _ => &self.aborted,
                };
                count.fetch_add(1, SeqCst);
                Reply::Noted
            }
            Request::Refuse(refuse) => {
                self.refused.lock().unwrap().push(refuse.alert);
                let mut record = Vec::new();
                let mut write =
                    WriteKey::new(TlsVersion::Tls13, Generation::FIRST, &key(TO_CLIENT, 0))
                        .unwrap();
                write.seal(21, &[2, refuse.alert], &mut record).unwrap();
                Reply::Alert {
                    handshake: refuse.handshake,
                    record,
                }
            }
            Request::Rekey(rekey) => {
                self.rekeys.fetch_add(1, SeqCst);
                if self.rekey_fails.load(SeqCst) {
                    return Reply::Error(ErrorCode::Unavailable);
                }
                let first = match rekey.direction {
                    Direction::Read => FROM_CLIENT,
                    Direction::Write => TO_CLIENT,
                };
                Reply::Rekeyed(Rekeyed {
                    connection: rekey.connection,
                    direction: rekey.direction,
                    generation: rekey.generation,
                    key: key(first + rekey.generation as u8, 0),
                    state: vec![rekey.generation as u8],
                })
            }
        }
    }
}

impl Handler for FakeSigner {
    async fn call(&self, caller: Arc<Caller>, request: Request) -> Reply {
        if self.stalls.load(SeqCst) && matches!(request, Request::Start(_)) {
            std::future::pending::<()>().await;
        }
        self.answer(&caller, request)
    }
}

/// A proxy with everything around it.
pub(crate) struct House {
    pub(crate) proxy: SocketAddr,
    pub(crate) signers: Vec<Arc<FakeSigner>>,
    /// Connections that reach the backend.
    pub(crate) backend: mpsc::Receiver<TcpStream>,
    pub(crate) shutdown: Shutdown,
    signer_shutdown: Shutdown,
    _pki: Pki,
}

/// Limits that no test meets by accident.
pub(crate) fn limits() -> Limits {
    Limits {
        connections_max: 100,
        handshakes_per_client_max: 10_000,
        client_hello_timeout: Duration::from_secs(30),
        handshake_timeout: Duration::from_secs(30),
        signer_timeout: Duration::from_secs(10),
        backend_connect_timeout: Duration::from_secs(10),
        idle_timeout: Duration::from_secs(60),
        connection_lifetime: Duration::from_secs(600),
        records_per_key: 1 << 20,
        shutdown_grace: Duration::from_secs(10),
    }
}

impl House {
    pub(crate) async fn new(limits: Limits) -> Self {
        Self::with(limits, 1, ProxyProtocol::None, true).await
    }

    pub(crate) async fn with(
        limits: Limits,
        signers: usize,
        proxy_protocol: ProxyProtocol,
        has_backend: bool,
    ) -> Self {
        let backend_listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let backend_address = backend_listener.local_addr().unwrap();
        Self::behind(
            limits,
            signers,
            proxy_protocol,
            backend_address,
            has_backend.then_some(backend_listener),
        )
        .await
    }

    /// With a backend at this address, which need not be there.
    pub(crate) async fn behind(
        limits: Limits,
        signers: usize,
        proxy_protocol: ProxyProtocol,
        backend_address: SocketAddr,
        backend_listener: Option<TcpListener>,
    ) -> Self {
        let pki = Pki::new();
        let signer_shutdown = Shutdown::new();
        let mut fakes = Vec::new();
        let mut addresses = Vec::new();
        for number in 0..signers {
            let credentials = pki.credentials(&format!("signer/{number}"));
            let identity = credentials.identity().clone();
            let any = "127.0.0.1:0".parse().unwrap();
            let config = ListenerConfig::new(any, credentials, vec![Role::Proxy]);
            let listener = Listener::bind(config).await.unwrap();
            addresses.push(SignerAddress {
                address: listener.local_addr().to_string(),
                identity,
            });
            let fake = Arc::new(FakeSigner::default());
            fakes.push(fake.clone());
            let shutdown = signer_shutdown.clone();
            tokio::spawn(async move {
                listener
                    .serve(fake, ServeLimits::default(), &shutdown)
                    .await;
            });
        }
        let (reached, backend) = mpsc::channel(64);
        if let Some(backend_listener) = backend_listener {
            tokio::spawn(async move {
                while let Ok((stream, _)) = backend_listener.accept().await {
                    if reached.send(stream).await.is_err() {
                        return;
                    }
                }
            });
        }
        let config = Config {
            listen: "127.0.0.1:0".parse().unwrap(),
            backend: backend_address.to_string(),
            proxy_protocol,
            credentials: pki.credentials("proxy/one"),
            signers: addresses,
            limits,
            log: LogSection::default(),
        };
        let shutdown = Shutdown::new();
        let server = Server::bind(config, &shutdown).unwrap();
        let proxy = server.local_addr();
        tokio::spawn(server.serve());
        Self {
            proxy,
            signers: fakes,
            backend,
            shutdown,
            signer_shutdown,
            _pki: pki,
        }
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.proxy).await.unwrap()
    }

    /// A client after a good handshake, and its connection at the backend.
    pub(crate) async fn established(&mut self) -> (Client, TcpStream) {
        let client = Client::finish(self.connect().await, &VERIFY_DATA).await;
        let backend = self.backend.recv().await.unwrap();
        (client, backend)
    }

    /// Stops the signers and cuts their connections.
    pub(crate) async fn stop_signers(&self) -> Ended {
        self.signer_shutdown.finish(Duration::ZERO).await
    }
}

/// Waits until something that is bound to become true is true.
pub(crate) async fn until(mut is_so: impl FnMut() -> bool) {
    while !is_so() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A record with a ClientHello in it, as far as the proxy looks.
pub(crate) fn client_hello() -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend_from_slice(&[7; 32]);
    body.extend_from_slice(&[0, 0, 2, 0x13, 0x01, 1, 0]);
    let len = body.len() as u8;
    let mut record = vec![22, 3, 1, 0, len + 4, 1, 0, 0, len];
    record.extend_from_slice(&body);
    record
}

/// A client that knows the keys.
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    pub(crate) write: WriteKey,
    pub(crate) read: ReadKey,
    version: TlsVersion,
    received: Vec<u8>,
}

impl Client {
    fn new(stream: TcpStream, version: TlsVersion, seq: u64) -> Self {
        let first = Generation::FIRST;
        Self {
            stream,
            write: WriteKey::new(version, first, &key(FROM_CLIENT, seq)).unwrap(),
            read: ReadKey::new(version, first, &key(TO_CLIENT, seq)).unwrap(),
            version,
            received: Vec::new(),
        }
    }

    /// Handshakes with this verify_data in its Finished.
    pub(crate) async fn finish(mut stream: TcpStream, verify_data: &[u8]) -> Self {
        stream.write_all(&client_hello()).await.unwrap();
        read_flight(&mut stream).await;
        let message = [&[20, 0, 0, 32][..], verify_data].concat();
        stream
            .write_all(&handshake_record(22, &message))
            .await
            .unwrap();
        Self::new(stream, TlsVersion::Tls13, 0)
    }

    /// TLS 1.2: the client's second flight has been answered already.
    pub(crate) fn tls12(stream: TcpStream) -> Self {
        Self::new(stream, TlsVersion::Tls12, 1)
    }

    pub(crate) async fn send(&mut self, content_type: u8, content: &[u8]) {
        let mut record = Vec::new();
        self.write.seal(content_type, content, &mut record).unwrap();
        self.stream.write_all(&record).await.unwrap();
    }

    pub(crate) async fn send_data(&mut self, data: &[u8]) {
        for part in data.chunks(16_384) {
            self.send(23, part).await;
        }
    }

    /// The next record's type and content; `None` at the end of the stream.
    pub(crate) async fn receive(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            if let Some(record) = next_record(&self.received, Bound::Tls12).unwrap() {
                let mut bytes: Vec<u8> = self.received.drain(..record.len).collect();
                let opened = self.read.open(&mut bytes).unwrap();
                return Some((opened.content_type, bytes[opened.plaintext].to_vec()));
            }
            if self.stream.read_buf(&mut self.received).await.unwrap() == 0 {
                assert_eq!(self.received, b"", "a record was cut");
                return None;
            }
        }
    }

    /// Data up to the next record that is none.
    pub(crate) async fn receive_data(&mut self) -> (Vec<u8>, Option<(u8, Vec<u8>)>) {
        let mut data = Vec::new();
        loop {
            match self.receive().await {
                Some((23, content)) => data.extend_from_slice(&content),
                other => return (data, other),
            }
        }
    }

    pub(crate) async fn receive_exactly(&mut self, len: usize) -> Vec<u8> {
        let mut data = Vec::new();
        while data.len() < len {
            let (kind, content) = self.receive().await.unwrap();
            assert_eq!(kind, 23, "{content:?}");
            data.extend_from_slice(&content);
        }
        data
    }

    /// The next key for what the client writes.
    pub(crate) fn switch_write(&mut self, generation: u8) {
        let next = key(FROM_CLIENT + generation, 0);
        self.write = WriteKey::new(self.version, Generation(generation.into()), &next).unwrap();
    }

    /// The next key for what the client reads.
    pub(crate) fn switch_read(&mut self, generation: u8) {
        let next = key(TO_CLIENT + generation, 0);
        self.read = ReadKey::new(self.version, Generation(generation.into()), &next).unwrap();
    }
}

/// A record under the client's handshake key.
pub(crate) fn handshake_record(content_type: u8, content: &[u8]) -> Vec<u8> {
    let mut record = Vec::new();
    let mut write =
        WriteKey::new(TlsVersion::Tls13, Generation::FIRST, &key(HANDSHAKE, 0)).unwrap();
    write.seal(content_type, content, &mut record).unwrap();
    record
}

pub(crate) async fn read_flight(stream: &mut TcpStream) {
    let mut flight = [0; FLIGHT.len()];
    stream.read_exact(&mut flight).await.unwrap();
    assert_eq!(flight, FLIGHT);
}

pub(crate) async fn read_to_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.unwrap();
    bytes
}
