//! The session between client and backend: who chooses what, who decrypts what, and that no byte is lost.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io::{Read, Write};
use std::thread;

use keyhaven_tests::backend::{Manner, pattern, sha256};
use keyhaven_tests::clients::{curl, python, run};
use keyhaven_tests::http::{GREETING, exchange, get, post, read_answer};
use keyhaven_tests::rawtls::{APPLICATION_DATA, Client12, Client13, Hello};
use keyhaven_tests::relay::{decode, pass};
use keyhaven_tests::running::Site;
use keyhaven_tests::rustls_client::{Offer, connect};
use keyhaven_tests::site::{NAME, site};
use keyhaven_wire::{Expect, HandshakeReply, Next, Reply};
use rustls::version::{TLS12, TLS13};

/// The signer's handshake replies, in order.
fn replies(site: &Site) -> Vec<HandshakeReply> {
    let frames = site.relay.as_ref().unwrap().recorded();
    let replies = frames.iter().filter_map(|frame| decode::<Reply>(frame));
    replies
        .filter_map(|(_, reply)| {
            if let Reply::Handshake(reply) = reply {
                Some(reply)
            } else {
                None
            }
        })
        .collect()
}

#[test]
fn s1_the_signers_flight_reaches_the_client_unchanged() {
    let site = site("EC:prime256v1").relay(pass()).start();
    let client = Client12::connect(site.address(), &Hello::tls12(NAME)).unwrap();
    let kinds: Vec<u8> = client
        .server_messages()
        .iter()
        .map(|(kind, _)| *kind)
        .collect();
    assert_eq!(
        kinds,
        [2, 11, 12, 14],
        "ServerHello, Certificate, ServerKeyExchange, ServerHelloDone"
    );
    let reply = &replies(&site)[0];
    assert!(
        matches!(reply.next, Next::More(Expect::KeyExchange)),
        "and no key with it: {:?}",
        reply.next
    );
    assert_eq!(reply.to_client, client.server_bytes());
}

#[test]
fn s2_keys_of_tls12_leave_only_after_the_clients_finished() {
    let site = site("EC:prime256v1").relay(pass()).start();
    let mut client = Client12::connect(site.address(), &Hello::tls12(NAME)).unwrap();
    assert_eq!(replies(&site).len(), 1);
    client.finish().unwrap();
    assert!(client.ask().unwrap().ends_with(GREETING));
    let replies = replies(&site);
    assert_eq!(replies.len(), 2);
    let Next::Open(established) = &replies[1].next else {
        panic!("no keys: {:?}", replies[1].next)
    };
    assert_eq!(
        (established.write.seq, established.read.seq),
        (1, 1),
        "each Finished used number 0, at the signer"
    );
}

#[test]
fn s3_the_proxy_moves_records_while_the_signer_stands_still() {
    let site = site("EC:prime256v1").start();
    for versions in [vec![&TLS13], vec![&TLS12]] {
        let offer = Offer {
            versions,
            ..Offer::default()
        };
        let mut stream = connect(site.address(), NAME, &site.ca(), &offer).unwrap();
        assert_eq!(exchange(&mut stream, &get("/")).unwrap(), GREETING);
        site.signer.pause();
        let body = pattern(1_000_000);
        let answer = exchange(&mut stream, &post("/echo", &body));
        site.signer.resume();
        assert_eq!(sha256(&answer.unwrap()), sha256(&body));
    }
}

#[test]
fn s8_the_signers_flight_of_tls13_reaches_the_client_unchanged() {
    let site = site("EC:prime256v1").relay(pass()).start();
    let client = Client13::connect(site.address(), &Hello::tls13(NAME)).unwrap();
    let replies = replies(&site);
    assert_eq!(replies.len(), 1, "one round trip");
    assert!(matches!(replies[0].next, Next::Locked(_)));
    assert_eq!(replies[0].to_client, client.server_bytes());
}

#[test]
fn s7_a_hundred_megabytes_up_and_down_in_both_versions() {
    let site = site("EC:prime256v1").start();
    let file = site.dir().join("upload");
    let body = pattern(100_000_000);
    std::fs::write(&file, &body).unwrap();
    let sum = sha256(&body);
    drop(body);
    for version in [&["--tlsv1.3"][..], &["--tlsv1.2", "--tls-max", "1.2"]] {
        let down = site.dir().join("download");
        let mut command = curl(NAME, site.address(), &site.ca());
        command
            .args(version)
            .arg("--output")
            .arg(&down)
            .arg(format!("https://{NAME}/bytes/100000000"));
        let got = run(&mut command, b"");
        assert!(got.status.success(), "{}", got.all());
        assert_eq!(sha256(&std::fs::read(&down).unwrap()), sum);
        let mut command = curl(NAME, site.address(), &site.ca());
        command
            .args(version)
            .arg("--data-binary")
            .arg(format!("@{}", file.display()));
        let got = run(
            command
                .args(["-H", "Expect:"])
                .arg(format!("https://{NAME}/sha256")),
            b"",
        );
        assert_eq!(got.text(), sum, "{}", got.all());
    }
}

#[test]
fn s7_both_directions_at_once() {
    let site = site("EC:prime256v1").backend(Manner::Echo).start();
    let body = pattern(20_000_000);
    let script = include_str!("python/both_ways.py");
    for version in ["TLSv1_3", "TLSv1_2"] {
        let mut command = python(script);
        command
            .arg(site.ca())
            .args([NAME, &site.address().port().to_string(), version]);
        let got = run(&mut command, &body);
        assert_eq!(got.text().trim(), sha256(&body), "{}", got.all());
    }
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let site = site("EC:prime256v1").start();
    for versions in [vec![&TLS13], vec![&TLS12]] {
        let offer = Offer {
            versions,
            ..Offer::default()
        };
        let mut stream = connect(site.address(), NAME, &site.ca(), &offer).unwrap();
        let requests: Vec<u8> = (0..200)
            .flat_map(|count| get(&format!("/bytes/{}", count * 37)))
            .collect();
        stream.write_all(&requests).unwrap();
        for count in 0..200 {
            assert_eq!(read_answer(&mut stream).unwrap(), pattern(count * 37));
        }
    }
}

#[test]
fn a_backend_that_speaks_first_is_heard() {
    let site = site("EC:prime256v1").backend(Manner::Greet).start();
    let mut stream = connect(site.address(), NAME, &site.ca(), &Offer::default()).unwrap();
    let mut line = [0; 11];
    stream.read_exact(&mut line).unwrap();
    assert_eq!(&line, b"220 hello\r\n");
}

#[test]
fn the_backend_learns_the_clients_address_by_proxy_protocol() {
    let site = site("EC:prime256v1")
        .backend(Manner::Digest)
        .proxy_options("proxy_protocol = \"v2\"")
        .start();
    let mut client = Client13::established(site.address(), &Hello::tls13(NAME)).unwrap();
    let from = client.stream.local_addr().unwrap();
    client.send(APPLICATION_DATA, b"abc").unwrap();
    client.send(21, &[1, 0]).unwrap();
    let answer = client.receive().unwrap().bytes;
    let mut expected = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x7f\0\0\x01\x7f\0\0\x01".to_vec();
    expected.extend_from_slice(&from.port().to_be_bytes());
    expected.extend_from_slice(&site.address().port().to_be_bytes());
    expected.extend_from_slice(b"abc");
    let text = format!("{} {}\n", expected.len(), sha256(&expected));
    assert_eq!(String::from_utf8_lossy(&answer), text);
}

#[test]
fn thirty_two_clients_at_once_each_get_their_own() {
    let site = site("EC:prime256v1").start();
    let (address, ca) = (site.address(), site.ca());
    let threads: Vec<_> = (0..32)
        .map(|count| {
            let ca = ca.clone();
            thread::spawn(move || {
                let mut stream = connect(address, NAME, &ca, &Offer::default()).unwrap();
                let size = 10_000 + count;
                assert_eq!(
                    exchange(&mut stream, &get(&format!("/bytes/{size}"))).unwrap(),
                    pattern(size)
                );
            })
        })
        .collect();
    threads
        .into_iter()
        .for_each(|thread| thread.join().unwrap());
}
