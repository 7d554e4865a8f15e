//! Tickets through a whole proxy: first on the wire, counted by the key, and never beside a refusal.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::sync::atomic::Ordering::SeqCst;

use keyhaven_proxy::{
    config::ProxyProtocol,
    record::{Generation, ReadKey},
};
use keyhaven_types::{TlsVersion, alert};
use support::{
    Client, House, TO_CLIENT, VERIFY_DATA, client_hello, handshake_record, key, limits,
    read_flight, read_to_end, until,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

fn ticket(number: u8) -> Option<(u8, Vec<u8>)> {
    Some((22, vec![4, 0, 0, 1, number]))
}

/// Reads what the proxy sends record by record, each under the next number: a number that was used before, or left
/// out, opens nothing.
#[tokio::test]
async fn tickets_come_first_and_the_next_record_has_the_next_number() {
    for count in 0..4 {
        let mut house = House::new(limits()).await;
        house.signers[0].tickets.store(count.into(), SeqCst);
        let (mut client, mut backend) = house.established().await;
        // The backend speaks before the client has read anything.
        backend.write_all(&[7; 40_000]).await.unwrap();
        for number in 0..count {
            assert_eq!(client.receive().await, ticket(number));
        }
        assert_eq!(client.receive_exactly(40_000).await, [7; 40_000]);
        assert!(client.read.records() > u64::from(count));
        // The next key begins at nought again.
        client.send(22, &[24, 0, 0, 1, 1]).await;
        client.switch_write(1);
        assert_eq!(client.receive().await, Some((22, vec![24, 0, 0, 1, 0])));
        client.switch_read(1);
        backend.write_all(b"under the next key").await.unwrap();
        let data = client.receive_exactly(18).await;
        assert_eq!(data, b"under the next key");
        client.send_data(b"up").await;
        let mut got = [0; 2];
        backend.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"up");
    }
}

#[tokio::test]
async fn a_quiet_backend_holds_no_ticket_back() {
    let mut house = House::new(limits()).await;
    house.signers[0].tickets.store(2, SeqCst);
    let (mut client, _backend) = house.established().await;
    assert_eq!(client.receive().await, ticket(0));
    assert_eq!(client.receive().await, ticket(1));
}

#[tokio::test]
async fn an_alert_about_the_backend_comes_behind_the_tickets() {
    let house = House::with(limits(), 1, ProxyProtocol::None, false).await;
    house.signers[0].tickets.store(2, SeqCst);
    let mut client = Client::finish(house.connect().await, &VERIFY_DATA).await;
    assert_eq!(client.receive().await, ticket(0));
    assert_eq!(client.receive().await, ticket(1));
    let alert = client.receive().await;
    assert_eq!(alert, Some((21, vec![2, alert::INTERNAL_ERROR])));
    assert_eq!(client.receive().await, None);
}

/// The refusal has number 0, as the first ticket would: only one of them may ever be on the wire.
#[tokio::test]
async fn a_refused_finished_gets_the_alert_and_no_ticket() {
    let wrong = [&[20, 0, 0, 32][..], &[0x5b; 32]].concat();
    let too_long = [&[20, 0, 0, 32][..], &VERIFY_DATA, &[0]].concat();
    for (finished, alert) in [
        (wrong, alert::DECRYPT_ERROR),
        (too_long, alert::UNEXPECTED_MESSAGE),
    ] {
        let mut house = House::new(limits()).await;
        house.signers[0].tickets.store(2, SeqCst);
        let mut stream = house.connect().await;
        stream.write_all(&client_hello()).await.unwrap();
        read_flight(&mut stream).await;
        stream
            .write_all(&handshake_record(22, &finished))
            .await
            .unwrap();
        let mut sent = read_to_end(&mut stream).await;
        let first = key(TO_CLIENT, 0);
        let mut read = ReadKey::new(TlsVersion::Tls13, Generation::FIRST, &first).unwrap();
        // Opens as one record, so there is nothing else.
        let opened = read.open(&mut sent).unwrap();
        assert_eq!(opened.content_type, 21);
        assert_eq!(sent[opened.plaintext], [2, alert]);
        assert!(house.backend.try_recv().is_err());
    }
}

#[tokio::test]
async fn tickets_that_the_key_does_not_count_are_the_signers_fault() {
    let mut house = House::new(limits()).await;
    let signer = house.signers[0].clone();
    signer.tickets.store(1, SeqCst);
    signer.spoils_box.store(true, SeqCst);
    let mut client = Client::finish(house.connect().await, &VERIFY_DATA).await;
    let end = client.receive().await;
    assert_eq!(end, Some((21, vec![2, alert::INTERNAL_ERROR])));
    assert_eq!(client.receive().await, None);
    assert_eq!(*signer.refused.lock().unwrap(), [alert::INTERNAL_ERROR]);
    assert!(house.backend.try_recv().is_err());
    assert_eq!(signer.proven.load(SeqCst), 0);
    // The box itself is right when it is not spoilt.
    signer.spoils_box.store(false, SeqCst);
    let (mut client, _backend) = house.established().await;
    assert_eq!(client.receive().await, ticket(0));
    until(|| signer.proven.load(SeqCst) == 1).await;
}
