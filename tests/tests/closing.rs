//! How connections end, and that nothing is lost when they do.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use keyhaven_tests::backend::{Backend, Manner, pattern, sha256};
use keyhaven_tests::clients::{run, s_client};
use keyhaven_tests::http::{GREETING, exchange, get};
use keyhaven_tests::rawtls::{
    ALERT, APPLICATION_DATA, CHANGE_CIPHER_SPEC, Client12, Client13, HANDSHAKE, Hello, Stop,
    handshake_message, record,
};
use keyhaven_tests::rustls_client::{Offer, connect};
use keyhaven_tests::site::{NAME, site};
use rustls::version::{TLS12, TLS13};

const CLOSE_NOTIFY: &[u8] = &[1, 0];

fn established13(site: &keyhaven_tests::running::Site) -> Client13 {
    Client13::established(site.address(), &Hello::tls13(NAME)).unwrap()
}

fn established12(site: &keyhaven_tests::running::Site) -> Client12 {
    let mut client = Client12::connect(site.address(), &Hello::tls12(NAME)).unwrap();
    client.finish().unwrap();
    client
}

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
    let mut client = established13(&site);
    let since = Instant::now();
    let end = loop {
        if let Err(end) = client.ask() {
            break end;
        }
    };
    assert!(
        since.elapsed() > Duration::from_millis(900) && since.elapsed() < Duration::from_secs(5)
    );
    assert!(!matches!(end, Stop::Io(_) | Stop::Nonsense(_)), "{end}");
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

#[test]
fn a_proxy_that_stops_lets_what_is_open_end() {
    let mut site = site("EC:prime256v1").start();
    let mut stream = connect(site.address(), NAME, &site.ca(), &Offer::default()).unwrap();
    assert_eq!(exchange(&mut stream, &get("/")).unwrap(), GREETING);
    site.proxy.terminate();
    // New connections are refused as soon as it has heard.
    let deadline = Instant::now() + Duration::from_secs(10);
    while TcpStream::connect(site.address()).is_ok() {
        assert!(Instant::now() < deadline, "it still accepts");
        thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(
        exchange(&mut stream, &get("/bytes/1000000")).unwrap(),
        pattern(1_000_000)
    );
    assert!(site.proxy.is_running());
    drop(stream);
    assert_eq!(site.proxy.wait().code(), Some(0));
}

#[test]
fn a_proxy_that_stops_waits_no_longer_than_its_grace() {
    let mut site = site("EC:prime256v1")
        .proxy_limits("shutdown_grace_s = 1")
        .start();
    let mut client = established13(&site);
    client.ask().unwrap();
    let since = Instant::now();
    assert!(site.proxy.stop().code().is_some());
    assert!(
        since.elapsed() > Duration::from_millis(900) && since.elapsed() < Duration::from_secs(6)
    );
}

#[test]
fn a_signer_that_stops_ends_what_it_has_begun() {
    let mut site = site("EC:prime256v1").start();
    let mut client = Client12::connect(site.address(), &Hello::tls12(NAME)).unwrap();
    site.signer.terminate();
    site.signer.wait_for("word that it stops", |line| {
        line.to_string().contains("stop")
    });
    client.finish().unwrap();
    client.ask().unwrap();
    assert_eq!(site.signer.wait().code(), Some(0));
}

#[test]
fn a_signer_gone_in_mid_handshake_is_an_alert_in_tls12_and_nothing_in_tls13() {
    let mut site = site("EC:prime256v1").start();
    let mut in_12 = Client12::connect(site.address(), &Hello::tls12(NAME)).unwrap();
    let mut in_13 = Client13::connect(site.address(), &Hello::tls13(NAME)).unwrap();
    site.signer.kill();
    let end = in_12.finish().unwrap_err();
    assert_eq!(end.alert(), Some(80), "internal_error: {end}");
    // In TLS 1.3 the signer has done its part; only its count of what was proven misses one.
    in_13.finish().unwrap();
    assert!(in_13.ask().unwrap().ends_with(GREETING));
    let end = Client13::connect(site.address(), &Hello::tls13(NAME)).unwrap_err();
    assert_eq!(end.alert(), Some(80), "internal_error: {end}");
    site.proxy.wait_for("a word about the signer", |line| {
        line.to_string().contains("no signer can be reached")
    });
}

#[test]
fn another_signer_stands_in() {
    let build = site("EC:prime256v1");
    let parts = build.prepare();
    let mut first = parts.spawn_signer();
    let second = parts.spawn_signer();
    build.write_proxy_config(
        parts.dir(),
        &[first.listening(), second.listening()],
        parts.backend.address(),
    );
    let proxy = parts.spawn_proxy();
    for round in 0..20 {
        if round == 10 {
            first.kill();
        }
        let since = Instant::now();
        let mut client = Client13::established(proxy.listening(), &Hello::tls13(NAME)).unwrap();
        client.ask().unwrap();
        assert!(
            since.elapsed() < Duration::from_secs(2),
            "round {round}: {:?}",
            since.elapsed()
        );
    }
}

#[test]
fn a_token_that_is_gone_and_comes_back() {
    let mut site = site("EC:prime256v1").start();
    established13(&site).ask().unwrap();
    let logins = site.shim().report().calls("C_Login");
    // CKR_DEVICE_REMOVED, whatever is asked.
    site.shim().set_faults("* error 0x32");
    for _ in 0..20 {
        let end = Client13::connect(site.address(), &Hello::tls13(NAME)).unwrap_err();
        assert_eq!(end.alert(), Some(80), "internal_error: {end}");
    }
    site.signer.wait_for("a word about the token", |line| {
        let line = line.to_string().to_lowercase();
        line.contains("token") && (line.contains("error") || line.contains("warn"))
    });
    site.shim().clear_faults();
    until_served(&site);
    assert!(site.signer.is_running());
    assert!(
        site.shim().report().calls("C_Login") <= logins + 4,
        "PIN tries without end"
    );
}

#[test]
fn a_token_directory_that_is_taken_away() {
    let mut site = site("EC:prime256v1").start();
    established13(&site).ask().unwrap();
    site.token().remove_dir().unwrap();
    // SoftHSM2 may go on with what it has in memory; if it does not, it is the signer's fault and not the client's.
    for _ in 0..50 {
        if let Err(end) = Client13::established(site.address(), &Hello::tls13(NAME)) {
            assert_eq!(end.alert(), Some(80), "internal_error: {end}");
        }
    }
    assert!(site.signer.is_running());
    // A signer that starts now has no token, and says so.
    let mut another = site.parts.spawn_signer();
    assert!(!another.wait().success());
    let log = another.log().join("\n");
    assert!(log.contains("site") && log.contains("token"), "{log}");
    site.token().restore_dir().unwrap();
    until_served(&site);
}

fn until_served(site: &keyhaven_tests::running::Site) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while let Err(end) = Client13::established(site.address(), &Hello::tls13(NAME)) {
        assert!(Instant::now() < deadline, "it does not come back: {end}");
        thread::sleep(Duration::from_millis(100));
    }
}
