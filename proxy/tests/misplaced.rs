//! Signers that give keys, or want flights, at the wrong moment: nothing comes of it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::sync::atomic::Ordering::SeqCst;

use keyhaven_types::{
    TlsVersion::{Tls12, Tls13},
    alert,
};
use keyhaven_wire::{Expect, Next};
use support::{
    FLIGHT, House, Step, client_hello,
    flights::{CHANGE, begin, sealed},
    limits, open, read_to_end,
};
use tokio::io::AsyncWriteExt as _;

/// What the client sends so that each flight is whole, whichever it is.
fn any_flight(expect: Expect) -> Vec<u8> {
    match expect {
        Expect::ClientHello => client_hello(),
        Expect::ClientFlight => sealed(60, 1),
        Expect::KeyExchange | Expect::Finished => [CHANGE, &[22, 3, 3, 0, 1, 9]].concat(),
    }
}

/// What the client hears behind the first flight when the signer wants `expect` and then does something else.
async fn answer_after(
    house: &House,
    expect: Expect,
    then: impl Fn(&Step<'_>) -> Next + Send + 'static,
) -> Vec<u8> {
    house.signers[0].plan(move |step| match step.number {
        0 => (FLIGHT.to_vec(), Next::More(expect)),
        // Must not be sent before it is known to be in its place.
        _ => (FLIGHT.to_vec(), then(step)),
    });
    let mut stream = begin(house).await;
    stream.write_all(&any_flight(expect)).await.unwrap();
    let answer = read_to_end(&mut stream).await;
    assert_eq!(house.signers[0].continued.lock().unwrap().len(), 1);
    house.signers[0].continued.lock().unwrap().clear();
    answer
}

#[tokio::test]
async fn keys_on_the_wrong_path_are_never_used() {
    let mut house = House::new(limits()).await;
    for (expect, version) in [
        (Expect::ClientHello, Tls13),
        (Expect::ClientHello, Tls12),
        (Expect::KeyExchange, Tls13),
        (Expect::Finished, Tls13),
        (Expect::ClientFlight, Tls12),
    ] {
        let answer = answer_after(&house, expect, move |step| open(step.signer, version)).await;
        let expected = match expect {
            Expect::ClientHello | Expect::KeyExchange => {
                &[21, 3, 3, 0, 2, 2, alert::INTERNAL_ERROR][..]
            }
            // The client could not read an alert of the proxy's.
            Expect::ClientFlight | Expect::Finished => &[],
        };
        assert_eq!(answer, expected, "{expect:?} {version}");
    }
    for expect in [Expect::KeyExchange, Expect::Finished, Expect::ClientFlight] {
        answer_after(&house, expect, |step| step.locked()).await;
    }
    assert!(house.backend.try_recv().is_err());
    assert_eq!(house.signers[0].proven.load(SeqCst), 0);
}

#[tokio::test]
async fn keys_in_the_first_answer_are_never_used() {
    for version in [Tls12, Tls13] {
        let mut house = House::new(limits()).await;
        house.signers[0].plan(move |step| (FLIGHT.to_vec(), open(step.signer, version)));
        let mut stream = house.connect().await;
        stream.write_all(&client_hello()).await.unwrap();
        let answer = read_to_end(&mut stream).await;
        assert_eq!(answer, [21, 3, 3, 0, 2, 2, alert::INTERNAL_ERROR]);
        assert!(house.backend.try_recv().is_err());
    }
}

#[tokio::test]
async fn a_flight_that_cannot_come_is_not_waited_for() {
    let house = House::new(limits()).await;
    for (expect, then) in [
        (Expect::ClientHello, Expect::ClientHello),
        (Expect::KeyExchange, Expect::ClientFlight),
        (Expect::KeyExchange, Expect::ClientHello),
        (Expect::ClientFlight, Expect::KeyExchange),
        (Expect::Finished, Expect::KeyExchange),
    ] {
        let answer = answer_after(&house, expect, move |_| Next::More(then)).await;
        assert!(!answer.starts_with(FLIGHT), "{expect:?} {then:?}");
    }
}
