//! What cannot work says so, on its own side, and gives nothing away on the other.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::io;
use std::process::Command;
use std::time::Instant;

use keyhaven_tests::channel::Caller;
use keyhaven_tests::clients;
use keyhaven_tests::daemon::Daemon;
use keyhaven_tests::pki::{Ca, Flaw, Pair};
use keyhaven_tests::rawtls::{Client13, Hello};
use keyhaven_tests::running::Parts;
use keyhaven_tests::site::{Builder, NAME, SIGNER, site};
use keyhaven_wire::{Reply, Request};

/// Starts the signer, which must end by itself, and gives what it said.
fn refused_start(parts: &Parts) -> String {
    let mut signer = parts.spawn_signer();
    let status = signer.wait();
    let log = signer.log().join("\n");
    assert!(!status.success(), "it should not have started:\n{log}");
    assert!(
        status.code().is_some(),
        "it should have ended in order: {status}\n{log}"
    );
    log
}

fn says(log: &str, words: &[&str]) {
    let lower = log.to_lowercase();
    for word in words {
        assert!(
            lower.contains(&word.to_lowercase()),
            "it does not say {word:?}:\n{log}"
        );
    }
}

#[test]
fn a_wrong_pin_is_tried_once() {
    let parts = site("EC:prime256v1").prepare();
    let wrong = if parts.token.pin() == "00000000" {
        "00000001"
    } else {
        "00000000"
    };
    fs::write(parts.token.pin_file(), wrong).unwrap();
    let log = refused_start(&parts);
    says(&log, &["PIN", "site"]);
    assert_eq!(parts.token.shim().report().calls("C_Login"), 1, "{log}");
}

#[test]
fn a_missing_token_is_named_with_those_that_are_there() {
    let parts = site("EC:prime256v1").prepare();
    parts.edit("signer.toml", "pkcs11:token=site", "pkcs11:token=elsewhere");
    says(&refused_start(&parts), &["elsewhere", "site"]);
    assert_eq!(parts.token.shim().report().calls("C_Login"), 0);
}

#[test]
fn two_keys_with_one_label_are_no_key() {
    let parts = site("EC:prime256v1").prepare();
    parts
        .token
        .generate_key("EC:prime256v1", "key-0", "77")
        .unwrap();
    says(&refused_start(&parts), &["key-0", "77"]);
}

#[test]
fn a_missing_key_is_named() {
    let parts = site("EC:prime256v1").prepare();
    parts.edit("signer.toml", "object=key-0", "object=key-9");
    says(&refused_start(&parts), &["key-9", "key-0"]);
}

#[test]
fn a_key_that_is_not_its_certificates_is_refused() {
    let parts = site("EC:prime256v1")
        .name("other.keyhaven.test", &["EC:prime256v1"])
        .prepare();
    parts.edit(
        "signer.toml",
        "certificate = \"key-0.pem\"",
        "certificate = \"key-1.pem\"",
    );
    says(&refused_start(&parts), &["key-0", "certificate"]);
}

#[test]
fn check_says_every_problem_with_its_line() {
    let parts = site("EC:prime256v1").prepare();
    parts.edit(
        "signer.toml",
        "[limits]\n",
        "[limits]\nhandshakes_max = 0\nstep_timeout_ms = 0\n",
    );
    let said = clients::run(parts.signer_command().arg("--check"), b"");
    assert_eq!(said.status.code(), Some(78), "{}", said.all());
    says(
        &said.all(),
        &[
            "handshakes_max",
            "step_timeout_ms",
            "signer.toml:7",
            "signer.toml:8",
        ],
    );
}

#[test]
fn check_warns_of_a_certificate_that_does_not_name_its_site() {
    let parts = site("EC:prime256v1").prepare();
    let said = clients::run(parts.signer_command().arg("--check"), b"");
    assert_eq!(said.status.code(), Some(0), "{}", said.all());
    assert!(!said.all().contains("does not name"), "{}", said.all());
    parts.edit("signer.toml", NAME, "other.example");
    let said = clients::run(parts.signer_command().arg("--check"), b"");
    assert_eq!(said.status.code(), Some(0), "{}", said.all());
    says(&said.all(), &["does not name other.example", NAME, "line "]);
}

#[test]
fn only_a_valid_proxy_of_our_ca_is_heard() {
    let parts = site("EC:prime256v1").prepare();
    let signer = parts.spawn_signer();
    let address = signer.listening();
    let ping = |pair: Option<&Pair>| Caller::connect(address, pair).call(&Request::Ping);
    let ours = &parts.channel_ca;
    let foreign = Ca::new(&tempfile_dir(&parts), "ca");
    let name = "spiffe://keyhaven.test/proxy/edge-1";

    assert!(matches!(ping(Some(&parts.proxy_pair)), Ok(Reply::Pong)));
    let refused = [
        ("nobody", None),
        ("foreign", Some(foreign.identity("a", name, Flaw::None))),
        ("expired", Some(ours.identity("b", name, Flaw::Expired))),
        ("two names", Some(ours.identity("c", name, Flaw::TwoNames))),
        ("DNS name", Some(ours.identity("d", name, Flaw::DnsName))),
        ("a signer", Some(ours.identity("e", SIGNER, Flaw::None))),
        (
            "an admin",
            Some(ours.identity("f", "spiffe://keyhaven.test/admin/root", Flaw::None)),
        ),
        (
            "a stranger",
            Some(ours.identity("g", "spiffe://keyhaven.test/visitor/x", Flaw::None)),
        ),
    ];
    for (who, pair) in refused {
        let answer = ping(pair.as_ref());
        assert!(answer.is_err(), "{who} was heard: {answer:?}");
        assert_ne!(
            answer.unwrap_err().kind(),
            io::ErrorKind::WouldBlock,
            "{who} was left waiting"
        );
    }
    assert!(
        matches!(ping(Some(&parts.proxy_pair)), Ok(Reply::Pong)),
        "and a good one still is"
    );
    says(&signer.log().join("\n"), &["expired"]);
}

fn tempfile_dir(parts: &Parts) -> std::path::PathBuf {
    let dir = parts.dir().join("foreign");
    fs::create_dir_all(&dir).unwrap();
    dir
}

/// The alert that a client meets at this site, by openssl's words.
fn alert_at(command: &mut Command) -> String {
    let said = clients::run(command, b"");
    assert!(
        !said.status.success(),
        "it should have been refused: {}",
        said.all()
    );
    said.all()
}

/// What proxy and signer say when this proxy's certificate is not accepted; its client gets an alert, its backend
/// nothing.
fn unheard(build: Builder, at_the_proxy: &[&str], at_the_signer: &[&str]) {
    let site = build.start();
    let said = alert_at(&mut clients::s_client(NAME, site.address(), &site.ca()));
    assert!(said.contains("alert number 80"), "internal_error: {said}");
    says(&site.proxy.log().join("\n"), at_the_proxy);
    says(&site.signer.log().join("\n"), at_the_signer);
    assert_eq!(site.backend().connections(), 0);
}

#[test]
fn s6_a_signer_hears_no_proxy_of_a_foreign_ca() {
    let foreign = "does not come from the CA";
    unheard(
        site("EC:prime256v1").foreign_proxy(),
        &["proxy.pem", foreign],
        &[foreign],
    );
}

#[test]
fn s6_a_signer_hears_no_proxy_whose_certificate_has_expired() {
    unheard(
        site("EC:prime256v1").proxy_flaw(Flaw::Expired),
        &["it says that our certificate has expired"],
        &["its certificate has expired"],
    );
}

#[test]
fn a_proxy_with_two_names_does_not_start() {
    let build = site("EC:prime256v1").proxy_flaw(Flaw::TwoNames);
    let parts = build.prepare();
    build.write_proxy_config(
        parts.dir(),
        &["127.0.0.1:1".parse().unwrap()],
        parts.backend.address(),
    );
    let mut proxy = Daemon::spawn("proxy", &mut parts.proxy_command("proxy"));
    assert_eq!(proxy.wait().code(), Some(78));
    says(&proxy.log().join("\n"), &["proxy.pem", "SPIFFE"]);
}

#[test]
fn s6_a_proxy_gives_no_handshake_to_a_signer_of_another_name() {
    let build = site("EC:prime256v1");
    let parts = build.prepare();
    let signer = parts.spawn_signer();
    build.write_proxy_config(parts.dir(), &[signer.listening()], parts.backend.address());
    parts.edit("proxy.toml", SIGNER, "spiffe://keyhaven.test/signer/other");
    let proxy = parts.spawn_proxy();
    let ca = parts.dir().join("site-ca.pem");
    let said = alert_at(&mut clients::s_client(NAME, proxy.listening(), &ca));
    assert!(said.contains("alert number 80"), "internal_error: {said}");
    says(
        &proxy.log().join("\n"),
        &[
            "spiffe://keyhaven.test/signer/main",
            "correct its address or identity",
        ],
    );
}

#[test]
fn s6_a_proxy_without_a_grant_gets_no_handshake() {
    let site = site("EC:prime256v1")
        .proxy_identity("spiffe://keyhaven.test/proxy/edge-2")
        .start();
    let said = alert_at(&mut clients::s_client(NAME, site.address(), &site.ca()));
    assert!(
        said.contains("alert number 112"),
        "as for a name that is not there: {said}"
    );
}

#[test]
fn an_unknown_an_unauthorised_and_a_missing_name_look_the_same() {
    let site = site("EC:prime256v1")
        .name("denied.keyhaven.test", &["EC:prime256v1"])
        .not_granted()
        .start();
    let mut seen = Vec::new();
    for name in ["denied.keyhaven.test", "absent.keyhaven.test"] {
        let mut command = clients::s_client(name, site.address(), &site.ca());
        seen.push(alert_at(&mut command).contains("alert number 112"));
    }
    let mut command = clients::s_client_without_name(site.address());
    seen.push(alert_at(&mut command).contains("alert number 112"));
    assert_eq!(seen, [true, true, true], "unrecognized_name each time");
    assert_eq!(site.backend().connections(), 0);
}

/// Security rule T8: who asks cannot tell a name that is not there from one that he may not use.
#[test]
fn an_unknown_and_an_unauthorised_name_take_the_same_time() {
    let site = site("EC:prime256v1")
        .name("denied.keyhaven.test", &["rsa:2048"])
        .not_granted()
        .start();
    let once = |name: &str| {
        let since = Instant::now();
        assert_eq!(
            Client13::connect(site.address(), &Hello::tls13(name))
                .unwrap_err()
                .alert(),
            Some(112)
        );
        since.elapsed()
    };
    once("absent.keyhaven.test");
    let (mut denied, mut absent): (Vec<_>, Vec<_>) = (0..150)
        .map(|_| (once("denied.keyhaven.test"), once("absent.keyhaven.test")))
        .unzip();
    denied.sort();
    absent.sort();
    let (denied, absent) = (denied[75], absent[75]);
    // A signature or a key pair would take several times as long as the refusal itself.
    assert!(
        denied < absent * 2 && absent < denied * 2,
        "{denied:?} and {absent:?}"
    );
}

/// Security rule M2: a certificate is good for its role alone.
#[test]
fn a_signer_with_a_proxys_certificate_does_not_start() {
    let build = site("EC:prime256v1");
    let parts = build.prepare();
    parts
        .channel_ca
        .identity("signer", "spiffe://keyhaven.test/proxy/main", Flaw::None);
    says(&refused_start(&parts), &["signer.toml:3", "role"]);
}
