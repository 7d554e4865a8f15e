//! A signer with a good certificate and bad manners: the proxy's client must leave it, and lose nothing else.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use common::{
    Ca, PATIENCE, PROXY, SIGNER, identity, in_time, loopback, refusal, start, until, uri_name,
};
use keyhaven_service::{CallError, Client, ClientConfig};
use keyhaven_wire::{ALPN, Decoder, ErrorCode, Reply, Request, encode};
use rustls::{ServerConfig, SupportedProtocolVersion, version::TLS13};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

const CENTRAL: &str = "spiffe://keyhaven.test/central/main";

struct Rogue {
    identity: &'static str,
    socket: TcpListener,
    address: SocketAddr,
    acceptor: TlsAcceptor,
}

impl Rogue {
    async fn new(ca: &Ca, alpn: &[&[u8]], version: &'static SupportedProtocolVersion) -> Self {
        Self::of(SIGNER, ca, alpn, version).await
    }

    async fn of(
        identity: &'static str,
        ca: &Ca,
        alpn: &[&[u8]],
        version: &'static SupportedProtocolVersion,
    ) -> Self {
        let (chain, key) = ca.issue(&[uri_name(identity)], |_| {});
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![CertificateDer::from_pem_file(chain).unwrap()],
                PrivateKeyDer::from_pem_file(key).unwrap(),
            )
            .unwrap();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        let socket = TcpListener::bind(loopback(0)).await.unwrap();
        Self {
            identity,
            address: socket.local_addr().unwrap(),
            socket,
            acceptor: TlsAcceptor::from(Arc::new(config)),
        }
    }

    fn client(&self, ca: &Ca) -> Client {
        let mut config = ClientConfig::new(
            self.address.to_string(),
            identity(self.identity),
            ca.credentials(PROXY),
        );
        config.ping_timeout = Duration::from_secs(1);
        Client::start(config)
    }

    /// One connection on which the first ping was answered.
    async fn connection(&self) -> Session {
        let (tcp, _) = in_time("a connection", self.socket.accept()).await.unwrap();
        let stream = in_time("TLS", self.acceptor.accept(tcp)).await.unwrap();
        let mut session = Session {
            stream,
            decoder: Decoder::new(),
        };
        let (id, request) = session.request().await;
        assert!(matches!(request, Request::Ping));
        session.reply(id, &Reply::Pong).await;
        session
    }
}

struct Session {
    stream: TlsStream<TcpStream>,
    decoder: Decoder<Request>,
}

impl Session {
    async fn request(&mut self) -> (u64, Request) {
        loop {
            if let Some(request) = self.decoder.next().unwrap() {
                return request;
            }
            let read = self.stream.read_buf(self.decoder.room());
            assert_ne!(in_time("a request", read).await.unwrap(), 0);
        }
    }

    async fn reply(&mut self, id: u64, reply: &Reply) {
        let mut frame = Vec::new();
        encode(id, reply, &mut frame).unwrap();
        self.write(&frame).await;
    }

    async fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
        self.stream.flush().await.unwrap();
    }
}

/// A call in flight meets what the signer does next; the call must fail at once, with the reason in the status.
async fn left_after(misdeed: impl AsyncFnOnce(&mut Session, u64), reason: &str) {
    let ca = Ca::new();
    let rogue = Rogue::new(&ca, &[ALPN], &TLS13).await;
    let client = rogue.client(&ca);
    let mut session = rogue.connection().await;
    assert!(client.healthy(PATIENCE).await);
    let call = {
        let client = client.clone();
        tokio::spawn(async move { client.call(start("c"), PATIENCE).await })
    };
    let (id, _) = session.request().await;
    misdeed(&mut session, id).await;
    let ended = in_time("the call's end", call).await.unwrap();
    assert!(
        matches!(ended, Err(CallError::Lost | CallError::Protocol)),
        "{ended:?}"
    );
    until("a reason", || {
        client.last_error().is_some_and(|why| why.contains(reason))
    })
    .await;
    // And it comes back, as it would to a signer that was restarted.
    let _second = rogue.connection().await;
    assert!(client.healthy(PATIENCE).await);
}

#[tokio::test]
async fn a_reply_that_nobody_waits_for() {
    left_after(
        async |session, id| session.reply(id + 1000, &Reply::Pong).await,
        "not asked",
    )
    .await;
}

#[tokio::test]
async fn a_reply_of_another_kind() {
    left_after(
        async |session, id| session.reply(id, &Reply::Noted).await,
        "not asked",
    )
    .await;
}

#[tokio::test]
async fn the_same_reply_twice() {
    let ca = Ca::new();
    let rogue = Rogue::new(&ca, &[ALPN], &TLS13).await;
    let client = rogue.client(&ca);
    let mut session = rogue.connection().await;
    assert!(client.healthy(PATIENCE).await);
    let first = {
        let client = client.clone();
        tokio::spawn(async move { client.call(start("c"), PATIENCE).await })
    };
    let (id, _) = session.request().await;
    session.reply(id, &Reply::Error(ErrorCode::Denied)).await;
    let reply = in_time("the reply", first).await.unwrap().unwrap();
    assert!(matches!(reply, Reply::Error(ErrorCode::Denied)));
    session.reply(id, &Reply::Error(ErrorCode::Denied)).await;
    until("it is left", || {
        client
            .last_error()
            .is_some_and(|why| why.contains("not asked"))
    })
    .await;
}

#[tokio::test]
async fn a_frame_too_large() {
    left_after(
        async |session, _| session.write(&[0xff; 12]).await,
        "out of bounds",
    )
    .await;
}

#[tokio::test]
async fn a_message_of_no_kind() {
    let frame = [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f];
    left_after(
        async |session, _| session.write(&frame).await,
        "no message of this protocol",
    )
    .await;
}

#[tokio::test]
async fn an_end_in_the_middle_of_a_frame() {
    left_after(
        async |session, _| {
            session.write(&[0, 0, 0, 9, 0, 0]).await;
            session.stream.shutdown().await.unwrap();
        },
        "cut a message short",
    )
    .await;
}

#[tokio::test]
async fn an_end_without_a_word() {
    left_after(
        async |session, _| session.stream.shutdown().await.unwrap(),
        "closed by the signer",
    )
    .await;
}

#[tokio::test]
async fn a_token_that_does_not_answer_is_not_healthy_but_connected() {
    let ca = Ca::new();
    let rogue = Rogue::new(&ca, &[ALPN], &TLS13).await;
    let mut config = ClientConfig::new(
        rogue.address.to_string(),
        identity(SIGNER),
        ca.credentials(PROXY),
    );
    config.ping_interval = Duration::from_millis(20);
    let client = Client::start(config);
    let mut session = rogue.connection().await;
    assert!(client.healthy(PATIENCE).await);
    let (id, _) = session.request().await;
    session
        .reply(id, &Reply::Error(ErrorCode::Unavailable))
        .await;
    until("it is not healthy", || !client.is_healthy()).await;
    assert!(client.pin().is_some());
    let (id, _) = session.request().await;
    session.reply(id, &Reply::Pong).await;
    assert!(client.healthy(PATIENCE).await);
}

#[tokio::test]
async fn servers_of_another_protocol_are_not_spoken_to() {
    let ca = Ca::new();
    for (alpn, version, told) in [
        (&[][..], &TLS13, "does not speak keyhaven/1"),
        (&[&b"h2"[..]][..], &TLS13, "does not speak keyhaven/1"),
        (
            &[ALPN][..],
            &rustls::version::TLS12,
            "does not speak TLS 1.3",
        ),
    ] {
        let rogue = Rogue::new(&ca, alpn, version).await;
        let client = rogue.client(&ca);
        let (tcp, _) = in_time("a connection", rogue.socket.accept())
            .await
            .unwrap();
        let mut bytes = Vec::new();
        if let Ok(mut stream) = in_time("TLS", rogue.acceptor.accept(tcp)).await {
            let _ = in_time("the end", stream.read_to_end(&mut bytes)).await;
        }
        assert_eq!(bytes, Vec::<u8>::new());
        let why = refusal(&client).await;
        assert!(why.contains(told), "{why}");
        assert!(client.pin().is_none());
    }
}

#[tokio::test]
async fn nobody_there_is_told_with_the_address_and_what_should_be_there() {
    let ca = Ca::new();
    for (expected, told) in [
        (SIGNER, "check that a signer runs there, and its address"),
        (CENTRAL, "check that central runs there, and its address"),
    ] {
        let rogue = Rogue::of(expected, &ca, &[ALPN], &TLS13).await;
        let client = rogue.client(&ca);
        let address = rogue.address.to_string();
        drop(rogue);
        until("a reason", || {
            client.last_error().is_some_and(|why| {
                why.contains(&address) && why.contains(told) && !why.contains("[[signer]]")
            })
        })
        .await;
        assert_eq!(
            client.call(start("c"), PATIENCE).await.unwrap_err(),
            CallError::Unreachable
        );
    }
}

#[tokio::test]
async fn central_that_ends_is_not_called_a_signer() {
    let ca = Ca::new();
    let rogue = Rogue::of(CENTRAL, &ca, &[ALPN], &TLS13).await;
    let client = rogue.client(&ca);
    let mut session = rogue.connection().await;
    assert!(client.healthy(PATIENCE).await);
    session.stream.shutdown().await.unwrap();
    drop(session);
    until("the reason", || {
        client.last_error().as_deref() == Some("closed by central")
    })
    .await;
}
