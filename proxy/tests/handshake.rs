//! Handshakes through a whole proxy: the lock, the alerts, the outcome, failover, limits and deadlines.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use keyhaven_proxy::config::{Limits, ProxyProtocol};
use keyhaven_types::alert;
use keyhaven_wire::ErrorCode;
use support::{
    Client, FLIGHT, House, VERIFY_DATA, client_hello, handshake_record, limits, read_flight,
    read_to_end, until,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

#[tokio::test]
async fn a_right_finished_opens_the_lock_and_is_proven() {
    let mut house = House::new(limits()).await;
    let (mut client, mut backend) = house.established().await;
    client.send_data(b"ping").await;
    let mut got = [0; 4];
    backend.read_exact(&mut got).await.unwrap();
    backend.write_all(b"pong").await.unwrap();
    assert_eq!(
        (&got, client.receive_exactly(4).await.as_slice()),
        (b"ping", &b"pong"[..])
    );
    until(|| house.signers[0].proven.load(SeqCst) == 1).await;
    assert_eq!(house.signers[0].aborted.load(SeqCst), 0);
}

#[tokio::test]
async fn a_proof_is_said_again_while_the_signer_is_busy() {
    let mut house = House::new(limits()).await;
    let signer = house.signers[0].clone();
    signer.outcomes_busy.store(5, SeqCst);
    let (_client, _backend) = house.established().await;
    until(|| signer.proven.load(SeqCst) == 1).await;
    assert_eq!(signer.outcomes_busy.load(SeqCst), 0);
}

#[tokio::test]
async fn a_wrong_finished_gets_the_sealed_alert_and_reaches_nothing() {
    let mut house = House::new(limits()).await;
    let mut client = Client::finish(house.connect().await, &[0x5b; 32]).await;
    let alert = client.receive().await;
    assert_eq!(alert, Some((21, vec![2, alert::DECRYPT_ERROR])));
    assert_eq!(client.receive().await, None);
    assert!(house.backend.try_recv().is_err());
    assert_eq!(
        *house.signers[0].refused.lock().unwrap(),
        [alert::DECRYPT_ERROR]
    );
    assert_eq!(house.signers[0].proven.load(SeqCst), 0);
}

#[tokio::test]
async fn a_malformed_finished_gets_its_own_alert() {
    let house = House::new(limits()).await;
    let wrong_type = [&[15, 0, 0, 32][..], &VERIFY_DATA].concat();
    let too_long = [&[20, 0, 0, 32][..], &VERIFY_DATA, &[0]].concat();
    for (record, alert) in [
        (handshake_record(22, &wrong_type), alert::UNEXPECTED_MESSAGE),
        (handshake_record(22, &too_long), alert::UNEXPECTED_MESSAGE),
        (handshake_record(22, &[20, 0, 0, 31]), alert::DECODE_ERROR),
        (handshake_record(23, b"early"), alert::UNEXPECTED_MESSAGE),
        (
            [&[23, 3, 3, 0, 40][..], &[0; 40]].concat(),
            alert::BAD_RECORD_MAC,
        ),
        (vec![23, 3, 3, 0x41, 1], alert::RECORD_OVERFLOW),
        ([20, 3, 3, 0, 1, 1].repeat(3), alert::UNEXPECTED_MESSAGE),
    ] {
        let mut stream = house.connect().await;
        stream.write_all(&client_hello()).await.unwrap();
        read_flight(&mut stream).await;
        stream.write_all(&record).await.unwrap();
        // The alert is sealed by the signer; its record is all that arrives.
        let sealed = read_to_end(&mut stream).await;
        assert_eq!((sealed.len(), sealed[0]), (5 + 2 + 1 + 16, 23));
        let refused = house.signers[0].refused.lock().unwrap().pop();
        assert_eq!(refused, Some(alert));
    }
}

#[tokio::test]
async fn a_client_that_leaves_is_reported_without_a_proof() {
    let mut house = House::new(limits()).await;
    for last_word in [&[][..], &[21, 3, 3, 0, 2, 2, 48]] {
        let mut stream = house.connect().await;
        stream.write_all(&client_hello()).await.unwrap();
        read_flight(&mut stream).await;
        stream.write_all(last_word).await.unwrap();
        drop(stream);
    }
    until(|| house.signers[0].aborted.load(SeqCst) == 2).await;
    assert_eq!(house.signers[0].proven.load(SeqCst), 0);
    assert!(house.backend.try_recv().is_err());
}

#[tokio::test]
async fn what_is_no_tls_gets_an_alert() {
    let house = House::new(limits()).await;
    for (bytes, alert) in [
        (
            &b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n"[..],
            alert::UNEXPECTED_MESSAGE,
        ),
        (&[0x80, 0x2e, 1, 0, 2, 0, 0], alert::PROTOCOL_VERSION),
        (&[22, 3, 1, 0x41, 0], alert::RECORD_OVERFLOW),
        (&[22, 3, 1, 0, 5, 1, 1, 0, 0, 0], alert::DECODE_ERROR),
    ] {
        let mut stream = house.connect().await;
        stream.write_all(bytes).await.unwrap();
        assert_eq!(read_to_end(&mut stream).await, [21, 3, 3, 0, 2, 2, alert]);
    }
    assert_eq!(house.signers[0].starts.load(SeqCst), 0);
}

#[tokio::test]
async fn a_second_hello_follows_a_retry_without_what_stands_between() {
    let mut house = House::new(limits()).await;
    house.signers[0].retry.store(true, SeqCst);
    let mut stream = house.connect().await;
    stream.write_all(&client_hello()).await.unwrap();
    read_flight(&mut stream).await;
    stream.write_all(&[20, 3, 3, 0, 1, 1]).await.unwrap();
    let _client = Client::finish(stream, &VERIFY_DATA).await;
    house.backend.recv().await.unwrap();
    assert_eq!(
        *house.signers[0].continued.lock().unwrap(),
        [client_hello()]
    );
}

#[tokio::test]
async fn tls_12_takes_two_calls_and_keeps_what_follows() {
    let mut house = House::new(limits()).await;
    house.signers[0].tls12.store(true, SeqCst);
    let mut stream = house.connect().await;
    stream.write_all(&client_hello()).await.unwrap();
    read_flight(&mut stream).await;
    let flight = [
        &[22, 3, 3, 0, 1, 16][..],
        &[20, 3, 3, 0, 1, 1],
        &[22, 3, 3, 0, 2, 9, 9],
    ]
    .concat();
    let mut client = Client::tls12(stream);
    let mut data = Vec::new();
    client.write.seal(23, b"at once", &mut data).unwrap();
    client
        .stream
        .write_all(&[flight.clone(), data].concat())
        .await
        .unwrap();
    let mut backend = house.backend.recv().await.unwrap();
    let mut got = [0; 7];
    backend.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"at once");
    assert_eq!(*house.signers[0].continued.lock().unwrap(), [flight]);
    read_flight(&mut client.stream).await;
    backend.write_all(b"answer").await.unwrap();
    assert_eq!(client.receive_exactly(6).await, b"answer");
}

#[tokio::test]
async fn tls_12_takes_a_finished_in_as_many_records_as_it_has_bytes() {
    let mut house = House::new(limits()).await;
    let signer = house.signers[0].clone();
    signer.tls12.store(true, SeqCst);
    signer.wants_more.store(16, SeqCst);
    let mut stream = house.connect().await;
    stream.write_all(&client_hello()).await.unwrap();
    read_flight(&mut stream).await;
    // A warning before the Finished, and the Finished byte by byte.
    let first = [
        &[22, 3, 3, 0, 1, 16][..],
        &[20, 3, 3, 0, 1, 1],
        &[21, 3, 3, 0, 2, 9, 9],
    ]
    .concat();
    let mut sent = vec![first];
    sent.extend((0..16).map(|byte| vec![22, 3, 3, 0, 1, byte]));
    stream.write_all(&sent.concat()).await.unwrap();
    read_flight(&mut stream).await;
    house.backend.recv().await.unwrap();
    assert_eq!(*signer.continued.lock().unwrap(), sent);
}

#[tokio::test]
async fn a_signer_that_never_has_enough_is_given_up() {
    let house = House::new(limits()).await;
    house.signers[0].tls12.store(true, SeqCst);
    house.signers[0].wants_more.store(usize::MAX, SeqCst);
    let mut stream = house.connect().await;
    stream.write_all(&client_hello()).await.unwrap();
    read_flight(&mut stream).await;
    stream.write_all(&[20, 3, 3, 0, 1, 1]).await.unwrap();
    let record = [22, 3, 3, 0, 1, 9];
    stream.write_all(&record.repeat(100)).await.unwrap();
    let answer = read_to_end(&mut stream).await;
    assert_eq!(answer, [21, 3, 3, 0, 2, 2, alert::INTERNAL_ERROR]);
    assert_eq!(house.signers[0].continued.lock().unwrap().len(), 23);
}

#[tokio::test]
async fn another_signer_stands_in_before_anything_was_sent() {
    let mut house = House::with(limits(), 2, ProxyProtocol::None, true).await;
    *house.signers[0].start_error.lock().unwrap() = Some(ErrorCode::Busy);
    until_both_are_connected(&house).await;
    let (_client, _backend) = house.established().await;
    until(|| house.signers[1].proven.load(SeqCst) == 1).await;
    *house.signers[0].start_error.lock().unwrap() = None;
    let (_client, _backend) = house.established().await;
    until(|| house.signers[0].proven.load(SeqCst) == 1).await;
}

/// Handshakes until the first signer was asked and refused, and the second was asked, too.
async fn until_both_are_connected(house: &House) {
    while house.signers[0].starts.load(SeqCst) == 0 || house.signers[1].starts.load(SeqCst) == 0 {
        let mut stream = house.connect().await;
        stream.write_all(&client_hello()).await.unwrap();
        let mut first = [0; 7];
        stream.read_exact(&mut first).await.unwrap();
    }
    house.signers[1].proven.store(0, SeqCst);
}

#[tokio::test]
async fn without_a_signer_the_client_gets_internal_error() {
    let house = House::new(limits()).await;
    house.stop_signers().await;
    let mut stream = house.connect().await;
    stream.write_all(&client_hello()).await.unwrap();
    let answer = read_to_end(&mut stream).await;
    assert_eq!(answer, [21, 3, 3, 0, 2, 2, alert::INTERNAL_ERROR]);
}

#[tokio::test]
async fn a_signer_that_denies_gives_internal_error_at_the_client() {
    let house = House::new(limits()).await;
    *house.signers[0].start_error.lock().unwrap() = Some(ErrorCode::Denied);
    let mut stream = house.connect().await;
    stream.write_all(&client_hello()).await.unwrap();
    let answer = read_to_end(&mut stream).await;
    assert_eq!(answer, [21, 3, 3, 0, 2, 2, alert::INTERNAL_ERROR]);
}

#[tokio::test]
async fn a_dead_backend_is_an_alert_after_the_handshake() {
    let house = House::with(limits(), 1, ProxyProtocol::None, false).await;
    let mut client = Client::finish(house.connect().await, &VERIFY_DATA).await;
    let alert = client.receive().await;
    assert_eq!(alert, Some((21, vec![2, alert::INTERNAL_ERROR])));
    assert_eq!(client.receive().await, None);
}

#[tokio::test]
async fn slow_clients_are_closed() {
    let quick = Limits {
        client_hello_timeout: Duration::from_millis(50),
        handshake_timeout: Duration::from_millis(100),
        ..limits()
    };
    let house = House::new(quick).await;
    let mut stream = house.connect().await;
    stream.write_all(&client_hello()[..20]).await.unwrap();
    let answer = read_to_end(&mut stream).await;
    assert_eq!(answer, [21, 3, 3, 0, 2, 2, alert::USER_CANCELED]);

    let mut stream = house.connect().await;
    stream.write_all(&client_hello()).await.unwrap();
    let answer = read_to_end(&mut stream).await;
    assert!(
        answer.starts_with(FLIGHT) || answer.len() == 7,
        "{answer:?}"
    );
}

#[tokio::test]
async fn a_handshake_that_takes_too_long_ends_with_an_alert_while_one_can_be_read() {
    let quick = Limits {
        handshake_timeout: Duration::from_millis(300),
        ..limits()
    };
    let house = House::new(quick).await;
    let signer = house.signers[0].clone();
    let canceled = [21, 3, 3, 0, 2, 2, alert::USER_CANCELED];
    let answer = async || {
        let mut stream = house.connect().await;
        stream.write_all(&client_hello()).await.unwrap();
        read_to_end(&mut stream).await
    };
    // TLS 1.3, behind the server's hello: only the signer could make an alert.
    assert_eq!(answer().await, FLIGHT);
    signer.retry.store(true, SeqCst);
    assert_eq!(answer().await, [FLIGHT, &canceled].concat());
    signer.tls12.store(true, SeqCst);
    assert_eq!(answer().await, [FLIGHT, &canceled].concat());
    signer.stalls.store(true, SeqCst);
    assert_eq!(answer().await, canceled);
}

#[tokio::test]
async fn too_many_connections_are_refused_with_an_alert_and_room_comes_back() {
    let small = Limits {
        connections_max: 1,
        ..limits()
    };
    let mut house = House::new(small).await;
    let (client, backend) = house.established().await;
    let mut stream = house.connect().await;
    let answer = read_to_end(&mut stream).await;
    assert_eq!(answer, [21, 3, 3, 0, 2, 2, alert::INTERNAL_ERROR]);
    drop((client, backend));
    loop {
        let mut stream = house.connect().await;
        stream.write_all(&client_hello()).await.unwrap();
        let mut first = [0];
        stream.read_exact(&mut first).await.unwrap();
        if first == FLIGHT[..1] {
            return;
        }
    }
}

#[tokio::test]
async fn one_address_has_so_many_handshakes_at_once_and_any_number_of_connections() {
    let few = Limits {
        handshakes_per_client_max: 2,
        ..limits()
    };
    let mut house = House::new(few).await;
    let established = [house.established().await, house.established().await];
    let mut half_open = [house.connect().await, house.connect().await];
    for stream in &mut half_open {
        stream.write_all(&client_hello()).await.unwrap();
        read_flight(stream).await;
    }
    let mut stream = house.connect().await;
    let answer = read_to_end(&mut stream).await;
    assert_eq!(answer, [21, 3, 3, 0, 2, 2, alert::INTERNAL_ERROR]);
    drop(half_open);
    loop {
        let mut stream = house.connect().await;
        // The refused connection may be over before this is written.
        let _ = stream.write_all(&client_hello()).await;
        if stream.read_u8().await.is_ok_and(|first| first == FLIGHT[0]) {
            break;
        }
    }
    drop(established);
}

fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[tokio::test]
async fn clients_that_vanish_at_every_stage_leave_nothing_behind() {
    let mut house = House::new(limits()).await;
    let (client, backend) = house.established().await;
    drop((client, backend));
    let finished = handshake_record(22, &[&[20, 0, 0, 32][..], &VERIFY_DATA].concat());
    let hello = client_hello();
    let before = open_files();
    for is_reset in [false, true] {
        for cut in 0..hello.len() + finished.len() {
            let mut stream = house.connect().await;
            if is_reset {
                let socket = socket2::SockRef::from(&stream);
                socket.set_linger(Some(Duration::ZERO)).unwrap();
            }
            stream
                .write_all(&hello[..cut.min(hello.len())])
                .await
                .unwrap();
            if cut > hello.len() {
                read_flight(&mut stream).await;
                stream
                    .write_all(&finished[..cut - hello.len()])
                    .await
                    .unwrap();
            }
        }
    }
    assert!(
        house.backend.try_recv().is_err(),
        "a cut Finished reached the backend"
    );
    let (client, backend) = house.established().await;
    drop((client, backend));
    until(|| open_files() <= before).await;
    // Each begun handshake is either proven or reported without a proof.
    let signer = &house.signers[0];
    until(|| {
        signer.proven.load(SeqCst) + signer.aborted.load(SeqCst) == signer.starts.load(SeqCst)
    })
    .await;
    assert_eq!(signer.proven.load(SeqCst), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_half_open_clients_do_not_hold_up_a_good_one() {
    keyhaven_service::shutdown::raise_file_limit();
    let many = Limits {
        connections_max: 2000,
        ..limits()
    };
    let mut house = House::new(many).await;
    let (client, backend) = house.established().await;
    drop((client, backend));
    let before = open_files();
    let mut half_open = Vec::new();
    for number in 0..1000 {
        let mut stream = house.connect().await;
        let hello = client_hello();
        stream
            .write_all(&hello[..number % hello.len()])
            .await
            .unwrap();
        half_open.push(stream);
    }
    let started = std::time::Instant::now();
    let (client, backend) = house.established().await;
    assert!(started.elapsed() < Duration::from_secs(1));
    drop((client, backend, half_open));
    until(|| open_files() <= before).await;
}
