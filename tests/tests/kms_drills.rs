//! What fails, what still works, and that recovery needs no hand.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use keyhaven_tests::kms::{Class, Kms, World, WorldBuilder, spiffe, world};
use keyhaven_wire::kms::TaskError;

fn two_sites() -> WorldBuilder {
    world()
        .class(Class::new("all", &["eu", "us"]))
        .site("fra", "eu")
        .site("nyc", "us")
}

fn key(world: &World, name: &str) {
    world.create_key(name, "ec-p256", "sign", "all");
    world.grant(&spiffe("client", "shop"), name, &["sign"]);
}

/// Tries until it holds.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        thread::sleep(Duration::from_millis(100));
    }
}

fn works(world: &World, arguments: &[&str]) -> bool {
    world.try_admin(arguments).status.success()
}

#[test]
fn central_is_killed_and_comes_back() {
    let mut world = two_sites().start();
    key(&world, "orders");
    world.settle();
    world.centrals[0].kill();
    let mut shop = world.client("shop", "fra");
    assert!(shop.sign("orders", b"x").is_ok());
    let refused = world.try_admin(&["kms", "key", "list"]);
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(
        said.contains(&world.central().address.to_string()),
        "{said}"
    );
    world.start_central(0);
    until("central takes no key", || {
        works(
            &world,
            &[
                "kms",
                "key",
                "create",
                "new",
                "--kind",
                "aes-256",
                "--purpose",
                "data",
                "--class",
                "all",
            ],
        )
    });
    world.settle();
}

#[test]
fn three_centrals_serve_at_once_and_lose_nothing_when_one_and_the_etcd_leader_are_killed() {
    let mut world = two_sites().etcd(3).start();
    let mut names = Vec::new();
    thread::scope(|scope| {
        let makers: Vec<_> = (0..3)
            .map(|number| {
                let world = &world;
                scope.spawn(move || {
                    let mut made = Vec::new();
                    for round in 0..6 {
                        let name = format!("key-{number}-{round}");
                        let create = [
                            "kms",
                            "key",
                            "create",
                            &name,
                            "--kind",
                            "aes-256",
                            "--purpose",
                            "data",
                            "--class",
                            "all",
                        ];
                        if works(world, &create) {
                            made.push(name);
                        }
                    }
                    made
                })
            })
            .collect();
        for maker in makers {
            names.extend(maker.join().unwrap());
        }
    });
    assert_eq!(names.len(), 18, "nobody was killed yet");
    let leader = world.etcd.as_ref().unwrap().cluster.leader();
    world.etcd.as_mut().unwrap().cluster.kill(leader);
    world.centrals[0].kill();
    let mut made = 0;
    until("no key is made any more", || {
        let name = format!("after-{made}");
        let create = [
            "kms",
            "key",
            "create",
            &name,
            "--kind",
            "aes-256",
            "--purpose",
            "data",
            "--class",
            "all",
        ];
        if works(&world, &create) {
            names.push(name);
            made += 1;
        }
        made == 3
    });
    let listed = world.admin(&["kms", "key", "list"]).to_string();
    for name in &names {
        assert!(
            listed.contains(&format!("\"{name}\"")),
            "{name} was acknowledged and is gone"
        );
    }
    world.settle();
}

#[test]
fn all_of_etcd_is_killed_and_sites_serve_on() {
    let mut world = two_sites().etcd(1).start();
    key(&world, "orders");
    world.settle();
    world.etcd.as_mut().unwrap().cluster.kill_all();
    let mut shop = world.client("shop", "nyc");
    assert!(shop.sign("orders", b"x").is_ok());
    let refused = world.try_admin(&[
        "kms",
        "key",
        "create",
        "new",
        "--kind",
        "aes-256",
        "--purpose",
        "data",
        "--class",
        "all",
    ]);
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("store"), "{said}");
    world.etcd.as_mut().unwrap().cluster.start_all();
    until("nothing can be made", || {
        works(
            &world,
            &[
                "kms",
                "key",
                "create",
                "later",
                "--kind",
                "aes-256",
                "--purpose",
                "data",
                "--class",
                "all",
            ],
        )
    });
    world.settle();
}

#[test]
fn a_restored_snapshot_is_noticed_and_goes_on_only_when_an_operator_says_so() {
    let mut world = two_sites().etcd(1).start();
    key(&world, "orders");
    world.settle();
    let snapshot = world.dir().join("snapshot.db");
    world.etcd.as_ref().unwrap().cluster.snapshot(&snapshot);
    world.admin(&["kms", "key", "revoke", "orders", "--yes", "--wait"]);
    let mut shop = world.client("shop", "fra");
    assert_eq!(shop.sign("orders", b"x"), Err(TaskError::State));
    world.centrals[0].kill();
    world.etcd.as_mut().unwrap().cluster.kill_all();
    world.etcd.as_mut().unwrap().cluster.restore(&snapshot);
    world.start_central(0);
    // The revocation is not undone at the sites, and everybody is told.
    until("central does not notice", || {
        let status = world.admin(&["kms", "status"]).to_string();
        status.contains("era bump")
    });
    thread::sleep(Duration::from_secs(2));
    assert_eq!(shop.sign("orders", b"x"), Err(TaskError::State));
    world.admin(&["kms", "era", "bump", "--yes"]);
    world.settle();
    // Now the backup counts, as docs/kms.md says: what was revoked since must be revoked again.
    assert!(shop.sign("orders", b"x").is_ok());
    world.admin(&["kms", "key", "revoke", "orders", "--yes", "--wait"]);
    assert_eq!(shop.sign("orders", b"x"), Err(TaskError::State));
}

#[test]
fn an_edited_store_is_not_believed_and_is_put_right_by_a_central_that_runs() {
    let mut world = two_sites().etcd(1).start();
    key(&world, "orders");
    world.settle();
    world.admin(&["kms", "site", "evict", "nyc", "--yes"]);
    let cluster = &world.etcd.as_ref().unwrap().cluster;
    let (class, site) = ("/kms/c/all", "/kms/s/fra");
    let before = [class, site].map(|key| cluster.get(key).unwrap());
    cluster.put(class, b"not a record");
    cluster.delete(site);
    cluster.put(
        "/kms/g/server/spiffe://keyhaven.test/client/thief",
        b"not a grant",
    );
    until("central does not put it right", || {
        [class, site].map(|key| cluster.get(key)) == before.clone().map(Some)
    });
    let status = world.admin(&["kms", "status"]).to_string();
    assert!(
        status.contains("who has the store's credentials"),
        "{status}"
    );
    assert!(world.client("shop", "fra").sign("orders", b"x").is_ok());
    // What is not its own is not believed after a restart either, and does no harm.
    world.centrals[0].kill();
    world.start_central(0);
    let status = world.admin(&["kms", "status"]).to_string();
    assert!(status.contains("client/thief"), "{status}");
    assert!(world.client("shop", "fra").sign("orders", b"x").is_ok());
}

#[test]
fn a_store_in_which_an_old_record_was_put_back_is_served_only_when_an_operator_says_so() {
    let mut world = two_sites().etcd(1).start();
    key(&world, "orders");
    world.settle();
    let site = "/kms/s/nyc";
    let enrolled = world.etcd.as_ref().unwrap().cluster.get(site).unwrap();
    world.admin(&["kms", "site", "evict", "nyc", "--yes"]);
    world.centrals[0].kill();
    // Central itself has signed this, a little earlier.
    world.etcd.as_ref().unwrap().cluster.put(site, &enrolled);
    for options in [&["--check"][..], &[]] {
        let output = world.central_command(0, options).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{said}");
        assert!(said.contains("--accept-store"), "{said}");
    }
    // Meanwhile sites serve.
    assert!(world.client("shop", "fra").sign("orders", b"x").is_ok());
    world.start_central_with(0, &["--accept-store"]);
    let status = world.admin(&["kms", "status"]).to_string();
    assert!(status.contains("it was accepted at the start"), "{status}");
    world.admin(&["kms", "site", "evict", "nyc", "--yes"]);
    world.admin(&["kms", "era", "bump", "--yes"]);
    let status = world.admin(&["kms", "status"]).to_string();
    assert!(!status.contains("accepted at the start"), "{status}");
    // It is whole again.
    world.centrals[0].kill();
    world.start_central(0);
    key(&world, "invoices");
    until("fra does not follow", || {
        world.client("shop", "fra").sign("invoices", b"x").is_ok()
    });
}

#[test]
fn a_site_is_killed_and_comes_back_with_what_it_missed() {
    let mut world = two_sites().start();
    key(&world, "orders");
    world.settle();
    world.site_mut("fra").kill();
    key(&world, "missed");
    assert!(world.client("shop", "nyc").sign("missed", b"x").is_ok());
    world.restart_site("fra");
    world.settle();
    assert!(world.client("shop", "fra").sign("missed", b"x").is_ok());
}

#[test]
fn a_site_with_a_full_disk_serves_what_it_has_and_catches_up_when_there_is_room() {
    let mut world = two_sites().start();
    key(&world, "orders");
    world.settle();
    // Its folder on a small file system.
    world.site_mut("fra").kill();
    let dir = world.site("fra").dir.clone();
    let aside = world.dir().join("aside");
    fs::create_dir(&aside).unwrap();
    for entry in fs::read_dir(&dir).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, aside.join(path.file_name().unwrap())).unwrap();
    }
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=16m", "tmpfs"])
        .arg(&dir)
        .status();
    assert!(
        mounted.is_ok_and(|status| status.success()),
        "mounting needs root"
    );
    let _unmount = Unmount(dir.clone());
    for entry in fs::read_dir(&aside).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, dir.join(path.file_name().unwrap())).unwrap();
    }
    world.restart_site("fra");
    world.settle();
    let ballast = dir.join("ballast");
    let mut size = 16 * 1024 * 1024;
    while fs::write(&ballast, vec![0_u8; size]).is_err() {
        size -= 16 * 1024;
    }
    let mut shop = world.client("shop", "fra");
    let mut made = 0;
    let site = world.site("fra");
    until("the disk does not matter", || {
        key(&world, &format!("more-{made}"));
        made += 1;
        assert!(shop.sign("orders", b"x").is_ok(), "what is here is served");
        let log = site.running().log().join("\n").to_lowercase();
        log.contains("disk") || log.contains("space") || log.contains("room")
    });
    fs::remove_file(&ballast).unwrap();
    world.settle();
    let last = format!("more-{}", made - 1);
    assert!(shop.sign(&last, b"x").is_ok());
    drop(shop);
    world.site_mut("fra").kill();
}

struct Unmount(std::path::PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_token_that_is_gone_is_said_and_used_again_when_it_is_back() {
    let world = two_sites().shims().start();
    key(&world, "orders");
    world.settle();
    let mut shop = world.client("shop", "fra");
    assert!(shop.sign("orders", b"x").is_ok());
    // As a hardware token that was pulled out: SoftHSM2 itself goes on with what it has in memory.
    let shim = world.site("fra").token.shim();
    shim.set_faults("* error 0x32");
    until("a token that is gone still signs", || {
        shop.sign("orders", b"x") == Err(TaskError::Unavailable)
    });
    // The others do not mind, and the site still answers lookups: it is not among those that can any more, or is last.
    assert!(world.client("shop", "nyc").sign("orders", b"x").is_ok());
    let found = shop.lookup("orders", keyhaven_types::Operation::Sign);
    assert!(!found.servers.is_empty(), "{found:?}");
    shim.clear_faults();
    until("it does not come back", || {
        shop.sign("orders", b"x").is_ok()
    });
}

#[test]
fn centrals_token_that_is_gone_stops_changes_alone() {
    let world = two_sites().start();
    key(&world, "orders");
    world.settle();
    world.central().token().remove_dir().unwrap();
    let create = [
        "kms",
        "key",
        "create",
        "new",
        "--kind",
        "aes-256",
        "--purpose",
        "data",
        "--class",
        "all",
    ];
    until("changes go on without a token", || !works(&world, &create));
    assert!(works(&world, &["kms", "status"]));
    assert!(works(&world, &["kms", "key", "list"]));
    assert!(world.client("shop", "fra").sign("orders", b"x").is_ok());
    world.central().token().restore_dir().unwrap();
    until("changes do not come back", || works(&world, &create));
}

#[test]
fn centrals_disk_that_is_full_loses_nothing() {
    let mut world = two_sites().start();
    key(&world, "orders");
    world.settle();
    world.centrals[0].kill();
    let (store, dir) = (world.central().store(), world.central().dir.clone());
    let small = dir.join("small");
    fs::create_dir(&small).unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=16m", "tmpfs"])
        .arg(&small)
        .status();
    assert!(
        mounted.is_ok_and(|status| status.success()),
        "mounting needs root"
    );
    let _unmount = Unmount(small.clone());
    fs::copy(&store, small.join("store.redb")).unwrap();
    let config = dir.join("kms-central.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(
        &config,
        text.replace("\"store.redb\"", "\"small/store.redb\""),
    )
    .unwrap();
    world.start_central(0);
    let ballast = small.join("ballast");
    let mut size = 16 * 1024 * 1024;
    while fs::write(&ballast, vec![0_u8; size]).is_err() {
        size -= 16 * 1024;
    }
    let mut made = Vec::new();
    until("the disk does not matter", || {
        let name = format!("more-{}", made.len());
        let create = [
            "kms",
            "key",
            "create",
            &name,
            "--kind",
            "rsa-2048",
            "--purpose",
            "sign",
            "--class",
            "all",
        ];
        let output = world.try_admin(&create);
        if output.status.success() {
            made.push(name);
            return false;
        }
        let said = String::from_utf8_lossy(&output.stderr).to_lowercase();
        assert!(said.contains("store"), "{said}");
        true
    });
    fs::remove_file(&ballast).unwrap();
    until("it does not come back", || {
        works(
            &world,
            &[
                "kms",
                "key",
                "create",
                "after",
                "--kind",
                "aes-256",
                "--purpose",
                "data",
                "--class",
                "all",
            ],
        )
    });
    let listed = world.admin(&["kms", "key", "list"]).to_string();
    for name in &made {
        assert!(
            listed.contains(&format!("\"{name}\"")),
            "{name} was acknowledged and is gone"
        );
    }
    world.settle();
    let _ = Kms::connect(world.site("fra").address, &world.peer()).status();
    world.centrals[0].kill();
}
