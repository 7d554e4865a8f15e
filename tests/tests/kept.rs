//! What each level promises to keep never passes from a token into the signer: every value that passes is looked at, and
//! so is every object as it is created. What does leave is found, so that the looking is known to work.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::HashSet;

use keyhaven_tests::audit::Proven;
use keyhaven_tests::backend::Manner;
use keyhaven_tests::channel::load;
use keyhaven_tests::dialogue::{echo, update};
use keyhaven_tests::each_row;
use keyhaven_tests::matrix::Row;
use keyhaven_tests::overheard::{Overheard, Since};
use keyhaven_tests::pki::Validity;
use keyhaven_tests::rawtls::{APPLICATION_DATA, Client12, Client13, Group, Hello, Identity, Named};
use keyhaven_tests::running::Site;
use keyhaven_tests::site::{Builder, NAME};
use keyhaven_types::CustodyLevel;

each_row![
    at_signature_no_secret_of_a_handshake_is_in_a_token,
    at_premaster_the_shared_secret_stays,
    at_master_all_but_the_traffic_secrets_stays,
    at_schedule_all_but_keys_and_macs_stays,
    with_a_clients_certificate_no_less_stays,
];

/// A site of this row at this level or a lower one. A row that does not reach the level must not start with it as its
/// minimum; then there is nothing more to see.
fn site(row: &Row, level: CustodyLevel) -> Option<Site> {
    if row.level < level {
        let parts = row
            .site()
            .options(&format!("custody_min = \"{level}\""))
            .prepare();
        let mut signer = parts.spawn_signer();
        assert!(!signer.wait().success(), "{} at {level}", row.name);
        let log = signer.log().join("\n");
        let words = format!("custody_min is {level}");
        assert!(log.contains(&words), "{}: {log}", row.name);
        return None;
    }
    Some(listened_to(row, level).start())
}

/// A site at this level, which the row reaches.
fn listened_to(row: &Row, level: CustodyLevel) -> Builder {
    row.site()
        .options(&format!("custody_max = \"{level}\""))
        // Tickets of TLS 1.2 that are sealed in the process take the level down.
        .tickets(if level > CustodyLevel::Premaster {
            "tls12 = true"
        } else {
            ""
        })
        .backend(Manner::Echo)
        .tap(true)
}

/// Full handshakes, resumed ones and changes of keys: every secret of them, and what passed meanwhile.
fn conversations13(site: &Site, row: &Row, level: CustodyLevel) -> (Vec<Named>, Overheard) {
    let since = Since::now(&site.parts);
    let mut secrets = Vec::new();
    let mut groups = vec![Group::P256, Group::X25519, Group::P384];
    // Elsewhere half of its secret is made outside, and the handshake is below the level.
    if row.level13(Group::X25519MlKem768) == row.level {
        groups.push(Group::X25519MlKem768);
    }
    for suite in [0x1301, 0x1302, 0x1303] {
        for &group in &groups {
            let hello = Hello::tls13(NAME).with_suite(suite).with_group(group);
            let mut client = Client13::established(site.address(), &hello).unwrap();
            talk(&mut client, &mut secrets);
            assert_eq!(Proven::of(site, &client).level(), level);
            let ticket = client.tickets()[0].offer();
            let mut client =
                Client13::established(site.address(), &hello.resuming(vec![ticket])).unwrap();
            assert_eq!(client.resumed(), Some(0));
            talk(&mut client, &mut secrets);
            assert_eq!(Proven::of(site, &client).level(), level);
        }
    }
    (secrets, Overheard::since(&site.parts, &since))
}

fn talk(client: &mut Client13, secrets: &mut Vec<Named>) {
    echo(client, b"first");
    secrets.extend(client.named_secrets());
    for _ in 0..2 {
        update(client, true);
        echo(client, b"next");
        secrets.extend(client.named_secrets());
    }
}

fn conversations12(site: &Site, row: &Row, level: CustodyLevel) -> (Vec<Named>, Overheard) {
    let since = Since::now(&site.parts);
    let mut secrets = Vec::new();
    for suite in [0xc02b, 0xc02c, 0xcca9] {
        if row.level12(Group::P256, suite).is_none() {
            continue;
        }
        let hello = Hello::tls12(NAME).with_suite(suite);
        let mut client =
            Client12::connect(site.address(), &hello.clone().wanting_ticket()).unwrap();
        client.finish().unwrap();
        client.send(APPLICATION_DATA, b"hello").unwrap();
        assert_eq!(client.receive().unwrap().bytes, b"hello");
        assert_eq!(Proven::of(site, &client).level(), level);
        secrets.extend(client.named_secrets());
        let Some(session) = client.session().cloned() else {
            assert_eq!(level, CustodyLevel::Premaster, "no ticket");
            continue;
        };
        let mut client = Client12::resume(site.address(), &hello, &session).unwrap();
        assert!(client.is_resumed());
        client.finish().unwrap();
        client.send(APPLICATION_DATA, b"hello").unwrap();
        assert_eq!(client.receive().unwrap().bytes, b"hello");
        assert_eq!(Proven::of(site, &client).level(), level);
        secrets.extend(client.named_secrets());
    }
    (secrets, Overheard::since(&site.parts, &since))
}

/// Where any part of a secret passed: one half of a hybrid's, or a block of what a PRF gives, is found as well.
fn parts_heard(secret: &Named, heard: &Overheard) -> Vec<String> {
    let parts = secret.bytes.chunks(PART);
    parts.flat_map(|part| heard.where_is(part)).collect()
}

/// None of the secrets that the level keeps passed.
fn nothing_kept_passed(secrets: &[Named], heard: &Overheard, level: CustodyLevel) {
    let kept: Vec<&Named> = secrets
        .iter()
        .filter(|secret| secret.is_kept_at(level))
        .collect();
    assert!(!kept.is_empty());
    for secret in kept {
        let places = parts_heard(secret, heard);
        assert!(places.is_empty(), "the {} passed: {places:?}", secret.name);
    }
    for class in [
        "CKA_VALUE of CKO_PRIVATE_KEY",
        "CKA_PRIVATE_EXPONENT of CKO_PRIVATE_KEY",
    ] {
        assert!(heard.read(class).is_empty(), "{class} was read");
    }
}

/// Each of the secrets with one of these names passed.
fn passed(secrets: &[Named], heard: &Overheard, names: &[&str]) {
    let mut seen = HashSet::new();
    for secret in secrets {
        if let Some(name) = names.iter().find(|name| secret.name.starts_with(**name)) {
            // Where HMACs make a key block, one block may end within a key.
            let mut parts = secret.bytes.chunks(PART);
            let all = parts.all(|part| !heard.where_is(part).is_empty());
            assert!(all, "the {} did not pass", secret.name);
            seen.insert(name);
        }
    }
    assert_eq!(seen.len(), names.len(), "{seen:?} of {names:?}");
}

/// Keys are made sensitive, and what may be wrapped is none that a level keeps for good.
fn objects_are_guarded(row: &Row, heard: &Overheard) {
    for object in &heard.objects {
        let is_exchange = object.function == "C_GenerateKeyPair"
            || object.mechanism.as_deref() == Some("CKM_ECDH1_DERIVE");
        if is_exchange && object.class != "CKO_PUBLIC_KEY" {
            assert_eq!(object.sensitive, Some(true), "{}: {object}", row.name);
            assert_eq!(object.extractable, Some(false), "{}: {object}", row.name);
            assert!(!object.readable, "{}: {object}", row.name);
            assert_eq!(object.token, Some(false), "{}: {object}", row.name);
        }
        if object.class == "CKO_SECRET_KEY" && object.extractable == Some(true) {
            let is_wrappable = object.sensitive == Some(true) && !object.readable;
            assert!(
                is_wrappable || may_be_read(object.mechanism.as_deref()),
                "{object}"
            );
        }
    }
}

/// The key block of TLS 1.2, which leaves, and the zeros of an extraction, which are imported.
fn may_be_read(mechanism: Option<&str>) -> bool {
    mechanism.is_none_or(|mechanism| mechanism == "CKM_TLS_KDF")
}

fn at_signature_no_secret_of_a_handshake_is_in_a_token(row: &Row) {
    let site = site(row, CustodyLevel::Signature).unwrap();
    let (secrets, heard) = conversations13(&site, row, CustodyLevel::Signature);
    assert!(!secrets.is_empty());
    // Nothing goes in, and nothing comes out but signatures, of which there is one for each full handshake.
    let other: Vec<&str> = heard
        .tapped
        .iter()
        .map(|tapped| tapped.function.as_str())
        .filter(|function| {
            !["C_Sign", "C_GenerateRandom", "C_GetAttributeValue"].contains(function)
        })
        .collect();
    assert!(other.is_empty(), "{other:?}");
    assert!(heard.objects.is_empty(), "{:?}", heard.objects);
    assert!(
        heard
            .tapped
            .iter()
            .filter(|tapped| tapped.function == "C_Sign")
            .count()
            >= 6
    );
    for secret in &secrets {
        assert!(
            parts_heard(secret, &heard).is_empty(),
            "the {secret:?} was in a token"
        );
    }
}

fn at_premaster_the_shared_secret_stays(row: &Row) {
    let level = CustodyLevel::Premaster;
    let Some(site) = site(row, level) else { return };
    let (secrets, heard) = conversations13(&site, row, level);
    nothing_kept_passed(&secrets, &heard, level);
    objects_are_guarded(row, &heard);
    passed(&secrets, &heard, &["inner hash of the extraction"]);

    let (secrets, heard) = conversations12(&site, row, level);
    nothing_kept_passed(&secrets, &heard, level);
    objects_are_guarded(row, &heard);
    // The master secret comes out block by block.
    let master = secrets
        .iter()
        .find(|secret| secret.name == "master secret")
        .unwrap();
    assert!(
        !heard.where_is(&master.bytes[..32]).is_empty(),
        "what leaves is heard"
    );
}

fn at_master_all_but_the_traffic_secrets_stays(row: &Row) {
    let level = CustodyLevel::Master;
    let Some(site) = site(row, level) else { return };
    let (secrets, heard) = conversations13(&site, row, level);
    nothing_kept_passed(&secrets, &heard, level);
    objects_are_guarded(row, &heard);
    // Those of the first generation: the next ones are derived where these have gone.
    let first: Vec<Named> = secrets
        .iter()
        .filter(|secret| secret.name.contains("handshake_traffic"))
        .cloned()
        .collect();
    passed(
        &first,
        &heard,
        &[
            "client_handshake_traffic_secret",
            "server_handshake_traffic_secret",
        ],
    );
    let traffic = values(&secrets, "_traffic_secret");
    for value in heard.read("CKA_VALUE of CKO_DATA") {
        assert!(
            traffic.contains(&value),
            "{value:02x?} left and is no traffic secret"
        );
    }

    let (secrets, heard) = conversations12(&site, row, level);
    nothing_kept_passed(&secrets, &heard, level);
    objects_are_guarded(row, &heard);
    passed(&secrets, &heard, &["client write key", "server write key"]);
}

fn at_schedule_all_but_keys_and_macs_stays(row: &Row) {
    let level = CustodyLevel::Schedule;
    let Some(site) = site(row, level) else { return };
    let (secrets, heard) = conversations13(&site, row, level);
    nothing_kept_passed(&secrets, &heard, level);
    objects_are_guarded(row, &heard);
    passed(&secrets, &heard, &["key of ", "IV of ", "MAC of "]);
    // The objects that can be read hold keys and IVs, and what an HMAC gives is a MAC.
    let keys = [values(&secrets, "key of "), values(&secrets, "IV of ")].concat();
    for value in heard.read("CKA_VALUE of CKO_DATA") {
        assert!(keys.contains(&value), "{value:02x?} is no key and no IV");
    }
    let macs = values(&secrets, "MAC of ");
    for hmac in ["CKM_SHA256_HMAC", "CKM_SHA384_HMAC"] {
        for value in heard.given("C_Sign", hmac) {
            assert!(macs.contains(&value), "{value:02x?} is no MAC");
        }
    }

    let (secrets, heard) = conversations12(&site, row, level);
    nothing_kept_passed(&secrets, &heard, level);
    objects_are_guarded(row, &heard);
    passed(&secrets, &heard, &["client write key", "server write key"]);
    // Behind the keys may come where explicit nonces begin, 8 bytes.
    let blocks = values(&secrets, "key block");
    for value in heard.read("CKA_VALUE of CKO_SECRET_KEY") {
        let of = blocks.iter().find(|block| value.starts_with(block));
        let more = of.map(|block| value.len() - block.len());
        assert!(
            more.is_some_and(|more| more == 0 || more == 8),
            "{value:02x?} is no key block"
        );
    }
}

fn with_a_clients_certificate_no_less_stays(row: &Row) {
    let site = listened_to(row, row.level).client_auth("required").start();
    let pair = site.parts.clients_ca.client("ann", "ann", 7, Validity::Now);
    let (chain, key) = load(&pair);
    let ann = Identity::new(&chain, &key);
    let since = Since::now(&site.parts);
    let mut secrets = Vec::new();

    let mut client = Client13::connect(site.address(), &Hello::tls13(NAME)).unwrap();
    client.authenticate(Some(&ann)).unwrap();
    client.finish().unwrap();
    talk(&mut client, &mut secrets);
    assert_eq!(Proven::of(&site, &client).level(), row.level);

    let hello = Hello::tls12(NAME);
    let mut client = Client12::connect_as(site.address(), &hello, Some(&ann)).unwrap();
    assert!(client.is_asked());
    client.finish().unwrap();
    client.send(APPLICATION_DATA, b"hello").unwrap();
    assert_eq!(client.receive().unwrap().bytes, b"hello");
    assert_eq!(Proven::of(&site, &client).level(), row.level);
    secrets.extend(client.named_secrets());

    let heard = Overheard::since(&site.parts, &since);
    if row.level == CustodyLevel::Signature {
        // The token signs, and knows none of them.
        for secret in &secrets {
            let places = parts_heard(secret, &heard);
            assert!(places.is_empty(), "the {} passed: {places:?}", secret.name);
        }
        assert!(!heard.given("C_Sign", "CKM_ECDSA").is_empty());
        return;
    }
    nothing_kept_passed(&secrets, &heard, row.level);
    objects_are_guarded(row, &heard);
}

/// The values of the secrets whose name holds this.
fn values<'a>(secrets: &'a [Named], name: &str) -> Vec<&'a [u8]> {
    secrets
        .iter()
        .filter(|secret| secret.name.contains(name))
        .map(|secret| secret.bytes.as_slice())
        .collect()
}

/// Bytes of a secret that are looked for at once; too many to be there by chance.
const PART: usize = 16;
