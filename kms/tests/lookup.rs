//! Lookup and passing on between sites on loopback: real channels and signatures, no tokens.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "lookup/ca.rs"]
mod ca;
#[path = "lookup/world.rs"]
mod world;

use std::{
    sync::atomic::Ordering::SeqCst,
    time::{Duration, Instant},
};

use keyhaven_kms::lookup::testing::{identity, name};
use keyhaven_service::Credentials;
use keyhaven_types::{KeyKind, Operation, Purpose};
use keyhaven_wire::{
    ErrorCode, Reply, Request,
    kms::{Batch, Fetch, KeyRef, PassedOn, SignedBatch, TaskError},
};
use world::{Site, World, body, lookup_of, outcomes, places, sign, until, wraps};

fn ok(site: &str, key: &str) -> (String, Result<String, TaskError>) {
    (site.to_owned(), Ok(key.to_owned()))
}

fn not(site: &str, error: TaskError) -> (String, Result<String, TaskError>) {
    (site.to_owned(), Err(error))
}

async fn pass(to: &Site, from: &Credentials, batch: SignedBatch, which: &[u16]) -> Reply {
    let which = which.to_vec();
    to.ask(from, Request::OperatePassed(PassedOn { batch, which }))
        .await
}

fn is_denied(reply: &Reply) -> bool {
    matches!(reply, Reply::Error(ErrorCode::Denied))
}

#[tokio::test]
async fn l1_a_server_that_has_nothing_names_the_others() {
    let world = World::new().await;
    let found = world.sgp.lookup(&world.shop, "euro").await;
    assert_eq!(places(&found), ["fra"]);
    assert_eq!(found.servers[0].address, world.fra.address.to_string());
    assert!(found.servers[0].measured_ms_ago.is_some(), "{found:?}");
    let mut both = world.sgp.lookup(&world.shop, "world").await;
    both.servers.sort_by(|a, b| a.site.cmp(&b.site));
    assert_eq!(places(&both), ["fra", "nyc"]);
    let own = world.fra.lookup(&world.shop, "euro").await;
    assert!(own.servers[0].is_self);
}

#[tokio::test]
async fn l4_a_server_that_is_behind_asks_one_that_is_not_and_never_on_account_of_the_key() {
    let world = World::new().await;
    for site in [&world.fra, &world.nyc] {
        let mut records = site.half.records.lock().unwrap();
        let id = records.add_key("new", KeyKind::Aes256, Purpose::Wrap, "eu");
        records.grant("shop", id, &[Operation::Wrap]);
        let id = records.add_key("secret", KeyKind::Aes256, Purpose::Wrap, "eu");
        records.grant("bank", id, &[Operation::Wrap]);
    }
    let asked = || world.fra.lookups.load(SeqCst) + world.nyc.lookups.load(SeqCst);
    // As far as the others: it asks nobody.
    let found = world.sgp.lookup(&world.shop, "new").await;
    assert_eq!((places(&found), asked()), (vec![], 0));
    for site in [&world.fra, &world.nyc] {
        site.half.records.lock().unwrap().applied = 12;
        site.half.status.lock().unwrap().applied = 12;
    }
    let deadline = Instant::now() + world::PATIENCE;
    let found = loop {
        let found = world.sgp.lookup(&world.shop, "new").await;
        if !found.servers.is_empty() {
            break found;
        }
        assert!(Instant::now() < deadline);
    };
    assert_eq!(places(&found), ["fra"]);
    assert_eq!(found.servers[0].address, world.fra.address.to_string());
    assert!(!found.servers[0].is_self);
    // Forbidden here and there, forbidden here only by being unknown, and absent: the same questions, the same answer.
    let mut seen = Vec::new();
    let bank = world.ca.credentials(&identity("client", "bank"));
    for (who, key) in [
        (&world.shop, "absent"),
        (&world.shop, "secret"),
        (&bank, "euro"),
    ] {
        let before = asked();
        let mut found = world.sgp.lookup(who, key).await;
        found.central_ms_ago = None;
        seen.push((found, asked() - before));
    }
    assert!(seen[0].0.servers.is_empty());
    assert!(seen.iter().all(|other| *other == seen[0]), "{seen:?}");
}

#[tokio::test]
async fn l4_nobody_but_an_enrolled_server_speaks_for_another_caller() {
    let world = World::new().await;
    let shop = || Some(world.shop.identity().clone());
    let ask = |who: Credentials| {
        let request = Request::Lookup(lookup_of("euro", shop()));
        let nyc = &world.nyc;
        async move { nyc.ask(&who, request).await }
    };
    let stranger = world.ca.credentials(&identity("client", "stranger"));
    assert!(is_denied(&ask(stranger).await));
    let unknown = world.ca.credentials(&identity("signer", "unknown"));
    assert!(is_denied(&ask(unknown).await));
    let reply = ask(world.fra.credentials.clone()).await;
    assert!(matches!(reply, Reply::Found(found) if places(&found) == ["fra"]));
    world.everywhere(|records| records.sites[0].evicted = true);
    assert!(is_denied(&ask(world.fra.credentials.clone()).await));
}

#[tokio::test]
async fn l6_one_answer_has_the_results_of_every_server_in_order() {
    let world = World::new().await;
    let keys = ["euro", "dollar", "absent", "euro", "dollar"];
    let batch = world.batch(&world.fra, &keys);
    let reply = world
        .fra
        .ask(&world.shop, Request::OperateSigned(batch))
        .await;
    let expected = [
        ok("fra", "euro"),
        ok("nyc", "dollar"),
        not("fra", TaskError::Denied),
        ok("fra", "euro"),
        ok("nyc", "dollar"),
    ];
    assert_eq!(outcomes(&reply), expected);
    assert_eq!(world.fra.did(), [(3, None)]);
    assert_eq!(world.nyc.did(), [(2, Some("fra".to_owned()))]);
    let counts = world.fra.router.counts();
    assert_eq!((counts.passed_on, counts.passed_on_failed), (2, 0));
    assert_eq!(world.nyc.router.counts().taken_over, 2);
    // Without the signature nothing leaves fra.
    let batch = Batch {
        tasks: wraps(&["dollar"]),
    };
    let reply = world.fra.ask(&world.shop, Request::Operate(batch)).await;
    assert_eq!(outcomes(&reply), [not("fra", TaskError::NotHere)]);
    assert_eq!(world.nyc.did(), []);
}

#[tokio::test]
async fn l7_what_a_peer_does_in_half_the_time_is_passed_on_but_for_one_in_sixteen() {
    let world = World::new().await;
    world.fra.half.status.lock().unwrap().service_us = vec![(Operation::Wrap, 4_000_000)];
    let keys = ["world"; 32];
    let batch = world.batch(&world.fra, &keys);
    let reply = world
        .fra
        .ask(&world.shop, Request::OperateSigned(batch))
        .await;
    assert!(outcomes(&reply).iter().all(|(_, outcome)| outcome.is_ok()));
    assert_eq!(world.fra.did(), [(2, None)]);
    assert_eq!(world.nyc.did(), [(30, Some("fra".to_owned()))]);
    world.fra.half.status.lock().unwrap().service_us = vec![(Operation::Wrap, 10)];
    let batch = world.batch(&world.fra, &keys);
    world
        .fra
        .ask(&world.shop, Request::OperateSigned(batch))
        .await;
    assert_eq!(world.fra.did(), [(32, None)]);
}

#[tokio::test]
async fn l6_what_a_peer_does_not_do_is_done_here_or_said_not_to_be() {
    let world = World::new().await;
    world.fra.half.status.lock().unwrap().service_us = vec![(Operation::Wrap, 4_000_000)];
    let run = || {
        let batch = world.batch(&world.fra, &["world", "dollar"]);
        world.fra.ask(&world.shop, Request::OperateSigned(batch))
    };
    for error in [TaskError::Busy, TaskError::Lease, TaskError::Unavailable] {
        *world.nyc.half.fails.lock().unwrap() = Some(error);
        let expected = [ok("fra", "world"), not("fra", TaskError::NotHere)];
        assert_eq!(outcomes(&run().await), expected, "{error:?}");
    }
    assert_eq!(world.nyc.router.counts().refused, 0, "none is asked twice");
    // What its caller did wrong is no matter of the server.
    *world.nyc.half.fails.lock().unwrap() = Some(TaskError::Input);
    let expected = [not("nyc", TaskError::Input), not("nyc", TaskError::Input)];
    assert_eq!(outcomes(&run().await), expected);
    // A peer that is gone, before its silence shows and after.
    world.nyc.stop().await;
    for _ in 0..3 {
        let expected = [ok("fra", "world"), not("fra", TaskError::NotHere)];
        assert_eq!(outcomes(&run().await), expected);
    }
}

#[tokio::test]
async fn l6_when_the_fastest_peer_does_not_do_it_the_next_one_is_asked() {
    let world = World::new().await;
    for (refusing, doing) in [(&world.fra, &world.nyc), (&world.nyc, &world.fra)] {
        *refusing.half.fails.lock().unwrap() = Some(TaskError::Busy);
        let batch = world.batch(&world.sgp, &["world"]);
        let reply = world
            .sgp
            .ask(&world.shop, Request::OperateSigned(batch))
            .await;
        let doing = doing.half.status.lock().unwrap().site.to_string();
        assert_eq!(outcomes(&reply), [ok(&doing, "world")]);
        *refusing.half.fails.lock().unwrap() = None;
    }
    assert_eq!(world.sgp.did(), []);
}

#[tokio::test]
async fn l8_a_dead_server_drops_out_and_comes_back() {
    let mut world = World::new().await;
    world.nyc.stop().await;
    let fra = world.fra.router.clone();
    until("nyc is dead", || fra.counts().peers_alive == 1).await;
    assert_eq!(
        places(&world.fra.lookup(&world.shop, "dollar").await),
        [""; 0]
    );
    world.nyc.restart().await;
    until("nyc is back", || fra.counts().peers_alive == 2).await;
    assert_eq!(
        places(&world.fra.lookup(&world.shop, "dollar").await),
        ["nyc"]
    );
    world.everywhere(|records| records.sites[1].evicted = true);
    assert_eq!(
        places(&world.fra.lookup(&world.shop, "dollar").await),
        [""; 0]
    );
    until("nobody asks it any more", || fra.counts().peers_alive == 1).await;
}

#[tokio::test]
async fn l10_m1_a_rogue_server_cannot_use_its_callers_grants() {
    let world = World::new().await;
    let (fra, nyc) = (&world.fra.credentials, &world.nyc);
    let good = world.batch(&world.fra, &["dollar"]);
    let reply = pass(nyc, fra, good.clone(), &[0]).await;
    assert_eq!(outcomes(&reply), [ok("nyc", "dollar")]);
    assert!(is_denied(&pass(nyc, fra, good, &[0]).await), "replayed");

    let for_fra = || world.batch(&world.fra, &["dollar"]);
    let sgp = &world.sgp.credentials;
    assert!(
        is_denied(&pass(nyc, sgp, for_fra(), &[0]).await),
        "not asked"
    );
    assert!(
        is_denied(&pass(nyc, &world.shop, for_fra(), &[0]).await),
        "client"
    );
    let unknown = world.ca.credentials(&identity("signer", "unknown"));
    assert!(
        is_denied(&pass(nyc, &unknown, for_fra(), &[0]).await),
        "unknown"
    );

    let forged = sign(fra, &body(&world.shop, &world.fra, &["dollar"]));
    assert!(is_denied(&pass(nyc, fra, forged, &[0]).await), "forged");
    let mut altered = for_fra();
    *altered.body.last_mut().unwrap() ^= 1;
    let reply = pass(nyc, fra, altered, &[0]).await;
    assert!(matches!(reply, Reply::Error(_)), "altered: {reply:?}");
    for ahead_ms in [-31_000, 90_000] {
        let mut other = body(&world.shop, &world.fra, &["dollar"]);
        other.expires_ms = other.expires_ms.saturating_add_signed(ahead_ms);
        let reply = pass(nyc, fra, sign(&world.shop, &other), &[0]).await;
        assert!(is_denied(&reply), "{ahead_ms}: {reply:?}");
    }
    let reply = pass(nyc, fra, for_fra(), &[1]).await;
    assert!(matches!(reply, Reply::Error(ErrorCode::Malformed)));
    assert_eq!(nyc.did().len(), 1, "only the good one was done");

    // Not even when the table of sites names it.
    world.everywhere(|records| {
        records.add_site("odd", "eu", &[]).identity = world.shop.identity().clone();
    });
    let mut own = body(&world.shop, &world.fra, &["dollar"]);
    own.server = world.shop.identity().clone();
    let reply = pass(nyc, &world.shop, sign(&world.shop, &own), &[0]).await;
    assert!(is_denied(&reply), "a client as a site");

    let stranger = world.ca.credentials(&identity("client", "stranger"));
    let ungranted = sign(&stranger, &body(&stranger, &world.fra, &["dollar"]));
    let reply = pass(nyc, fra, ungranted, &[0]).await;
    assert_eq!(outcomes(&reply), [not("nyc", TaskError::Denied)]);
    world.everywhere(|records| records.sites[0].evicted = true);
    assert!(is_denied(&pass(nyc, fra, for_fra(), &[0]).await), "evicted");
}

#[tokio::test]
async fn l10_what_was_passed_on_goes_no_further() {
    let world = World::new().await;
    // nyc would pass `euro` on to fra if it were asked itself.
    let batch = world.batch(&world.nyc, &["euro"]);
    let reply = world
        .nyc
        .ask(&world.shop, Request::OperateSigned(batch))
        .await;
    assert_eq!(outcomes(&reply), [ok("fra", "euro")]);
    world.fra.did();
    let batch = world.batch(&world.sgp, &["euro"]);
    let reply = pass(&world.nyc, &world.sgp.credentials, batch, &[0]).await;
    assert_eq!(outcomes(&reply), [not("nyc", TaskError::NotHere)]);
    assert_eq!(world.fra.did(), []);
}

#[tokio::test]
async fn m1_a_batch_is_for_the_server_that_is_asked_and_by_who_asks() {
    let world = World::new().await;
    let elsewhere = world.batch(&world.nyc, &["euro"]);
    let ask = |who, batch| world.fra.ask(who, Request::OperateSigned(batch));
    assert!(is_denied(&ask(&world.shop, elsewhere).await));
    let bank = world.ca.credentials(&identity("client", "bank"));
    let stolen = world.batch(&world.fra, &["euro"]);
    assert!(is_denied(&ask(&bank, stolen.clone()).await));
    assert!(!is_denied(&ask(&world.shop, stolen.clone()).await));
    assert!(is_denied(&ask(&world.shop, stolen).await), "again");
    assert_eq!(world.fra.router.counts().refused, 3);
}

#[tokio::test]
async fn m6_a_key_is_fetched_from_a_peer_that_can_have_it_first() {
    let world = World::new().await;
    let peers = world.sgp.router.peers();
    for (key, site) in [("euro", "fra"), ("dollar", "nyc")] {
        let fetch = Fetch {
            key: KeyRef::Name(name(key)),
            caller: world.shop.identity().clone(),
            operation: Operation::Wrap,
        };
        let fetched = peers.fetch(fetch).await.unwrap();
        assert_eq!(fetched.entries[0].signed.body, site.as_bytes());
    }
}

#[tokio::test]
async fn connections_to_peers_end_with_the_router() {
    let world = World::new().await;
    let router = world.sgp.router.clone();
    let peers = router.peers();
    let stopped = tokio::time::timeout(Duration::from_secs(5), router.stop()).await;
    assert!(stopped.is_ok());
    let fetch = Fetch {
        key: KeyRef::Name(name("euro")),
        caller: world.shop.identity().clone(),
        operation: Operation::Wrap,
    };
    assert!(peers.fetch(fetch).await.is_none());
}
