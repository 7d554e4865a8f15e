//! The raw client against a server of another make, so that what it finds wrong in ours is ours.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use keyhaven_tests::pki::{Ca, Flaw};
use keyhaven_tests::rawtls::{
    APPLICATION_DATA, Client12, Client13, HANDSHAKE, Hello, handshake_message,
};

struct Server {
    child: Child,
    address: SocketAddr,
}

/// `openssl s_server` that sends back each line in reverse.
fn server(dir: &Path) -> Server {
    let pair = Ca::new(dir, "ca").identity("server", "spiffe://keyhaven.test/signer/x", Flaw::None);
    let mut child = Command::new("openssl")
        .args(["s_server", "-accept", "127.0.0.1:0", "-rev", "-cert"])
        .arg(&pair.certificate)
        .arg("-key")
        .arg(&pair.key)
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
