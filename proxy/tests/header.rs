//! What the backend hears of a client before the client's first byte.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use keyhaven_proxy::config::ProxyProtocol;
use keyhaven_types::TlsVersion::Tls13;
use keyhaven_wire::{ClientCertificate, Expect};
use support::{
    Client, House,
    flights::{begin, exchanges, sealed, wants},
    limits,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

#[tokio::test]
async fn the_backend_learns_the_client_by_proxy_protocol() {
    let mut house = House::with(limits(), 1, ProxyProtocol::V2, true).await;
    let (client, mut backend) = house.established().await;
    let mut header = [0; 28];
    backend.read_exact(&mut header).await.unwrap();
    assert_eq!(&header[..16], b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c");
    let port = client.stream.local_addr().unwrap().port();
    assert_eq!(header[24..26], port.to_be_bytes());
}

/// The values of a PROXY protocol header for IPv4, read from the socket up to the header's end.
async fn header(backend: &mut TcpStream) -> Vec<(u8, Vec<u8>)> {
    let mut start = [0; 16];
    backend.read_exact(&mut start).await.unwrap();
    assert_eq!(&start[..14], b"\r\n\r\n\0\r\nQUIT\n\x21\x11");
    let mut rest = vec![0; usize::from(u16::from_be_bytes([start[14], start[15]]))];
    backend.read_exact(&mut rest).await.unwrap();
    values(&rest[12..])
}

fn values(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut values = Vec::new();
    while let [kind, high, low, rest @ ..] = bytes {
        let (value, behind) = rest.split_at(usize::from(u16::from_be_bytes([*high, *low])));
        values.push((*kind, value.to_vec()));
        bytes = behind;
    }
    assert!(bytes.is_empty());
    values
}

#[tokio::test]
async fn the_backend_learns_what_tls_found_and_then_gets_the_data() {
    let mut house = House::with(limits(), 1, ProxyProtocol::V2Tls, true).await;
    let certificate = ClientCertificate {
        leaf: vec![0x30; 1500],
        common_name: "Ada".to_owned(),
    };
    *house.signers[0].client.lock().unwrap() = Some(certificate);
    let text = |text: &str| text.as_bytes().to_vec();

    // Behind the lock there is no certificate.
    let (mut client, mut backend) = house.established().await;
    let got = header(&mut backend).await;
    assert_eq!(got[0], (0x02, text("example.org")));
    assert_eq!((got.len(), got[1].0), (2, 0x20));
    assert_eq!(got[1].1[0], 1);
    assert_ne!(got[1].1[1..5], [0; 4]);
    let version = (0x21, text("TLSv1.3"));
    let suite = (0x23, text("TLS_AES_128_GCM_SHA256"));
    assert_eq!(values(&got[1].1[5..]), [version.clone(), suite.clone()]);
    exchanges(&mut client, &mut backend).await;

    wants(&house.signers[0], Expect::ClientFlight, 1, Tls13);
    let mut stream = begin(&house).await;
    stream.write_all(&sealed(60, 1)).await.unwrap();
    let mut client = Client::new(stream, Tls13, 0);
    let mut backend = house.backend.recv().await.unwrap();
    let got = header(&mut backend).await;
    assert_eq!(got[1].1[..5], [7, 0, 0, 0, 0]);
    let name = (0x22, text("Ada"));
    let leaf = (0x28, vec![0x30; 1500]);
    assert_eq!(values(&got[1].1[5..]), [version, suite, name, leaf]);
    exchanges(&mut client, &mut backend).await;
}
