//! Tokens that lie: that list what they cannot do, give wrong results, make what they should keep readable, or are slow.
//! They are used for less, or not at all, and never below what was asked for.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::thread;
use std::time::{Duration, Instant};

use keyhaven_tests::audit::Proven;
use keyhaven_tests::daemon::field;
use keyhaven_tests::dialogue::until_served;
use keyhaven_tests::http::GREETING;
use keyhaven_tests::matrix::{self, Row};
use keyhaven_tests::rawtls::{Client12, Client13, Hello};
use keyhaven_tests::running::Site;
use keyhaven_tests::site::{Builder, NAME};
use keyhaven_types::CustodyLevel::{self, Master, Premaster, Schedule, Signature};

/// What is wrong with a token, and the levels that are left: TLS 1.3, TLS 1.2.
type Lie = (&'static str, CustodyLevel, CustodyLevel);

const LIES: &[Lie] = &[
    // Listed, and then refused: CKR_MECHANISM_INVALID.
    (
        "C_DeriveKey error 0x70 of CKM_HKDF_DERIVE",
        Premaster,
        Schedule,
    ),
    (
        "C_DeriveKey error 0x70 of CKM_HKDF_DATA",
        Premaster,
        Schedule,
    ),
    (
        "C_DeriveKey error 0x70 of CKM_ECDH1_DERIVE",
        Signature,
        Signature,
    ),
    // Done, and wrong.
    (
        "C_DeriveKey corrupt of CKM_HKDF_DERIVE",
        Premaster,
        Schedule,
    ),
    ("C_DeriveKey corrupt of CKM_HKDF_DATA", Premaster, Schedule),
    (
        "C_DeriveKey corrupt of CKM_ECDH1_DERIVE",
        Signature,
        Signature,
    ),
    ("C_WrapKey corrupt", Master, Schedule),
    ("C_Encrypt corrupt", Master, Schedule),
    ("C_Decrypt corrupt", Master, Schedule),
    // Right, and there for everybody to read; with the truth about it, and without. Such a module keeps no secret.
    (
        "C_DeriveKey readable of CKM_ECDH1_DERIVE",
        Signature,
        Signature,
    ),
    (
        "C_DeriveKey readable-shown of CKM_ECDH1_DERIVE",
        Signature,
        Signature,
    ),
    ("C_GenerateKeyPair readable", Signature, Signature),
    // Late, and right.
    ("C_DeriveKey hang 2", Schedule, Schedule),
];

/// What differs from module to module: the extended master secret, and NSS itself refuses to make a readable secret
/// from one that is not.
fn lies_of(row: &Row) -> &'static [Lie] {
    if row.keeper() == matrix::NSS.keys {
        return &[
            (
                "C_DeriveKey readable of CKM_HKDF_DERIVE",
                Premaster,
                Schedule,
            ),
            ("C_DeriveKey corrupt of 0xCE53436A", Schedule, Premaster),
            ("C_DeriveKey readable of 0xCE53436A", Signature, Signature),
        ];
    }
    &[
        (
            "C_DeriveKey readable of CKM_HKDF_DERIVE",
            Signature,
            Signature,
        ),
        (
            "C_DeriveKey readable-shown of CKM_HKDF_DERIVE",
            Signature,
            Signature,
        ),
        (
            "C_DeriveKey corrupt of CKM_TLS12_EXTENDED_MASTER_KEY_DERIVE_DH",
            Schedule,
            Premaster,
        ),
        (
            "C_DeriveKey readable of CKM_TLS12_EXTENDED_MASTER_KEY_DERIVE_DH",
            Signature,
            Signature,
        ),
    ]
}

/// A site whose exchange token lies from before the start. What can be read is the lie's business here.
fn liar(row: &Row, faults: &'static str) -> Builder {
    let build = row.site().tap(false);
    if row.exchange.is_some() {
        build.exchange_faults(faults)
    } else {
        build.token_faults(faults)
    }
}

fn served_at_what_is_left(row: &Row, (faults, tls13, tls12): Lie) {
    let site = liar(row, faults).start();
    let what = format!("{}: {faults}", row.name);
    let mut client = Client13::established(site.address(), &Hello::tls13(NAME)).unwrap();
    assert!(client.ask().unwrap().ends_with(GREETING), "{what}");
    assert_eq!(Proven::of(&site, &client).level(), tls13, "{what}");
    let mut client = Client12::connect(site.address(), &Hello::tls12(NAME)).unwrap();
    client.finish().unwrap();
    assert!(client.ask().unwrap().ends_with(GREETING), "{what}");
    assert_eq!(Proven::of(&site, &client).level(), tls12, "{what}");
}

#[test]
fn kryoptic_is_used_for_what_it_proves() {
    let row = &matrix::KRYOPTIC;
    for lie in LIES.iter().chain(lies_of(row)) {
        served_at_what_is_left(row, *lie);
    }
}

#[test]
fn nss_is_used_for_what_it_proves() {
    let row = &matrix::NSS;
    for lie in LIES.iter().chain(lies_of(row)) {
        served_at_what_is_left(row, *lie);
    }
}

#[test]
fn a_keeper_beside_the_key_token_is_used_for_what_it_proves() {
    let row = &matrix::SOFTHSM2_NSS;
    for lie in [LIES[0], LIES[5], LIES[6], lies_of(row)[0]] {
        served_at_what_is_left(row, lie);
    }
}

#[test]
fn a_liar_below_the_minimum_keeps_the_signer_from_starting_and_it_says_why() {
    for row in [&matrix::KRYOPTIC, &matrix::NSS] {
        for (faults, left, said) in [
            (
                "C_DeriveKey readable of CKM_ECDH1_DERIVE",
                "signature",
                "CKA_VALUE was read",
            ),
            (
                "C_DeriveKey corrupt of CKM_ECDH1_DERIVE",
                "signature",
                "the value is not the one that software gets",
            ),
        ] {
            let parts = liar(row, faults)
                .options("custody_min = \"schedule\"")
                .prepare();
            let mut signer = parts.spawn_signer();
            assert!(!signer.wait().success(), "{}: {faults}", row.name);
            let log = signer.log().join("\n");
            let opened = signer.wait_for_text("token is open and proven");
            let told = field(&opened, "not_proven").unwrap_or_default();
            assert!(told.contains(said), "{}: {faults}: {told}", row.name);
            let failed = log.split("first failed self-test: ").nth(1);
            assert!(
                failed.is_some_and(|failed| failed.contains(said)),
                "{}: {faults}: no {said:?} in the error:\n{log}",
                row.name
            );
            for word in [NAME, "custody_min is schedule", left] {
                assert!(
                    log.contains(word),
                    "{}: {faults}: no {word:?}:\n{log}",
                    row.name
                );
            }
        }
    }
}

#[test]
fn a_minimum_leaves_out_the_version_that_a_liar_has_spoilt() {
    for row in [&matrix::KRYOPTIC, &matrix::NSS] {
        let site = liar(row, "C_DeriveKey corrupt of CKM_HKDF_DERIVE")
            .options("custody_min = \"schedule\"")
            .start();
        let end = Client13::connect(site.address(), &Hello::tls13(NAME)).unwrap_err();
        assert_eq!(end.alert(), Some(70), "protocol_version: {end}");
        let mut client = Client12::connect(site.address(), &Hello::tls12(NAME)).unwrap();
        client.finish().unwrap();
        assert!(client.ask().unwrap().ends_with(GREETING));
        assert_eq!(Proven::of(&site, &client).level(), Schedule);
    }
}

/// Takes the token away for a moment; when it is back it lies.
fn goes_and_comes_back_as_a_liar(site: &Site, lie: &str) {
    let mut last = Client13::established(site.address(), &Hello::tls13(NAME)).unwrap();
    last.ask().unwrap();
    Proven::of(site, &last);
    let first = site.signer.log().len();
    // CKR_DEVICE_REMOVED for whatever is asked next, then only the lie.
    site.exchange_shim()
        .set_faults(&format!("* error 0x32 times 3\n{lie}"));
    let deadline = Instant::now() + Duration::from_secs(15);
    // Something has to notice.
    while !site.signer.log()[first..]
        .join("\n")
        .contains("no longer proves")
    {
        assert!(Instant::now() < deadline, "it is not examined again: {lie}");
        let _ = Client13::connect(site.address(), &Hello::tls13(NAME));
        thread::sleep(Duration::from_millis(50));
    }
    let served = site.signer.log()[first..]
        .iter()
        .filter(|line| line.contains("\"event\":\"proven\""))
        .count();
    assert_eq!(served, 0, "it was served by a liar: {lie}");
}

#[test]
fn a_token_that_lies_after_a_reconnect_is_not_used_again_until_it_is_honest() {
    for row in [&matrix::KRYOPTIC, &matrix::NSS, &matrix::SOFTHSM2_KRYOPTIC] {
        let site = row.site().tap(false).start();
        until_served(&site);
        for lie in [
            "C_DeriveKey readable of CKM_HKDF_DERIVE",
            "C_DeriveKey corrupt of CKM_HKDF_DATA",
        ] {
            goes_and_comes_back_as_a_liar(&site, lie);
            for _ in 0..3 {
                let end = Client13::connect(site.address(), &Hello::tls13(NAME)).unwrap_err();
                assert_eq!(end.alert(), Some(80), "internal_error: {end}");
            }
            site.exchange_shim().clear_faults();
            until_served(&site);
            let mut client = Client13::established(site.address(), &Hello::tls13(NAME)).unwrap();
            client.ask().unwrap();
            assert_eq!(Proven::of(&site, &client).level(), row.level);
        }
    }
}

#[test]
fn a_token_that_begins_to_lie_breaks_the_handshake_and_no_promise() {
    // Nobody examines a token in mid-service: wrong results make connections that do not come about.
    let site = matrix::KRYOPTIC.site().tap(false).start();
    until_served(&site);
    for lie in [
        "C_DeriveKey corrupt of CKM_HKDF_DERIVE",
        "C_DeriveKey corrupt of CKM_HKDF_DATA",
        "C_DeriveKey corrupt of CKM_ECDH1_DERIVE",
    ] {
        site.exchange_shim().set_faults(lie);
        let end = Client13::established(site.address(), &Hello::tls13(NAME));
        assert!(end.is_err(), "{lie}");
        site.exchange_shim().clear_faults();
    }
    until_served(&site);
    assert_eq!(site.backend().received(), 0, "nothing reached the backend");
    let levels = site.signer.log();
    let levels = levels.iter().filter(|line| line.contains("\"event\":"));
    for line in levels {
        let line = serde_json::from_str(line).unwrap();
        assert_ne!(
            field(&line, "custody").as_deref(),
            Some("signature"),
            "{line}"
        );
    }
}

#[test]
fn a_slow_token_costs_time_and_not_custody() {
    let site = matrix::KRYOPTIC
        .site()
        .signer_limits("step_timeout_ms = 400")
        .tap(false)
        .start();
    until_served(&site);
    site.shim().set_faults("C_DeriveKey hang 5");
    let mut client = Client13::established(site.address(), &Hello::tls13(NAME)).unwrap();
    client.ask().unwrap();
    assert_eq!(Proven::of(&site, &client).level(), Schedule);
    // Too slow is not served at all.
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
    until_served(&site);
}
