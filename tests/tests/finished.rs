//! A client proves itself by its Finished, or it gets the right alert and nothing else.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io::Write;

use keyhaven_tests::http::get;
use keyhaven_tests::rawtls::{
    ALERT, APPLICATION_DATA, CHANGE_CIPHER_SPEC, Client12, Client13, HANDSHAKE, Hello,
    handshake_message, record,
};
use keyhaven_tests::running::Site;
use keyhaven_tests::site::{NAME, site};

const UNEXPECTED_MESSAGE: u8 = 10;
const BAD_RECORD_MAC: u8 = 20;
const DECODE_ERROR: u8 = 50;
const DECRYPT_ERROR: u8 = 51;

/// Runs a TLS 1.3 handshake up to the server's Finished, sends what `spoil` makes of it, then a request, and gives
/// the alert that comes back.
fn refusal13(site: &Site, suite: u16, spoil: impl FnOnce(&mut Client13) -> Vec<u8>) -> Option<u8> {
    let hello = Hello {
        suites: vec![suite],
        ..Hello::tls13(NAME)
    };
    let mut client = Client13::connect(site.address(), &hello).unwrap();
    let bytes = spoil(&mut client);
    client.stream.write_all(&bytes).unwrap();
    client.use_application_write_key();
    let request = client.write.seal(APPLICATION_DATA, &get("/"));
    // The proxy may have closed by now.
    let _ = client.stream.write_all(&request);
    let end = client.receive().unwrap_err();
    end.alert().or_else(|| panic!("no alert: {end}"))
}

#[test]
fn every_malformed_finished_of_tls13_meets_its_alert_and_reaches_no_backend() {
    let site = site("EC:prime256v1").start();
    let message = |body: &[u8]| handshake_message(20, body);
    for suite in [0x1301, 0x1302, 0x1303] {
        let seal = |client: &mut Client13, bytes: &[u8]| client.write.seal(HANDSHAKE, bytes);
        let wrong = refusal13(&site, suite, |client| {
            let mut verify_data = client.verify_data().to_vec();
            verify_data[7] ^= 1;
            seal(client, &message(&verify_data))
        });
        assert_eq!(wrong, Some(DECRYPT_ERROR), "one bit is wrong");
        let zeros = refusal13(&site, suite, |client| {
            let zeros = vec![0; client.verify_data().len()];
            seal(client, &message(&zeros))
        });
        assert_eq!(zeros, Some(DECRYPT_ERROR), "zeros");
        let short = refusal13(&site, suite, |client| {
            let verify_data = client.verify_data().to_vec();
            seal(client, &message(&verify_data[1..]))
        });
        assert_eq!(short, Some(DECODE_ERROR), "a byte too short");
        let long = refusal13(&site, suite, |client| {
            let verify_data = [client.verify_data(), &[0]].concat();
            seal(client, &message(&verify_data))
        });
        assert_eq!(long, Some(DECODE_ERROR), "a byte too long");
        let empty = refusal13(&site, suite, |client| seal(client, &message(&[])));
        assert_eq!(empty, Some(DECODE_ERROR), "no verify_data");
        let other = refusal13(&site, suite, |client| {
            let verify_data = client.verify_data().to_vec();
            seal(client, &handshake_message(15, &verify_data))
        });
        assert_eq!(other, Some(UNEXPECTED_MESSAGE), "another message");
        let update = refusal13(&site, suite, |client| {
            let both = [client.finished(), handshake_message(24, &[0])].concat();
            seal(client, &both)
        });
        assert_eq!(
            update,
            Some(UNEXPECTED_MESSAGE),
            "a KeyUpdate in the Finished's record"
        );
        let twice = refusal13(&site, suite, |client| {
            let finished = client.finished();
            seal(client, &[finished.as_slice(), &finished].concat())
        });
        assert_eq!(twice, Some(UNEXPECTED_MESSAGE), "two in one record");
        let data = refusal13(&site, suite, |client| {
            client.write.seal(APPLICATION_DATA, &get("/"))
        });
        assert_eq!(data, Some(UNEXPECTED_MESSAGE), "data before Finished");
        let nothing = refusal13(&site, suite, |client| seal(client, &[]));
        assert_eq!(
            nothing,
            Some(UNEXPECTED_MESSAGE),
            "an empty handshake record"
        );
        let clear = refusal13(&site, suite, |client| record(HANDSHAKE, &client.finished()));
        assert_eq!(clear, Some(UNEXPECTED_MESSAGE), "a Finished in the clear");
        let garbled = refusal13(&site, suite, |client| {
            let finished = client.finished();
            let mut record = seal(client, &finished);
            *record.last_mut().unwrap() ^= 1;
            record
        });
        assert_eq!(
            garbled,
            Some(BAD_RECORD_MAC),
            "a record that does not decrypt"
        );
    }
    assert_eq!(
        (site.backend().connections(), site.backend().received()),
        (0, 0)
    );
}

#[test]
fn every_wrong_second_flight_of_tls12_meets_its_alert_and_reaches_no_backend() {
    let site = site("EC:prime256v1").start();
    let alert = |spoil: &dyn Fn(&mut Client12) -> Vec<u8>| {
        let mut client = Client12::connect(site.address(), &Hello::tls12(NAME)).unwrap();
        let mut bytes = spoil(&mut client);
        bytes.extend(client.write.seal(APPLICATION_DATA, &get("/")));
        client.stream.write_all(&bytes).unwrap();
        let end = client.receive().unwrap_err();
        end.alert().or_else(|| panic!("no alert: {end}"))
    };
    let wrong = alert(&|client| {
        let mut finished = client.finished();
        finished[6] ^= 1;
        client.second_flight(&finished)
    });
    assert_eq!(wrong, Some(DECRYPT_ERROR), "one bit is wrong");
    let garbled = alert(&|client| {
        let finished = client.finished();
        let mut flight = client.second_flight(&finished);
        *flight.last_mut().unwrap() ^= 1;
        flight
    });
    assert_eq!(
        garbled,
        Some(BAD_RECORD_MAC),
        "a record that does not decrypt"
    );
    let twice = alert(&|client| {
        let finished = client.finished();
        [client.key_exchange(), client.second_flight(&finished)].concat()
    });
    assert_eq!(twice, Some(UNEXPECTED_MESSAGE), "two ClientKeyExchanges");
    let point = alert(&|_| {
        let body = [&[65, 4], [7; 64].as_slice()].concat();
        [
            record(HANDSHAKE, &handshake_message(16, &body)),
            record(CHANGE_CIPHER_SPEC, &[1]),
            record(HANDSHAKE, &[0; 40]),
        ]
        .concat()
    });
    assert_eq!(
        point,
        Some(47),
        "a point that is not on the curve: illegal_parameter"
    );
    assert_eq!(
        (site.backend().connections(), site.backend().received()),
        (0, 0)
    );
}

#[test]
fn no_keys_of_tls12_leave_for_a_wrong_finished() {
    let site = site("EC:prime256v1")
        .relay(keyhaven_tests::relay::pass())
        .start();
    for _ in 0..20 {
        let mut client = Client12::connect(site.address(), &Hello::tls12(NAME)).unwrap();
        let flight = client.second_flight(&handshake_message(20, &[3; 12]));
        client.stream.write_all(&flight).unwrap();
        assert_eq!(client.receive().unwrap_err().alert(), Some(DECRYPT_ERROR));
    }
    let frames = site.relay.as_ref().unwrap().recorded();
    for (_, reply) in frames
        .iter()
        .filter_map(|frame| keyhaven_tests::relay::decode(frame))
    {
        if let keyhaven_wire::Reply::Handshake(reply) = reply {
            assert!(
                !matches!(reply.next, keyhaven_wire::Next::Open(_)),
                "keys left"
            );
        }
    }
}

#[test]
fn an_alert_of_the_client_ends_the_handshake_without_a_backend() {
    let site = site("EC:prime256v1").start();
    // bad_certificate, once in the clear and once under the handshake key.
    let mut client = Client13::connect(site.address(), &Hello::tls13(NAME)).unwrap();
    client.stream.write_all(&record(ALERT, &[2, 42])).unwrap();
    client.receive().unwrap_err();
    let mut client = Client13::connect(site.address(), &Hello::tls13(NAME)).unwrap();
    client.send(ALERT, &[2, 42]).unwrap();
    client.receive().unwrap_err();
    site.proxy
        .wait_for("the end of both", |line| line.to_string().contains("42"));
    assert_eq!(site.backend().connections(), 0);
}

#[test]
fn a_proxy_that_does_not_check_still_cannot_serve() {
    let site = site("EC:prime256v1")
        .program("proxy-danger-skip-finished-check")
        .start();
    let mut client = Client13::connect(site.address(), &Hello::tls13(NAME)).unwrap();
    client
        .send(HANDSHAKE, &handshake_message(20, &[0; 32]))
        .unwrap();
    client.use_application_write_key();
    let _ = client.send(APPLICATION_DATA, &get("/"));
    site.proxy.wait_for_text("going on without the Finished");
    // Whatever it sends is not under the application key, and what it is sent it cannot read.
    let end = client.receive();
    assert!(end.is_err(), "it could write application data: {end:?}");
    site.proxy.wait_for_text("connection ended");
    assert_eq!(
        site.backend().received(),
        0,
        "it could read application data"
    );
    // The same build with a right Finished does serve, so it is the lock that held.
    let mut client = Client13::established(site.address(), &Hello::tls13(NAME)).unwrap();
    client.ask().unwrap();
}

#[test]
fn a_thousand_client_hellos_without_finished_prove_nothing() {
    let mut site = site("EC:prime256v1").start();
    for count in 0..1_000 {
        let mut client = Client13::connect(site.address(), &Hello::tls13(NAME)).unwrap();
        // Some go without a word, some send a wrong Finished.
        if count % 4 == 0 {
            client
                .send(HANDSHAKE, &handshake_message(20, &[0; 32]))
                .unwrap();
            assert_eq!(client.receive().unwrap_err().alert(), Some(DECRYPT_ERROR));
        }
    }
    let mut client = Client13::established(site.address(), &Hello::tls13(NAME)).unwrap();
    client.ask().unwrap();
    drop(client);
    site.proxy.stop();
    let counter = site.signer_counters();
    assert_eq!(counter("released"), 1_001);
    assert_eq!(counter("proven"), 1, "the one that was");
    assert_eq!(counter("aborted"), 1_000);
}
