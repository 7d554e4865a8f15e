//! The lookup service: which servers can, fastest first; and operations that are passed on to one of them.

use std::thread;
use std::time::{Duration, Instant};

use keyhaven_tests::daemon::field;
use keyhaven_tests::kms::{
    Class, Kms, World, named, now_ms, server_of, sign_batch, sign_body, spiffe, world,
};
use keyhaven_types::{Operation, SignatureScheme};
use keyhaven_wire::kms::{BatchBody, Found, PassedOn, SignedBatch, Task, TaskError, TaskResult};
use keyhaven_wire::{ErrorCode, Reply, Request};
use serde_json::Value;

/// A class for Europe, one for America, one for both, in three sites; the third belongs to none.
fn regions() -> keyhaven_tests::kms::WorldBuilder {
    world()
        .class(Class::new("eu", &["eu"]))
        .class(Class::new("us", &["us"]))
        .class(Class::new("both", &["eu", "us"]))
        .site("fra", "eu")
        .site("nyc", "us")
        .bystander("sgp", "asia")
}

fn keys(world: &World) {
    for (name, class) in [("euro", "eu"), ("dollar", "us"), ("world", "both")] {
        world.create_key(name, "ec-p256", "sign", class);
        world.grant(&spiffe("client", "shop"), name, &["sign", "verify"]);
    }
    world.settle();
}

/// Asks until the answer is this: peers are measured again and again.
fn until_found(kms: &mut Kms, key: &str, operation: Operation, servers: &[&str]) -> Found {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let found = kms.lookup(key, operation);
        if server_of(&found) == servers {
            return found;
        }
        assert!(
            Instant::now() < deadline,
            "{key} {operation}: {:?} instead of {servers:?}",
            server_of(&found)
        );
        thread::sleep(Duration::from_millis(50));
    }
}

fn sorted(found: &Found) -> Vec<&str> {
    let mut sites = server_of(found);
    sites.sort_unstable();
    sites
}

#[test]
fn l1_a_server_that_has_nothing_itself_names_those_that_can() {
    let world = regions().start();
    keys(&world);
    let mut shop = world.client("shop", "sgp");
    let found = until_found(&mut shop, "euro", Operation::Sign, &["fra"]);
    let server = &found.servers[0];
    assert_eq!(server.identity.as_str(), spiffe("signer", "fra"));
    assert_eq!(server.address, world.site("fra").address.to_string());
    assert!(!server.is_self);
}

#[test]
fn l1_it_answers_with_central_away_and_says_how_fresh_it_is() {
    let mut world = regions().start();
    keys(&world);
    let mut shop = world.client("shop", "sgp");
    until_found(&mut shop, "dollar", Operation::Sign, &["nyc"]);
    world.centrals[0].kill();
    thread::sleep(Duration::from_millis(1500));
    let found = until_found(&mut shop, "dollar", Operation::Sign, &["nyc"]);
    assert!(
        found.central_ms_ago.is_some_and(|ago| ago >= 1000),
        "{found:?}"
    );
    assert!(found.good_for_ms > 0, "{found:?}");
    assert!(found.servers[0].measured_ms_ago.is_some(), "{found:?}");
}

#[test]
fn l2_another_operation_or_key_gets_another_answer() {
    let world = regions().start();
    keys(&world);
    world.create_key("sealed", "aes-256", "data", "both");
    world.grant(&spiffe("client", "shop"), "sealed", &["decrypt"]);
    world.settle();
    let mut shop = world.client("shop", "fra");
    until_found(&mut shop, "euro", Operation::Sign, &["fra"]);
    until_found(&mut shop, "dollar", Operation::Sign, &["nyc"]);
    assert_eq!(server_of(&shop.lookup("euro", Operation::Decrypt)), [""; 0]);
    let deadline = Instant::now() + Duration::from_secs(20);
    while sorted(&shop.lookup("sealed", Operation::Decrypt)) != ["fra", "nyc"] {
        assert!(Instant::now() < deadline);
        thread::sleep(Duration::from_millis(50));
    }
    // What the grant does not allow, nobody can do for this caller.
    assert_eq!(
        server_of(&shop.lookup("sealed", Operation::Encrypt)),
        [""; 0]
    );
}

#[test]
fn l3_the_answer_is_ranked_by_estimated_time() {
    let world = regions().namespaces().start();
    keys(&world);
    // Whatever nyc says takes long; fra is near.
    world.net().slow("nyc", 150);
    let mut shop = world.client("shop", "sgp");
    let found = until_found(&mut shop, "world", Operation::Sign, &["fra", "nyc"]);
    assert!(
        found.servers[0].estimate_us < found.servers[1].estimate_us,
        "{found:?}"
    );
    world.net().fast("nyc");
    world.net().slow("fra", 150);
    until_found(&mut shop, "world", Operation::Sign, &["nyc", "fra"]);
}

#[test]
fn l4_a_server_asks_another_one_in_order_to_answer() {
    let world = regions().namespaces().start();
    keys(&world);
    // sgp hears nothing from central any more, and so nothing of a new key; its peers do.
    world.net().cut_between("sgp", "central-1");
    world.create_key("new", "ec-p256", "sign", "eu");
    world.grant(&spiffe("client", "shop"), "new", &["sign"]);
    world.settle_at(&["fra", "nyc"]);
    let mut shop = world.client("shop", "sgp");
    until_found(&mut shop, "new", Operation::Sign, &["fra"]);
    // Whoever has no grant learns nothing this way either.
    let mut stranger = world.client("stranger", "sgp");
    assert_eq!(server_of(&stranger.lookup("new", Operation::Sign)), [""; 0]);
}

#[test]
fn l5_capable_includes_what_policy_allows() {
    let world = regions().start();
    keys(&world);
    let mut shop = world.client("shop", "nyc");
    until_found(&mut shop, "euro", Operation::Sign, &["fra"]);
    world.admin(&[
        "kms",
        "grant",
        "withdraw",
        &spiffe("client", "shop"),
        "--key",
        "euro",
    ]);
    world.settle();
    until_found(&mut shop, "euro", Operation::Sign, &[]);
    world.admin(&["kms", "key", "revoke", "dollar", "--yes"]);
    world.settle();
    until_found(&mut shop, "dollar", Operation::Sign, &[]);
}

#[test]
fn l8_a_server_that_is_dead_or_thrown_out_or_without_a_lease_is_not_named() {
    let mut world = regions().start();
    keys(&world);
    let mut shop = world.client("shop", "sgp");
    let deadline = Instant::now() + Duration::from_secs(20);
    while sorted(&shop.lookup("world", Operation::Sign)) != ["fra", "nyc"] {
        assert!(Instant::now() < deadline);
        thread::sleep(Duration::from_millis(50));
    }
    world.site_mut("fra").kill();
    until_found(&mut shop, "world", Operation::Sign, &["nyc"]);
    world.restart_site("fra");
    let deadline = Instant::now() + Duration::from_secs(20);
    while sorted(&shop.lookup("world", Operation::Sign)) != ["fra", "nyc"] {
        assert!(Instant::now() < deadline, "fra does not come back");
        thread::sleep(Duration::from_millis(50));
    }
    world.admin(&["kms", "site", "evict", "nyc", "--yes"]);
    world.settle_at(&["fra"]);
    until_found(&mut shop, "world", Operation::Sign, &["fra"]);
}

#[test]
fn l8_a_mechanism_that_the_token_has_not_proven_is_not_named() {
    let world = regions().start();
    keys(&world);
    let mut shop = world.client("shop", "fra");
    // SoftHSM2 has no way to hold it, and so nobody is named for a handshake with a signing key.
    assert_eq!(
        server_of(&shop.lookup("euro", Operation::Handshake)),
        [""; 0]
    );
    assert_eq!(server_of(&shop.lookup("euro", Operation::Wrap)), [""; 0]);
}

#[test]
fn l9_absent_and_forbidden_get_the_same_answer() {
    let world = regions().start();
    keys(&world);
    let mut stranger = world.client("stranger", "fra");
    let mut shape = |key: &str| {
        let mut found = stranger.lookup(key, Operation::Sign);
        // What differs from one question to the next.
        found.central_ms_ago = None;
        found.good_for_ms = 0;
        found
    };
    assert_eq!(shape("euro"), shape("no-such-key"));
    assert!(shape("euro").servers.is_empty());
    assert_eq!(stranger.sign("euro", b"x"), Err(TaskError::Denied));
    assert_eq!(stranger.sign("no-such-key", b"x"), Err(TaskError::Denied));
}

fn sign_task(key: &str, message: &[u8]) -> Task {
    Task::Sign {
        key: named(key),
        scheme: SignatureScheme::EcdsaSecp256r1Sha256,
        message: message.to_vec(),
    }
}

fn places(results: &[TaskResult]) -> Vec<(&str, bool)> {
    results
        .iter()
        .map(|result| (result.server.as_str(), result.outcome.is_ok()))
        .collect()
}

#[test]
fn l6_what_a_server_cannot_do_it_passes_on_and_one_answer_has_all_results() {
    let world = regions().start();
    keys(&world);
    let pair = world.identity("client", "shop");
    let mut shop = Kms::connect(world.site("fra").address, &pair);
    until_found(&mut shop, "dollar", Operation::Sign, &["nyc"]);
    let tasks = || {
        ["euro", "dollar", "euro", "dollar"]
            .iter()
            .map(|key| sign_task(key, key.as_bytes()))
            .collect()
    };
    let batch = sign_batch(
        &pair,
        &spiffe("client", "shop"),
        &spiffe("signer", "fra"),
        tasks(),
    );
    let results = shop.operate_signed(batch);
    assert_eq!(
        places(&results),
        [("fra", true), ("nyc", true), ("fra", true), ("nyc", true)]
    );
    // Without the caller's signature nothing is passed on.
    let results = shop.operate(tasks());
    assert_eq!(
        results
            .iter()
            .map(|result| result.outcome.is_ok())
            .collect::<Vec<_>>(),
        [true, false, true, false]
    );
}

#[test]
fn l7_an_operation_goes_to_a_server_that_is_estimated_to_be_faster() {
    let world = regions().shims().start();
    keys(&world);
    let pair = world.identity("client", "shop");
    let mut shop = Kms::connect(world.site("fra").address, &pair);
    // fra's token becomes slow, as fra itself measures.
    world.site("fra").token.shim().set_faults("C_Sign hang 400");
    for _ in 0..6 {
        assert!(shop.sign("world", b"measured").is_ok());
    }
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let batch = sign_batch(
            &pair,
            &spiffe("client", "shop"),
            &spiffe("signer", "fra"),
            vec![sign_task("world", b"x")],
        );
        let results = shop.operate_signed(batch);
        if places(&results) == [("nyc", true)] {
            break;
        }
        assert!(Instant::now() < deadline, "{results:?}");
        thread::sleep(Duration::from_millis(100));
    }
}

fn audit(world: &World, site: &str, event: &str) -> Vec<Value> {
    let lines = world.site(site).running().log();
    lines
        .iter()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|line| field(line, "event").as_deref() == Some(event))
        .collect()
}

#[test]
fn l10_passing_on_is_authorised_again_and_both_ends_write_it_down() {
    let world = regions().start();
    keys(&world);
    let pair = world.identity("client", "shop");
    let mut shop = Kms::connect(world.site("fra").address, &pair);
    until_found(&mut shop, "dollar", Operation::Sign, &["nyc"]);
    let batch = sign_batch(
        &pair,
        &spiffe("client", "shop"),
        &spiffe("signer", "fra"),
        vec![sign_task("dollar", b"x")],
    );
    assert_eq!(places(&shop.operate_signed(batch)), [("nyc", true)]);
    let passed = audit(&world, "fra", "passed-on");
    assert_eq!(passed.len(), 1, "{passed:?}");
    let done = audit(&world, "nyc", "operation");
    assert_eq!(done.len(), 1, "{done:?}");
    assert_eq!(field(&done[0], "caller"), Some(spiffe("client", "shop")));
    assert_eq!(field(&done[0], "passed_from").as_deref(), Some("fra"));
}

/// What nyc says when fra's identity passes this on.
fn pass_on(world: &World, from: &str, batch: SignedBatch) -> Reply {
    let pair = match from {
        "fra" => world.site("fra").pair.clone(),
        "sgp" => world.site("sgp").pair.clone(),
        client => world.identity("client", client),
    };
    let passed = PassedOn {
        batch,
        which: vec![0],
    };
    Kms::connect(world.site("nyc").address, &pair).ask(&Request::OperatePassed(passed))
}

fn is_done(reply: &Reply) -> bool {
    matches!(reply, Reply::Results(results) if results.iter().all(|result| result.outcome.is_ok()))
}

#[test]
fn l10_a_rogue_intermediate_cannot_use_its_callers_grants() {
    let world = regions().start();
    keys(&world);
    let shop = world.identity("client", "shop");
    let (caller, fra) = (spiffe("client", "shop"), spiffe("signer", "fra"));
    let task = || vec![sign_task("dollar", b"x")];
    let good = sign_batch(&shop, &caller, &fra, task());
    assert!(
        is_done(&pass_on(&world, "fra", good.clone())),
        "the honest way works"
    );
    // The same again.
    assert!(!is_done(&pass_on(&world, "fra", good)), "replayed");
    // Meant for fra, brought by another.
    let meant_for_fra = sign_batch(&shop, &caller, &fra, task());
    assert!(
        !is_done(&pass_on(&world, "sgp", meant_for_fra)),
        "another server"
    );
    // A client that plays server.
    let as_client = sign_batch(&shop, &caller, &fra, task());
    assert!(
        !is_done(&pass_on(&world, "shop", as_client)),
        "a client passes on"
    );
    // fra forges the caller with its own key.
    let forged = sign_batch(&world.site("fra").pair, &caller, &fra, task());
    assert!(!is_done(&pass_on(&world, "fra", forged)), "forged");
    // fra changes what was asked.
    let mut altered = sign_batch(&shop, &caller, &fra, task());
    let at = altered.body.len() - 1;
    altered.body[at] ^= 1;
    assert!(!is_done(&pass_on(&world, "fra", altered)), "altered");
    // Too old, and too far ahead.
    for expires_ms in [now_ms() - 1000, now_ms() + 3_600_000] {
        let body = BatchBody {
            caller: caller.parse().unwrap(),
            server: fra.parse().unwrap(),
            nonce: expires_ms.to_be_bytes().repeat(2).try_into().unwrap(),
            expires_ms,
            tasks: task(),
        };
        let reply = pass_on(&world, "fra", sign_body(&shop, &body));
        assert!(!is_done(&reply), "expires {expires_ms}: {reply:?}");
    }
    // A caller without a grant gains nothing by being passed on.
    let stranger = world.identity("client", "stranger");
    let ungranted = sign_batch(&stranger, &spiffe("client", "stranger"), &fra, task());
    assert!(!is_done(&pass_on(&world, "fra", ungranted)), "no grant");
}

#[test]
fn l10_what_was_passed_on_goes_no_further() {
    let world = regions().start();
    keys(&world);
    let shop = world.identity("client", "shop");
    // nyc could name fra for this key, and must not pass it on.
    let batch = sign_batch(
        &shop,
        &spiffe("client", "shop"),
        &spiffe("signer", "fra"),
        vec![sign_task("euro", b"x")],
    );
    let reply = pass_on(&world, "fra", batch);
    assert!(!is_done(&reply), "{reply:?}");
    assert!(audit(&world, "nyc", "passed-on").is_empty());
    assert!(audit(&world, "fra", "operation").is_empty());
}

#[test]
fn m2_roles_are_kept_apart() {
    let world = regions().start();
    keys(&world);
    let shop = world.identity("client", "shop");
    let mut client = Kms::connect(world.site("fra").address, &shop);
    let reply = client.ask(&Request::Status);
    assert!(
        matches!(reply, Reply::Error(ErrorCode::Denied)),
        "{reply:?}"
    );
    // Nobody but a server speaks for somebody else.
    let lookup = keyhaven_wire::kms::Lookup {
        key: named("euro"),
        operation: Operation::Sign,
        caller: Some(spiffe("client", "shop").parse().unwrap()),
    };
    let mut stranger = world.client("stranger", "fra");
    let reply = stranger.ask(&Request::Lookup(lookup));
    let told = matches!(&reply, Reply::Found(found) if !found.servers.is_empty());
    assert!(!told, "{reply:?}");
    // And central takes no operations from sites.
    let mut site = Kms::connect(world.central().address, &world.site("fra").pair);
    let ask = keyhaven_wire::kms::admin::Ask::EraBump;
    let reply = site.ask(&Request::Admin(Box::new(ask)));
    assert!(
        matches!(reply, Reply::Error(ErrorCode::Denied)),
        "{reply:?}"
    );
}
