//! Messages between proxy and signer that are altered, swapped, forged or sent again.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io::Write;
use std::sync::Mutex;
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::Duration;

use keyhaven_tests::channel::Caller;
use keyhaven_tests::pki::Flaw;
use keyhaven_tests::rawtls::{Client12, Client13, Hello};
use keyhaven_tests::relay::{Frame, Rule};
use keyhaven_tests::site::{NAME, site};
use keyhaven_wire::{Continue, ErrorCode, HandshakeId, Next, Outcome, Reply, Request, Start};

#[test]
fn s10_an_altered_client_hello_gives_the_client_nothing_to_believe() {
    // One bit of the client's random is another at the signer: the proxy must see that the answer is to another
    // question, and send nothing of it.
    let rule: Rule = Box::new(|mut frame| {
        if let Frame::ToSigner(_, Request::Start(start)) = &mut frame {
            start.records[5 + 4 + 2] ^= 1;
        }
        vec![frame]
    });
    let site = site("EC:prime256v1").relay(rule).start();
    let end = Client13::connect(site.address(), &Hello::tls13(NAME)).unwrap_err();
    assert_eq!(end.alert(), Some(80), "internal_error: {end}");
}

#[test]
fn swapped_replies_give_nobody_anothers_keys() {
    let held = Mutex::new(Vec::<(u64, Reply)>::new());
    let rule: Rule = Box::new(move |frame| match frame {
        Frame::ToProxy(id, reply @ Reply::Handshake(_)) => {
            let mut held = held.lock().unwrap();
            held.push((id, reply));
            if held.len() < 2 {
                return Vec::new();
            }
            let (second_id, second) = held.pop().unwrap();
            let (first_id, first) = held.pop().unwrap();
            vec![
                Frame::ToProxy(first_id, second),
                Frame::ToProxy(second_id, first),
            ]
        }
        frame => vec![frame],
    });
    let site = site("EC:prime256v1").relay(rule).start();
    let address = site.address();
    let other = thread::spawn(move || Client13::connect(address, &Hello::tls13(NAME)).map(drop));
    let ours = Client13::connect(address, &Hello::tls13(NAME)).map(drop);
    for end in [ours, other.join().unwrap()] {
        assert_eq!(
            end.unwrap_err().alert(),
            Some(80),
            "internal_error, and no byte of a flight"
        );
    }
    assert_eq!(site.backend().connections(), 0);
}

#[test]
fn an_altered_box_stays_shut() {
    let rule: Rule = Box::new(|mut frame| {
        if let Frame::ToProxy(_, Reply::Handshake(reply)) = &mut frame
            && let Next::Locked(locked) = &mut reply.next
        {
            locked.sealed_box[9] ^= 1;
        }
        vec![frame]
    });
    let site = site("EC:prime256v1").relay(rule).start();
    let mut client = Client13::established(site.address(), &Hello::tls13(NAME)).unwrap();
    assert_eq!(client.ask().unwrap_err().alert(), Some(51));
    assert_eq!(site.backend().connections(), 0);
}

#[test]
fn a_forged_outcome_proves_nothing() {
    let rule: Rule = Box::new(|mut frame| {
        if let Frame::ToSigner(
            _,
            Request::Outcome(Outcome {
                proof: Some(proof), ..
            }),
        ) = &mut frame
        {
            proof[0] ^= 1;
        }
        vec![frame]
    });
    let mut site = site("EC:prime256v1").relay(rule).start();
    let mut client = Client13::established(site.address(), &Hello::tls13(NAME)).unwrap();
    client.ask().unwrap();
    site.signer.wait_for("an alarm", |line| {
        line.to_string().to_lowercase().contains("proof")
    });
    let counter = site.signer_counters();
    assert_eq!(
        (counter("released"), counter("proven"), counter("forged")),
        (1, 0, 1)
    );
}

#[test]
fn call_two_is_heard_on_its_own_connection_and_once() {
    let (tell, told) = sync_channel(4);
    let (answer, answers) = sync_channel(4);
    let rule: Rule = Box::new(move |frame| match frame {
        Frame::ToSigner(_, Request::Continue(_)) => {
            let _ = tell.try_send(frame);
            Vec::new()
        }
        Frame::ToProxy(_, Reply::Error(code)) => {
            let _ = answer.try_send(code);
            Vec::new()
        }
        frame => vec![frame],
    });
    let site = site("EC:prime256v1").relay(rule).start();
    let mut client = Client12::connect(site.address(), &Hello::tls12(NAME)).unwrap();
    let finished = client.finished();
    let flight = client.second_flight(&finished);
    client.stream.write_all(&flight).unwrap();
    let frame = told.recv().unwrap();
    let Frame::ToSigner(_, Request::Continue(go_on)) = &frame else {
        panic!("{frame:?}")
    };

    // The same identity on another connection and another identity, with the right name of the handshake, and with one
    // that is not.
    let identity = "spiffe://keyhaven.test/proxy/edge-2";
    let stranger = site
        .parts
        .channel_ca
        .identity("other", identity, Flaw::None);
    for pair in [&site.parts.proxy_pair, &stranger] {
        let mut other = Caller::connect(site.signer_address(), Some(pair));
        for handshake in [go_on.handshake, HandshakeId([9; 32])] {
            let stolen = Continue {
                handshake,
                records: go_on.records.clone(),
            };
            let reply = other.call(&Request::Continue(stolen)).unwrap();
            assert!(
                matches!(reply, Reply::Error(ErrorCode::UnknownHandshake)),
                "{reply:?}"
            );
        }
    }
    // On its own connection it still is what it was, once.
    let relay = site.relay.as_ref().unwrap();
    relay.inject(&frame);
    client.receive().unwrap();
    let once_more = site.shim().report();
    relay.inject(&frame.duplicate());
    assert_eq!(
        answers.recv_timeout(Duration::from_secs(20)),
        Ok(ErrorCode::UnknownHandshake)
    );
    assert_eq!(
        site.shim().report().calls_since(&once_more),
        "",
        "the token was asked for a used handshake"
    );
}

#[test]
fn a_wrong_continue_uses_the_handshake_up() {
    let site = site("EC:prime256v1").start();
    let mut caller = Caller::connect(site.signer_address(), Some(&site.parts.proxy_pair));
    let hello = Hello::tls12(NAME);
    let start = Start {
        handshake: HandshakeId([3; 32]),
        client: "127.0.0.1:1".to_owned(),
        records: hello.record(&[4; 65]),
    };
    let reply = caller.call(&Request::Start(start)).unwrap();
    assert!(
        matches!(&reply, Reply::Handshake(reply) if matches!(reply.next, Next::More(_))),
        "{reply:?}"
    );
    let wrong = || {
        let body = [&[65, 4], [7; 64].as_slice()].concat();
        let message = keyhaven_tests::rawtls::handshake_message(16, &body);
        let records = keyhaven_tests::rawtls::record(22, &message);
        Request::Continue(Continue {
            handshake: HandshakeId([3; 32]),
            records,
        })
    };
    let first = caller.call(&wrong()).unwrap();
    assert!(
        matches!(&first, Reply::Handshake(reply) if matches!(reply.next, Next::Refused { .. })),
        "{first:?}"
    );
    let second = caller.call(&wrong()).unwrap();
    assert!(
        matches!(second, Reply::Error(ErrorCode::UnknownHandshake)),
        "{second:?}"
    );
}
