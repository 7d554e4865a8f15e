//! The raw client against a server of another make, so that what it finds wrong in ours is ours.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use keyhaven_tests::channel::{load, server_config};
use keyhaven_tests::pki::{Ca, Flaw};
use keyhaven_tests::rawtls::{
    APPLICATION_DATA, Client12, Client13, Group, HANDSHAKE, Hello, Identity, Offered, Session12,
    Ticket, handshake_message,
};

struct Server {
    child: Child,
    address: SocketAddr,
}

/// `openssl s_server` that sends back each line in reverse.
fn server(dir: &Path) -> Server {
    server_with(dir, &[])
}

/// The same with more options.
fn server_with(dir: &Path, options: &[&str]) -> Server {
    let pair = Ca::new(dir, "ca").identity("server", "spiffe://keyhaven.test/signer/x", Flaw::None);
    let mut child = Command::new("openssl")
        .args(["s_server", "-accept", "127.0.0.1:0", "-rev", "-cert"])
        .arg(&pair.certificate)
        .arg("-key")
        .arg(&pair.key)
        .args(options)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let stdout = BufReader::new(child.stdout.take().unwrap());
    let mut lines = stdout.lines().map_while(Result::ok);
    let line = lines
        .find(|line| line.starts_with("ACCEPT"))
        .expect("it says where it listens");
    std::thread::spawn(move || lines.for_each(drop));
    Server {
        child,
        address: line.trim_start_matches("ACCEPT ").parse().unwrap(),
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn speaks_tls13_with_openssl() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(dir.path());
    for suite in [0x1301, 0x1302, 0x1303] {
        let hello = Hello {
            suites: vec![suite],
            ..Hello::tls13("any.test")
        };
        let mut client = Client13::connect(server.address, &hello).unwrap();
        client.finish().unwrap();
        client.send(APPLICATION_DATA, b"abc\n").unwrap();
        // KeyUpdate, update not requested: what follows is under the next key.
        client
            .send(HANDSHAKE, &handshake_message(24, &[0]))
            .unwrap();
        client.next_write_key();
        client.send(APPLICATION_DATA, b"def\n").unwrap();
        let mut answer = Vec::new();
        while answer.len() < 8 {
            let incoming = client.receive().unwrap();
            if incoming.kind == APPLICATION_DATA {
                answer.extend(incoming.bytes);
            }
        }
        assert_eq!(answer, b"cba\nfed\n");
    }
}

#[test]
fn speaks_tls12_with_openssl() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(dir.path());
    for extended_master_secret in [true, false] {
        let hello = Hello {
            extended_master_secret,
            ..Hello::tls12("any.test")
        };
        let mut client = Client12::connect(server.address, &hello).unwrap();
        assert_eq!(&client.server_random()[24..], b"DOWNGRD\x01");
        client.finish().unwrap();
        client.send(APPLICATION_DATA, b"abc\n").unwrap();
        let mut answer = Vec::new();
        while answer.len() < 4 {
            answer.extend(client.receive().unwrap().bytes);
        }
        assert_eq!(answer, b"cba\n");
    }
}

#[test]
fn sees_the_alert_that_refuses_a_finished() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(dir.path());
    let mut client = Client13::connect(server.address, &Hello::tls13("any.test")).unwrap();
    client
        .send(HANDSHAKE, &handshake_message(20, &[0; 32]))
        .unwrap();
    // OpenSSL sends tickets only after the Finished, so the next thing is the alert.
    assert_eq!(client.receive().unwrap_err().alert(), Some(51));
    let mut client = Client12::connect(server.address, &Hello::tls12("any.test")).unwrap();
    let flight = client.second_flight(&handshake_message(20, &[0; 12]));
    std::io::Write::write_all(&mut client.stream, &flight).unwrap();
    assert_eq!(client.receive().unwrap_err().alert(), Some(51));
    assert_eq!(client.stream.read(&mut [0]).unwrap_or(0), 0);
}

/// Finishes, sends a line, reads its reverse, and goes, because the server serves one at a time. The tickets.
fn finish13(mut client: Client13) -> Vec<Ticket> {
    client.finish().unwrap();
    client.send(APPLICATION_DATA, b"abc\n").unwrap();
    assert_eq!(client.receive().unwrap().bytes, b"cba\n");
    client.tickets().to_vec()
}

fn finish12(mut client: Client12) -> Option<Session12> {
    client.finish().unwrap();
    client.send(APPLICATION_DATA, b"abc\n").unwrap();
    assert_eq!(client.receive().unwrap().bytes, b"cba\n");
    client.session().cloned()
}

#[test]
fn uses_each_group_and_follows_a_retry() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(dir.path());
    for group in [Group::P256, Group::P384, Group::X25519] {
        let hello = Hello::tls13("any.test").with_group(group);
        let client = Client13::connect(server.address, &hello).unwrap();
        assert_eq!(client.group(), group);
        finish13(client);
        let hello = Hello {
            share: false,
            ..hello
        };
        let client = Client13::connect(server.address, &hello).unwrap();
        finish13(client);
        // The certificate's own curve must be among the groups of TLS 1.2.
        let hello = Hello {
            groups: vec![group.code(), Group::P256.code()],
            ..Hello::tls12("any.test")
        };
        let client = Client12::connect(server.address, &hello).unwrap();
        finish12(client);
    }
}

#[test]
fn uses_each_suite_of_tls12() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(dir.path());
    for suite in [0xc02b, 0xc02c, 0xcca9] {
        let hello = Hello::tls12("any.test").with_suite(suite);
        let client = Client12::connect(server.address, &hello).unwrap();
        assert_eq!(client.suite(), suite);
        finish12(client);
    }
}

#[test]
fn resumes_with_tickets_of_tls13() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(dir.path());
    for suite in [0x1301, 0x1302] {
        let hello = Hello::tls13("any.test").with_suite(suite);
        let client = Client13::connect(server.address, &hello).unwrap();
        let ticket = finish13(client).remove(0);

        // Among strangers, and behind a retry.
        for share in [true, false] {
            let offered = vec![Offered::stranger(40), ticket.offer()];
            let hello = Hello {
                share,
                ..hello.clone().resuming(offered)
            };
            let client = Client13::connect(server.address, &hello).unwrap();
            assert_eq!(client.resumed(), Some(1));
            assert!(
                client.server_messages().iter().all(|(kind, _)| *kind != 11),
                "no certificate"
            );
            finish13(client);
        }

        // A binder that is not right is an alert; a ticket that is not right is a full handshake.
        let mut wrong = ticket.offer();
        wrong.psk[0] ^= 1;
        let hello_wrong = hello.clone().resuming(vec![wrong]);
        let end = Client13::connect(server.address, &hello_wrong).unwrap_err();
        assert_eq!(end.alert(), Some(47), "what OpenSSL says: {end}");
        let mut altered = ticket.offer();
        altered.identity[20] ^= 1;
        let client = Client13::connect(server.address, &hello.resuming(vec![altered])).unwrap();
        assert_eq!(client.resumed(), None);
    }
}

#[test]
fn resumes_with_tickets_of_tls12() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(dir.path());
    for suite in [0xc02b, 0xc02c] {
        let hello = Hello::tls12("any.test").with_suite(suite);
        let first = hello.clone().wanting_ticket();
        let client = Client12::connect(server.address, &first).unwrap();
        let mut session = finish12(client).expect("OpenSSL gives one");
        let client = Client12::resume(server.address, &hello, &session).unwrap();
        assert!(client.is_resumed());
        finish12(client);
        session.ticket[20] ^= 1;
        let client = Client12::resume(server.address, &hello, &session).unwrap();
        assert!(!client.is_resumed());
        finish12(client);
    }
}

#[test]
fn shows_a_certificate_where_one_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let ca = Ca::new(dir.path(), "clients-ca");
    let pair = ca.identity("client", "spiffe://keyhaven.test/client", Flaw::None);
    let (chain, key) = load(&pair);
    let identity = Identity::new(&chain, &key);
    let ca = dir.path().join("clients-ca.pem");
    let options = [
        "-Verify",
        "2",
        "-verify_return_error",
        "-CAfile",
        ca.to_str().unwrap(),
    ];
    let server = server_with(dir.path(), &options);

    let mut client = Client13::connect(server.address, &Hello::tls13("any.test")).unwrap();
    assert!(client.is_asked());
    client.authenticate(Some(&identity)).unwrap();
    finish13(client);
    let mut client = Client13::connect(server.address, &Hello::tls13("any.test")).unwrap();
    client.finish().unwrap();
    let end = client.receive().unwrap_err();
    assert_eq!(end.alert(), Some(116), "certificate_required: {end}");
    drop(client);

    let hello = Hello::tls12("any.test");
    let client = Client12::connect_as(server.address, &hello, Some(&identity)).unwrap();
    assert!(client.is_asked());
    finish12(client);
    let mut client = Client12::connect(server.address, &hello).unwrap();
    let end = client.finish().unwrap_err();
    assert_eq!(end.alert(), Some(40), "handshake_failure: {end}");
}

#[test]
fn agrees_on_a_hybrid_secret_with_rustls() {
    let dir = tempfile::tempdir().unwrap();
    let pair = Ca::new(dir.path(), "ca").identity("s", "spiffe://keyhaven.test/s", Flaw::None);
    let mut config = server_config(&pair);
    config.alpn_protocols.clear();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let served = std::thread::spawn(move || {
        let mut connection = rustls::ServerConnection::new(std::sync::Arc::new(config)).unwrap();
        let (mut socket, _) = listener.accept().unwrap();
        while connection.is_handshaking() {
            connection.complete_io(&mut socket).unwrap();
        }
        let group = connection.negotiated_key_exchange_group().unwrap();
        group.name()
    });
    let hello = Hello::tls13("any.test").with_group(Group::X25519MlKem768);
    let mut client = Client13::connect(address, &hello).unwrap();
    let (chain, key) = load(&pair);
    client
        .authenticate(Some(&Identity::new(&chain, &key)))
        .unwrap();
    client.finish().unwrap();
    assert_eq!(served.join().unwrap(), rustls::NamedGroup::X25519MLKEM768);
}
