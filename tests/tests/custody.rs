//! Where keys come from follows from what the token proves at the start, and never falls below `custody_min`.
//!
//! A token that proves less is ours with a fault that stays: the self-tests meet it, and so would every handshake.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use keyhaven_tests::daemon::field;
use keyhaven_tests::dialogue::{established12, established13};
use keyhaven_tests::http::GREETING;
use keyhaven_tests::rawtls::{Client13, Hello};
use keyhaven_tests::running::Site;
use keyhaven_tests::rustls_client::{Offer, connect};
use keyhaven_tests::site::{NAME, site};
use rustls::ProtocolVersion;

/// HKDF-Extract with the secret's handle fails (CKR_FUNCTION_FAILED), so TLS 1.3 has nothing above signatures.
const NO_EXTRACT: &str = "C_DigestKey error 0x6";
/// No shared secret can be derived at all.
const NO_DERIVE: &str = "C_DeriveKey error 0x6";

/// The levels that a log line with this message names: TLS 1.3, TLS 1.2.
fn levels(site: &Site, message: &str) -> (String, String) {
    let line = site.signer.wait_for_text(message);
    let level = |name| field(&line, name).unwrap();
    (level("custody_tls13"), level("custody_tls12"))
}

/// The custody that the signer logs of a handshake of this version.
fn logged(site: &Site, version: &str) -> String {
    let line = site.signer.wait_for("a handshake", |line| {
        field(line, "event").as_deref() == Some("proven")
            && field(line, "version").as_deref() == Some(version)
    });
    field(&line, "custody").unwrap()
}

#[test]
fn without_a_setting_it_is_the_highest_that_is_proven() {
    for (faults, tls13, tls12) in [
        ("", "premaster", "premaster"),
        (NO_EXTRACT, "signature", "premaster"),
        (NO_DERIVE, "signature", "signature"),
    ] {
        let site = site("EC:prime256v1").token_faults(faults).start();
        let expected = (tls13.to_owned(), tls12.to_owned());
        for message in ["token is open and proven", "site is ready"] {
            assert_eq!(levels(&site, message), expected, "{faults:?}: {message}");
        }
        // Served, and with the token's key pairs exactly where the level says so.
        let pairs = || site.shim().report().calls("C_GenerateKeyPair");
        let before = pairs();
        assert!(established13(&site).ask().unwrap().ends_with(GREETING));
        let between = pairs();
        assert!(established12(&site).ask().unwrap().ends_with(GREETING));
        assert_eq!(between > before, tls13 == "premaster", "{faults:?}");
        assert_eq!(pairs() > between, tls12 == "premaster", "{faults:?}");
        assert_eq!(logged(&site, "1.3"), tls13, "{faults:?}");
        assert_eq!(logged(&site, "1.2"), tls12, "{faults:?}");
    }
}

#[test]
fn a_version_below_the_minimum_is_not_spoken() {
    let site = site("EC:prime256v1")
        .options("custody_min = \"premaster\"")
        .token_faults(NO_EXTRACT)
        .start();
    let end = Client13::connect(site.address(), &Hello::tls13(NAME)).unwrap_err();
    assert_eq!(end.alert(), Some(70), "protocol_version: {end}");
    assert!(established12(&site).ask().unwrap().ends_with(GREETING));
    assert_eq!(logged(&site, "1.2"), "premaster");
    // A client of both versions gets the one that keeps the secret in the token.
    let stream = connect(site.address(), NAME, &site.ca(), &Offer::default()).unwrap();
    assert_eq!(
        stream.conn.protocol_version(),
        Some(ProtocolVersion::TLSv1_2)
    );
}

#[test]
fn a_token_below_the_minimum_keeps_the_signer_from_starting() {
    let parts = site("EC:prime256v1")
        .options("custody_min = \"premaster\"")
        .token_faults(NO_DERIVE)
        .prepare();
    let mut signer = parts.spawn_signer();
    assert!(!signer.wait().success(), "it should not have started");
    let log = signer.log().join("\n");
    for words in [
        NAME,
        "custody_min is premaster",
        "TLS 1.3 reaches signature",
        "TLS 1.2 signature",
    ] {
        assert!(log.contains(words), "it does not say {words:?}:\n{log}");
    }
}
