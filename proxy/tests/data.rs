//! Established connections through a whole proxy: both ways, both ends, new keys, and how they end.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use keyhaven_proxy::config::Limits;
use keyhaven_service::shutdown::Ended;
use keyhaven_types::alert;
use support::{Client, House, limits, read_to_end, until};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

fn close_notify() -> Option<(u8, Vec<u8>)> {
    Some((21, vec![1, 0]))
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 % 251) as u8).collect()
}

/// Everything that the backend gets, and then everything that it says.
async fn answers_after_the_end(mut backend: TcpStream, answer: Vec<u8>) -> Vec<u8> {
    let got = read_to_end(&mut backend).await;
    backend.write_all(&answer).await.unwrap();
    got
}

#[tokio::test]
async fn a_client_that_closes_its_side_still_gets_the_whole_answer() {
    let mut house = House::new(limits()).await;
    for is_bare in [false, true] {
        let (mut client, backend) = house.established().await;
        let (up, down) = (pattern(300_000), pattern(2_000_000));
        let backend = tokio::spawn(answers_after_the_end(backend, down.clone()));
        client.send_data(&up).await;
        if !is_bare {
            client.send(21, &[1, 0]).await;
        }
        client.stream.shutdown().await.unwrap();
        let (data, end) = client.receive_data().await;
        assert!(data == down);
        assert_eq!(end, close_notify());
        assert!(backend.await.unwrap() == up);
        assert_eq!(client.receive().await, None);
    }
}

#[tokio::test]
async fn a_backend_that_closes_its_side_still_gets_the_whole_request() {
    let mut house = House::new(limits()).await;
    let (mut client, mut backend) = house.established().await;
    backend.write_all(b"done").await.unwrap();
    backend.shutdown().await.unwrap();
    let (data, end) = client.receive_data().await;
    assert_eq!((data.as_slice(), end), (&b"done"[..], close_notify()));
    let up = pattern(400_000);
    let receiving = tokio::spawn(async move { read_to_end(&mut backend).await });
    client.send_data(&up).await;
    client.send(21, &[1, 0]).await;
    assert!(receiving.await.unwrap() == up);
}

#[tokio::test]
async fn many_bytes_move_both_ways_at_once() {
    let mut house = House::new(limits()).await;
    let (client, backend) = house.established().await;
    let up = pattern(8_000_000);
    let (mut from_proxy, mut to_proxy) = backend.into_split();
    // The backend echoes: both directions are busy, and each slows the other down when it is full.
    tokio::spawn(async move {
        tokio::io::copy(&mut from_proxy, &mut to_proxy)
            .await
            .unwrap();
        to_proxy.shutdown().await.unwrap();
    });
    let Client {
        stream,
        mut write,
        read,
        ..
    } = client;
    let (from_proxy, mut to_proxy) = stream.into_split();
    let sent = up.clone();
    tokio::spawn(async move {
        for part in sent.chunks(10_000) {
            let mut record = Vec::new();
            write.seal(23, part, &mut record).unwrap();
            to_proxy.write_all(&record).await.unwrap();
        }
        let mut last = Vec::new();
        write.seal(21, &[1, 0], &mut last).unwrap();
        to_proxy.write_all(&last).await.unwrap();
        to_proxy
    });
    let (data, end) = receive_all(from_proxy, read).await;
    assert!(data == up);
    assert_eq!(end, close_notify());
}

async fn receive_all(
    mut stream: tokio::net::tcp::OwnedReadHalf,
    mut read: keyhaven_proxy::record::ReadKey,
) -> (Vec<u8>, Option<(u8, Vec<u8>)>) {
    let (mut data, mut received) = (Vec::new(), Vec::new());
    loop {
        let mut start = 0;
        while let Some(record) = keyhaven_proxy::record::next_record(
            &received[start..],
            keyhaven_proxy::record::Bound::Tls13,
        )
        .unwrap()
        {
            let bytes = &mut received[start..start + record.len];
            let opened = read.open(bytes).unwrap();
            start += record.len;
            match opened.content_type {
                23 => data.extend_from_slice(&bytes[opened.plaintext]),
                other => return (data, Some((other, bytes[opened.plaintext].to_vec()))),
            }
        }
        received.drain(..start);
        if stream.read_buf(&mut received).await.unwrap() == 0 {
            return (data, None);
        }
    }
}

#[tokio::test]
async fn the_clients_key_update_changes_both_keys() {
    let mut house = House::new(limits()).await;
    let (mut client, mut backend) = house.established().await;
    for generation in 1..=3 {
        client.send(22, &[24, 0, 0, 1, 1]).await;
        client.switch_write(generation);
        client.send_data(b"ping").await;
        let mut got = [0; 4];
        backend.read_exact(&mut got).await.unwrap();
        assert_eq!(client.receive().await, Some((22, vec![24, 0, 0, 1, 0])));
        client.switch_read(generation);
        backend.write_all(b"pong").await.unwrap();
        assert_eq!(client.receive_exactly(4).await, b"pong");
    }
    assert_eq!(house.signers[0].rekeys.load(SeqCst), 6);
}

#[tokio::test]
async fn too_many_key_updates_end_the_connection() {
    let mut house = House::new(limits()).await;
    let (mut client, _backend) = house.established().await;
    for generation in 1..=5 {
        client.send(22, &[24, 0, 0, 1, 0]).await;
        client.switch_write(generation);
    }
    let end = client.receive().await;
    assert_eq!(end, Some((21, vec![2, alert::UNEXPECTED_MESSAGE])));
    assert_eq!(house.signers[0].rekeys.load(SeqCst), 4);
}

#[tokio::test]
async fn our_own_limit_brings_a_new_key_without_losing_a_byte() {
    let few = Limits {
        records_per_key: 8,
        ..limits()
    };
    let mut house = House::new(few).await;
    let (mut client, mut backend) = house.established().await;
    let down = pattern(16_384 * 40);
    let sent = down.clone();
    let sending = tokio::spawn(async move {
        backend.write_all(&sent).await.unwrap();
        backend
    });
    let (mut data, mut generation) = (Vec::new(), 0);
    while data.len() < down.len() {
        match client.receive().await {
            Some((23, content)) => data.extend_from_slice(&content),
            Some((22, update)) => {
                assert_eq!(update, [24, 0, 0, 1, 0]);
                assert!(client.read.records() <= 8);
                generation += 1;
                client.switch_read(generation);
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(data == down);
    assert!(generation >= 6, "{generation}");
    drop(sending.await.unwrap());
}

#[tokio::test]
async fn a_client_that_writes_much_is_asked_for_a_new_key() {
    let few = Limits {
        records_per_key: 8,
        ..limits()
    };
    let mut house = House::new(few).await;
    let (mut client, mut backend) = house.established().await;
    for _ in 0..8 {
        client.send_data(b"x").await;
    }
    assert_eq!(client.receive().await, Some((22, vec![24, 0, 0, 1, 1])));
    client.switch_read(1);
    client.send(22, &[24, 0, 0, 1, 0]).await;
    client.switch_write(1);
    client.send_data(b"y").await;
    let mut got = [0; 9];
    backend.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"xxxxxxxxy");
}

#[tokio::test]
async fn no_new_key_at_the_limit_is_the_end() {
    let few = Limits {
        records_per_key: 8,
        ..limits()
    };
    let mut house = House::new(few.clone()).await;
    house.signers[0].rekey_fails.store(true, SeqCst);
    let (mut client, mut backend) = house.established().await;
    // The proxy may close while we still write.
    let writing = tokio::spawn(async move { backend.write_all(&pattern(16_384 * 20)).await });
    let (data, end) = client.receive_data().await;
    assert_eq!(data.len(), 6 * 16_384);
    assert_eq!(end, Some((21, vec![2, alert::INTERNAL_ERROR])));
    let _ = writing.await.unwrap();
}

#[tokio::test]
async fn a_client_that_breaks_a_rule_is_ended_and_the_backend_sees_a_reset() {
    let mut house = House::new(limits()).await;
    let (mut client, mut backend) = house.established().await;
    client.send_data(b"half a requ").await;
    let mut got = [0; 11];
    backend.read_exact(&mut got).await.unwrap();
    client.send(22, &[1, 0, 0, 0]).await;
    let end = client.receive().await;
    assert_eq!(end, Some((21, vec![2, alert::UNEXPECTED_MESSAGE])));
    assert_eq!(client.receive().await, None);
    let seen = backend.read(&mut got).await;
    assert!(
        seen.is_err(),
        "a clean end would make half a request whole: {seen:?}"
    );
}

#[tokio::test]
async fn a_fatal_alert_of_the_client_ends_both() {
    let mut house = House::new(limits()).await;
    let (mut client, mut backend) = house.established().await;
    client.send(21, &[2, 80]).await;
    assert_eq!(client.receive().await, None);
    assert!(backend.read(&mut [0]).await.is_err());
}

#[tokio::test]
async fn a_cut_record_is_not_taken_for_an_end() {
    let mut house = House::new(limits()).await;
    let (mut client, mut backend) = house.established().await;
    client
        .stream
        .write_all(&[23, 3, 3, 0, 40, 1, 2])
        .await
        .unwrap();
    client.stream.shutdown().await.unwrap();
    let end = client.receive().await;
    assert_eq!(end, Some((21, vec![2, alert::DECODE_ERROR])));
    assert!(backend.read(&mut [0]).await.is_err());
}

#[tokio::test]
async fn quiet_and_old_connections_are_closed_in_order() {
    for (idle, lifetime) in [(1, 600), (600, 1)] {
        let short = Limits {
            idle_timeout: Duration::from_secs(idle),
            connection_lifetime: Duration::from_secs(lifetime),
            ..limits()
        };
        let mut house = House::new(short).await;
        let (mut client, _backend) = house.established().await;
        assert_eq!(client.receive().await, close_notify());
        assert_eq!(client.receive().await, None);
    }
}

#[tokio::test]
async fn a_stop_lets_connections_finish_and_then_closes_them() {
    let mut house = House::new(limits()).await;
    let (mut client, mut backend) = house.established().await;
    house.shutdown.stop();
    until_refused(&house).await;
    backend.write_all(b"still here").await.unwrap();
    assert_eq!(client.receive_exactly(10).await, b"still here");
    let shutdown = house.shutdown.clone();
    let finishing = tokio::spawn(async move { shutdown.finish(Duration::from_millis(500)).await });
    assert_eq!(client.receive().await, close_notify());
    assert_eq!(client.receive().await, None);
    drop(client);
    assert!(matches!(finishing.await.unwrap(), Ended::Cut { .. }));
}

async fn until_refused(house: &House) {
    while TcpStream::connect(house.proxy).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn an_established_connection_outlives_its_signer() {
    let mut house = House::new(limits()).await;
    let (mut client, mut backend) = house.established().await;
    until(|| house.signers[0].proven.load(SeqCst) == 1).await;
    house.stop_signers().await;
    backend.write_all(b"alive").await.unwrap();
    assert_eq!(client.receive_exactly(5).await, b"alive");
}
