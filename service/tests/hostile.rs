//! Hostile peers at the signer's door: silent, slow, cut short, too large, too many.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use common::{Ca, PATIENCE, PROXY, SIGNER, Server, in_time, start, until};
use keyhaven_service::ServeLimits;
use keyhaven_wire::{FRAME_BYTES_MAX, Request, encode};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// An authenticated proxy that writes whatever it likes.
async fn rogue(ca: &Ca, server: &Server) -> TlsStream<TcpStream> {
    let (chain, key) = ca.issue(
        &[common::uri_name(PROXY), common::dns_name("signer.test")],
        |_| {},
    );
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(ca.path()).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(
            vec![CertificateDer::from_pem_file(chain).unwrap()],
            PrivateKeyDer::from_pem_file(key).unwrap(),
        )
        .unwrap();
    config.alpn_protocols = vec![keyhaven_wire::ALPN.to_vec()];
    let tcp = TcpStream::connect(server.address).await.unwrap();
    let name = ServerName::try_from("signer.test").unwrap();
    TlsConnector::from(Arc::new(config))
        .connect(name, tcp)
        .await
        .unwrap()
}

/// A signer with a DNS name beside its identity, which the rogue's plain library wants to see.
async fn server(ca: &Ca, limits: ServeLimits, handshake_timeout: Duration) -> Server {
    let (chain, key) = ca.issue(
        &[common::uri_name(SIGNER), common::dns_name("signer.test")],
        |_| {},
    );
    let credentials = keyhaven_service::Credentials::load(&chain, &key, &ca.path()).unwrap();
    Server::with(credentials, limits, |config| {
        config.handshake_timeout = handshake_timeout
    })
    .await
}

async fn is_closed(stream: &mut (impl tokio::io::AsyncRead + Unpin)) {
    let mut rest = Vec::new();
    // How it ends does not matter, as long as it ends without an answer.
    let _ = in_time("the connection's end", stream.read_to_end(&mut rest)).await;
    assert_eq!(rest, Vec::<u8>::new());
}

fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[tokio::test]
async fn frames_that_break_the_protocol_close_the_connection() {
    let ca = Ca::new();
    let server = server(&ca, ServeLimits::default(), PATIENCE).await;
    let mut unknown = Vec::new();
    encode(1, &Request::Ping, &mut unknown).unwrap();
    *unknown.last_mut().unwrap() = 0x7f;
    let mut trailing = vec![0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 1, 5, 5];
    trailing.extend_from_slice(&[0; 64]);
    let oversize = u32::try_from(FRAME_BYTES_MAX + 1).unwrap().to_be_bytes();
    let oversize = [&oversize[..], &[0; 8]].concat();
    let cases = [
        unknown,
        trailing,
        oversize,
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
    ];
    let count = cases.len();
    for bytes in cases {
        let mut stream = rogue(&ca, &server).await;
        stream.write_all(&bytes).await.unwrap();
        is_closed(&mut stream).await;
    }
    until("all freed", || {
        server.script.closed.load(Ordering::SeqCst) == count
    })
    .await;
}

#[tokio::test]
async fn a_frame_cut_short_at_any_offset_is_forgotten() {
    let ca = Ca::new();
    let server = server(&ca, ServeLimits::default(), PATIENCE).await;
    let mut frame = Vec::new();
    encode(1, &start("c"), &mut frame).unwrap();
    for end in 0..frame.len() {
        let mut stream = rogue(&ca, &server).await;
        stream.write_all(&frame[..end]).await.unwrap();
        stream.shutdown().await.unwrap();
        is_closed(&mut stream).await;
    }
    until("all freed", || {
        server.script.closed.load(Ordering::SeqCst) == frame.len()
    })
    .await;
}

#[tokio::test]
async fn a_peer_that_trickles_gains_no_time() {
    let ca = Ca::new();
    let limits = ServeLimits {
        idle_timeout: Duration::from_millis(300),
        ..ServeLimits::default()
    };
    let server = server(&ca, limits, PATIENCE).await;
    let mut stream = rogue(&ca, &server).await;
    let mut frame = Vec::new();
    encode(1, &start(&"c".repeat(64)), &mut frame).unwrap();
    let (mut read, mut write) = tokio::io::split(&mut stream);
    let trickle = async {
        for byte in frame {
            write.write_all(&[byte]).await.unwrap();
            write.flush().await.unwrap();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("the whole frame was taken");
    };
    tokio::select! {
        () = is_closed(&mut read) => {}
        () = trickle => {}
    }
}

#[tokio::test]
async fn a_peer_that_does_not_read_is_left() {
    let ca = Ca::new();
    let limits = ServeLimits {
        write_timeout: Duration::from_millis(200),
        ..ServeLimits::default()
    };
    let server = server(&ca, limits, PATIENCE).await;
    let mut stream = rogue(&ca, &server).await;
    let mut pings = Vec::new();
    for id in 0..1000 {
        encode(id, &Request::Ping, &mut pings).unwrap();
    }
    // It writes for ever and never reads; the signer neither grows nor waits.
    let flood = async { while stream.write_all(&pings).await.is_ok() {} };
    in_time("the signer closes", flood).await;
    until("it is freed", || {
        server.script.closed.load(Ordering::SeqCst) == 1
    })
    .await;
    assert!(server.script.most_at_work.load(Ordering::SeqCst) <= ServeLimits::default().in_flight);
}

#[tokio::test]
async fn silent_and_senseless_connections_end_in_time() {
    let ca = Ca::new();
    let server = server(&ca, ServeLimits::default(), Duration::from_millis(200)).await;
    let mut silent = TcpStream::connect(server.address).await.unwrap();
    is_closed(&mut silent).await;
    let mut senseless = TcpStream::connect(server.address).await.unwrap();
    senseless.write_all(&[0x5a; 4096]).await.unwrap();
    let mut rest = Vec::new();
    let _ = in_time("its end", senseless.read_to_end(&mut rest)).await;
}

#[tokio::test]
async fn a_thousand_half_open_connections_keep_nobody_out() {
    let ca = Ca::new();
    let before = open_files();
    let server = server(&ca, ServeLimits::default(), PATIENCE).await;
    let mut half_open = Vec::new();
    for _ in 0..1000 {
        half_open.push(TcpStream::connect(server.address).await.unwrap());
    }
    let begun = std::time::Instant::now();
    let client = server.client(ca.credentials(PROXY));
    assert!(client.healthy(PATIENCE).await, "{:?}", client.last_error());
    assert!(client.call(start("c"), PATIENCE).await.is_ok());
    assert!(
        begun.elapsed() < Duration::from_secs(1),
        "{:?}",
        begun.elapsed()
    );
    drop(half_open);
    drop(client);
    server.shutdown.finish(PATIENCE).await;
    drop(server);
    until("as many open files as before", || open_files() <= before).await;
}

#[tokio::test]
async fn a_hundred_connections_leave_no_file_open() {
    let ca = Ca::new();
    let server = server(&ca, ServeLimits::default(), PATIENCE).await;
    drop(rogue(&ca, &server).await);
    until("the first is freed", || {
        server.script.closed.load(Ordering::SeqCst) == 1
    })
    .await;
    let before = open_files();
    for _ in 0..100 {
        drop(rogue(&ca, &server).await);
    }
    until("all freed", || {
        server.script.closed.load(Ordering::SeqCst) == 101
    })
    .await;
    until("as many open files as before", || open_files() <= before).await;
}
