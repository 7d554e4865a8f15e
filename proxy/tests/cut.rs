//! Deadlines and stops in the middle of something: what was cut must not look whole, to either side.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::time::Duration;

use keyhaven_proxy::config::{Limits, ProxyProtocol};
use keyhaven_types::alert;
use support::{Client, House, VERIFY_DATA, limits};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

fn failed() -> Option<(u8, Vec<u8>)> {
    Some((21, vec![2, alert::INTERNAL_ERROR]))
}

/// Whether the backend sees a reset and no clean end, after what it has not read yet.
async fn sees_a_reset(backend: &mut TcpStream) -> bool {
    let mut rest = Vec::new();
    backend.read_to_end(&mut rest).await.is_err()
}

/// Every way in which time is up.
fn deadlines() -> [(Limits, bool); 3] {
    let soon = Duration::from_secs(1);
    let idle = Limits {
        idle_timeout: soon,
        ..limits()
    };
    let lifetime = Limits {
        connection_lifetime: soon,
        ..limits()
    };
    [(idle, false), (lifetime, false), (limits(), true)]
}

/// A connection on which something goes on, up to its end.
async fn ends(
    limits: Limits,
    is_stop: bool,
    goes_on: impl AsyncFnOnce(&mut Client, &mut TcpStream),
) -> (Client, TcpStream) {
    let mut house = House::new(limits).await;
    let (mut client, mut backend) = house.established().await;
    goes_on(&mut client, &mut backend).await;
    if is_stop {
        house.shutdown.finish(Duration::from_millis(500)).await;
    }
    (client, backend)
}

#[tokio::test]
async fn a_cut_upload_is_a_reset_and_an_alert() {
    for (limits, is_stop) in deadlines() {
        let (mut client, mut backend) = ends(limits, is_stop, async |client, backend| {
            client.send_data(b"half a requ").await;
            backend.read_exact(&mut [0; 11]).await.unwrap();
        })
        .await;
        assert_eq!(client.receive().await, failed());
        assert!(sees_a_reset(&mut backend).await);
    }
}

#[tokio::test]
async fn half_a_record_is_a_reset_and_an_alert() {
    for (limits, is_stop) in deadlines() {
        let (mut client, mut backend) = ends(limits, is_stop, async |client, _| {
            let begun = [23, 3, 3, 0, 40, 1, 2];
            client.stream.write_all(&begun).await.unwrap();
        })
        .await;
        assert_eq!(client.receive().await, failed());
        assert!(sees_a_reset(&mut backend).await);
    }
}

#[tokio::test]
async fn an_answer_that_is_due_after_the_request_ended_is_an_alert() {
    for (limits, is_stop) in deadlines() {
        let (mut client, _backend) = ends(limits, is_stop, async |client, backend| {
            client.send_data(b"request").await;
            client.send(21, &[1, 0]).await;
            backend.read_to_end(&mut Vec::new()).await.unwrap();
            backend.write_all(b"half an ans").await.unwrap();
            assert_eq!(client.receive_exactly(11).await, b"half an ans");
        })
        .await;
        assert_eq!(client.receive().await, failed());
    }
}

#[tokio::test]
async fn an_upload_that_goes_on_after_the_whole_answer_is_a_reset() {
    for (limits, is_stop) in deadlines() {
        let (mut client, mut backend) = ends(limits, is_stop, async |client, backend| {
            backend.write_all(b"answer").await.unwrap();
            backend.shutdown().await.unwrap();
            assert_eq!(client.receive_exactly(6).await, b"answer");
            client.send_data(b"half").await;
        })
        .await;
        // The client has the whole answer, and was told so; nothing may follow.
        assert_eq!(client.receive().await, Some((21, vec![1, 0])));
        assert_eq!(client.receive().await, None);
        assert!(sees_a_reset(&mut backend).await);
    }
}

#[tokio::test]
async fn a_download_that_the_client_does_not_read_never_ends_with_close_notify() {
    let (mut client, backend) = ends(limits(), true, async |_, backend| {
        // More than the sockets hold: writes until nothing goes.
        while let Ok(written) =
            tokio::time::timeout(Duration::from_millis(300), backend.write(&[7; 65_536])).await
        {
            written.unwrap();
        }
    })
    .await;
    drop(backend);
    // Whatever arrives is data, perhaps a record that is cut off, perhaps an alert, and no orderly end.
    let mut received = Vec::new();
    let _ = client.stream.read_to_end(&mut received).await;
    let mut start = 0;
    while let Ok(Some(record)) = keyhaven_proxy::record::next_record(
        &received[start..],
        keyhaven_proxy::record::Bound::Tls13,
    ) {
        let bytes = &mut received[start..start + record.len];
        let opened = client.read.open(bytes).unwrap();
        let content = &bytes[opened.plaintext.clone()];
        assert!(opened.content_type == 23 || content != [1, 0]);
        start += record.len;
    }
}

#[tokio::test]
async fn a_quiet_connection_ends_in_order_on_both_sides() {
    for (limits, is_stop) in deadlines() {
        let (mut client, mut backend) = ends(limits, is_stop, async |client, backend| {
            client.send_data(b"request").await;
            backend.read_exact(&mut [0; 7]).await.unwrap();
            backend.write_all(b"answer").await.unwrap();
            assert_eq!(client.receive_exactly(6).await, b"answer");
        })
        .await;
        assert_eq!(client.receive().await, Some((21, vec![1, 0])));
        assert!(!sees_a_reset(&mut backend).await);
    }
}

/// A listener whose queue is full: who connects gets no answer.
fn silent_address() -> (socket2::Socket, Vec<std::net::TcpStream>) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let any: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
    socket.bind(&any.into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let soon = Duration::from_millis(100);
    let connect = || std::net::TcpStream::connect_timeout(&address, soon).ok();
    let queued = std::iter::from_fn(connect).collect();
    (socket, queued)
}

#[tokio::test]
async fn a_backend_that_does_not_answer_holds_up_neither_lifetime_nor_stop() {
    let (backend, _queued) = silent_address();
    let address = backend.local_addr().unwrap().as_socket().unwrap();
    for is_stop in [false, true] {
        let patient = Limits {
            backend_connect_timeout: Duration::from_secs(600),
            connection_lifetime: Duration::from_secs(if is_stop { 600 } else { 1 }),
            ..limits()
        };
        let house = House::behind(patient, 1, ProxyProtocol::None, address, None).await;
        let mut client = Client::finish(house.connect().await, &VERIFY_DATA).await;
        if is_stop {
            house.shutdown.finish(Duration::from_millis(100)).await;
        }
        assert_eq!(client.receive().await, failed());
    }
}
