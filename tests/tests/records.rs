//! Records of every shape that is allowed: small, many, in pieces, padded.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use keyhaven_tests::backend::{Manner, pattern};
use keyhaven_tests::clients::{run, s_client};
use keyhaven_tests::http::{GREETING, exchange, get, post};
use keyhaven_tests::rawtls::{APPLICATION_DATA, Client13, HANDSHAKE, Hello, record};
use keyhaven_tests::rustls_client::{Offer, connect};
use keyhaven_tests::site::{NAME, site};
use rustls::version::{TLS12, TLS13};

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
