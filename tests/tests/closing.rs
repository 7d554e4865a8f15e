//! How connections end, and that nothing is lost when they do.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io::{Read, Write};
use std::net::Shutdown;
use std::thread;
use std::time::{Duration, Instant};

use keyhaven_tests::backend::{Backend, Manner, pattern, sha256};
use keyhaven_tests::clients::{run, s_client};
use keyhaven_tests::dialogue::{established12, established13};
use keyhaven_tests::http::get;
use keyhaven_tests::rawtls::{
    ALERT, APPLICATION_DATA, CHANGE_CIPHER_SPEC, Client13, HANDSHAKE, Hello, Stop,
    handshake_message, record,
};
use keyhaven_tests::rustls_client::{Offer, connect};
use keyhaven_tests::site::{NAME, site};
use rustls::version::{TLS12, TLS13};

const CLOSE_NOTIFY: &[u8] = &[1, 0];

/// Reads to the end: the data, and how it ended.
fn to_the_end(
    mut receive: impl FnMut() -> Result<keyhaven_tests::rawtls::Incoming, Stop>,
) -> (Vec<u8>, Stop) {
    let mut data = Vec::new();
    loop {
        match receive() {
            Ok(incoming) => data.extend(incoming.bytes),
            Err(end) => return (data, end),
        }
    }
}

#[test]
fn a_client_that_has_said_all_still_gets_its_answer() {
    let site = site("EC:prime256v1").backend(Manner::Digest).start();
    let expected = format!("9 {}\n", sha256(b"the whole")).into_bytes();
    // By close_notify, by a bare FIN, and by both.
    for (notify, fin) in [(true, false), (false, true), (true, true)] {
        let mut client = established13(&site);
        client.send(APPLICATION_DATA, b"the whole").unwrap();
        if notify {
            client.send(ALERT, CLOSE_NOTIFY).unwrap();
        }
        if fin {
            client.stream.shutdown(Shutdown::Write).unwrap();
        }
        let (answer, end) = to_the_end(|| client.receive());
        assert_eq!(
            (answer.as_slice(), end.alert()),
            (expected.as_slice(), Some(0)),
            "{notify} {fin}"
        );
        let mut client = established12(&site);
        client.send(APPLICATION_DATA, b"the whole").unwrap();
        if notify {
            client.send(ALERT, CLOSE_NOTIFY).unwrap();
        }
        if fin {
            client.stream.shutdown(Shutdown::Write).unwrap();
        }
        let (answer, end) = to_the_end(|| client.receive());
        assert_eq!(
            (answer.as_slice(), end.alert()),
            (expected.as_slice(), Some(0)),
            "{notify} {fin}"
        );
    }
}

#[test]
fn a_backend_that_closes_first_cuts_nothing() {
    let site = site("EC:prime256v1")
        .backend(Manner::Send(3_000_000))
        .start();
    for versions in [vec![&TLS13], vec![&TLS12]] {
        let mut stream = connect(
            site.address(),
            NAME,
            &site.ca(),
            &Offer {
                versions,
                ..Offer::default()
            },
        )
        .unwrap();
        // rustls says UnexpectedEof when no close_notify comes.
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        assert_eq!(sha256(&all), sha256(&pattern(3_000_000)));
    }
}

#[test]
fn a_client_may_go_on_after_the_backend_has_said_all() {
    let site = site("EC:prime256v1").backend(Manner::Send(10)).start();
    let mut client = established13(&site);
    let (answer, end) = to_the_end(|| client.receive());
    assert_eq!(
        (answer.as_slice(), end.alert()),
        (pattern(10).as_slice(), Some(0))
    );
    // Writing into a connection whose other half is over is no error of the client.
    client.send(APPLICATION_DATA, b"late").unwrap();
    client.send(ALERT, CLOSE_NOTIFY).unwrap();
    assert!(matches!(client.receive(), Err(Stop::Closed)));
}

#[test]
fn a_client_that_does_not_read_holds_no_memory_and_loses_no_byte() {
    let size = 40_000_000;
    let site = site("EC:prime256v1").backend(Manner::Send(size)).start();
    let mut stream = connect(site.address(), NAME, &site.ca(), &Offer::default()).unwrap();
    let before = site.proxy.memory_kib();
    let mut first = [0; 1];
    stream.read_exact(&mut first).unwrap();
    // The backend is held up as long as its connection stays open with most of the bytes unsent.
    thread::sleep(Duration::from_millis(300));
    assert_eq!(
        site.backend().open(),
        1,
        "the backend got rid of everything: somebody stores it"
    );
    assert!(
        site.proxy.memory_kib() < before + 8_000,
        "{} KiB, before {before}",
        site.proxy.memory_kib()
    );
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    assert_eq!(
        sha256(&[&first, rest.as_slice()].concat()),
        sha256(&pattern(size))
    );
}

#[test]
fn an_idle_connection_ends_with_close_notify() {
    let site = site("EC:prime256v1")
        .proxy_limits("idle_timeout_s = 1")
        .start();
    let mut client = established13(&site);
    client.ask().unwrap();
    let since = Instant::now();
    let (_, end) = to_the_end(|| client.receive());
    assert_eq!(end.alert(), Some(0), "{end}");
    assert!(since.elapsed() > Duration::from_millis(900));
}

#[test]
fn a_connection_lives_no_longer_than_it_may() {
    let site = site("EC:prime256v1")
        .proxy_limits("connection_lifetime_s = 1")
        .start();
    let ends = |mut ask: Box<dyn FnMut() -> Result<Vec<u8>, Stop>>| {
        let since = Instant::now();
        let end = loop {
            if let Err(end) = ask() {
                break end;
            }
        };
        let lived = since.elapsed();
        assert!(
            (Duration::from_millis(900)..Duration::from_secs(5)).contains(&lived),
            "{lived:?}"
        );
        assert!(!matches!(end, Stop::Io(_) | Stop::Nonsense(_)), "{end}");
    };
    let mut client = established13(&site);
    ends(Box::new(move || client.ask()));
    let mut client = established12(&site);
    ends(Box::new(move || client.ask()));
}

#[test]
fn a_backend_that_is_not_there_is_an_alert_and_a_log_line() {
    let mut site = site("EC:prime256v1").start();
    drop(std::mem::replace(
        &mut site.parts.backend,
        Backend::start(Manner::Http),
    ));
    // The old listener's thread is on its way out.
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let mut client = established13(&site);
        let _ = client.send(APPLICATION_DATA, &get("/"));
        match client.receive() {
            Err(end) if end.alert() == Some(80) => break,
            other => assert!(Instant::now() < deadline, "{other:?}"),
        }
    }
    site.proxy.wait_for("a word about the backend", |line| {
        line.to_string().contains("the backend")
    });
}

#[test]
fn s_client_that_asks_for_renegotiation_is_refused_at_once() {
    let site = site("EC:prime256v1").start();
    let mut client = established12(&site);
    client
        .send(HANDSHAKE, &Hello::tls12(NAME).message(&[]))
        .unwrap();
    let (_, end) = to_the_end(|| client.receive());
    assert_eq!(end.alert(), Some(100), "no_renegotiation: {end}");
    let mut command = s_client(NAME, site.address(), &site.ca());
    let said = run(command.args(["-tls1_2", "-legacy_renegotiation"]), b"R\n");
    assert!(said.all().contains("no renegotiation"), "{}", said.all());
    assert_eq!(site.backend().received(), 0);
}

#[test]
fn what_is_allowed_and_useless_has_an_end() {
    let site = site("EC:prime256v1").start();
    let mut client = established13(&site);
    for _ in 0..40 {
        let _ = client.send(APPLICATION_DATA, b"");
    }
    assert_eq!(
        to_the_end(|| client.receive()).1.alert(),
        Some(10),
        "empty records"
    );

    let mut client = established12(&site);
    for _ in 0..6 {
        let _ = client.send(ALERT, &[1, 90]);
    }
    assert_eq!(
        to_the_end(|| client.receive()).1.alert(),
        Some(10),
        "warning alerts"
    );

    let mut client = Client13::connect(site.address(), &Hello::tls13(NAME)).unwrap();
    for _ in 0..4 {
        client
            .stream
            .write_all(&record(CHANGE_CIPHER_SPEC, &[1]))
            .unwrap();
    }
    assert_eq!(
        to_the_end(|| client.receive()).1.alert(),
        Some(10),
        "ChangeCipherSpec"
    );
}

#[test]
fn what_no_client_may_send_ends_the_connection_with_its_alert() {
    let site = site("EC:prime256v1").start();
    type Spoil = fn(&mut Client13) -> Vec<u8>;
    let cases: [(u8, &str, Spoil); 7] = [
        (10, "a record in the clear", |_| {
            record(APPLICATION_DATA.wrapping_sub(1), &[0; 4])
        }),
        (10, "ChangeCipherSpec after Finished", |_| {
            record(CHANGE_CIPHER_SPEC, &[1])
        }),
        (20, "a record that does not decrypt", |_| {
            record(APPLICATION_DATA, &[9; 60])
        }),
        (22, "a record too long", |_| {
            [[23, 3, 3, 0x50, 0].as_slice(), &[0; 0x5000]].concat()
        }),
        (10, "a handshake message", |client| {
            client
                .write
                .seal(HANDSHAKE, &handshake_message(1, &[0; 40]))
        }),
        (50, "an alert of three bytes", |client| {
            client.write.seal(ALERT, &[1, 0, 0])
        }),
        (10, "an unknown content type", |client| {
            client.write.seal(99, b"x")
        }),
    ];
    for (alert, what, bytes) in cases {
        let mut client = established13(&site);
        client.ask().unwrap();
        let bytes = bytes(&mut client);
        client.stream.write_all(&bytes).unwrap();
        let (_, end) = to_the_end(|| client.receive());
        assert_eq!(end.alert(), Some(alert), "{what}: {end}");
    }
}
