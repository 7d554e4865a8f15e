//! What an operator does while clients come and go: new files taken over, staples, counters.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use keyhaven_tests::clients::{run, s_client};
use keyhaven_tests::daemon::field;
use keyhaven_tests::dialogue::{echo, established13, update};
use keyhaven_tests::http::GREETING;
use keyhaven_tests::matrix;
use keyhaven_tests::pki::Validity;
use keyhaven_tests::rawtls::{Client13, Hello};
use keyhaven_tests::running::Site;
use keyhaven_tests::site::{NAME, PROXY, site};

/// The certificate that a client is shown.
fn shown(site: &Site) -> Vec<u8> {
    let client = Client13::established(site.address(), &Hello::tls13(NAME)).unwrap();
    let messages = client.server_messages().iter();
    let (_, message) = messages.clone().find(|(kind, _)| *kind == 11).unwrap();
    message.clone()
}

/// Renews the certificate of the site's key.
fn renew(site: &Site) {
    let spki = site.token().public_key("key-0").unwrap();
    site.parts.site_ca.site("key-0", &[NAME], &spki);
}

#[test]
fn a_renewed_certificate_is_served_without_a_restart_and_without_a_word() {
    let site = site("EC:prime256v1")
        .signer_limits("reload_every_s = 1")
        .start();
    let before = shown(&site);
    let first = site.signer.log().len();
    renew(&site);
    site.signer.wait_from(first, "the change", |line| {
        field(line, "message").as_deref() == Some("configuration taken over")
    });
    assert_ne!(shown(&site), before);
}

#[test]
fn a_hangup_changes_names_keys_and_grants_under_open_connections() {
    for row in [&matrix::SOFTHSM2, &matrix::KRYOPTIC, &matrix::NSS] {
        let site = row
            .site()
            .backend(keyhaven_tests::backend::Manner::Echo)
            .start();
        let mut open = established13(&site);
        echo(&mut open, b"before");
        let before = shown(&site);
        // Another key under another name, with its certificate.
        site.token()
            .generate_key("EC:secp384r1", "next", "42")
            .unwrap();
        let spki = site.token().public_key("next").unwrap();
        site.parts
            .site_ca
            .site("next", &["next.keyhaven.test"], &spki);
        let file = site.dir().join("signer.toml");
        let mut text = fs::read_to_string(&file).unwrap();
        text.push_str(&format!(
            "[[site]]\nnames = [\"next.keyhaven.test\"]\nproxies = [\"{PROXY}\"]\n\
             [[site.key]]\ntoken = \"main\"\nuri = \"{}\"\ncertificate = \"next.pem\"\n",
            site.token().key_uri("next")
        ));
        fs::write(&file, text).unwrap();
        site.reload();
        Client13::established(site.address(), &Hello::tls13("next.keyhaven.test")).unwrap();
        assert_eq!(shown(&site), before, "the other site is as it was");
        // Connections go on, and get their next keys.
        echo(&mut open, b"after");
        update(&mut open, true);
        echo(&mut open, b"with new keys");
        // A grant that is gone is gone at once: no handshake, and no next key.
        site.parts.edit(
            "signer.toml",
            &format!("proxies = [\"{PROXY}\"]"),
            "proxies = []",
        );
        site.reload();
        let end = Client13::connect(site.address(), &Hello::tls13(NAME)).unwrap_err();
        assert_eq!(end.alert(), Some(112), "unrecognized_name: {end}");
        echo(&mut open, b"still the old keys");
        update(&mut open, false);
        let _ = open.send(23, b"under a key that nobody has");
        assert!(
            open.receive().is_err(),
            "the proxy got a key without a grant"
        );
    }
}

#[test]
fn a_key_that_is_taken_out_gives_no_next_key_to_its_connections() {
    for row in [&matrix::SOFTHSM2, &matrix::KRYOPTIC, &matrix::NSS] {
        let site = row
            .site()
            .backend(keyhaven_tests::backend::Manner::Echo)
            .start();
        let mut open = established13(&site);
        echo(&mut open, b"before");
        // The site stays, with its name and its grant; the key that authenticated the connection goes.
        site.token()
            .generate_key("EC:secp384r1", "next", "42")
            .unwrap();
        let spki = site.token().public_key("next").unwrap();
        site.parts.site_ca.site("next", &[NAME], &spki);
        let uri = |label| format!("uri = \"{}\"", site.token().key_uri(label));
        site.parts.edit("signer.toml", &uri("key-0"), &uri("next"));
        site.parts.edit("signer.toml", "key-0.pem", "next.pem");
        site.reload();
        let mut fresh = established13(&site);
        update(&mut fresh, true);
        echo(&mut fresh, b"the new key's connections have new keys");
        echo(&mut open, b"still the old keys");
        update(&mut open, false);
        let end = open.receive().unwrap_err();
        assert_eq!(end.alert(), Some(80), "internal_error, {}: {end}", row.name);
    }
}

#[test]
fn a_state_that_cannot_be_served_changes_nothing() {
    let site = site("EC:prime256v1").start();
    let before = shown(&site);
    let certificate = site.dir().join("key-0.pem");
    let good = fs::read(&certificate).unwrap();
    let first = site.signer.log().len();
    fs::write(&certificate, "no certificate").unwrap();
    site.signer.hang_up();
    site.signer.wait_from(first, "a refusal", |line| {
        line.to_string().contains("key-0.pem")
    });
    assert_eq!(shown(&site), before);
    fs::write(&certificate, good).unwrap();
    renew(&site);
    site.reload();
    assert_ne!(shown(&site), before);
}

#[test]
fn a_staple_is_given_to_whoever_asks_and_renewed_from_its_file() {
    let build = site("EC:prime256v1").key_options("ocsp = \"site.ocsp\"");
    let parts = build.prepare();
    let certificate = parts.dir().join("key-0.pem");
    parts.site_ca.ocsp("site.ocsp", &certificate, 10);
    let site = build.start_with(parts);
    for version in ["-tls1_3", "-tls1_2"] {
        let mut openssl = s_client(NAME, site.address(), &site.ca());
        let said = run(openssl.args([version, "-status"]), b"");
        assert!(
            said.text().contains("OCSP Response Status: successful"),
            "{}",
            said.all()
        );
        assert!(said.text().contains("Cert Status: good"), "{}", said.all());
    }
    // Another response is taken from the file.
    let staple = |site: &Site| {
        let mut openssl = s_client(NAME, site.address(), &site.ca());
        let said = run(openssl.args(["-tls1_3", "-status"]), b"").text();
        let line = said.lines().find(|line| line.contains("Next Update"));
        line.map(str::to_owned)
    };
    let before = staple(&site).unwrap();
    site.parts.site_ca.ocsp("site.ocsp", &certificate, 600);
    site.reload();
    assert_ne!(staple(&site).unwrap(), before);
    // One for another certificate is not.
    let before = staple(&site).unwrap();
    let other = site
        .parts
        .site_ca
        .client("other", "other", 99, Validity::Now);
    site.parts
        .site_ca
        .ocsp("site.ocsp", &other.certificate, 1_200);
    let first = site.signer.log().len();
    site.signer.hang_up();
    site.signer.wait_from(first, "word of the staple", |line| {
        line.to_string().contains("site.ocsp")
    });
    assert!(staple(&site).is_none_or(|now| now == before));
}

/// What `GET /metrics` gives.
fn metrics(address: SocketAddr) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    answer
}

/// The value of a metric with these labels, in any order.
fn value(metrics: &str, name: &str, labels: &[&str]) -> u64 {
    let line = metrics.lines().find(|line| {
        // A label may have spaces in it, the value has none.
        let (head, _) = line.rsplit_once(' ').unwrap_or_default();
        head.starts_with(&format!("{name}{{")) && labels.iter().all(|label| head.contains(label))
    });
    let value = line
        .and_then(|line| line.rsplit(' ').next())
        .map(str::parse);
    value.and_then(Result::ok).unwrap_or(0)
}

#[test]
fn each_handshake_is_counted_with_its_level() {
    let site = matrix::SOFTHSM2_KRYOPTIC
        .site()
        .tickets("")
        .section("metrics", "listen = \"127.0.0.1:0\"")
        .start();
    let line = site.signer.wait_for("the metrics' address", |line| {
        line.to_string().contains("metrics")
            && field(line, "address").or(field(line, "metrics")).is_some()
    });
    let address = field(&line, "address").or(field(&line, "metrics")).unwrap();
    let address: SocketAddr = address.parse().unwrap();
    let hello = Hello::tls13(NAME);
    let mut client = Client13::established(site.address(), &hello).unwrap();
    assert!(client.ask().unwrap().ends_with(GREETING));
    for _ in 0..3 {
        let hello = hello.clone().resuming(vec![client.tickets()[0].offer()]);
        let mut client = Client13::established(site.address(), &hello).unwrap();
        assert!(client.ask().unwrap().ends_with(GREETING));
    }
    let first = site.signer.log();
    let proven = first
        .iter()
        .filter(|line| line.contains("\"event\":\"proven\""));
    assert!(proven.count() <= 4);
    let of = |resumed: &'static str| ["version=\"1.3\"", "level=\"schedule\"", resumed];
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    loop {
        let now = metrics(address);
        let counted = |resumed| value(&now, "keyhaven_handshakes_total", &of(resumed));
        if (counted("resumed=\"false\""), counted("resumed=\"true\"")) == (1, 3) {
            let left = |token| {
                let labels = [token, "what=\"keys, IVs, MACs\""];
                value(&now, "keyhaven_left_token_total", &labels)
            };
            assert_eq!(left("token=\"keeper\""), 4, "{now}");
            let family = now
                .lines()
                .filter(|line| line.starts_with("keyhaven_left_token_total{"));
            assert_eq!(family.count(), 1, "nothing else left a token: {now}");
            for name in ["main", "keeper"] {
                let label = format!("name=\"{name}\"");
                assert_eq!(value(&now, "keyhaven_token_up", &[&label]), 1, "{now}");
            }
            return;
        }
        assert!(std::time::Instant::now() < deadline, "{now}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
