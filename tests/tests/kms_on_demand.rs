//! Keys that come when they are first needed: from central, from a peer, once for all who wait, and never for whom they
//! are not meant.

use std::thread;

use keyhaven_tests::daemon::field;
use keyhaven_tests::kms::{Class, Kms, World, spiffe, world};
use keyhaven_types::Operation;
use keyhaven_wire::kms::{Fetch, TaskError};
use keyhaven_wire::{Reply, Request};
use serde_json::Value;

fn two_sites() -> World {
    let world = world()
        .class(Class::new("rare", &["eu", "us"]).flag("--on-demand"))
        .site("fra", "eu")
        .site("nyc", "us")
        .start();
    world.create_key("orders", "ec-p256", "sign", "rare");
    world.grant(&spiffe("client", "shop"), "orders", &["sign"]);
    world.settle();
    world
}

/// How often central was asked for a key.
fn fetches(world: &World) -> usize {
    let lines = world.central().running().log();
    lines
        .iter()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|line| field(line, "event").as_deref() == Some("fetch"))
        .count()
}

#[test]
fn m5_a_key_that_is_not_here_is_fetched_and_used_in_one_round_trip() {
    let mut world = two_sites();
    let mut shop = world.client("shop", "fra");
    assert_eq!(fetches(&world), 0, "nothing came before it was asked for");
    assert!(shop.sign("orders", b"first").is_ok());
    assert_eq!(fetches(&world), 1);
    // It stays.
    world.centrals[0].kill();
    assert!(shop.sign("orders", b"second").is_ok());
}

#[test]
fn m5_a_key_made_a_moment_ago_is_found_before_replication_brings_it() {
    let world = two_sites();
    let mut shop = world.client("shop", "nyc");
    for number in 0..5 {
        let name = format!("new-{number}");
        world.create_key(&name, "ec-p256", "sign", "rare");
        world.grant(&spiffe("client", "shop"), &name, &["sign"]);
        let signed = shop.sign(&name, b"at once");
        assert!(signed.is_ok(), "{name}: {signed:?}");
    }
}

#[test]
fn m6_a_key_comes_from_a_peer_and_serves_a_second_client() {
    let mut world = two_sites();
    assert!(world.client("shop", "fra").sign("orders", b"x").is_ok());
    world.create_key("never-used", "ec-p256", "sign", "rare");
    world.grant(&spiffe("client", "desk"), "orders", &["sign"]);
    world.grant(&spiffe("client", "desk"), "never-used", &["sign"]);
    world.settle();
    world.centrals[0].kill();
    let mut desk = world.client("desk", "nyc");
    let signed = desk.sign("orders", b"from the peer");
    assert!(signed.is_ok(), "{signed:?}");
    // Nobody has this one.
    assert_eq!(desk.sign("never-used", b"x"), Err(TaskError::NotHere));
}

#[test]
fn m6_a_peer_gives_nothing_to_whom_the_class_is_not_meant_for() {
    let world = world()
        .class(Class::new("eu-only", &["eu"]))
        .site("fra", "eu")
        .site("nyc", "us")
        .start();
    world.create_key("orders", "ec-p256", "sign", "eu-only");
    world.grant(&spiffe("client", "shop"), "orders", &["sign"]);
    world.settle();
    let fetch = |pair| {
        let fetch = Fetch {
            key: keyhaven_tests::kms::named("orders"),
            caller: spiffe("client", "shop").parse().unwrap(),
            operation: Operation::Sign,
        };
        Kms::connect(world.site("fra").address, pair).ask(&Request::Fetch(fetch))
    };
    let wraps = |reply: Reply| match reply {
        Reply::Fetched(fetched) => fetched
            .entries
            .iter()
            .filter_map(|entry| entry.parts.as_ref())
            .filter(|parts| !parts.site_wrap.is_empty())
            .count(),
        Reply::Error(_) => 0,
        other => panic!("{other:?}"),
    };
    assert_eq!(wraps(fetch(&world.site("nyc").pair)), 0);
    // The same question from a site that holds the class is answered, so that the refusal above is one.
    assert!(wraps(fetch(&world.site("fra").pair)) > 0);
    let stranger = world.identity("signer", "nobody");
    assert_eq!(wraps(fetch(&stranger)), 0);
    assert_eq!(wraps(fetch(&world.identity("client", "shop"))), 0);
}

#[test]
fn m9_misses_at_the_same_time_become_one_fetch() {
    let world = two_sites();
    thread::scope(|scope| {
        for number in 0..16 {
            let mut shop = world.client("shop", "fra");
            scope.spawn(move || {
                let message = format!("client {number}");
                let signed = shop.sign("orders", message.as_bytes());
                assert!(signed.is_ok(), "{signed:?}");
            });
        }
    });
    assert_eq!(fetches(&world), 1);
}

#[test]
fn m9_absence_is_remembered_for_each_caller_and_only_until_something_changes() {
    let world = two_sites();
    let mut shop = world.client("shop", "fra");
    for _ in 0..10 {
        assert_eq!(shop.sign("not-yet", b"x"), Err(TaskError::Denied));
    }
    let asked = fetches(&world);
    assert!(
        asked <= 1,
        "asked central {asked} times for what is not there"
    );
    // Another caller's miss is its own, and what is made now is found at once.
    world.create_key("not-yet", "ec-p256", "sign", "rare");
    world.grant(&spiffe("client", "desk"), "not-yet", &["sign"]);
    let signed = world.client("desk", "fra").sign("not-yet", b"x");
    assert!(signed.is_ok(), "{signed:?}");
    assert_eq!(shop.sign("not-yet", b"x"), Err(TaskError::Denied));
}

#[test]
fn m9_a_forbidden_key_is_never_fetched() {
    let world = two_sites();
    let mut stranger = world.client("stranger", "fra");
    for _ in 0..5 {
        assert_eq!(stranger.sign("orders", b"x"), Err(TaskError::Denied));
    }
    assert_eq!(fetches(&world), 0);
    assert!(world.client("shop", "fra").sign("orders", b"x").is_ok());
    assert_eq!(fetches(&world), 1);
}
