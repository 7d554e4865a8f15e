//! Signers of a host name are found by lookup, taken by time, left when they are slow or gone, and come back.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::{
    collections::HashMap,
    sync::atomic::Ordering::SeqCst,
    time::{Duration, Instant},
};

use keyhaven_proxy::config::LookupSection;
use keyhaven_wire::{ErrorCode, kms::Server};
use support::{Client, House, VERIFY_DATA, until};

const NAME: &str = "shop.test";
const PATIENCE: Duration = Duration::from_secs(30);

fn section() -> LookupSection {
    LookupSection {
        servers_max: 4,
        refresh: Duration::from_millis(100),
    }
}

/// Every signer says that these serve the name.
fn named(house: &House, servers: &[Server]) {
    for signer in &house.signers {
        let served = HashMap::from([(NAME.to_owned(), servers.to_vec())]);
        *signer.served.lock().unwrap() = Some(served);
    }
}

/// One handshake for the name; which signer it began with.
async fn handshake(house: &mut House, name: &str) -> usize {
    let starts = |house: &House| -> Vec<usize> {
        let signers = house.signers.iter();
        signers.map(|signer| signer.starts.load(SeqCst)).collect()
    };
    let before = starts(house);
    let _client = Client::finish_for(house.connect().await, name, &VERIFY_DATA).await;
    house.backend.recv().await.unwrap();
    let after = starts(house);
    let mut asked = (0..before.len()).filter(|at| after[*at] > before[*at]);
    let begun = asked.next().unwrap();
    assert_eq!(asked.next(), None, "one begins it");
    begun
}

async fn until_served_by(house: &mut House, signer: usize) {
    let begin = Instant::now();
    while handshake(house, NAME).await != signer {
        assert!(begin.elapsed() < PATIENCE, "not served by {signer}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn l1_a_signer_that_no_file_names_is_found_and_serves_its_first_name_at_once() {
    let mut house = House::finding(1, 2, section()).await;
    named(&house, &[house.server(1, 500)]);
    assert_eq!(handshake(&mut house, NAME).await, 1);
    assert_eq!(handshake(&mut house, "Shop.TEST").await, 1);
    // Names that nobody serves, and clients without one, go to the configured signer.
    assert_eq!(handshake(&mut house, "other.test").await, 0);
    house.established().await;
    assert_eq!(house.signers[0].starts.load(SeqCst), 2);
}

#[tokio::test]
async fn l3_the_estimate_decides_until_the_proxy_has_measured_itself() {
    let mut house = House::finding(1, 3, section()).await;
    named(&house, &[house.server(1, 100), house.server(2, 400)]);
    house.signers[1].start_ms.store(200, SeqCst);
    until_both_connected(&mut house).await;
    // From here on the measure counts: signer 1 is the slower one, whatever it is said to be.
    until_served_by(&mut house, 2).await;
    for _ in 0..5 {
        assert_eq!(handshake(&mut house, NAME).await, 2);
    }
}

/// Until signer 1 was used once; by then signer 2 has had the same time to connect.
async fn until_both_connected(house: &mut House) {
    until_served_by(house, 1).await;
}

#[tokio::test]
async fn m7_a_signer_that_is_gone_is_left_at_once_and_used_again_when_it_is_back() {
    let mut house = House::finding(1, 3, section()).await;
    named(&house, &[house.server(1, 1), house.server(2, 60_000_000)]);
    until_served_by(&mut house, 1).await;
    house.stop_signer(1).await;
    // No client notices, and the configured one is not asked for a name that it does not serve.
    for _ in 0..3 {
        assert_eq!(handshake(&mut house, NAME).await, 2);
    }
    named(&house, &[house.server(1, 1)]);
    house.restart_signer(1).await;
    until_served_by(&mut house, 1).await;
    assert_eq!(house.signers[0].starts.load(SeqCst), 0);
}

#[tokio::test]
async fn m7_a_signer_that_cannot_is_followed_by_the_next_one_and_then_left_alone() {
    let mut house = House::finding(1, 2, section()).await;
    named(&house, &[house.server(1, 1), house.server(0, 60_000_000)]);
    house.signers[0].start_ms.store(100, SeqCst);
    until_served_by(&mut house, 1).await;
    *house.signers[1].start_error.lock().unwrap() = Some(ErrorCode::Busy);
    let starts = |house: &House, signer: usize| house.signers[signer].starts.load(SeqCst);
    let (before, refused) = (starts(&house, 0), starts(&house, 1));
    for _ in 0..5 {
        let client = Client::finish_for(house.connect().await, NAME, &VERIFY_DATA).await;
        house.backend.recv().await.unwrap();
        drop(client);
    }
    assert_eq!(starts(&house, 0), before + 5);
    assert_eq!(starts(&house, 1), refused + 1);
    *house.signers[1].start_error.lock().unwrap() = None;
    until_served_by(&mut house, 1).await;
}

#[tokio::test]
async fn a_signer_without_managed_keys_serves_as_before() {
    let mut house = House::finding(2, 2, section()).await;
    assert_eq!(handshake(&mut house, NAME).await, 0);
    assert_eq!(handshake(&mut house, NAME).await, 0);
    house.stop_signer(0).await;
    assert_eq!(handshake(&mut house, NAME).await, 1);
}

#[tokio::test]
async fn nobody_is_connected_to_who_is_no_signer_of_the_same_trust_domain() {
    let mut house = House::finding(1, 2, section()).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut foreign = house.server(1, 1);
    foreign.address = listener.local_addr().unwrap().to_string();
    foreign.identity = "spiffe://elsewhere.test/signer/1".parse().unwrap();
    let mut client = foreign.clone();
    client.identity = "spiffe://keyhaven.test/client/1".parse().unwrap();
    named(&house, &[foreign, client]);
    assert_eq!(handshake(&mut house, NAME).await, 0);
    // A handshake for a name whose signers are new waits for them: who would connect has done so by now.
    let connected = tokio::time::timeout(Duration::from_millis(20), listener.accept()).await;
    assert!(connected.is_err(), "it was connected to");
}

#[tokio::test]
async fn l8_a_signer_that_says_it_cannot_serve_comes_behind_those_that_can() {
    let mut house = House::finding(1, 3, section()).await;
    house.signers[1].is_sick.store(true, SeqCst);
    named(&house, &[house.server(1, 1), house.server(2, 60_000_000)]);
    until_served_by(&mut house, 2).await;
    let sick = house.signers[1].clone();
    until(|| sick.pings.load(SeqCst) > 0).await;
    for _ in 0..10 {
        assert_eq!(handshake(&mut house, NAME).await, 2);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn connections_to_learned_signers_are_bounded() {
    let mut section = section();
    section.servers_max = 1;
    let mut house = House::finding(1, 3, section).await;
    named(&house, &[house.server(1, 400), house.server(2, 1)]);
    // There is room for the first only, however fast the other one is said to be.
    for _ in 0..3 {
        assert_eq!(handshake(&mut house, NAME).await, 1);
    }
}

#[tokio::test]
async fn l4_an_answer_is_used_again_and_refreshed_beside_the_handshakes() {
    let mut section = section();
    section.refresh = Duration::from_secs(3600);
    let mut house = House::finding(1, 2, section).await;
    named(&house, &[house.server(1, 1)]);
    for _ in 0..5 {
        assert_eq!(handshake(&mut house, NAME).await, 1);
    }
    assert_eq!(house.signers[0].lookups.load(SeqCst), 1);

    let mut house = House::finding(1, 2, self::section()).await;
    named(&house, &[house.server(1, 1)]);
    assert_eq!(handshake(&mut house, NAME).await, 1);
    named(&house, &[house.server(0, 1)]);
    until_served_by(&mut house, 0).await;
    // A stopped signer that was the only one to ask: the old answer goes on.
    house.stop_signer(1).await;
    let first = house.signers[0].clone();
    let before = first.lookups.load(SeqCst);
    while first.lookups.load(SeqCst) == before {
        assert_eq!(handshake(&mut house, NAME).await, 0);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    until(|| first.lookups.load(SeqCst) > before).await;
}
