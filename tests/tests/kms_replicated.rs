//! Managed keys at several sites: replicated before anyone asks, used without a word to central.

use keyhaven_tests::kms::{Class, World, named, spiffe, world};
use keyhaven_types::SignatureScheme;
use keyhaven_wire::kms::{Done, Task, TaskError};

/// Three sites in three regions, one class for all, and a client that may sign with `orders`.
fn three_sites(namespaces: bool) -> World {
    let builder = world()
        .class(Class::new("all", &["eu", "us", "asia"]))
        .site("fra", "eu")
        .site("nyc", "us")
        .site("sgp", "asia");
    let world = match namespaces {
        true => builder.namespaces().start(),
        false => builder.start(),
    };
    world.create_key("orders", "ec-p256", "sign", "all");
    world.grant(&spiffe("client", "shop"), "orders", &["sign", "verify"]);
    world.settle();
    world
}

#[test]
fn m1_a_key_is_at_every_site_before_anyone_asks() {
    let mut world = three_sites(false);
    world.centrals[0].kill();
    for site in ["fra", "nyc", "sgp"] {
        let signed = world.client("shop", site).sign("orders", b"first");
        assert!(signed.is_ok(), "{site}: {signed:?}");
    }
}

#[test]
fn m2_any_site_takes_a_request() {
    let world = three_sites(false);
    let message = b"the same request";
    let mut signatures = Vec::new();
    for site in ["fra", "nyc", "sgp"] {
        signatures.push(world.client("shop", site).sign("orders", message).unwrap());
    }
    // Whatever one site signed, each other one verifies.
    for signature in signatures {
        for site in ["fra", "nyc", "sgp"] {
            let verify = Task::Verify {
                key: named("orders"),
                version: None,
                scheme: Some(SignatureScheme::EcdsaSecp256r1Sha256),
                message: message.to_vec(),
                signature: signature.clone(),
            };
            let done = world.client("shop", site).one(verify).unwrap();
            assert!(
                matches!(
                    done,
                    Done::Verified {
                        valid: true,
                        version: 1
                    }
                ),
                "{done:?}"
            );
        }
    }
}

#[test]
fn m4_every_packet_to_central_is_dropped_and_sites_serve() {
    let world = three_sites(true);
    world.net().cut("central-1");
    for round in 0..3 {
        for site in ["fra", "nyc", "sgp"] {
            let message = format!("round {round}");
            let signed = world
                .client("shop", site)
                .sign("orders", message.as_bytes());
            assert!(signed.is_ok(), "{site}: {signed:?}");
        }
    }
    world.net().join("central-1");
    // What was missed comes by itself.
    world.create_key("late", "ec-p256", "sign", "all");
    world.grant(&spiffe("client", "shop"), "late", &["sign"]);
    world.settle();
    assert!(world.client("shop", "sgp").sign("late", b"late").is_ok());
}

#[test]
fn m10_a_site_serves_after_a_restart_with_central_away() {
    let mut world = three_sites(false);
    world.centrals[0].kill();
    world.site_mut("fra").kill();
    world.restart_site("fra");
    let signed = world.client("shop", "fra").sign("orders", b"again");
    assert!(signed.is_ok(), "{signed:?}");
}

#[test]
fn m13_a_grant_is_checked_where_the_operation_runs_with_one_audit_line_each() {
    let world = three_sites(false);
    let mut stranger = world.client("stranger", "fra");
    assert_eq!(stranger.sign("orders", b"x"), Err(TaskError::Denied));
    assert_eq!(stranger.sign("nothing", b"x"), Err(TaskError::Denied));
    let mut shop = world.client("shop", "fra");
    assert!(shop.sign("orders", b"x").is_ok());
    assert_eq!(shop.mac("orders", b"x"), Err(TaskError::Denied));
    let seen = world.site("fra").operations();
    let count = |caller: &str, operation: &str, done: bool| {
        seen.iter()
            .filter(|(who, what, outcome)| {
                *who == spiffe("client", caller) && what == operation && (outcome == "done") == done
            })
            .count()
    };
    assert_eq!(count("stranger", "sign", false), 2, "{seen:?}");
    assert_eq!(count("shop", "sign", true), 1, "{seen:?}");
    assert_eq!(count("shop", "mac", false), 1, "{seen:?}");
    assert_eq!(seen.len(), 4, "{seen:?}");
}
