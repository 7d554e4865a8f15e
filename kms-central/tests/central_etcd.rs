//! Several centrals on one etcd cluster: at the same time, with one killed, with the cluster's leader killed, with no
//! majority, and with a snapshot put back under them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod central_kit;
#[path = "../../tests/src/etcd.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    reason = "shared with the system tests"
)]
mod etcd;

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use central_kit::{Asker, Daemon, Kit, class, key, named, site};
use etcd::{EtcdCluster, EtcdPlace};
use keyhaven_softhsm_test::fresh_token;
use keyhaven_types::{KeyKind, Purpose, Replication};
use keyhaven_wire::{
    ErrorCode,
    kms::{
        HeadMark,
        admin::{Answer, Ask, RefusedCode, Status},
    },
};

const MAC: [Purpose; 1] = [Purpose::Mac];

/// A cluster, and the configuration by which a central finds it.
struct World {
    cluster: EtcdCluster,
    kit: Kit,
    config: std::path::PathBuf,
}

impl World {
    fn new(kit: Kit) -> Self {
        let cluster = EtcdCluster::start(kit.dir.path(), EtcdPlace::local());
        let pair = cluster.central();
        let endpoints: Vec<String> = cluster
            .endpoints()
            .iter()
            .map(|endpoint| format!("\"{endpoint}\""))
            .collect();
        let store = format!(
            "kind = \"etcd\"\nendpoints = [{}]\nca = \"{}\"\ncertificate = \"{}\"\nkey = \"{}\"\ntimeout_ms = 2000",
            endpoints.join(", "),
            cluster.ca().display(),
            pair.certificate.display(),
            pair.key.display(),
        );
        let config = kit.config("central.toml", &store);
        Self {
            cluster,
            kit,
            config,
        }
    }

    fn central(&self) -> Daemon {
        self.kit.start(&self.config)
    }

    async fn alice(&self, daemon: &Daemon) -> Asker {
        Asker::connect(&self.kit, daemon, "admin/alice").await
    }
}

async fn status(admin: &Asker) -> Status {
    match admin.ask(Ask::Status).await {
        Answer::Status(status) => *status,
        other => panic!("{other:?}"),
    }
}

fn mac(name: &str) -> Ask {
    key(name, KeyKind::Hmac, Purpose::Mac, "near")
}

/// Waits until both say the same.
async fn same_head(one: &Asker, other: &Asker) -> Status {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let (a, b) = (status(one).await, status(other).await);
        if a.head == b.head {
            assert_eq!(a.keys, b.keys);
            return a;
        }
        assert!(Instant::now() < deadline, "{:?} and {:?}", a.head, b.head);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn m8_two_centrals_write_at_once_and_no_name_is_had_twice() {
    let world = World::new(Kit::new(fresh_token!(), &MAC, 1));
    let (first, second) = (world.central(), world.central());
    let (one, two) = (world.alice(&first).await, world.alice(&second).await);
    one.change(class("near", &MAC, Replication::Eager)).await;
    let work = |admin: Asker| async move {
        let mut made = BTreeSet::new();
        for number in 0..25 {
            match admin.ask(mac(&format!("key-{number}"))).await {
                Answer::Committed { revision, .. } => assert!(made.insert((number, revision))),
                Answer::Refused(why) if why.code == RefusedCode::Exists => {}
                // The class may not have come here yet.
                Answer::Refused(why) if why.code == RefusedCode::NotFound => {}
                other => panic!("{other:?}"),
            }
        }
        (admin, made)
    };
    let (a, b) = tokio::join!(tokio::spawn(work(one)), tokio::spawn(work(two)));
    let ((one, a), (two, b)) = (a.unwrap(), b.unwrap());
    let numbers: BTreeSet<_> = a.iter().chain(&b).map(|(number, _)| number).collect();
    assert_eq!(numbers.len(), a.len() + b.len(), "both made one of them");
    assert_eq!(numbers.len(), 25);
    let revisions: BTreeSet<_> = a.iter().chain(&b).map(|(_, revision)| revision).collect();
    assert_eq!(revisions.len(), 25, "two transactions with one revision");
    assert!(!a.is_empty());
    assert_eq!(same_head(&one, &two).await.keys, 25);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_when_etcds_leader_and_a_central_are_killed() {
    let mut world = World::new(Kit::new(fresh_token!(), &MAC, 1));
    let (first, second) = (world.central(), world.central());
    let (one, two) = (world.alice(&first).await, world.alice(&second).await);
    one.change(class("near", &MAC, Replication::Eager)).await;
    same_head(&one, &two).await;
    let load = tokio::spawn(async move {
        let mut made = Vec::new();
        let mut number = 0;
        let until = Instant::now() + Duration::from_secs(8);
        while Instant::now() < until {
            number += 1;
            let name = format!("key-{number}");
            match one.ask(mac(&name)).await {
                Answer::Committed { .. } => made.push(name),
                // It says so when it does not know, and when nothing was done.
                Answer::Refused(why) => assert!(
                    matches!(why.code, RefusedCode::Store | RefusedCode::Unknown),
                    "{why:?}"
                ),
                other => panic!("{other:?}"),
            }
        }
        made
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    let leader = world.cluster.leader();
    world.cluster.kill(leader);
    let made = load.await.unwrap();
    assert!(made.len() > 20, "only {} were made", made.len());
    first.kill();
    for name in &made {
        let shown = two.ask(Ask::KeyShow { key: named(name) }).await;
        assert!(
            matches!(shown, Answer::Key { .. }),
            "{name} is lost: {shown:?}"
        );
    }
    // A central that starts now reads the same.
    let third = world.central();
    let three = world.alice(&third).await;
    same_head(&two, &three).await;
    two.change(mac("after")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn m5_without_a_majority_sites_follow_and_nobody_gets_a_lease() {
    let mut world = World::new(Kit::new(fresh_token!(), &MAC, 1));
    let daemon = world.central();
    let admin = world.alice(&daemon).await;
    admin.change(class("near", &MAC, Replication::Eager)).await;
    admin.change(site("fra", Vec::new())).await;
    let fra = Asker::connect(&world.kit, &daemon, "signer/fra").await;
    assert!(fra.lease(HeadMark::default()).await.is_ok());
    world.cluster.kill_all();
    let changes = fra.follow(0, HeadMark::default(), 0).await.unwrap();
    assert_eq!(changes.entries.len(), 2);
    let refused = fra.lease(HeadMark::default()).await;
    assert_eq!(refused.unwrap_err(), ErrorCode::Unavailable);
    let why = admin.refused(mac("orders")).await;
    assert!(
        matches!(why.code, RefusedCode::Store | RefusedCode::Unknown),
        "{why:?}"
    );
    let warnings = status(&admin).await.warnings;
    assert!(
        warnings.iter().any(|it| it.contains("store")),
        "{warnings:?}"
    );
    world.cluster.start_all();
    let deadline = Instant::now() + Duration::from_secs(30);
    while fra.lease(HeadMark::default()).await.is_err() {
        assert!(
            Instant::now() < deadline,
            "no lease though the store is back"
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    // It may have come through after all.
    match admin.ask(mac("orders")).await {
        Answer::Committed { .. } => {}
        Answer::Refused(why) => assert_eq!(why.code, RefusedCode::Exists, "{why:?}"),
        other => panic!("{other:?}"),
    }
    let waited = tokio::time::timeout(Duration::from_secs(20), async {
        while status(&admin)
            .await
            .warnings
            .iter()
            .any(|it| it.contains("away"))
        {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    waited
        .await
        .expect("the alarm ends with the store's absence");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn m4_a_snapshot_put_back_under_a_running_central_is_noticed_by_it_and_by_sites() {
    let mut world = World::new(Kit::new(fresh_token!(), &MAC, 2));
    let daemon = world.central();
    let admin = world.alice(&daemon).await;
    admin.change(class("near", &MAC, Replication::Eager)).await;
    admin.change(site("fra", Vec::new())).await;
    let snapshot = world.kit.dir.path().join("snapshot");
    world.cluster.snapshot(&snapshot);
    admin.change(mac("orders")).await;
    let head = status(&admin).await.head;
    let fra = Asker::connect(&world.kit, &daemon, "signer/fra").await;
    assert!(fra.lease(head.mark()).await.is_ok());
    world.cluster.kill_all();
    world.cluster.restore(&snapshot);
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match fra.lease(head.mark()).await {
            Err(ErrorCode::History) => break,
            Err(ErrorCode::Unavailable) => {}
            other => panic!("{other:?}"),
        }
        assert!(Instant::now() < deadline, "nobody noticed");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let now = status(&admin).await;
    assert!(now.head.revision < head.revision);
    let told = |part: &str| now.warnings.iter().any(|it| it.contains(part));
    assert!(told("went back") && told("`fra`"), "{:?}", now.warnings);
    // Who changes something meanwhile is told that sites do not hear of it.
    let warned = |answer: Answer| match answer {
        Answer::Committed { warnings, .. } => warnings.join("; "),
        other => panic!("{other:?}"),
    };
    let change = warned(admin.ask(mac("late")).await);
    assert!(change.contains("does not reach every site"), "{change}");
    assert_eq!(warned(admin.ask(Ask::EraBump).await), "");
    assert!(fra.lease(head.mark()).await.is_ok());
    assert_eq!(status(&admin).await.warnings, Vec::<String>::new());
}
