//! What an operator gets wrong, and whether central, a site or the command says so.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;

use keyhaven_tests::kms::{Class, SiteNode, World, spiffe, world};
use rcgen::PublicKeyData as _;
use serde_json::Value;

fn one_site() -> World {
    world()
        .class(Class::new("all", &["eu"]))
        .site("fra", "eu")
        .start()
}

/// Starts the site anew with this in its configuration in the place of that.
fn restart_with(world: &mut World, old: &str, new: &str) {
    let fra = world.site_mut("fra");
    fra.kill();
    let config = fra.dir.join("signer.toml");
    let text = fs::read_to_string(&config).unwrap();
    assert!(text.contains(old), "{text}");
    fs::write(config, text.replace(old, new)).unwrap();
    fs::remove_file(fra.replica()).unwrap();
    world.restart_site("fra");
}

#[test]
fn a_site_that_central_knows_by_another_name_says_both() {
    let mut world = one_site();
    restart_with(&mut world, "site = \"fra\"", "site = \"paris\"");
    let fra = world.site("fra").running();
    let line = fra.wait_for_text("but central knows").to_string();
    assert!(
        line.contains("\\\"paris\\\"") && line.contains("`fra`"),
        "{line}"
    );
    // A later change does not have it said again.
    world.create_key("a", "ec-p256", "sign", "all");
    fra.wait_for_text("applied");
    let said = fra.log();
    let said = said
        .iter()
        .filter(|line| line.contains("but central knows"));
    assert_eq!(said.count(), 1);
}

#[test]
fn another_centrals_key_is_named_as_the_mistake_that_it_is() {
    let mut world = one_site();
    let other = world.dir().join("other.pem");
    let key = rcgen::KeyPair::generate().unwrap();
    fs::write(&other, key.public_key_pem()).unwrap();
    restart_with(&mut world, "../central.pem", &other.display().to_string());
    let line = world
        .site("fra")
        .running()
        .wait_for_text("refused-record")
        .to_string();
    assert!(line.contains("fetch the right central.pem"), "{line}");
}

#[test]
fn a_site_that_is_not_enrolled_says_who_it_is_and_how_to_enroll_it() {
    let mut world = one_site();
    let address = (world.site("fra").address.ip(), 7444).into();
    let stranger = SiteNode::prepare(&world, "rom", "eu", address, false);
    stranger.write_config(&world, "", "");
    let identity = stranger.identity.clone();
    world.sites.push(stranger);
    world.restart_site("rom");
    let line = world
        .site("rom")
        .running()
        .wait_for_text("not enrolled")
        .to_string();
    let command = format!("kms site add --from … --identity {identity}");
    assert!(line.contains(&command), "{line}");
}

/// What central warned of, and nothing else.
fn warned(answer: &Value) -> Vec<&str> {
    let warnings = answer["warnings"].as_array().unwrap();
    warnings.iter().filter_map(Value::as_str).collect()
}

#[test]
fn a_site_whose_identity_has_another_name_is_warned_of_once() {
    let world = world().class(Class::new("all", &["eu"])).start();
    let add = |site: &str, signer: &str, address: &str| {
        let identity = spiffe("signer", signer);
        world.admin(&[
            "kms",
            "site",
            "add",
            "--site",
            site,
            "--identity",
            &identity,
            "--address",
            address,
            "--region",
            "eu",
            "--hardware",
            "software",
        ])
    };
    assert!(warned(&add("fra", "fra", "127.0.0.1:1")).is_empty());
    let odd = add("rom", "roma", "127.0.0.1:2");
    let odd = warned(&odd);
    assert!(odd.len() == 1 && odd[0].contains("`rom`"), "{odd:?}");
    // It is the one that it is: it has only moved.
    assert!(warned(&add("rom", "roma", "127.0.0.1:3")).is_empty());
}

#[test]
fn a_handshake_key_that_no_name_finds_is_warned_of() {
    let world = world().class(Class::new("all", &["eu"])).start();
    let create = |name: &str, purpose: &str, more: &[&str]| {
        let verb = ["kms", "key", "create", name, "--kind", "ec-p256"];
        let place = ["--purpose", purpose, "--class", "all"];
        world.admin(&[&verb[..], &place, more].concat())
    };
    let nameless = create("nameless", "handshake", &[]);
    let nameless = warned(&nameless);
    assert!(
        nameless.len() == 1 && nameless[0].contains("no host name"),
        "{nameless:?}"
    );
    assert!(warned(&create("orders", "sign", &[])).is_empty());
    let shop = [
        "--server-name",
        "shop.example",
        "--server-name",
        "www.shop.example",
    ];
    assert!(warned(&create("shop", "handshake", &shop)).is_empty());

    // A certificate that the key's own names are not all in.
    let chain = |key: &str, names: &[&str]| {
        let csr = world.admin(&["kms", "key", "csr", key]);
        let csr = rcgen::CertificateSigningRequestParams::from_pem(csr["csr"].as_str().unwrap());
        let spki = csr.unwrap().public_key.subject_public_key_info();
        let file = world.site_ca.site(key, names, &spki);
        world.admin(&["kms", "key", "chain", key, &file.display().to_string()])
    };
    let half = chain("shop", &["shop.example", "other.example"]);
    let half = warned(&half);
    assert!(
        half.len() == 1 && half[0].contains("does not name www.shop.example:"),
        "{half:?}"
    );
    assert!(warned(&chain("shop", &["shop.example", "*.shop.example"])).is_empty());
    assert!(warned(&chain("nameless", &["late.example"])).is_empty());
}

#[test]
fn what_is_told_of_a_grant_is_true() {
    let world = world().class(Class::new("all", &["eu"])).start();
    world.create_key("orders", "ec-p256", "sign", "all");
    let client = spiffe("client", "shop");
    let set = [
        "kms", "grant", "set", &client, "--key", "orders", "--op", "sign",
    ];
    // A grant is for a key whatever its version.
    assert_eq!(world.admin(&set)["key"], Value::Null);
}

#[test]
fn a_lookup_that_finds_nobody_fails() {
    let world = one_site();
    world.create_key("orders", "ec-p256", "sign", "all");
    world.grant(&spiffe("client", "shop"), "orders", &["sign"]);
    world.settle();
    let pair = world.identity("client", "shop");
    let name = pair.certificate.file_stem().unwrap().to_str().unwrap();
    let client = world.write_client("shop.toml", name).display().to_string();
    let look = |key: &str| {
        let verb = ["lookup", key, "--op", "sign", "--client", &client];
        world.try_admin(&verb).status.code()
    };
    assert_eq!(look("orders"), Some(0));
    assert_eq!(look("none"), Some(1));
}
