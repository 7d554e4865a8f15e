//! Input that no honest client sends, at the proxy's door.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use keyhaven_tests::crowd::{Noise, good, hello_record, knock, raise_file_limit, reset, survives};
use keyhaven_tests::rawtls::{Client12, Client13, HANDSHAKE, Hello, record};
use keyhaven_tests::site::{NAME, site};

#[test]
fn random_bytes_at_the_proxys_door() {
    let mut site = site("EC:prime256v1").start();
    let mut crowds = 0;
    survives(&mut site, |site| {
        crowds += 1;
        let mut noise = Noise(0x5eed);
        for count in 0..200 {
            let length = (noise.next() % 600) as usize;
            let mut bytes = noise.bytes(length);
            if count % 2 == 0 {
                // Random, but in a handshake record.
                bytes = record(HANDSHAKE, &bytes);
            }
            knock(site.address(), &bytes);
        }
    });
    // Those of good clients alone.
    assert_eq!(site.backend().connections(), 5 + crowds);
}

#[test]
fn a_client_hello_cut_at_every_offset() {
    let mut site = site("EC:prime256v1").start();
    survives(&mut site, |site| {
        let hello = hello_record();
        for length in 0..hello.len() {
            knock(site.address(), &hello[..length]);
        }
    });
}

#[test]
fn a_client_hello_with_every_byte_altered() {
    let mut site = site("EC:prime256v1").start();
    survives(&mut site, |site| {
        let hello = hello_record();
        for at in 0..hello.len() {
            for change in [0x01, 0x80, 0xff] {
                let mut altered = hello.clone();
                altered[at] ^= change;
                knock(site.address(), &altered);
            }
        }
    });
}

#[test]
fn a_client_hello_too_big_is_refused_before_the_signer_hears_of_it() {
    let site = site("EC:prime256v1").start();
    good(&site);
    let extra = vec![(21, vec![0; 20_000])];
    let hello = Hello {
        extra,
        ..Hello::tls13(NAME)
    };
    let calls = site.shim().report().calls("C_GenerateKeyPair");
    let end = Client13::connect_with(site.address(), &hello, |stream, message| {
        for piece in message.chunks(16_000) {
            // The proxy may close before all is sent.
            let _ = stream.write_all(&record(HANDSHAKE, piece));
        }
        Ok(())
    })
    .unwrap_err();
    assert_eq!(end.alert(), Some(50), "decode_error: {end}");
    assert_eq!(site.shim().report().calls("C_GenerateKeyPair"), calls);
    good(&site);
}

#[test]
fn the_slow_are_not_waited_for() {
    let mut site = site("EC:prime256v1")
        .proxy_limits("client_hello_timeout_ms = 400\nhandshake_timeout_ms = 900")
        .start();
    survives(&mut site, |site| {
        let hello = hello_record();
        let since = Instant::now();
        // One sends nothing, one a byte, one all but a byte, one keeps the server waiting for its Finished.
        let mut streams: Vec<TcpStream> = [0, 1, hello.len() - 1, hello.len()]
            .into_iter()
            .map(|length| {
                let mut stream = TcpStream::connect(site.address()).unwrap();
                stream
                    .set_read_timeout(Some(Duration::from_secs(10)))
                    .unwrap();
                stream.write_all(&hello[..length]).unwrap();
                stream
            })
            .collect();
        for stream in &mut streams {
            stream.read_to_end(&mut Vec::new()).unwrap();
        }
        assert!(
            since.elapsed() > Duration::from_millis(300)
                && since.elapsed() < Duration::from_secs(5)
        );
        drop(streams);
    });
}

#[test]
fn resets_at_every_stage() {
    let mut site = site("EC:prime256v1")
        .signer_limits("pending_timeout_s = 1")
        .start();
    survives(&mut site, |site| {
        for count in 0..120 {
            match count % 5 {
                0 => reset(TcpStream::connect(site.address()).unwrap()),
                1 => {
                    let mut stream = TcpStream::connect(site.address()).unwrap();
                    stream.write_all(&hello_record()).unwrap();
                    reset(stream);
                }
                2 => reset(
                    Client13::connect(site.address(), &Hello::tls13(NAME))
                        .unwrap()
                        .stream,
                ),
                3 => reset(
                    Client12::connect(site.address(), &Hello::tls12(NAME))
                        .unwrap()
                        .stream,
                ),
                _ => {
                    let mut client =
                        Client13::established(site.address(), &Hello::tls13(NAME)).unwrap();
                    client.ask().unwrap();
                    reset(client.stream);
                }
            }
        }
    });
    let deadline = Instant::now() + Duration::from_secs(10);
    while site.backend().open() > 2 {
        assert!(
            Instant::now() < deadline,
            "{} backend connections are open",
            site.backend().open()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_thousand_half_open_clients() {
    raise_file_limit();
    let mut site = site("EC:prime256v1")
        .proxy_limits("client_hello_timeout_ms = 4000")
        .start();
    survives(&mut site, |site| {
        let hello = hello_record();
        let crowd: Vec<TcpStream> = (0..1_000)
            .map(|count| {
                let mut stream = TcpStream::connect(site.address()).unwrap();
                stream
                    .write_all(&hello[..count % (hello.len() - 1)])
                    .unwrap();
                stream
            })
            .collect();
        good(site);
        drop(crowd);
    });
}

#[test]
fn over_the_connection_limit_there_is_an_alert() {
    let site = site("EC:prime256v1")
        .proxy_limits("connections_max = 3")
        .start();
    good(&site);
    let deadline = Instant::now() + Duration::from_secs(10);
    while site.backend().open() > 0 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    let mut held: Vec<Client13> = (0..3)
        .filter_map(|_| Client13::established(site.address(), &Hello::tls13(NAME)).ok())
        .collect();
    assert_eq!(held.len(), 3);
    let end = Client13::connect(site.address(), &Hello::tls13(NAME)).unwrap_err();
    assert_eq!(end.alert(), Some(80), "a clear refusal: {end}");
    for client in &mut held {
        client.ask().unwrap();
    }
}
