//! What client and signer agree on, and what the signer refuses to agree on.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io::Write;

use keyhaven_tests::clients::{run, s_client};
use keyhaven_tests::http::{GREETING, get};
use keyhaven_tests::rawtls::{APPLICATION_DATA, Client12, Client13, HANDSHAKE, Hello, record};
use keyhaven_tests::rustls_client::{Offer, connect};
use keyhaven_tests::site::{KEY_TYPES, NAME, empty_site, site};

#[test]
fn hello_retry_request_leads_to_the_tokens_group() {
    let site = site("EC:prime256v1").start();
    // openssl sends a share for the first group alone; P-521 is none of the token's.
    let mut command = s_client(NAME, site.address(), &site.ca());
    command.args(["-tls1_3", "-groups", "P-521:P-384", "-quiet", "-ign_eof"]);
    let got = run(
        &mut command,
        b"GET / HTTP/1.1\r\nHost: any\r\nConnection: close\r\n\r\n",
    );
    assert!(got.stdout.ends_with(GREETING), "{}", got.all());
}

#[test]
fn s11_what_the_signer_does_not_hold_fails_closed() {
    let site = site("EC:prime256v1")
        .options("alpn = [\"http/1.1\"]")
        .start();
    let hello = Hello::tls13(NAME);
    let refused = [
        (
            40,
            Hello {
                suites: vec![0x1304],
                ..hello.clone()
            },
            "no suite in common",
        ),
        (
            40,
            Hello {
                groups: vec![25],
                share: false,
                ..hello.clone()
            },
            "no group in common",
        ),
        (
            40,
            Hello {
                schemes: vec![0x0804],
                ..hello.clone()
            },
            "a client that can verify RSA alone",
        ),
        (
            112,
            Hello {
                name: Some("nobody.test".to_owned()),
                ..hello.clone()
            },
            "an unknown name",
        ),
        (
            112,
            Hello {
                name: None,
                ..hello.clone()
            },
            "no name",
        ),
        (
            120,
            Hello {
                alpn: vec![b"h2".to_vec()],
                ..hello.clone()
            },
            "no protocol in common",
        ),
        (
            70,
            Hello {
                versions: vec![0x0302],
                ..hello
            },
            "TLS 1.1",
        ),
    ];
    for (alert, hello, what) in refused {
        let met = Client13::connect(site.address(), &hello).unwrap_err();
        assert_eq!(met.alert(), Some(alert), "{what}: {met}");
    }
    let hello = Hello::tls12(NAME);
    let refused = [
        (
            40,
            Hello {
                suites: vec![0xc009, 0x002f],
                ..hello.clone()
            },
            "CBC and static RSA",
        ),
        (
            40,
            Hello {
                groups: vec![25],
                ..hello.clone()
            },
            "no group in common",
        ),
        (
            40,
            Hello {
                extended_master_secret: false,
                ..hello
            },
            "no extended master secret",
        ),
    ];
    for (alert, hello, what) in refused {
        let met = Client12::connect(site.address(), &hello).unwrap_err();
        assert_eq!(met.alert(), Some(alert), "{what}: {met}");
    }
    assert_eq!(site.backend().connections(), 0);
}

#[test]
fn early_data_under_a_foreign_ticket_is_skipped() {
    let site = site("EC:prime256v1").start();
    // A ticket of nobody's with a binder of nothing (RFC 8446, section 4.2.11): it must be the last extension.
    let ticket = [[0, 40].as_slice(), &[0x77; 40], &[0; 4]].concat();
    let psk = [[0, 46].as_slice(), &ticket, &[0, 33, 32], &[0x55; 32]].concat();
    let hello = Hello {
        extra: vec![(42, Vec::new()), (41, psk)],
        ..Hello::tls13(NAME)
    };
    let mut client = Client13::connect_with(site.address(), &hello, |stream, message| {
        stream.write_all(&record(HANDSHAKE, message))?;
        for _ in 0..3 {
            stream.write_all(&record(APPLICATION_DATA, &[0x66; 200]))?;
        }
        Ok(())
    })
    .unwrap();
    client.finish().unwrap();
    assert!(client.ask().unwrap().ends_with(GREETING));
}

#[test]
fn no_tickets_are_given() {
    let site = site("EC:prime256v1").start();
    let mut client = Client13::established(site.address(), &Hello::tls13(NAME)).unwrap();
    client.send(APPLICATION_DATA, &get("/")).unwrap();
    let first = client.receive().unwrap();
    assert_eq!(
        first.kind, APPLICATION_DATA,
        "something else came first: {first:?}"
    );
    let mut command = s_client(NAME, site.address(), &site.ca());
    let got = run(command.args(["-tls1_2"]), b"");
    assert!(!got.text().contains("TLS session ticket:"), "{}", got.all());
}

/// A session that the signer stored would hold the handle of a secret that is long destroyed.
#[test]
fn no_session_is_kept() {
    let site = site("EC:prime256v1").start();
    let client = Client12::connect(site.address(), &Hello::tls12(NAME)).unwrap();
    let (kind, hello) = &client.server_messages()[0];
    // Header, version, random; then the length of the session id.
    assert_eq!((*kind, hello[4 + 2 + 32]), (2, 0), "a session id is given");
    // openssl writes down a session that could be resumed, and no other.
    let file = site.dir().join("session.pem");
    let mut command = s_client(NAME, site.address(), &site.ca());
    command
        .args(["-tls1_2", "-no_ticket", "-sess_out"])
        .arg(&file);
    let got = run(&mut command, b"");
    assert!(got.text().contains("New, TLSv1.2"), "{}", got.all());
    assert!(!file.exists(), "openssl has a session to resume");
}

#[test]
fn a_tls13_server_that_speaks_tls12_marks_its_random() {
    let site = site("EC:prime256v1").start();
    let client = Client12::connect(site.address(), &Hello::tls12(NAME)).unwrap();
    assert_eq!(
        &client.server_random()[24..],
        b"DOWNGRD\x01",
        "RFC 8446, section 4.1.3"
    );
}

#[test]
fn the_certificate_is_the_one_that_the_client_can_verify() {
    let site = empty_site().name(NAME, KEY_TYPES).start();
    for (sigalg, kind) in [
        ("ECDSA+SHA256", "id-ecPublicKey"),
        ("ECDSA+SHA384", "id-ecPublicKey"),
        ("ed25519", "ED25519"),
        ("RSA-PSS+SHA256", "rsaEncryption"),
    ] {
        let mut command = s_client(NAME, site.address(), &site.ca());
        command.args(["-tls1_3", "-sigalgs", &format!("{sigalg}:RSA+SHA256")]);
        // The test's certificates are signed with ECDSA, so that must be among what the client accepts.
        command.arg("-showcerts");
        let got = run(&mut command, b"");
        assert!(got.text().contains(kind), "{sigalg}: {}", got.all());
    }
}

#[test]
fn alpn_is_agreed_on_by_the_sites_preference() {
    let site = site("EC:prime256v1")
        .options("alpn = [\"h2\", \"http/1.1\"]")
        .start();
    let alpn = vec![b"http/1.1".to_vec(), b"h2".to_vec()];
    let stream = connect(
        site.address(),
        NAME,
        &site.ca(),
        &Offer {
            alpn,
            ..Offer::default()
        },
    )
    .unwrap();
    assert_eq!(stream.conn.alpn_protocol(), Some(&b"h2"[..]));
    let stream = connect(site.address(), NAME, &site.ca(), &Offer::default()).unwrap();
    assert_eq!(stream.conn.alpn_protocol(), None);
}

#[test]
fn wildcards_and_defaults_are_chosen_as_configured() {
    let site = empty_site()
        .name("*.wild.keyhaven.test", &["EC:prime256v1"])
        .name("main.keyhaven.test", &["rsa:2048"])
        .options("default = true")
        .start();
    connect(
        site.address(),
        "any.wild.keyhaven.test",
        &site.ca(),
        &Offer::default(),
    )
    .unwrap();
    connect(
        site.address(),
        "main.keyhaven.test",
        &site.ca(),
        &Offer::default(),
    )
    .unwrap();
    for name in [None, Some("else.keyhaven.test".to_owned())] {
        let hello = Hello {
            name,
            ..Hello::tls13(NAME)
        };
        Client13::established(site.address(), &hello).unwrap();
    }
}
