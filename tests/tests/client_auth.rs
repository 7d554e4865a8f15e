//! Clients with certificates: who is let in, with which alert the others are sent away, and what the backend learns.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use keyhaven_tests::audit::Proven;
use keyhaven_tests::backend::Manner;
use keyhaven_tests::channel::load;
use keyhaven_tests::clients::{curl, run, s_client};
use keyhaven_tests::dialogue::{data, echo, update};
use keyhaven_tests::each_row;
use keyhaven_tests::http::GREETING;
use keyhaven_tests::matrix::Row;
use keyhaven_tests::pki::{Ca, Pair, Validity};
use keyhaven_tests::proxy_header::{Header, Tls};
use keyhaven_tests::rawtls::{APPLICATION_DATA, Client12, Client13, Group, Hello, Identity, Stop};
use keyhaven_tests::running::Site;
use keyhaven_tests::site::{NAME, site};

each_row![
    a_client_with_a_certificate_is_served_at_the_rows_level,
    a_client_without_one_is_served_only_where_it_is_optional,
];

fn identity(pair: &Pair) -> Identity {
    let (chain, key) = load(pair);
    Identity::new(&chain, &key)
}

/// A TLS 1.3 client that shows this, with its handshake done and answered.
fn with13(site: &Site, identity: Option<&Identity>) -> Result<Client13, Stop> {
    let mut client = Client13::connect(site.address(), &Hello::tls13(NAME))?;
    assert!(client.is_asked());
    client.authenticate(identity)?;
    client.finish()?;
    assert!(client.ask()?.ends_with(GREETING));
    Ok(client)
}

fn with12(site: &Site, identity: Option<&Identity>) -> Result<Client12, Stop> {
    let mut client = Client12::connect_as(site.address(), &Hello::tls12(NAME), identity)?;
    assert!(client.is_asked());
    client.finish()?;
    assert!(client.ask()?.ends_with(GREETING));
    Ok(client)
}

fn a_client_with_a_certificate_is_served_at_the_rows_level(row: &Row) {
    // Sessions with a certificate get no tickets, though others do.
    let site = row
        .site()
        .tickets("tls12 = true")
        .client_auth("required")
        .start();
    let pair = site.parts.clients_ca.client("ann", "ann", 7, Validity::Now);
    let ann = identity(&pair);
    let client = with13(&site, Some(&ann)).unwrap();
    assert_eq!(Proven::of(&site, &client).level(), row.level);
    assert!(
        client.tickets().is_empty(),
        "a ticket with a client's certificate"
    );
    let client = with12(&site, Some(&ann)).unwrap();
    assert_eq!(Proven::of(&site, &client).level(), row.level);
    for version in ["-tls1_3", "-tls1_2"] {
        let mut openssl = s_client(NAME, site.address(), &site.ca());
        openssl
            .args([version, "-ign_eof", "-cert"])
            .arg(&pair.certificate);
        let said = run(openssl.arg("-key").arg(&pair.key), REQUEST);
        assert!(
            said.text().contains("hello from the backend"),
            "{}",
            said.all()
        );
    }
}

fn a_client_without_one_is_served_only_where_it_is_optional(row: &Row) {
    let site = row.site().client_auth("optional").start();
    let ann = identity(&site.parts.clients_ca.client("ann", "ann", 7, Validity::Now));
    for identity in [None, Some(&ann)] {
        let client = with13(&site, identity).unwrap();
        assert_eq!(Proven::of(&site, &client).level(), row.level);
        let client = with12(&site, identity).unwrap();
        assert_eq!(Proven::of(&site, &client).level(), row.level);
    }
    drop(site);

    let site = row.site().client_auth("required").start();
    let end = with13(&site, None).unwrap_err();
    assert_eq!(end.alert(), Some(116), "certificate_required: {end}");
    let end = with12(&site, None).unwrap_err();
    assert!(matches!(end.alert(), Some(40 | 116)), "{end}");
    assert_eq!(site.backend().connections(), 0);
}

/// Whom a site refuses, whether a certificate is required or optional, and with which alert.
fn refused(site: &Site, pair: &Pair, alerts: &[u8], why: &str) {
    let identity = identity(pair);
    for end in [
        with13(site, Some(&identity)).unwrap_err(),
        with12(site, Some(&identity)).unwrap_err(),
    ] {
        let alert = end.alert().unwrap_or_else(|| panic!("{why}: {end}"));
        assert!(alerts.contains(&alert), "{why}: {end}");
    }
}

#[test]
fn a_certificate_that_is_not_good_is_refused_before_the_backend_hears_of_it() {
    for mode in ["required", "optional"] {
        let site = site("EC:prime256v1").client_auth(mode).start();
        let other = Ca::new(site.dir(), "other-ca");
        let stranger = other.client("stranger", "ann", 7, Validity::Now);
        refused(&site, &stranger, &[48], "unknown_ca");
        let late = site
            .parts
            .clients_ca
            .client("late", "ann", 8, Validity::Over);
        refused(&site, &late, &[45], "certificate_expired");
        let server = site.dir().join("key-0.pem");
        let ann = site.parts.clients_ca.client("ann", "ann", 9, Validity::Now);
        // Somebody else's certificate, and a key that does not fit it.
        let thief = Pair {
            certificate: stranger.certificate.clone(),
            key: ann.key.clone(),
        };
        refused(&site, &thief, &[48, 51], "another CA's certificate");
        let thief = Pair {
            certificate: ann.certificate.clone(),
            key: stranger.key.clone(),
        };
        refused(&site, &thief, &[51], "decrypt_error");
        // The site's own certificate is none of a client.
        let server = Pair {
            certificate: server,
            key: ann.key.clone(),
        };
        refused(&site, &server, &[42, 43, 48, 51], "a server's certificate");
        assert_eq!(site.backend().connections(), 0, "{mode}");
        with13(&site, Some(&identity(&ann))).unwrap();
        with12(&site, Some(&identity(&ann))).unwrap();
    }
}

#[test]
fn a_revoked_certificate_is_refused_and_so_is_everybody_without_a_current_list() {
    let build = || {
        site("EC:prime256v1")
            .client_auth("required")
            .options("client_crl = [\"clients.crl\"]")
    };
    let parts = build().prepare();
    let ca = &parts.clients_ca;
    ca.revoke("clients.crl", &[7]);
    let gone = ca.client("gone", "gone", 7, Validity::Now);
    let good = ca.client("good", "good", 8, Validity::Now);
    let site = build().start_with(parts);
    refused(&site, &gone, &[44], "certificate_revoked");
    with13(&site, Some(&identity(&good))).unwrap();
    with12(&site, Some(&identity(&good))).unwrap();

    let parts = build().prepare();
    let ca = &parts.clients_ca;
    ca.stale_list("clients.crl");
    let good = ca.client("good", "good", 8, Validity::Now);
    let site = build().start_with(parts);
    site.signer.wait_for_text("clients.crl is out of date");
    refused(
        &site,
        &good,
        &[42, 44, 46, 48],
        "a list that is out of date",
    );
}

#[test]
fn a_client_of_tls12_cannot_do_without_what_it_was_asked_for() {
    let site = site("EC:prime256v1").client_auth("required").start();
    // It goes on as if it had not been asked.
    let mut client = Client12::connect(site.address(), &Hello::tls12(NAME)).unwrap();
    let empty = client.key_exchange();
    let end = client.finish().unwrap_err();
    assert!(end.alert().is_some(), "{end}");
    // The certificate's record is left out, so that the flight begins with ClientKeyExchange.
    let mut client = Client12::connect(site.address(), &Hello::tls12(NAME)).unwrap();
    let first = 5 + usize::from(u16::from_be_bytes([empty[3], empty[4]]));
    let mut flight = client.key_exchange().split_off(first);
    flight.extend(keyhaven_tests::rawtls::record(20, &[1]));
    let finished = client.finished();
    flight.extend(client.write.seal(22, &finished));
    std::io::Write::write_all(&mut client.stream, &flight).unwrap();
    let end = client.receive().unwrap_err();
    assert!(end.alert().is_some(), "{end}");
    assert_eq!(site.backend().connections(), 0);
}

#[test]
fn a_connection_with_a_certificate_changes_its_keys() {
    let site = site("EC:prime256v1")
        .client_auth("required")
        .backend(Manner::Echo)
        .start();
    let ann = identity(&site.parts.clients_ca.client("ann", "ann", 7, Validity::Now));
    let mut client = Client13::connect(site.address(), &Hello::tls13(NAME)).unwrap();
    client.authenticate(Some(&ann)).unwrap();
    client.finish().unwrap();
    echo(&mut client, b"before");
    update(&mut client, true);
    echo(&mut client, b"after");
    update(&mut client, false);
    echo(&mut client, b"and again");
}

/// What the backend is told of a client that says hello.
fn header13(site: &Site, hello: &Hello, identity: Option<&Identity>) -> Header {
    let mut client = Client13::connect(site.address(), hello).unwrap();
    if client.is_asked() {
        client.authenticate(identity).unwrap();
    }
    client.finish().unwrap();
    client.send(APPLICATION_DATA, b"hello").unwrap();
    let mut got = Vec::new();
    while !got.ends_with(b"hello") {
        got.extend(data(&mut client));
    }
    let header = Header::take(&mut got);
    assert_eq!(got, b"hello");
    assert_eq!(header.from, client.stream.local_addr().unwrap());
    assert_eq!(header.to, site.address());
    header
}

#[test]
fn the_backend_learns_who_the_client_is() {
    let site = site("EC:prime256v1")
        .client_auth("optional")
        .options("alpn = [\"http/1.1\"]")
        .proxy_options("proxy_protocol = \"v2-tls\"")
        .backend(Manner::Echo)
        .start();
    let pair = site
        .parts
        .clients_ca
        .client("ann", "Ann of Oz", 7, Validity::Now);
    let (chain, _) = load(&pair);
    let hello = Hello {
        alpn: vec![b"http/1.1".to_vec()],
        ..Hello::tls13(NAME).with_group(Group::X25519)
    };
    let header = header13(&site, &hello, Some(&identity(&pair)));
    assert_eq!(header.alpn.as_deref(), Some(b"http/1.1".as_slice()));
    assert_eq!(header.authority.as_deref(), Some(NAME));
    let tls = header.tls.unwrap();
    assert_eq!(
        tls,
        Tls {
            client: 1 | 2 | 4,
            verify: 0,
            version: Some("TLSv1.3".to_owned()),
            common_name: Some("Ann of Oz".to_owned()),
            cipher: Some("TLS_AES_128_GCM_SHA256".to_owned()),
            certificate: Some(chain[0].to_vec()),
        }
    );
    // Nobody is not Ann.
    let tls = header13(&site, &Hello::tls13(NAME), None).tls.unwrap();
    assert_eq!(tls.client, 1);
    assert_ne!(tls.verify, 0);
    assert_eq!((tls.common_name, tls.certificate), (None, None));
}

#[test]
fn curl_shows_its_certificate() {
    let site = site("EC:prime256v1").client_auth("required").start();
    let pair = site.parts.clients_ca.client("ann", "ann", 7, Validity::Now);
    let url = format!("https://{NAME}/");
    let said = run(curl(NAME, site.address(), &site.ca()).arg(&url), b"");
    assert!(!said.status.success(), "{}", said.all());
    let mut with = curl(NAME, site.address(), &site.ca());
    with.arg("--cert")
        .arg(&pair.certificate)
        .arg("--key")
        .arg(&pair.key);
    let said = run(with.arg(&url), b"");
    assert_eq!(said.text().as_bytes(), GREETING, "{}", said.all());
}

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: any\r\nConnection: close\r\n\r\n";
