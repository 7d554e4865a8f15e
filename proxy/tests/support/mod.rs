//! A whole proxy on loopback between a client, a signer and a backend that do what a test wants.
//!
//! The signer speaks the real channel and makes up its handshakes: its keys are known to the client. No TLS
//! library and no token is involved; the proxy does not notice.
#![allow(dead_code, unused_imports, reason = "each test binary uses a part")]

mod client;
pub(crate) mod flights;
mod pki;
mod signer;

use std::{net::SocketAddr, sync::Arc, time::Duration};

pub(crate) use client::Client;
use keyhaven_proxy::{
    Server,
    config::{Config, Limits, LookupSection, ProxyProtocol, SignerAddress},
    record::{Generation, WriteKey},
};
use keyhaven_service::{
    Listener, ListenerConfig, ServeLimits,
    config::LogSection,
    shutdown::{Ended, Shutdown},
};
use keyhaven_types::{AeadAlgorithm, Role, Secret, TlsVersion};
use keyhaven_wire::{TrafficKey, kms};
pub(crate) use pki::Pki;
pub(crate) use signer::{FakeSigner, Step, open};
use tokio::{
    io::AsyncReadExt as _,
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

/// A proxy with everything around it.
pub(crate) struct House {
    pub(crate) proxy: SocketAddr,
    pub(crate) signers: Vec<Arc<FakeSigner>>,
    /// Connections that reach the backend.
    pub(crate) backend: mpsc::Receiver<TcpStream>,
    pub(crate) shutdown: Shutdown,
    signer_shutdowns: Vec<Shutdown>,
    listeners: Vec<SignerAddress>,
    pki: Pki,
}

/// What the proxy knows of signers to begin with.
struct Known {
    configured: usize,
    lookup: Option<LookupSection>,
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
        let known = Known {
            configured: signers,
            lookup: None,
        };
        let backend = (backend_address, backend_listener);
        Self::knowing(limits, signers, known, proxy_protocol, backend).await
    }

    /// With signers of which the proxy's file names the first ones only, and lookup.
    pub(crate) async fn finding(configured: usize, signers: usize, lookup: LookupSection) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let backend = (listener.local_addr().unwrap(), Some(listener));
        let known = Known {
            configured,
            lookup: Some(lookup),
        };
        Self::knowing(limits(), signers, known, ProxyProtocol::None, backend).await
    }

    async fn knowing(
        limits: Limits,
        signers: usize,
        known: Known,
        proxy_protocol: ProxyProtocol,
        (backend_address, backend_listener): (SocketAddr, Option<TcpListener>),
    ) -> Self {
        let pki = Pki::new();
        let mut signer_shutdowns = Vec::new();
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
            let shutdown = Shutdown::new();
            signer_shutdowns.push(shutdown.clone());
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
            signers: addresses[..known.configured].to_vec(),
            lookup: known.lookup,
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
            signer_shutdowns,
            listeners: addresses,
            pki,
        }
    }

    /// A signer as a lookup names it.
    pub(crate) fn server(&self, signer: usize, estimate_us: u64) -> kms::Server {
        let at = &self.listeners[signer];
        kms::Server {
            site: format!("s{signer}").parse().unwrap(),
            identity: at.identity.clone(),
            address: at.address.clone(),
            region: "eu".parse().unwrap(),
            estimate_us,
            measured_ms_ago: None,
            is_self: false,
        }
    }

    /// Cuts one signer's connections and ends its listener.
    pub(crate) async fn stop_signer(&self, signer: usize) {
        self.signer_shutdowns[signer].finish(Duration::ZERO).await;
    }

    /// Lets one signer listen again where it was.
    pub(crate) async fn restart_signer(&mut self, signer: usize) {
        let credentials = self.pki.credentials(&format!("signer/{signer}"));
        let address = self.listeners[signer].address.parse().unwrap();
        let config = ListenerConfig::new(address, credentials, vec![Role::Proxy]);
        let listener = Listener::bind(config).await.unwrap();
        let (fake, shutdown) = (self.signers[signer].clone(), Shutdown::new());
        self.signer_shutdowns[signer] = shutdown.clone();
        tokio::spawn(async move {
            let limits = ServeLimits::default();
            listener.serve(fake, limits, &shutdown).await;
        });
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
        let mut ended = Ended::Clean;
        for shutdown in &self.signer_shutdowns {
            let one = shutdown.finish(Duration::ZERO).await;
            if !matches!(one, Ended::Clean) {
                ended = one;
            }
        }
        ended
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
    hello_with(&[])
}

/// The same with a host name of at most 100 bytes (RFC 6066, section 3).
pub(crate) fn client_hello_for(name: &str) -> Vec<u8> {
    let len = name.len() as u8;
    let lengths = [0, len + 9, 0, 0, 0, len + 5, 0, len + 3, 0, 0, len];
    hello_with(&[&lengths[..], name.as_bytes()].concat())
}

fn hello_with(extensions: &[u8]) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend_from_slice(&[7; 32]);
    body.extend_from_slice(&[0, 0, 2, 0x13, 0x01, 1, 0]);
    body.extend_from_slice(extensions);
    let len = body.len() as u8;
    let mut record = vec![22, 3, 1, 0, len + 4, 1, 0, 0, len];
    record.extend_from_slice(&body);
    record
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
