//! Handshakes in which the signer reads what the client sends, and the proxy only passes it on.

use keyhaven_types::TlsVersion;
use keyhaven_wire::{Expect, Next};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{Client, FLIGHT, FakeSigner, House, Step, client_hello, open, read_flight};

pub(crate) const CHANGE: &[u8] = &[20, 3, 3, 0, 1, 1];

/// A record that only the signer can read.
pub(crate) fn sealed(len: u8, content: u8) -> Vec<u8> {
    let mut record = vec![23, 3, 3, 0, len];
    record.resize(5 + usize::from(len), content);
    record
}

/// Sends the flight with the first step and nothing later.
pub(crate) fn flight_first(number: usize) -> Vec<u8> {
    if number == 0 {
        FLIGHT.to_vec()
    } else {
        Vec::new()
    }
}

/// Wants this flight until the client has sent so many parts of it, then gives keys.
pub(crate) fn wants(signer: &FakeSigner, expect: Expect, parts: usize, version: TlsVersion) {
    signer.plan(move |step: &Step<'_>| {
        let next = if step.number < parts {
            Next::More(expect)
        } else {
            open(step.signer, version)
        };
        (flight_first(step.number), next)
    });
}

pub(crate) async fn begin(house: &House) -> TcpStream {
    let mut stream = house.connect().await;
    stream.write_all(&client_hello()).await.unwrap();
    read_flight(&mut stream).await;
    stream
}

pub(crate) async fn exchanges(client: &mut Client, backend: &mut TcpStream) {
    client.send_data(b"ping").await;
    let mut got = [0; 4];
    backend.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"ping");
    backend.write_all(b"pong").await.unwrap();
    assert_eq!(client.receive_exactly(4).await, b"pong");
}
