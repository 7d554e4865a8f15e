//! Every handshake that a token's profile allows, on each row of the matrix, at the level that is expected of it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use keyhaven_tests::audit::{Audited, Proven};
use keyhaven_tests::clients::{curl, gnutls, run, s_client};
use keyhaven_tests::each_row;
use keyhaven_tests::http::{GREETING, exchange, get};
use keyhaven_tests::matrix::Row;
use keyhaven_tests::rawtls::{Client12, Client13, Group, Hello};
use keyhaven_tests::running::Site;
use keyhaven_tests::rustls_client::{Offer, connect};
use keyhaven_tests::site::{NAME, empty_site};
use keyhaven_types::CustodyLevel;
use rustls::version::{TLS12, TLS13};

each_row![
    s2_s8_every_version_group_and_suite_is_served_at_its_level,
    s4_every_type_of_key_signs_for_clients_that_check,
    s11_what_is_not_proven_is_refused,
    the_tokens_first_group_is_chosen,
    real_clients_are_served,
];

fn s2_s8_every_version_group_and_suite_is_served_at_its_level(row: &Row) {
    let site = row.site().start();
    for group in Group::ALL {
        for suite in SUITES_13 {
            let hello = Hello::tls13(NAME).with_group(group).with_suite(suite);
            let mut client = Client13::established(site.address(), &hello).unwrap();
            assert!(client.ask().unwrap().ends_with(GREETING));
            assert_eq!((client.group(), client.suite()), (group, suite));
            let what = format!("{group:?} {suite:#x}");
            check(&site, row, &client, row.level13(group), Some(group), &what);
        }
    }
    for group in CLASSICAL {
        for suite in SUITES_12 {
            let what = format!("TLS 1.2 {group:?} {suite:#x}");
            let client = Client12::connect(site.address(), &hello12(group, suite));
            let Some(level) = row.level12(group, suite) else {
                assert_eq!(client.unwrap_err().alert(), Some(40), "{what}");
                continue;
            };
            let mut client = client.unwrap_or_else(|end| panic!("{what}: {end}"));
            client.finish().unwrap();
            assert!(client.ask().unwrap().ends_with(GREETING));
            assert_eq!(client.suite(), suite);
            check(&site, row, &client, level, None, &what);
        }
    }
}

/// What both programs wrote down of a handshake.
fn check(
    site: &Site,
    row: &Row,
    client: &impl Audited,
    level: CustodyLevel,
    group: Option<Group>,
    what: &str,
) {
    let proven = Proven::of(site, client);
    assert_eq!(proven.level(), level, "{what}");
    assert_eq!(proven.field("left"), Some(row.left(group)), "{what}");
    assert!(!proven.is_resumed());
    let keeper = (row.level > CustodyLevel::Signature).then(|| site.parts.exchange().label());
    let said = proven
        .field("exchange_token")
        .filter(|name| !name.is_empty());
    assert_eq!(said.as_deref(), keeper, "{what}");
}

/// A TLS 1.2 client of one suite, whose first group is this. The curve of the certificate is there in any case.
fn hello12(group: Group, suite: u16) -> Hello {
    let mut groups = vec![group.code()];
    if group == Group::X25519 {
        groups.push(Group::P256.code());
    }
    if group == Group::P384 {
        groups.push(Group::P256.code());
    }
    Hello {
        groups,
        ..Hello::tls12(NAME).with_suite(suite)
    }
}

fn s4_every_type_of_key_signs_for_clients_that_check(row: &Row) {
    let name = |number: usize| format!("k{number}.keyhaven.test");
    let mut build = empty_site().token(row.keys).exchange(row.exchange);
    for (number, key_type) in row.key_types.iter().enumerate() {
        build = build.name(&name(number), &[key_type]);
    }
    let site = build.start();
    for (number, key_type) in row.key_types.iter().enumerate() {
        for version in [&TLS13, &TLS12] {
            let offer = Offer {
                versions: vec![version],
                ..Offer::default()
            };
            let mut stream = connect(site.address(), &name(number), &site.ca(), &offer)
                .unwrap_or_else(|error| panic!("{key_type} {version:?}: {error}"));
            assert_eq!(exchange(&mut stream, &get("/")).unwrap(), GREETING);
            let client = stream.sock.local_addr().unwrap();
            let proven = Proven::of(&site, &client);
            assert_eq!(proven.level(), row.level, "{key_type} {version:?}");
        }
    }
}

fn s11_what_is_not_proven_is_refused(row: &Row) {
    // Below its minimum a site offers nothing: of the hybrid, half is outside most tokens.
    let site = row
        .site()
        .options(&format!("custody_min = \"{}\"", row.level))
        .start();
    let hello = Hello::tls13(NAME).with_group(Group::X25519MlKem768);
    let hybrid = Client13::established(site.address(), &hello);
    if row.level13(Group::X25519MlKem768) >= row.level {
        hybrid.unwrap();
    } else {
        assert_eq!(hybrid.unwrap_err().alert(), Some(40));
    }
    for (alert, what, hello) in [
        (
            40,
            "secp521r1",
            Hello {
                groups: vec![25],
                share: false,
                ..Hello::tls13(NAME)
            },
        ),
        (40, "AES-CCM", Hello::tls13(NAME).with_suite(0x1304)),
    ] {
        let end = Client13::connect(site.address(), &hello).unwrap_err();
        assert_eq!(end.alert(), Some(alert), "{what}: {end}");
    }
    for (alert, what, hello) in [
        (40, "CBC", Hello::tls12(NAME).with_suite(0xc023)),
        (
            40,
            "RSA key exchange",
            Hello::tls12(NAME).with_suite(0x009c),
        ),
        (
            70,
            "TLS 1.1",
            Hello {
                versions: vec![0x0302],
                ..Hello::tls12(NAME)
            },
        ),
        (
            40,
            "no extended master secret",
            Hello {
                extended_master_secret: false,
                ..Hello::tls12(NAME)
            },
        ),
    ] {
        let end = Client12::connect(site.address(), &hello).unwrap_err();
        assert_eq!(end.alert(), Some(alert), "{what}: {end}");
    }
}

fn the_tokens_first_group_is_chosen(row: &Row) {
    let site = row.site().start();
    // Without a share the server asks for the group that it likes best.
    let mut left: Vec<u16> = [
        Group::X25519MlKem768,
        Group::P384,
        Group::P256,
        Group::X25519,
    ]
    .map(Group::code)
    .to_vec();
    for expected in row.groups() {
        let hello = Hello {
            groups: left.clone(),
            share: false,
            ..Hello::tls13(NAME)
        };
        let client = Client13::established(site.address(), &hello).unwrap();
        assert_eq!(client.group(), expected, "{}", row.name);
        left.retain(|code| *code != expected.code());
    }
}

fn real_clients_are_served(row: &Row) {
    let site = row.site().start();
    let (address, ca) = (site.address(), site.ca());
    for version in ["-tls1_3", "-tls1_2"] {
        let mut openssl = s_client(NAME, address, &ca);
        let said = run(openssl.args([version, "-ign_eof"]), REQUEST);
        assert!(
            said.text().contains("hello from the backend"),
            "{}",
            said.all()
        );
    }
    let url = format!("https://{NAME}/");
    let said = run(curl(NAME, address, &ca).arg(&url), b"");
    assert_eq!(said.text().as_bytes(), GREETING, "{}", said.all());
    for priority in [
        "NORMAL:-VERS-ALL:+VERS-TLS1.3",
        "NORMAL:-VERS-ALL:+VERS-TLS1.2",
    ] {
        let said = run(&mut gnutls(NAME, address, &ca, priority), REQUEST);
        assert!(
            said.text().contains("hello from the backend"),
            "{}",
            said.all()
        );
    }
}

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: any\r\nConnection: close\r\n\r\n";
const CLASSICAL: [Group; 3] = [Group::P256, Group::P384, Group::X25519];
const SUITES_13: [u16; 3] = [0x1301, 0x1302, 0x1303];
const SUITES_12: [u16; 3] = [0xc02b, 0xc02c, 0xcca9];
