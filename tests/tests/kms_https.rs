//! HTTPS with managed keys: certificates travel with their keys, proxies find their signers by lookup.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::thread;
use std::time::{Duration, Instant};

use keyhaven_tests::kms::{Class, Edge, Kms, World, world};
use keyhaven_wire::{Reply, Request};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};

const HOST: &str = "shop.keyhaven.test";

fn https(namespaces: bool) -> World {
    let builder = world()
        .class(Class::new("all", &["eu", "us"]))
        .site("fra", "eu")
        .site("nyc", "us");
    let world = match namespaces {
        true => builder.namespaces().start(),
        false => builder.start(),
    };
    world.create_site_key("shop", "ec-p256", "all", HOST);
    world.grant_proxy("edge", "shop");
    world.settle();
    world
}

/// Requests until so many handshakes in a row ran at this site.
fn until_served_by(world: &World, edge: &Edge, site: &str) {
    let deadline = Instant::now() + Duration::from_secs(25);
    loop {
        let before = world.proven(site);
        let answered = (0..3).filter(|_| edge.get(HOST).is_ok()).count();
        thread::sleep(Duration::from_millis(200));
        if answered == 3 && world.proven(site) - before == 3 {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{site} does not get the handshakes"
        );
    }
}

#[test]
fn m3_a_site_is_served_by_a_key_that_came_from_central() {
    let mut world = https(false);
    let edge = world.start_edge("edge", &["fra", "nyc"], "");
    assert_eq!(edge.get(HOST).unwrap().len(), 10);
    // Rows of the first half hold for managed keys, too: without a grant there is no such name.
    let stranger = world.start_edge("stranger", &["fra"], "");
    let (known, unknown) = (stranger.get(HOST), stranger.get("none.keyhaven.test"));
    assert_eq!(
        known.unwrap_err().to_string(),
        unknown.unwrap_err().to_string()
    );
    // And with central away it goes on.
    world.centrals[0].kill();
    assert_eq!(edge.get(HOST).unwrap().len(), 10);
}

#[test]
fn a_site_of_the_file_goes_before_a_managed_key_of_the_same_name() {
    let mut world = https(false);
    let edge = world.start_edge("edge", &["fra"], "");
    let managed = edge.certificate(HOST).unwrap();
    let fra = world.site("fra");
    fra.token
        .generate_key("EC:prime256v1", "own", "01")
        .unwrap();
    let spki = fra.token.public_key("own").unwrap();
    let own = world.site_ca.site("own", &[HOST], &spki);
    let section = format!(
        "[[site]]\nnames = [\"{HOST}\"]\nproxies = [\"spiffe://keyhaven.test/proxy/edge\"]\n\
         [[site.key]]\ntoken = \"main\"\nuri = \"pkcs11:object=own;type=private\"\ncertificate = \"{}\"",
        own.display()
    );
    fra.write_config(&world, &section, "");
    // The other site knows the managed key alone.
    world.site_mut("nyc").kill();
    world.site_mut("fra").kill();
    world.restart_site("fra");
    let deadline = Instant::now() + Duration::from_secs(20);
    let served = loop {
        if let Ok(served) = edge.certificate(HOST) {
            break served;
        }
        assert!(Instant::now() < deadline, "the proxy does not come back");
        thread::sleep(Duration::from_millis(100));
    };
    assert_ne!(served, managed);
    let own = CertificateDer::from_pem_file(own).unwrap();
    assert_eq!(served, own.as_ref());
}

#[test]
fn a_signer_with_managed_keys_alone_is_healthy_while_its_token_is() {
    let world = world()
        .class(Class::new("all", &["eu"]))
        .site("fra", "eu")
        .shims()
        .start();
    let fra = world.site("fra");
    let mut proxy = Kms::connect(fra.address, &world.identity("proxy", "edge"));
    assert!(matches!(proxy.ask(&Request::Ping), Reply::Pong));
    fra.token.shim().set_faults("* error 0x32");
    let deadline = Instant::now() + Duration::from_secs(20);
    while matches!(proxy.ask(&Request::Ping), Reply::Pong) {
        assert!(Instant::now() < deadline, "well without its token");
        thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn m7_a_request_is_served_by_the_closest_site() {
    let world = https(true);
    world.net().slow("nyc", 200);
    let edge = world.start_edge("edge", &["nyc", "fra"], "");
    until_served_by(&world, &edge, "fra");
    // What is near changes, and comes back.
    world.net().fast("nyc");
    world.net().slow("fra", 200);
    until_served_by(&world, &edge, "nyc");
}

#[test]
fn m7_a_proxy_finds_sites_that_it_was_not_told_of_and_leaves_a_dead_one() {
    let mut world = https(false);
    let edge = world.start_edge("edge", &["nyc"], "");
    assert!(edge.get(HOST).is_ok());
    // It learns of fra by its lookups alone, once nyc has measured fra: it looks up while there are handshakes.
    let deadline = Instant::now() + Duration::from_secs(20);
    let fra = world.site("fra").running();
    while !fra.log().iter().any(|line| line.contains("proxy/edge")) {
        assert!(Instant::now() < deadline, "the proxy does not learn of fra");
        assert!(edge.get(HOST).is_ok());
        thread::sleep(Duration::from_millis(100));
    }
    world.site_mut("nyc").kill();
    let deadline = Instant::now() + Duration::from_secs(20);
    while edge.get(HOST).is_err() {
        assert!(Instant::now() < deadline, "the proxy does not find fra");
        thread::sleep(Duration::from_millis(100));
    }
    until_served_by(&world, &edge, "fra");
    world.restart_site("nyc");
    world.site_mut("fra").kill();
    let deadline = Instant::now() + Duration::from_secs(20);
    while edge.get(HOST).is_err() {
        assert!(
            Instant::now() < deadline,
            "the proxy does not come back to nyc"
        );
        thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn m11_after_a_rotation_new_connections_get_the_new_version() {
    let world = https(false);
    let edge = world.start_edge("edge", &["fra"], "");
    let old = edge.certificate(HOST).unwrap();
    world.admin(&["kms", "key", "rotate", "shop"]);
    world.certify("shop");
    world.settle();
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let now = edge.certificate(HOST);
        if now.is_ok_and(|now| now != old) {
            break;
        }
        assert!(Instant::now() < deadline, "still the old certificate");
        thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn s9_a_revoked_managed_key_serves_no_handshake_any_more() {
    let world = https(false);
    let edge = world.start_edge("edge", &["fra", "nyc"], "");
    assert!(edge.get(HOST).is_ok());
    world.admin(&["kms", "key", "revoke", "shop", "--yes", "--wait"]);
    assert!(edge.get(HOST).is_err());
}
