//! Flights that the signer verifies itself: a client's certificate in both versions, and a resumed TLS 1.2 session.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use keyhaven_proxy::{
    config::Limits,
    record::{Generation, WriteKey},
};
use keyhaven_types::TlsVersion::{Tls12, Tls13};
use keyhaven_wire::{Expect, Next};
use support::{
    Client, FLIGHT, House, TO_CLIENT, client_hello,
    flights::{CHANGE, begin, exchanges, sealed, wants},
    key, limits, open, read_flight, read_to_end, until,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

#[tokio::test]
async fn a_tls_13_flight_goes_record_by_record_and_what_follows_is_kept() {
    for first_records in [&[][..], CHANGE] {
        let mut house = House::new(limits()).await;
        let signer = house.signers[0].clone();
        wants(&signer, Expect::ClientFlight, 3, Tls13);
        let stream = begin(&house).await;
        let parts = [sealed(200, 1), sealed(90, 2), sealed(60, 3)];
        let mut client = Client::new(stream, Tls13, 0);
        let mut data = Vec::new();
        client.write.seal(23, b"at once", &mut data).unwrap();
        let sent = [first_records, &parts.concat(), &data].concat();
        client.stream.write_all(&sent).await.unwrap();
        let mut backend = house.backend.recv().await.unwrap();
        let mut got = [0; 7];
        backend.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"at once");
        assert_eq!(*signer.continued.lock().unwrap(), parts);
        exchanges(&mut client, &mut backend).await;
        // The signer knows the end, and nobody tells it another.
        assert_eq!(signer.proven.load(SeqCst), 0);
        assert_eq!(signer.aborted.load(SeqCst), 0);
    }
}

#[tokio::test]
async fn keys_that_came_open_are_replaced_like_others() {
    let mut house = House::new(limits()).await;
    wants(&house.signers[0], Expect::ClientFlight, 1, Tls13);
    house.signers[0].tickets.store(1, SeqCst);
    let mut stream = begin(&house).await;
    stream.write_all(&sealed(60, 1)).await.unwrap();
    let mut client = Client::new(stream, Tls13, 0);
    let mut backend = house.backend.recv().await.unwrap();
    let ticket = Some((22, vec![4, 0, 0, 1, 0]));
    assert_eq!(client.receive().await, ticket);
    for generation in 1..=2 {
        client.send(22, &[24, 0, 0, 1, 1]).await;
        client.switch_write(generation);
        assert_eq!(client.receive().await, Some((22, vec![24, 0, 0, 1, 0])));
        client.switch_read(generation);
        exchanges(&mut client, &mut backend).await;
    }
    assert_eq!(house.signers[0].rekeys.load(SeqCst), 4);
}

#[tokio::test]
async fn a_second_hello_may_come_before_a_clients_flight() {
    let mut house = House::new(limits()).await;
    let signer = house.signers[0].clone();
    signer.plan(|step| match step.number {
        0 => (FLIGHT.to_vec(), Next::More(Expect::ClientHello)),
        1 => (FLIGHT.to_vec(), Next::More(Expect::ClientFlight)),
        _ => (Vec::new(), open(step.signer, Tls13)),
    });
    let mut stream = begin(&house).await;
    stream.write_all(&client_hello()).await.unwrap();
    read_flight(&mut stream).await;
    let last = sealed(60, 1);
    let sent = [CHANGE, &last].concat();
    stream.write_all(&sent).await.unwrap();
    house.backend.recv().await.unwrap();
    let continued = signer.continued.lock().unwrap();
    assert_eq!(*continued, [client_hello(), last]);
}

#[tokio::test]
async fn a_flight_without_end_is_given_up_in_silence() {
    let large = {
        let mut record = vec![23, 3, 3, 0x41, 0];
        record.resize(5 + 16_640, 1);
        record
    };
    for (record, most) in [(sealed(60, 1), 32), (large, 3)] {
        let mut house = House::new(limits()).await;
        let signer = house.signers[0].clone();
        wants(&signer, Expect::ClientFlight, usize::MAX, Tls13);
        let mut stream = begin(&house).await;
        // The proxy may close while we still write.
        let _ = stream.write_all(&record.repeat(most + 1)).await;
        // An alert in the clear would be one that the client cannot read.
        assert_eq!(read_to_end(&mut stream).await, b"");
        assert_eq!(signer.continued.lock().unwrap().len(), most);
        until(|| signer.aborted.load(SeqCst) == 1).await;
        assert!(house.backend.try_recv().is_err());
    }
}

#[tokio::test]
async fn a_refusal_in_the_clients_flight_is_the_signers_own() {
    let mut house = House::new(limits()).await;
    let signer = house.signers[0].clone();
    signer.plan(|step| {
        if step.number == 0 {
            return (FLIGHT.to_vec(), Next::More(Expect::ClientFlight));
        }
        let mut alert = Vec::new();
        let first = key(TO_CLIENT, 0);
        let mut write = WriteKey::new(Tls13, Generation::FIRST, &first).unwrap();
        write.seal(21, &[2, 116], &mut alert).unwrap();
        (alert, Next::Refused { alert: 116 })
    });
    let mut stream = begin(&house).await;
    // A handshake record in the clear goes to the signer, too.
    stream.write_all(&[22, 3, 3, 0, 1, 11]).await.unwrap();
    let mut client = Client::new(stream, Tls13, 0);
    assert_eq!(client.receive().await, Some((21, vec![2, 116])));
    assert_eq!(client.receive().await, None);
    let continued = signer.continued.lock().unwrap().clone();
    assert_eq!(continued, [[22, 3, 3, 0, 1, 11]]);
    assert!(house.backend.try_recv().is_err());
    assert_eq!(signer.aborted.load(SeqCst), 0);
}

#[tokio::test]
async fn a_client_that_leaves_in_its_flight_is_reported() {
    let house = House::new(limits()).await;
    let signer = house.signers[0].clone();
    wants(&signer, Expect::ClientFlight, 2, Tls13);
    let part = sealed(60, 1);
    for (number, last_words) in [&[][..], &[21, 3, 3, 0, 2, 2, 42], &part, &part[..20]]
        .into_iter()
        .enumerate()
    {
        let mut stream = begin(&house).await;
        stream.write_all(last_words).await.unwrap();
        drop(stream);
        until(|| signer.aborted.load(SeqCst) == number + 1).await;
    }
}

/// What the proxy itself finds wrong behind the server's Finished has no alert: it has no key for one.
#[tokio::test]
async fn nothing_is_said_in_the_clear_behind_the_servers_finished() {
    let quick = Limits {
        handshake_timeout: Duration::from_millis(300),
        ..limits()
    };
    let house = House::new(quick).await;
    for (expect, version) in [(Expect::ClientFlight, Tls13), (Expect::Finished, Tls12)] {
        wants(&house.signers[0], expect, 1, version);
        // Slow, too long, no record.
        for bytes in [&[][..], &[23, 3, 3, 0xff, 0xff], b"GET"] {
            let mut stream = begin(&house).await;
            stream.write_all(bytes).await.unwrap();
            assert_eq!(read_to_end(&mut stream).await, b"", "{expect:?} {bytes:?}");
        }
    }
}

#[tokio::test]
async fn a_tls_12_flight_with_a_certificate_takes_one_call() {
    let mut house = House::new(limits()).await;
    let signer = house.signers[0].clone();
    wants(&signer, Expect::KeyExchange, 1, Tls12);
    let mut stream = begin(&house).await;
    let handshake = |message: u8, len: usize| {
        let mut record = vec![22, 3, 3, (len >> 8) as u8, len as u8, message];
        record.resize(5 + len, 0);
        record
    };
    let flight = [
        &handshake(11, 9000)[..],
        &handshake(16, 70),
        &handshake(15, 264),
        CHANGE,
        &handshake(9, 40),
    ]
    .concat();
    stream.write_all(&flight).await.unwrap();
    let mut client = Client::tls12(stream);
    let mut backend = house.backend.recv().await.unwrap();
    exchanges(&mut client, &mut backend).await;
    assert_eq!(*signer.continued.lock().unwrap(), [flight]);
}

#[tokio::test]
async fn a_resumed_tls_12_session_takes_a_change_and_a_finished() {
    let mut house = House::new(limits()).await;
    let signer = house.signers[0].clone();
    wants(&signer, Expect::Finished, 1, Tls12);
    let stream = begin(&house).await;
    let flight = [CHANGE, &[22, 3, 3, 0, 2, 9, 9]].concat();
    let mut client = Client::tls12(stream);
    let mut data = Vec::new();
    client.write.seal(23, b"at once", &mut data).unwrap();
    let sent = [&flight[..], &data].concat();
    client.stream.write_all(&sent).await.unwrap();
    let mut backend = house.backend.recv().await.unwrap();
    let mut got = [0; 7];
    backend.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"at once");
    assert_eq!(*signer.continued.lock().unwrap(), [flight]);
    exchanges(&mut client, &mut backend).await;
}

#[tokio::test]
async fn a_resumed_finished_may_come_in_pieces() {
    let mut house = House::new(limits()).await;
    let signer = house.signers[0].clone();
    wants(&signer, Expect::Finished, 2, Tls12);
    let mut stream = begin(&house).await;
    let first = [CHANGE, &[22, 3, 3, 0, 1, 9]].concat();
    let second = vec![22, 3, 3, 0, 1, 9];
    let sent = [&first[..], &second].concat();
    stream.write_all(&sent).await.unwrap();
    house.backend.recv().await.unwrap();
    assert_eq!(*signer.continued.lock().unwrap(), [first, second]);
}
