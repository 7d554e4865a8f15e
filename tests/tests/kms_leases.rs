//! Revoked keys behind a partition: they stop within their class's bound, whatever the network does.
//!
//! A reboot and a stopped clock are made with a mount namespace and SIGSTOP.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use keyhaven_tests::daemon::binary;
use keyhaven_tests::kms::{Class, World, spiffe, world};
use keyhaven_wire::kms::TaskError;
use serde_json::Value;

const BOUND: Duration = Duration::from_secs(8);

/// Two classes, one with a short bound and one with a long one.
fn bounded() -> World {
    let world = world()
        .class(Class::new("short", &["eu", "us"]).bound("8s"))
        .class(Class::new("long", &["eu", "us"]).bound("1h"))
        .site("fra", "eu")
        .site("nyc", "us")
        .namespaces()
        .start();
    for name in ["short", "long"] {
        world.create_key(name, "ec-p256", "sign", name);
        world.grant(&spiffe("client", "shop"), name, &["sign"]);
    }
    world.settle();
    world
}

fn cut(world: &World, site: &str) {
    world.net().cut_between(site, "central-1");
}

#[test]
fn m5_a_revoked_key_stops_within_its_bound_behind_a_partition() {
    let world = bounded();
    let mut shop = world.client("shop", "fra");
    cut(&world, "fra");
    world.admin(&["kms", "key", "revoke", "short", "--yes"]);
    let revoked = Instant::now();
    // The connected site stops at once, and the cut one goes on for a while, which is what makes this a test.
    world.settle_at(&["nyc"]);
    assert_eq!(
        world.client("shop", "nyc").sign("short", b"x"),
        Err(TaskError::State)
    );
    assert!(
        shop.sign("short", b"x").is_ok(),
        "the partition is not seen at once"
    );
    let stopped = loop {
        match shop.sign("short", b"x") {
            Ok(_) => assert!(
                revoked.elapsed() < BOUND + Duration::from_secs(2),
                "still used"
            ),
            Err(error) => {
                assert_eq!(error, TaskError::Lease);
                break revoked.elapsed();
            }
        }
        thread::sleep(Duration::from_millis(50));
    };
    assert!(stopped <= BOUND + Duration::from_millis(500), "{stopped:?}");
    // A class with a long bound is still served.
    assert!(shop.sign("long", b"x").is_ok());
    // When the network is back, the site knows what happened.
    world.net().join_between("fra", "central-1");
    world.settle();
    assert_eq!(shop.sign("short", b"x"), Err(TaskError::State));
}

#[test]
fn m5_a_revocation_says_when_it_holds_everywhere() {
    let world = bounded();
    let before = world.admin(&["kms", "key", "revoke", "short", "--yes", "--wait"]);
    assert!(before.to_string().contains("revision"), "{before}");
    for site in ["fra", "nyc"] {
        let refused = world.client("shop", site).sign("short", b"x");
        assert_eq!(refused, Err(TaskError::State), "{site}");
    }
    // With a site cut off it takes the bound, and no longer.
    world.create_key("another", "ec-p256", "sign", "short");
    world.grant(&spiffe("client", "shop"), "another", &["sign"]);
    world.settle();
    cut(&world, "fra");
    let began = Instant::now();
    world.admin(&["kms", "key", "revoke", "another", "--yes", "--wait"]);
    let waited = began.elapsed();
    assert!(
        waited > BOUND - Duration::from_secs(1),
        "{waited:?} is too early"
    );
    assert!(waited < BOUND + Duration::from_secs(6), "{waited:?}");
    let mut shop = world.client("shop", "fra");
    assert_eq!(shop.sign("another", b"x"), Err(TaskError::Lease));
}

#[test]
fn m5_a_site_that_restarts_behind_a_partition_has_no_more_time_than_before() {
    let mut world = bounded();
    cut(&world, "fra");
    let since = Instant::now();
    world.site_mut("fra").kill();
    world.restart_site("fra");
    let mut shop = world.client("shop", "fra");
    assert!(
        shop.sign("short", b"x").is_ok(),
        "the lease outlives the process"
    );
    while shop.sign("short", b"x").is_ok() {
        assert!(
            since.elapsed() < BOUND + Duration::from_secs(1),
            "a restart gave it more time"
        );
        thread::sleep(Duration::from_millis(50));
    }
    assert!(shop.sign("long", b"x").is_ok());
}

#[test]
fn m5_after_a_reboot_behind_a_partition_nothing_bounded_is_served() {
    let mut world = bounded();
    cut(&world, "fra");
    world.site_mut("fra").kill();
    // Another boot id is what a reboot leaves behind.
    let other = world.dir().join("boot_id");
    fs::write(&other, "00000000-1111-4222-8333-444444444444\n").unwrap();
    let script = format!(
        "mount --bind {} /proc/sys/kernel/random/boot_id && exec \"$0\" \"$@\"",
        other.display()
    );
    let config = world.site("fra").dir.join("signer.toml");
    let prefix = world.net().prefix("fra");
    let mut command = Command::new(&prefix[0]);
    command
        .args(&prefix[1..])
        .args(["unshare", "-m", "sh", "-c", &script])
        .arg(binary("signer"))
        .arg("--config")
        .arg(config)
        .envs(world.site("fra").token.env());
    let daemon = keyhaven_tests::daemon::Daemon::spawn("fra", &mut command);
    daemon.listening();
    world.site_mut("fra").daemon = Some(daemon);
    let mut shop = world.client("shop", "fra");
    for key in ["short", "long"] {
        assert_eq!(shop.sign(key, b"x"), Err(TaskError::Lease), "{key}");
    }
    world.net().join_between("fra", "central-1");
    world.settle();
    assert!(shop.sign("short", b"x").is_ok());
}

#[test]
fn m5_a_site_that_was_stopped_beyond_its_bound_serves_nothing_when_it_goes_on() {
    let world = bounded();
    cut(&world, "fra");
    let pid = world.site("fra").running().pid().to_string();
    let signal = |name: &str| {
        let status = Command::new("kill").args([name, &pid]).status();
        assert!(status.is_ok_and(|status| status.success()));
    };
    signal("-STOP");
    thread::sleep(BOUND + Duration::from_secs(1));
    signal("-CONT");
    let mut shop = world.client("shop", "fra");
    assert_eq!(shop.sign("short", b"x"), Err(TaskError::Lease));
}

#[test]
fn m5_a_replica_that_was_rolled_back_gives_no_time_and_no_revoked_key() {
    let mut world = bounded();
    let fra = world.site("fra").replica();
    let old = world.dir().join("old.redb");
    world.site_mut("fra").kill();
    fs::copy(&fra, &old).unwrap();
    world.restart_site("fra");
    world.settle();
    world.admin(&["kms", "key", "revoke", "short", "--yes", "--wait"]);
    cut(&world, "fra");
    world.site_mut("fra").kill();
    fs::copy(&old, &fra).unwrap();
    let since = Instant::now();
    world.restart_site("fra");
    // The old file still has a lease, which began before the revocation: it ends no later than it would have.
    let mut shop = world.client("shop", "fra");
    while shop.sign("short", b"x").is_ok() {
        assert!(since.elapsed() < BOUND, "a rolled-back replica goes on");
        thread::sleep(Duration::from_millis(50));
    }
    world.net().join_between("fra", "central-1");
    world.settle();
    assert_eq!(shop.sign("short", b"x"), Err(TaskError::State));
}

#[test]
fn m5_a_lowered_bound_does_not_make_an_early_promise() {
    let world = bounded();
    // Leases that run now may be an hour long for this class.
    cut(&world, "fra");
    world.admin(&["kms", "class", "bound", "long", "10s"]);
    let revoked = world.admin(&["kms", "key", "revoke", "long", "--yes"]);
    let revision = keyhaven_tests::daemon::field(&revoked, "revision").expect("a revision");
    let told = world.admin(&["kms", "lease", "enforced", &revision]);
    let at_most = told.get("at_most_s").and_then(Value::as_u64);
    assert!(at_most.is_some_and(|seconds| seconds > 3000), "{told}");
}
