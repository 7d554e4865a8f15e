//! Clients of other makes, with each version, kind of certificate, suite and group.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use keyhaven_tests::backend::{pattern, sha256};
use keyhaven_tests::clients::{curl, gnutls, python, run, s_client};
use keyhaven_tests::http::{GREETING, exchange, get};
use keyhaven_tests::running::Site;
use keyhaven_tests::rustls_client::{Offer, connect};
use keyhaven_tests::site::{KEY_TYPES, NAME, empty_site, site};
use rustls::crypto::aws_lc_rs::{ALL_CIPHER_SUITES, kx_group};
use rustls::version::{TLS12, TLS13};

/// One name for each kind of key.
fn all_kinds() -> (Site, Vec<(&'static str, &'static str)>) {
    let names = [
        "p256.keyhaven.test",
        "p384.keyhaven.test",
        "ed25519.keyhaven.test",
        "rsa.keyhaven.test",
    ];
    let pairs: Vec<_> = KEY_TYPES.iter().copied().zip(names).collect();
    let build = pairs
        .iter()
        .fold(empty_site(), |build, (key, name)| build.name(name, &[key]));
    (build.start(), pairs)
}

/// Ed25519 is for TLS 1.3 and for TLS 1.2 alike, but curl's and Debian's defaults have it too.
#[test]
fn s7_curl_gets_what_the_backend_says() {
    let (site, kinds) = all_kinds();
    for (key, name) in kinds {
        for version in [&["--tlsv1.3"][..], &["--tlsv1.2", "--tls-max", "1.2"]] {
            let mut command = curl(name, site.address(), &site.ca());
            let got = run(command.args(version).arg(format!("https://{name}/")), b"");
            assert!(got.status.success(), "{key} {version:?}: {}", got.all());
            assert_eq!(got.stdout, GREETING);
        }
    }
}

#[test]
fn s8_openssl_with_each_key_suite_and_group_of_tls13() {
    let (site, kinds) = all_kinds();
    let suites = [
        "TLS_AES_128_GCM_SHA256",
        "TLS_AES_256_GCM_SHA384",
        "TLS_CHACHA20_POLY1305_SHA256",
    ];
    for (key, name) in kinds {
        for suite in suites {
            for group in ["P-256", "X25519", "P-384"] {
                let mut command = s_client(name, site.address(), &site.ca());
                command.args([
                    "-tls1_3",
                    "-ciphersuites",
                    suite,
                    "-groups",
                    group,
                    "-quiet",
                ]);
                let got = run(command.arg("-ign_eof"), &closing_get());
                assert!(got.status.success(), "{key} {suite} {group}: {}", got.all());
                assert!(
                    got.stdout.ends_with(GREETING),
                    "{key} {suite} {group}: {}",
                    got.all()
                );
            }
        }
    }
}

#[test]
fn s2_openssl_with_each_key_suite_and_group_of_tls12() {
    let (site, kinds) = all_kinds();
    for (key, name) in kinds {
        let by = if key.starts_with("rsa") {
            "RSA"
        } else {
            "ECDSA"
        };
        for cipher in [
            "AES128-GCM-SHA256",
            "AES256-GCM-SHA384",
            "CHACHA20-POLY1305",
        ] {
            for group in ["P-256", "X25519", "P-384"] {
                // SoftHSM2 cannot run HMAC-SHA384 over a secret of 32 bytes, so what is agreed on must not need it.
                if cipher.ends_with("SHA384") && group != "P-384" {
                    continue;
                }
                // A client that speaks TLS 1.2 checks the certificate's curve against its groups (RFC 8422, 5.3).
                let groups = match key {
                    "EC:prime256v1" if group != "P-256" => format!("{group}:P-256"),
                    "EC:secp384r1" if group != "P-384" => format!("{group}:P-384"),
                    _ => group.to_owned(),
                };
                let mut command = s_client(name, site.address(), &site.ca());
                command.args([
                    "-tls1_2",
                    "-cipher",
                    &format!("ECDHE-{by}-{cipher}"),
                    "-groups",
                    &groups,
                ]);
                let got = run(command.args(["-quiet", "-ign_eof"]), &closing_get());
                assert!(
                    got.status.success(),
                    "{key} {cipher} {group}: {}",
                    got.all()
                );
                assert!(
                    got.stdout.ends_with(GREETING),
                    "{key} {cipher} {group}: {}",
                    got.all()
                );
            }
        }
    }
}

/// A client that would rather have what the token cannot do gets what it can.
#[test]
fn a_suite_that_the_token_cannot_run_is_never_agreed_on() {
    let site = site("EC:prime256v1").start();
    let mut command = s_client(NAME, site.address(), &site.ca());
    command.args(["-tls1_2", "-groups", "P-256", "-brief", "-cipher"]);
    command.arg("ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-ECDSA-AES128-GCM-SHA256");
    let got = run(&mut command, b"");
    assert!(
        got.all()
            .contains("Ciphersuite: ECDHE-ECDSA-AES128-GCM-SHA256"),
        "{}",
        got.all()
    );
    let mut command = s_client(NAME, site.address(), &site.ca());
    command.args([
        "-tls1_2",
        "-groups",
        "P-256",
        "-cipher",
        "ECDHE-ECDSA-AES256-GCM-SHA384",
    ]);
    let got = run(&mut command, b"");
    assert!(
        got.all().contains("alert number 40"),
        "handshake_failure, at the client: {}",
        got.all()
    );
}

#[test]
fn python_ssl_speaks_both_versions() {
    let (site, kinds) = all_kinds();
    let script = include_str!("python/get.py");
    for (key, name) in kinds {
        for version in ["TLSv1_3", "TLSv1_2"] {
            let mut command = python(script);
            command
                .arg(site.ca())
                .args([name, &site.address().port().to_string(), version]);
            let got = run(&mut command, b"");
            assert!(got.status.success(), "{key} {version}: {}", got.all());
            assert_eq!(
                got.text().trim(),
                format!("{version} {}", sha256(&pattern(300_000))).replace("TLSv1_", "TLSv1.")
            );
        }
    }
}

#[test]
fn gnutls_speaks_both_versions() {
    let (site, kinds) = all_kinds();
    for (key, name) in kinds {
        for version in ["VERS-TLS1.3", "VERS-TLS1.2"] {
            for group in ["GROUP-SECP256R1", "GROUP-X25519", "GROUP-SECP384R1"] {
                let priority = format!(
                    "NORMAL:-VERS-ALL:+{version}:-GROUP-ALL:+{group}:+GROUP-SECP256R1:+GROUP-SECP384R1"
                );
                let got = run(
                    &mut gnutls(name, site.address(), &site.ca(), &priority),
                    &closing_get(),
                );
                assert!(
                    got.status.success(),
                    "{key} {version} {group}: {}",
                    got.all()
                );
                assert!(
                    got.text().contains("hello from the backend"),
                    "{key} {version} {group}: {}",
                    got.all()
                );
            }
        }
    }
}

#[test]
fn rustls_with_each_key_suite_and_group() {
    let (site, kinds) = all_kinds();
    let groups = [kx_group::SECP256R1, kx_group::X25519, kx_group::SECP384R1];
    for (key, name) in kinds {
        for suite in ALL_CIPHER_SUITES {
            for group in groups {
                let version = if suite.tls13().is_some() {
                    &TLS13
                } else {
                    &TLS12
                };
                let offer = Offer {
                    versions: vec![version],
                    suites: vec![*suite],
                    groups: vec![group],
                    ..Offer::default()
                };
                let what = format!("{key} {:?} {:?}", suite.suite(), group.name());
                match connect(site.address(), name, &site.ca(), &offer) {
                    Ok(mut stream) => {
                        assert_eq!(
                            exchange(&mut stream, &get("/")).unwrap(),
                            GREETING,
                            "{what}"
                        );
                        assert!(is_possible(key, &what), "{what} should have been refused");
                    }
                    Err(error) => assert!(!is_possible(key, &what), "{what}: {error}"),
                }
            }
        }
    }
}

/// Whether key, suite and group go together on SoftHSM2.
fn is_possible(key: &str, what: &str) -> bool {
    let is_12 = what.contains("TLS_ECDHE");
    let fits = what.contains("ECDHE_RSA") == key.starts_with("rsa");
    let within_token = !what.contains("SHA384") || what.ends_with("secp384r1");
    // In TLS 1.2 the key's own curve must be among the client's groups (RFC 8422, section 5.1.1).
    let curve = match key {
        "EC:prime256v1" => what.ends_with("secp256r1"),
        "EC:secp384r1" => what.ends_with("secp384r1"),
        _ => true,
    };
    !is_12 || (fits && within_token && curve)
}

#[test]
fn a_client_of_tls12_without_the_keys_curve_gets_another_key() {
    let site = empty_site()
        .name(NAME, &["EC:prime256v1", "rsa:2048"])
        .start();
    let mut command = s_client(NAME, site.address(), &site.ca());
    let got = run(
        command.args(["-tls1_2", "-groups", "X25519", "-brief"]),
        b"",
    );
    assert!(got.all().contains("ECDHE-RSA"), "{}", got.all());
}

/// A request after whose answer the backend closes.
fn closing_get() -> Vec<u8> {
    b"GET / HTTP/1.1\r\nHost: any\r\nConnection: close\r\n\r\n".to_vec()
}
