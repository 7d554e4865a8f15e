//! The session between client and backend: who chooses what, who decrypts what, and that no byte is lost.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;

use keyhaven_tests::backend::{Manner, pattern, sha256};
use keyhaven_tests::clients::{curl, python, run, s_client};
use keyhaven_tests::http::{GREETING, exchange, get, post, read_answer};
use keyhaven_tests::rawtls::{APPLICATION_DATA, Client12, Client13, HANDSHAKE, Hello, record};
use keyhaven_tests::relay::{decode, pass};
use keyhaven_tests::running::Site;
use keyhaven_tests::rustls_client::{Offer, connect};
use keyhaven_tests::site::{KEY_TYPES, NAME, empty_site, site};
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
fn many_small_records() {
    let site = site("EC:prime256v1").backend(Manner::Echo).start();
    let sent = pattern(5_000);
    let mut client = Client13::established(site.address(), &Hello::tls13(NAME)).unwrap();
    let mut records = Vec::new();
    for byte in &sent {
        records.extend(client.write.seal(APPLICATION_DATA, &[*byte]));
    }
    client.stream.write_all(&records).unwrap();
    let mut got = Vec::new();
    while got.len() < sent.len() {
        got.extend(client.receive().unwrap().bytes);
    }
    assert_eq!(got, sent);
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
fn a_client_hello_in_pieces_is_put_together() {
    let site = site("EC:prime256v1").start();
    let hello = Hello::tls13(NAME);
    // One byte a segment, then seven bytes a record.
    for whole in [true, false] {
        let mut client = Client13::connect_with(site.address(), &hello, |stream, message| {
            if whole {
                for byte in record(HANDSHAKE, message) {
                    stream.write_all(&[byte])?;
                    stream.flush()?;
                }
                return Ok(());
            }
            for piece in message.chunks(7) {
                stream.write_all(&record(HANDSHAKE, piece))?;
            }
            Ok(())
        })
        .unwrap();
        client.finish().unwrap();
        assert!(client.ask().unwrap().ends_with(GREETING));
    }
}

#[test]
fn fragmented_flights_of_a_real_client() {
    let site = site("rsa:2048").start();
    for versions in [vec![&TLS13], vec![&TLS12]] {
        let offer = Offer {
            versions,
            fragment: Some(64),
            ..Offer::default()
        };
        let mut stream = connect(site.address(), NAME, &site.ca(), &offer).unwrap();
        let body = pattern(100_000);
        assert_eq!(exchange(&mut stream, &post("/echo", &body)).unwrap(), body);
    }
}

#[test]
fn padded_records_of_a_real_client() {
    let site = site("EC:prime256v1").start();
    let request = b"GET / HTTP/1.1\r\nHost: any\r\nConnection: close\r\n\r\n";
    for padding in ["512", "16384"] {
        let mut command = s_client(NAME, site.address(), &site.ca());
        command.args(["-tls1_3", "-record_padding", padding, "-quiet", "-ign_eof"]);
        let got = run(&mut command, request);
        assert!(got.stdout.ends_with(GREETING), "{}", got.all());
    }
}

#[test]
fn a_finished_in_pieces_is_put_together() {
    let site = site("EC:prime256v1").start();
    let mut client = Client13::connect(site.address(), &Hello::tls13(NAME)).unwrap();
    for piece in client.finished().chunks(5) {
        client.send(HANDSHAKE, piece).unwrap();
    }
    client.use_application_write_key();
    assert!(client.ask().unwrap().ends_with(GREETING));
}

#[test]
fn data_in_the_segment_of_the_finished_is_not_lost() {
    let site = site("EC:prime256v1").start();
    let mut client = Client13::connect(site.address(), &Hello::tls13(NAME)).unwrap();
    let finished = client.finished();
    let mut segment = client.write.seal(HANDSHAKE, &finished);
    client.use_application_write_key();
    segment.extend(client.write.seal(APPLICATION_DATA, &get("/")));
    client.stream.write_all(&segment).unwrap();
    assert!(client.ask().unwrap().ends_with(GREETING));
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
fn hello_retry_request_leads_to_the_tokens_group() {
    let site = site("EC:prime256v1").start();
    // openssl sends a share for the first group alone; P-521 is none of the token's.
    let mut command = s_client(NAME, site.address(), &site.ca());
    command.args(["-tls1_3", "-groups", "P-521:P-384", "-quiet", "-ign_eof"]);
    let got = run(
        &mut command,
        b"GET / HTTP/1.1\r\nHost: any\r\nConnection: close\r\n\r\n",
    );
    assert!(got.stdout.ends_with(GREETING), "{}", got.all());
}

#[test]
fn s11_what_the_signer_does_not_hold_fails_closed() {
    let site = site("EC:prime256v1")
        .options("alpn = [\"http/1.1\"]")
        .start();
    let hello = Hello::tls13(NAME);
    let refused = [
        (
            40,
            Hello {
                suites: vec![0x1304],
                ..hello.clone()
            },
            "no suite in common",
        ),
        (
            40,
            Hello {
                groups: vec![25],
                share: false,
                ..hello.clone()
            },
            "no group in common",
        ),
        (
            40,
            Hello {
                schemes: vec![0x0804],
                ..hello.clone()
            },
            "a client that can verify RSA alone",
        ),
        (
            112,
            Hello {
                name: Some("nobody.test".to_owned()),
                ..hello.clone()
            },
            "an unknown name",
        ),
        (
            112,
            Hello {
                name: None,
                ..hello.clone()
            },
            "no name",
        ),
        (
            120,
            Hello {
                alpn: vec![b"h2".to_vec()],
                ..hello.clone()
            },
            "no protocol in common",
        ),
        (
            70,
            Hello {
                versions: vec![0x0302],
                ..hello
            },
            "TLS 1.1",
        ),
    ];
    for (alert, hello, what) in refused {
        let met = Client13::connect(site.address(), &hello).unwrap_err();
        assert_eq!(met.alert(), Some(alert), "{what}: {met}");
    }
    let hello = Hello::tls12(NAME);
    let refused = [
        (
            40,
            Hello {
                suites: vec![0xc009, 0x002f],
                ..hello.clone()
            },
            "CBC and static RSA",
        ),
        (
            40,
            Hello {
                groups: vec![25],
                ..hello.clone()
            },
            "no group in common",
        ),
        (
            40,
            Hello {
                extended_master_secret: false,
                ..hello
            },
            "no extended master secret",
        ),
    ];
    for (alert, hello, what) in refused {
        let met = Client12::connect(site.address(), &hello).unwrap_err();
        assert_eq!(met.alert(), Some(alert), "{what}: {met}");
    }
    assert_eq!(site.backend().connections(), 0);
}

#[test]
fn early_data_under_a_foreign_ticket_is_skipped() {
    let site = site("EC:prime256v1").start();
    // A ticket of nobody's with a binder of nothing (RFC 8446, section 4.2.11): it must be the last extension.
    let ticket = [[0, 40].as_slice(), &[0x77; 40], &[0; 4]].concat();
    let psk = [[0, 46].as_slice(), &ticket, &[0, 33, 32], &[0x55; 32]].concat();
    let hello = Hello {
        extra: vec![(42, Vec::new()), (41, psk)],
        ..Hello::tls13(NAME)
    };
    let mut client = Client13::connect_with(site.address(), &hello, |stream, message| {
        stream.write_all(&record(HANDSHAKE, message))?;
        for _ in 0..3 {
            stream.write_all(&record(APPLICATION_DATA, &[0x66; 200]))?;
        }
        Ok(())
    })
    .unwrap();
    client.finish().unwrap();
    assert!(client.ask().unwrap().ends_with(GREETING));
}

#[test]
fn no_tickets_are_given() {
    let site = site("EC:prime256v1").start();
    let mut client = Client13::established(site.address(), &Hello::tls13(NAME)).unwrap();
    client.send(APPLICATION_DATA, &get("/")).unwrap();
    let first = client.receive().unwrap();
    assert_eq!(
        first.kind, APPLICATION_DATA,
        "something else came first: {first:?}"
    );
    let mut command = s_client(NAME, site.address(), &site.ca());
    let got = run(command.args(["-tls1_2"]), b"");
    assert!(!got.text().contains("TLS session ticket:"), "{}", got.all());
}

#[test]
fn a_tls13_server_that_speaks_tls12_marks_its_random() {
    let site = site("EC:prime256v1").start();
    let client = Client12::connect(site.address(), &Hello::tls12(NAME)).unwrap();
    assert_eq!(
        &client.server_random()[24..],
        b"DOWNGRD\x01",
        "RFC 8446, section 4.1.3"
    );
}

#[test]
fn the_certificate_is_the_one_that_the_client_can_verify() {
    let site = empty_site().name(NAME, KEY_TYPES).start();
    for (sigalg, kind) in [
        ("ECDSA+SHA256", "id-ecPublicKey"),
        ("ECDSA+SHA384", "id-ecPublicKey"),
        ("ed25519", "ED25519"),
        ("RSA-PSS+SHA256", "rsaEncryption"),
    ] {
        let mut command = s_client(NAME, site.address(), &site.ca());
        command.args(["-tls1_3", "-sigalgs", &format!("{sigalg}:RSA+SHA256")]);
        // The test's certificates are signed with ECDSA, so that must be among what the client accepts.
        command.arg("-showcerts");
        let got = run(&mut command, b"");
        assert!(got.text().contains(kind), "{sigalg}: {}", got.all());
    }
}

#[test]
fn alpn_is_agreed_on_by_the_sites_preference() {
    let site = site("EC:prime256v1")
        .options("alpn = [\"h2\", \"http/1.1\"]")
        .start();
    let alpn = vec![b"http/1.1".to_vec(), b"h2".to_vec()];
    let stream = connect(
        site.address(),
        NAME,
        &site.ca(),
        &Offer {
            alpn,
            ..Offer::default()
        },
    )
    .unwrap();
    assert_eq!(stream.conn.alpn_protocol(), Some(&b"h2"[..]));
    let stream = connect(site.address(), NAME, &site.ca(), &Offer::default()).unwrap();
    assert_eq!(stream.conn.alpn_protocol(), None);
}

#[test]
fn wildcards_and_defaults_are_chosen_as_configured() {
    let site = empty_site()
        .name("*.wild.keyhaven.test", &["EC:prime256v1"])
        .name("main.keyhaven.test", &["rsa:2048"])
        .options("default = true")
        .start();
    connect(
        site.address(),
        "any.wild.keyhaven.test",
        &site.ca(),
        &Offer::default(),
    )
    .unwrap();
    connect(
        site.address(),
        "main.keyhaven.test",
        &site.ca(),
        &Offer::default(),
    )
    .unwrap();
    for name in [None, Some("else.keyhaven.test".to_owned())] {
        let hello = Hello {
            name,
            ..Hello::tls13(NAME)
        };
        Client13::established(site.address(), &hello).unwrap();
    }
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

#[test]
fn plain_http_is_answered_with_an_alert() {
    let site = site("EC:prime256v1").start();
    let mut stream = TcpStream::connect(site.address()).unwrap();
    stream.write_all(&get("/")).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert_eq!(answer.first(), Some(&21), "an alert record: {answer:?}");
    assert_eq!(answer.len(), 7);
}
