//! Programs and tokens that stop, die or go away, and what their clients see of it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use keyhaven_tests::backend::pattern;
use keyhaven_tests::daemon::field;
use keyhaven_tests::dialogue::{established13, until_served};
use keyhaven_tests::http::{GREETING, exchange, get};
use keyhaven_tests::rawtls::{Client12, Client13, Hello};
use keyhaven_tests::running::Site;
use keyhaven_tests::rustls_client::{Offer, connect};
use keyhaven_tests::site::{NAME, site};

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
    assert_eq!(site.proxy.stop().code(), Some(0));
    assert!(
        since.elapsed() > Duration::from_millis(900) && since.elapsed() < Duration::from_secs(6)
    );
    let line = site
        .proxy
        .wait_for_text("1 task was cut when the grace was over");
    assert_eq!(field(&line, "level").as_deref(), Some("WARN"));
}

/// A client in the middle of a large download that reads nothing more of it.
fn slow_reader(site: &Site) -> impl Sized + use<> {
    let mut stream = connect(site.address(), NAME, &site.ca(), &Offer::default()).unwrap();
    stream.write_all(&get("/bytes/100000000")).unwrap();
    stream.read_exact(&mut [0; 100_000]).unwrap();
    stream
}

#[test]
fn a_client_that_does_not_read_adds_two_seconds_to_the_grace_at_most() {
    let mut site = site("EC:prime256v1")
        .proxy_limits("shutdown_grace_s = 1")
        .start();
    let _client = slow_reader(&site);
    let since = Instant::now();
    assert_eq!(site.proxy.stop().code(), Some(0));
    let took = since.elapsed();
    assert!(took < Duration::from_millis(3500), "{took:?}");
}

#[test]
fn a_second_signal_ends_a_proxy_at_once() {
    let mut site = site("EC:prime256v1").start();
    let _client = slow_reader(&site);
    site.proxy.terminate();
    site.proxy.wait_for_text("stopping");
    let since = Instant::now();
    assert_eq!(site.proxy.stop().code(), Some(1));
    let took = since.elapsed();
    assert!(took < Duration::from_secs(1), "{took:?}");
    site.proxy
        .wait_for_text("1 task was cut at the second signal");
    let line = site.proxy.wait_for_text("connection ended").to_string();
    assert!(line.contains("the proxy is stopping"), "{line}");
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
    let line = site.proxy.wait_for_text("no signer can be reached");
    assert!(
        line.to_string().contains("that a signer runs there"),
        "{line}"
    );
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
fn a_signer_that_hangs_is_passed_over() {
    let build = site("EC:prime256v1").proxy_limits("signer_timeout_ms = 500");
    let parts = build.prepare();
    let first = parts.spawn_signer();
    let second = parts.spawn_signer();
    build.write_proxy_config(
        parts.dir(),
        &[first.listening(), second.listening()],
        parts.backend.address(),
    );
    let proxy = parts.spawn_proxy();
    Client13::established(proxy.listening(), &Hello::tls13(NAME))
        .unwrap()
        .ask()
        .unwrap();
    first.pause();
    let since = Instant::now();
    let mut client = Client13::established(proxy.listening(), &Hello::tls13(NAME)).unwrap();
    client.ask().unwrap();
    assert!(
        since.elapsed() < Duration::from_secs(3),
        "{:?}",
        since.elapsed()
    );
    // Both have one identity: only the addresses tell them apart.
    let line = proxy.wait_for_text("trying the next signer").to_string();
    assert!(line.contains(&first.listening().to_string()), "{line}");
    assert!(line.contains(&second.listening().to_string()), "{line}");
    first.resume();
}

#[test]
fn signers_that_all_hang_cost_a_client_an_alert_in_time() {
    let site = site("EC:prime256v1")
        .proxy_limits("signer_timeout_ms = 500")
        .start();
    established13(&site).ask().unwrap();
    site.signer.pause();
    let since = Instant::now();
    let end = Client13::connect(site.address(), &Hello::tls13(NAME)).unwrap_err();
    assert_eq!(end.alert(), Some(80), "internal_error: {end}");
    assert!(
        since.elapsed() < Duration::from_secs(4),
        "{:?}",
        since.elapsed()
    );
    let line = site.proxy.wait_for_text("connection failed").to_string();
    assert!(line.contains("did not answer"), "{line}");
    assert!(!site.proxy.log().join("\n").contains("next signer"));
    assert!(line.contains(&site.signer_address().to_string()), "{line}");
    site.signer.resume();
    until_served(&site);
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
    // SoftHSM2 goes on with what it has in memory until the signer looks for its token, with the proxy's next ping.
    let deadline = Instant::now() + Duration::from_secs(30);
    let refused = loop {
        match Client13::established(site.address(), &Hello::tls13(NAME)) {
            Err(end) => break end,
            Ok(_) => assert!(Instant::now() < deadline, "the loss is not noticed"),
        }
        thread::sleep(Duration::from_millis(100));
    };
    assert_eq!(refused.alert(), Some(80), "internal_error: {refused}");
    site.signer.wait_for("a word about the token", |line| {
        line.to_string().contains("token is lost")
    });
    assert!(site.signer.is_running());
    // A signer that starts now has no token, and says so.
    let mut another = site.parts.spawn_signer();
    assert!(!another.wait().success());
    let log = another.log().join("\n");
    assert!(log.contains("site") && log.contains("token"), "{log}");
    site.token().restore_dir().unwrap();
    until_served(&site);
}
