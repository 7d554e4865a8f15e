//! What a handshake costs the token, and that nothing is left in it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io::Write;
use std::time::{Duration, Instant};

use keyhaven_softhsm_test::ShimReport;
use keyhaven_tests::cost::{Calls, cost, settle};
use keyhaven_tests::http::GREETING;
use keyhaven_tests::rawtls::{
    CHANGE_CIPHER_SPEC, Client12, Client13, HANDSHAKE, Hello, handshake_message, record,
};
use keyhaven_tests::running::Site;
use keyhaven_tests::site::{NAME, site};

fn handshake13(site: &Site) {
    let mut client = Client13::established(site.address(), &Hello::tls13(NAME)).unwrap();
    assert!(client.ask().unwrap().ends_with(GREETING));
}

fn handshake12(site: &Site) {
    let mut client = Client12::connect(site.address(), &Hello::tls12(NAME)).unwrap();
    client.finish().unwrap();
    assert!(client.ask().unwrap().ends_with(GREETING));
}

/// ARCHITECTURE.md explains each of these calls; what other modules and levels cost is in `costs`.
#[test]
fn a_handshake_at_premaster_makes_these_calls() {
    let site = site("EC:prime256v1").start();
    assert_eq!(named(&cost(&site, || handshake13(&site))), PREMASTER_13);
    assert_eq!(named(&cost(&site, || handshake12(&site))), PREMASTER_12);
}

#[test]
fn a_handshake_at_signature_makes_these_calls() {
    let site = site("EC:prime256v1")
        .options("custody_max = \"signature\"")
        .start();
    assert_eq!(named(&cost(&site, || handshake13(&site))), SIGNATURE);
    assert_eq!(named(&cost(&site, || handshake12(&site))), SIGNATURE);
}

fn named(calls: &[Calls]) -> Vec<(&str, u64)> {
    let calls = calls[0].iter();
    calls.map(|(name, calls)| (name.as_str(), *calls)).collect()
}

/// 2 calls.
const SIGNATURE: &[(&str, u64)] = &[("C_Sign", 1), ("C_SignInit", 1)];
/// 12 calls. The public key is destroyed as soon as its point is read, the private key and the secret after use.
const PREMASTER_13: &[(&str, u64)] = &[
    ("C_DeriveKey", 1),
    ("C_DestroyObject", 3),
    ("C_DigestFinal", 1),
    ("C_DigestInit", 1),
    ("C_DigestKey", 1),
    ("C_DigestUpdate", 1),
    ("C_GenerateKeyPair", 1),
    ("C_GetAttributeValue", 1),
    ("C_Sign", 1),
    ("C_SignInit", 1),
];
/// 16 calls: the extended master secret of 48 bytes is four HMACs with the secret's handle.
const PREMASTER_12: &[(&str, u64)] = &[
    ("C_DeriveKey", 1),
    ("C_DestroyObject", 3),
    ("C_GenerateKeyPair", 1),
    ("C_GetAttributeValue", 1),
    ("C_Sign", 5),
    ("C_SignInit", 5),
];

/// A client that gives up or misbehaves at one stage or another.
fn failed_handshake(site: &Site, count: usize) {
    match count % 6 {
        0 => drop(Client13::connect(site.address(), &Hello::tls13(NAME)).unwrap()),
        1 => {
            let mut client = Client13::connect(site.address(), &Hello::tls13(NAME)).unwrap();
            client
                .send(HANDSHAKE, &handshake_message(20, &[0; 32]))
                .unwrap();
            assert_eq!(client.receive().unwrap_err().alert(), Some(51));
        }
        2 => drop(Client12::connect(site.address(), &Hello::tls12(NAME)).unwrap()),
        3 => {
            let mut client = Client12::connect(site.address(), &Hello::tls12(NAME)).unwrap();
            let flight = client.second_flight(&handshake_message(20, &[0; 12]));
            client.stream.write_all(&flight).unwrap();
            assert_eq!(client.receive().unwrap_err().alert(), Some(51));
        }
        4 => {
            let mut client = Client12::connect(site.address(), &Hello::tls12(NAME)).unwrap();
            client.stream.write_all(&off_curve_flight()).unwrap();
            assert_eq!(client.receive().unwrap_err().alert(), Some(47));
        }
        _ => {
            let hello = Hello {
                name: Some("nobody.test".to_owned()),
                ..Hello::tls13(NAME)
            };
            assert_eq!(
                Client13::connect(site.address(), &hello)
                    .unwrap_err()
                    .alert(),
                Some(112)
            );
        }
    }
}

/// A second flight of TLS 1.2 whose point is not on the curve.
fn off_curve_flight() -> Vec<u8> {
    let body = [&[65, 4], [7; 64].as_slice()].concat();
    [
        record(HANDSHAKE, &handshake_message(16, &body)),
        record(CHANGE_CIPHER_SPEC, &[1]),
        record(HANDSHAKE, &[0; 40]),
    ]
    .concat()
}

#[test]
fn thousands_of_handshakes_leave_nothing_in_the_token() {
    let site = site("EC:prime256v1")
        .signer_limits("pending_timeout_s = 1")
        .start();
    handshake13(&site);
    handshake12(&site);
    settle(&site);
    let before = site.shim().report();
    for count in 0..3_000 {
        match count % 3 {
            0 => handshake13(&site),
            1 => handshake12(&site),
            _ => failed_handshake(&site, count / 3),
        }
    }
    // A handshake that was given up waits for its client no longer than it may.
    let deadline = Instant::now() + Duration::from_secs(10);
    while site.shim().report().live() > before.live() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    let after = site.shim().report();
    assert_eq!(
        after.live(),
        before.live(),
        "ephemeral objects are left in the token"
    );
    assert!(
        after.live_max() < before.live() + 300,
        "{} at once",
        after.live_max()
    );
    assert!(after.calls("C_GenerateKeyPair") - before.calls("C_GenerateKeyPair") > 2_500);
    // A thread opens its session when it is first needed; a check of health opens one every few seconds and closes it.
    let open = |report: &ShimReport| report.calls("C_OpenSession") - report.calls("C_CloseSession");
    let more = open(&after) - open(&before);
    assert!(
        more <= 4,
        "{more} sessions are left: {}",
        after.calls_since(&before)
    );
}

#[test]
fn each_failing_call_is_the_tokens_fault_and_leaves_nothing() {
    let mut site = site("EC:prime256v1")
        .signer_limits("pending_timeout_s = 1")
        .start();
    handshake13(&site);
    handshake12(&site);
    settle(&site);
    let live = site.shim().report().live();
    for (function, mechanism) in [
        ("C_GenerateKeyPair", ""),
        ("C_GetAttributeValue", ""),
        ("C_DeriveKey", ""),
        ("C_DigestInit", ""),
        ("C_DigestUpdate", ""),
        ("C_DigestKey", ""),
        ("C_DigestFinal", ""),
        ("C_SignInit", ""),
        ("C_Sign", "of 0x1041"),
        ("C_Sign", "of 0x251"),
    ] {
        // CKR_FUNCTION_FAILED: this call failed, and nothing is known of the next.
        site.shim()
            .set_faults(&format!("{function} error 0x6 {mechanism}"));
        let faults = site.shim().report().faults();
        let mut ends = Vec::new();
        if let Err(end) = Client13::established(site.address(), &Hello::tls13(NAME)) {
            ends.push(end.alert());
        }
        let tls12 = Client12::connect(site.address(), &Hello::tls12(NAME))
            .and_then(|mut client| client.finish());
        ends.extend(tls12.err().map(|end| end.alert()));
        assert!(
            !ends.is_empty() && site.shim().report().faults() > faults,
            "{function} was not called"
        );
        assert!(
            ends.iter().all(|alert| *alert == Some(80)),
            "{function}: internal_error, not {ends:?}"
        );
        site.shim().clear_faults();
        wait_until_served(&site);
        handshake12(&site);
    }
    let deadline = Instant::now() + Duration::from_secs(10);
    while site.shim().report().live() > live && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(
        site.shim().report().live(),
        live,
        "ephemeral objects are left in the token"
    );
    assert!(site.signer.is_running());
}

/// The signer may hold back for a moment after a failure of the token.
fn wait_until_served(site: &Site) {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match Client13::established(site.address(), &Hello::tls13(NAME)) {
            Ok(_) => return,
            Err(end) if Instant::now() > deadline => panic!("it does not come back: {end}"),
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

#[test]
fn a_wrong_rsa_signature_never_leaves() {
    let site = site("rsa:2048").start();
    handshake13(&site);
    site.shim().set_faults("C_Sign corrupt");
    for _ in 0..5 {
        let end = Client13::connect(site.address(), &Hello::tls13(NAME)).unwrap_err();
        assert_eq!(end.alert(), Some(80), "TLS 1.3, internal_error: {end}");
        let end = Client12::connect(site.address(), &Hello::tls12(NAME)).unwrap_err();
        assert_eq!(end.alert(), Some(80), "TLS 1.2, internal_error: {end}");
    }
    site.signer.wait_for("an alarm", |line| {
        line.to_string().to_lowercase().contains("signature")
    });
    site.shim().clear_faults();
    wait_until_served(&site);
}

#[test]
fn a_key_that_signs_wrongly_is_not_loaded() {
    for key in [
        "EC:prime256v1",
        "EC:secp384r1",
        "EC:edwards25519",
        "rsa:2048",
    ] {
        let parts = site(key).prepare();
        parts.token.shim().set_faults("C_Sign corrupt of 0x1041\nC_Sign corrupt of 0x1057\nC_Sign corrupt of 0x1\nC_Sign corrupt of 0xd");
        let mut signer = parts.spawn_signer();
        assert!(!signer.wait().success(), "{key}");
        let log = signer.log().join("\n");
        assert!(
            log.contains("key-0") && log.contains("signature"),
            "{key}: {log}"
        );
    }
}

#[test]
fn stalled_handshakes_hold_no_more_than_their_share() {
    let site = site("EC:prime256v1")
        .signer_limits("pending_max = 40\npending_timeout_s = 2")
        .start();
    handshake12(&site);
    settle(&site);
    let before = site.shim().report();
    let mut stalled: Vec<Client12> = (0..150)
        .map(|_| Client12::connect(site.address(), &Hello::tls12(NAME)).unwrap())
        .collect();
    let most = site.shim().report().live_max() - before.live();
    assert!(most <= 3 * 40, "{most} ephemeral objects for 40 handshakes");
    // The oldest have made room: they are told when they come back. The newest are served.
    assert_eq!(
        stalled[0].finish().unwrap_err().alert(),
        Some(80),
        "internal_error"
    );
    stalled[149].finish().unwrap();
    drop(stalled);
    let deadline = Instant::now() + Duration::from_secs(15);
    while site.shim().report().live() > before.live() {
        assert!(
            Instant::now() < deadline,
            "{} objects are left",
            site.shim().report().live()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    handshake12(&site);
}

#[test]
fn a_storm_of_bad_points_is_the_clients_fault() {
    let site = site("EC:prime256v1").start();
    for _ in 0..300 {
        let mut client = Client12::connect(site.address(), &Hello::tls12(NAME)).unwrap();
        client.stream.write_all(&off_curve_flight()).unwrap();
        assert_eq!(
            client.receive().unwrap_err().alert(),
            Some(47),
            "illegal_parameter"
        );
    }
    let since = Instant::now();
    handshake13(&site);
    assert!(
        since.elapsed() < Duration::from_secs(1),
        "{:?}",
        since.elapsed()
    );
}

#[test]
fn a_token_that_hangs_costs_its_clients_an_alert_and_no_more() {
    let site = site("EC:prime256v1")
        .signer_limits("step_timeout_ms = 400")
        .start();
    handshake13(&site);
    site.shim().set_faults("C_DeriveKey hang 1500 times 2");
    let since = Instant::now();
    let end = Client13::connect(site.address(), &Hello::tls13(NAME)).unwrap_err();
    assert_eq!(end.alert(), Some(80), "internal_error: {end}");
    assert!(
        since.elapsed() < Duration::from_millis(1400),
        "{:?}",
        since.elapsed()
    );
    site.shim().clear_faults();
    wait_until_served(&site);
}
