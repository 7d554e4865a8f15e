//! Input that no honest peer sends, at the signer's door: from the network, and from a proxy that went bad.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use keyhaven_tests::channel::Caller;
use keyhaven_tests::crowd::{
    Noise, P256_POINT, good, hello_record, knock, raise_file_limit, reset, survives,
};
use keyhaven_tests::rawtls::{HANDSHAKE, Hello, record};
use keyhaven_tests::running::Site;
use keyhaven_tests::site::{NAME, site};
use keyhaven_wire::{Continue, HandshakeId, Next, Outcome, Refuse, Rekey, Reply, Request, Start};

#[test]
fn random_bytes_at_the_signers_door() {
    let mut site = site("EC:prime256v1").start();
    survives(&mut site, |site| {
        let mut noise = Noise(0xd00d);
        for _ in 0..100 {
            let length = (noise.next() % 600) as usize;
            knock(site.signer_address(), &noise.bytes(length));
        }
        let hello = hello_record();
        for length in 0..hello.len() {
            knock(site.signer_address(), &hello[..length]);
        }
    });
}

#[test]
fn a_thousand_half_open_connections_at_the_signers_door() {
    raise_file_limit();
    let mut site = site("EC:prime256v1").start();
    survives(&mut site, |site| {
        let crowd: Vec<TcpStream> = (0..1_000)
            .map(|_| TcpStream::connect(site.signer_address()).unwrap())
            .collect();
        good(site);
        drop(crowd);
    });
}

#[test]
fn resets_at_every_stage_at_the_signers_door() {
    let mut site = site("EC:prime256v1")
        .signer_limits("pending_timeout_s = 1")
        .start();
    let before = site.shim().report();
    survives(&mut site, |site| {
        for count in 0..120 {
            reset(at_stage(site, count % 6));
        }
    });
    let made = site.shim().report().calls("C_GenerateKeyPair") - before.calls("C_GenerateKeyPair");
    assert!(made >= 20, "only {made} handshakes had begun");
    let deadline = Instant::now() + Duration::from_secs(10);
    while site.shim().report().live() > before.live() {
        assert!(
            Instant::now() < deadline,
            "{} objects are left in the token",
            site.shim().report().live()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A connection to the signer, so far on its way.
fn at_stage(site: &Site, stage: usize) -> TcpStream {
    let hello = hello_record();
    let bare = || TcpStream::connect(site.signer_address()).unwrap();
    let caller = || Caller::connect(site.signer_address(), Some(&site.parts.proxy_pair));
    let start = |records| {
        let mut handshake = [0; 32];
        handshake[..8].copy_from_slice(&UNIQUE.fetch_add(1, Relaxed).to_be_bytes());
        Request::Start(Start {
            handshake: HandshakeId(handshake),
            client: "127.0.0.1:1".to_owned(),
            records,
        })
    };
    match stage {
        0 => bare(),
        // Half of a TLS hello.
        1 => {
            let mut stream = bare();
            stream.write_all(&hello[..hello.len() / 2]).unwrap();
            stream
        }
        // The channel's own handshake is done.
        2 => {
            let mut caller = caller();
            assert!(matches!(caller.call(&Request::Ping), Ok(Reply::Pong)));
            caller.into_stream()
        }
        // Half of a frame, and a whole one that nobody waits for.
        3 | 4 => {
            let mut frame = Vec::new();
            keyhaven_wire::encode(1, &start(hello), &mut frame).unwrap();
            let length = frame.len() / (5 - stage);
            let mut caller = caller();
            caller.send(&frame[..length]).unwrap();
            caller.into_stream()
        }
        // Between Start and Continue: the token holds a key pair for it.
        _ => {
            let mut caller = caller();
            let reply = caller.call(&start(Hello::tls12(NAME).record(&[])));
            assert!(
                matches!(&reply, Ok(Reply::Handshake(reply)) if matches!(reply.next, Next::More(_))),
                "{reply:?}"
            );
            caller.into_stream()
        }
    }
}

static UNIQUE: AtomicU64 = AtomicU64::new(1);

#[test]
fn the_slow_at_the_signers_door_are_not_waited_for() {
    let mut site = site("EC:prime256v1").start();
    survives(&mut site, |site| {
        let since = Instant::now();
        let mut crowd: Vec<TcpStream> = (0..20)
            .map(|count| {
                let mut stream = TcpStream::connect(site.signer_address()).unwrap();
                stream
                    .set_read_timeout(Some(Duration::from_secs(20)))
                    .unwrap();
                stream.write_all(&hello_record()[..count]).unwrap();
                stream
            })
            .collect();
        for stream in &mut crowd {
            // Ends with the server's close; a reset says the same.
            let ended = stream.read_to_end(&mut Vec::new());
            assert!(
                ended.is_ok()
                    || ended
                        .is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset)
            );
        }
        assert!(
            since.elapsed() < Duration::from_secs(15),
            "{:?}",
            since.elapsed()
        );
    });
}

#[test]
fn frames_that_are_none_end_the_callers_connection_alone() {
    let mut site = site("EC:prime256v1").start();
    survives(&mut site, |site| {
        let caller = || Caller::connect(site.signer_address(), Some(&site.parts.proxy_pair));
        let mut ping = Vec::new();
        keyhaven_wire::encode(7, &Request::Ping, &mut ping).unwrap();
        let mut noise = Noise(0xf4a3);
        let mut frames = vec![
            vec![0; 12],
            [0xff; 12].to_vec(),
            [[0, 2, 0, 1].as_slice(), &[0; 8], &[0; 64]].concat(),
            [[0, 0, 0, 2].as_slice(), &[0; 8], &[5, 5]].concat(),
            [[0, 0, 0, 1].as_slice(), &[0; 8], &[200]].concat(),
        ];
        for _ in 0..50 {
            let payload = noise.bytes(40);
            frames.push([[0, 0, 0, 40].as_slice(), &[0; 8], &payload].concat());
        }
        for frame in &frames {
            let mut caller = caller();
            if caller.send(frame).is_ok() {
                // Some of the random ones are requests, which are answered.
                let _ = caller.receive();
            }
        }
        // A frame cut at every offset, then the end.
        for length in 0..ping.len() {
            let mut caller = caller();
            let _ = caller.send(&ping[..length]);
        }
        assert!(matches!(caller().call(&Request::Ping), Ok(Reply::Pong)));
    });
}

#[test]
fn requests_that_no_proxy_of_ours_sends() {
    let mut site = site("EC:prime256v1").start();
    survives(&mut site, |site| {
        let mut caller = Caller::connect(site.signer_address(), Some(&site.parts.proxy_pair));
        let hello = hello_record();
        let start = |number: u8, records: Vec<u8>| {
            Request::Start(Start {
                handshake: HandshakeId([number; 32]),
                client: "127.0.0.1:1".to_owned(),
                records,
            })
        };
        let answered = |reply: std::io::Result<Reply>| {
            reply.unwrap_or_else(|error| panic!("the channel broke: {error}"))
        };

        let mut noise = Noise(0xace);
        for length in 1..hello.len() {
            answered(caller.call(&start(1, hello[..length].to_vec())));
        }
        for at in 0..hello.len() {
            let mut altered = hello.clone();
            altered[at] ^= 0xff;
            let reply = answered(caller.call(&start(2, altered)));
            // Whatever began must be ended, so that the name is free again.
            if let Reply::Handshake(reply) = reply
                && !matches!(reply.next, Next::Refused { .. })
            {
                answered(caller.call(&Request::Outcome(Outcome {
                    handshake: HandshakeId([2; 32]),
                    proof: None,
                })));
            }
        }
        for more in [
            hello.clone(),
            record(20, &[1]),
            record(21, &[2, 0]),
            record(23, &[0; 40]),
            noise.bytes(30),
        ] {
            answered(caller.call(&start(3, [hello.as_slice(), &more].concat())));
            answered(caller.call(&Request::Outcome(Outcome {
                handshake: HandshakeId([3; 32]),
                proof: None,
            })));
        }
        let unknown = HandshakeId([9; 32]);
        for request in [
            Request::Continue(Continue {
                handshake: unknown,
                records: hello,
            }),
            Request::Outcome(Outcome {
                handshake: unknown,
                proof: Some([0; 32]),
            }),
            Request::Refuse(Refuse {
                handshake: unknown,
                alert: 51,
            }),
            Request::Rekey(Rekey {
                connection: keyhaven_wire::ConnectionId([0; 32]),
                direction: keyhaven_types::Direction::Read,
                generation: 1,
                state: noise.bytes(200),
            }),
        ] {
            let reply = answered(caller.call(&request));
            assert!(matches!(reply, Reply::Error(_) | Reply::Noted), "{reply:?}");
        }
        drop(caller);
    });
}

#[test]
fn second_flights_that_no_client_sends() {
    let mut site = site("EC:prime256v1").start();
    survives(&mut site, |site| {
        let mut caller = Caller::connect(site.signer_address(), Some(&site.parts.proxy_pair));
        let hello = Hello::tls12(NAME).record(&[]);
        let point = [[65, 4].as_slice(), &P256_POINT].concat();
        let flight = [
            record(
                HANDSHAKE,
                &keyhaven_tests::rawtls::handshake_message(16, &point),
            ),
            record(20, &[1]),
            record(HANDSHAKE, &[7; 40]),
        ]
        .concat();
        let handshake = HandshakeId([5; 32]);
        let mut continued = |records: Vec<u8>| {
            let start = Start {
                handshake,
                client: "127.0.0.1:1".to_owned(),
                records: hello.clone(),
            };
            let reply = caller.call(&Request::Start(start)).unwrap();
            assert!(
                matches!(&reply, Reply::Handshake(reply) if matches!(reply.next, Next::More(_))),
                "{reply:?}"
            );
            let reply = caller
                .call(&Request::Continue(Continue { handshake, records }))
                .unwrap();
            let keys =
                matches!(&reply, Reply::Handshake(reply) if matches!(reply.next, Next::Open(_)));
            assert!(!keys, "keys for nothing");
            // Used up or not, the name must be free for the next round.
            let _ = caller
                .call(&Request::Outcome(Outcome {
                    handshake,
                    proof: None,
                }))
                .unwrap();
        };
        for length in (1..flight.len()).step_by(5) {
            continued(flight[..length].to_vec());
        }
        for at in (0..flight.len()).step_by(3) {
            let mut altered = flight.clone();
            altered[at] ^= 0xff;
            continued(altered);
        }
        drop(caller);
    });
}
