//! Who is named and in which order, case by case and over random worlds.

use keyhaven_types::{HardwareLevel, KeyKind, Purpose};
use proptest::prelude::*;

use super::{
    super::testing::{Records, identity, key_id, name, status},
    *,
};

const MS: Duration = Duration::from_millis(1);
const INTERVAL: Duration = Duration::from_secs(2);

/// A world as sgp sees it, which has nothing itself.
#[derive(Debug)]
struct World {
    records: Records,
    own: SiteStatus,
    measured: Measured,
    now: Instant,
}

impl World {
    fn new() -> Self {
        let mut records = Records::default();
        records.add_class("both", &["eu", "us"]);
        records.add_class("eu", &["eu"]);
        records.add_site("fra", "eu", &["both", "eu"]);
        records.add_site("nyc", "us", &["both"]);
        records.add_site("sgp", "asia", &[]);
        let world = records.add_key("world", KeyKind::EcP256, Purpose::Sign, "both");
        let euro = records.add_key("euro", KeyKind::EcP256, Purpose::Sign, "eu");
        records.grant("shop", world, &[Operation::Sign, Operation::Verify]);
        records.grant("shop", euro, &[Operation::Sign]);
        records.applied = 9;
        let mut world = Self {
            records,
            own: status("sgp"),
            measured: Measured::default(),
            now: Instant::now(),
        };
        world.measured.set_interval(INTERVAL);
        world.hear("fra", 10, |_| {});
        world.hear("nyc", 90, |_| {});
        world
    }

    fn hear(&mut self, site: &str, round_trip: u32, change: impl FnOnce(&mut SiteStatus)) {
        let mut said = status(site);
        change(&mut said);
        self.measured.retain(|known| *known != name(site));
        self.measured
            .answered(self.now, &name(site), MS * round_trip, said);
    }

    fn record(&mut self, site: &str) -> &mut SiteRecord {
        let mut sites = self.records.sites.iter_mut();
        sites.find(|record| record.name == name(site)).unwrap()
    }

    fn ask(&self, client: &str, key: &str, operation: Operation) -> Found {
        self.view(|view| {
            view.answer(Question {
                caller: &identity("client", client),
                key: &KeyRef::Name(name(key)),
                version: None,
                operation,
            })
        })
    }

    fn view<T>(&self, look: impl FnOnce(View<'_>) -> T) -> T {
        look(View {
            now: self.now,
            own: &self.own,
            central_heard: Some(MS * 1500),
            directory: &self.records,
            measured: &self.measured,
            interval: INTERVAL,
        })
    }

    fn sites(&self, key: &str) -> Vec<String> {
        let found = self.ask("shop", key, Operation::Sign);
        let sites = found.servers.iter();
        sites.map(|server| server.site.to_string()).collect()
    }
}

#[test]
fn l1_a_server_that_has_nothing_names_those_that_can_with_addresses_from_central() {
    let found = World::new().ask("shop", "euro", Operation::Sign);
    let [server] = found.servers.as_slice() else {
        panic!("{found:?}");
    };
    assert_eq!(server.identity, identity("signer", "fra"));
    assert_eq!(server.address, "fra.test:7443");
    assert!(!server.is_self);
    assert_eq!((found.revision, found.central_ms_ago), (9, Some(1500)));
    assert_eq!(found.good_for_ms, 4000);
}

#[test]
fn l2_another_operation_or_key_gets_another_answer() {
    let world = World::new();
    assert_eq!(world.sites("euro"), ["fra"]);
    assert_eq!(world.sites("world"), ["fra", "nyc"]);
    let servers = |key, operation| world.ask("shop", key, operation).servers.len();
    assert_eq!(servers("world", Operation::Verify), 2);
    assert_eq!(servers("euro", Operation::Verify), 0, "not granted");
}

#[test]
fn l3_the_way_and_the_queue_decide_the_order() {
    let mut world = World::new();
    let found = world.ask("shop", "world", Operation::Sign);
    let estimates: Vec<u64> = found.servers.iter().map(|s| s.estimate_us).collect();
    assert_eq!(estimates, [11_000, 91_000]);
    assert_eq!(found.servers[0].measured_ms_ago, Some(10));
    world.hear("fra", 10, |said| said.waiting = 4 * 100);
    assert_eq!(world.sites("world"), ["nyc", "fra"]);
    world.hear("fra", 200, |_| {});
    assert_eq!(world.sites("world"), ["nyc", "fra"]);
}

#[test]
fn l3_a_server_counts_no_way_to_itself() {
    let mut world = World::new();
    world.own = status("fra");
    world.own.service_us = vec![(Operation::Sign, 700)];
    let found = world.ask("shop", "world", Operation::Sign);
    assert!(found.servers[0].is_self);
    assert_eq!(found.servers[0].estimate_us, 700);
    assert_eq!(found.servers[0].measured_ms_ago, Some(0));
    world.own.service_us.clear();
    let found = world.ask("shop", "world", Operation::Sign);
    assert_eq!(found.servers[0].measured_ms_ago, None, "by default only");
}

#[test]
fn l5_l8_each_thing_that_is_missing_takes_a_server_out_of_the_answer() {
    type Break = fn(&mut World);
    let without: [(&str, Break); 12] = [
        ("the grant", |w| w.records.grants.clear()),
        ("enrolment", |w| w.record("fra").evicted = true),
        ("the region", |w| w.record("fra").region = name("us")),
        ("the class's key", |w| w.record("fra").holds.clear()),
        ("hardware", |w| {
            w.records.classes[1].hardware_min = HardwareLevel::Hardware;
        }),
        ("the revision", |w| {
            w.hear("fra", 10, |said| said.applied = 4)
        }),
        ("the mechanism", |w| {
            w.hear("fra", 10, |said| {
                let sign = (KeyKind::EcP256, Operation::Sign);
                said.mechanisms.retain(|proven| *proven != sign);
            });
        }),
        ("a lease", |w| {
            w.hear("fra", 10, |said| said.lease_age_ms = None)
        }),
        ("a lease that runs", |w| {
            w.hear("fra", 10, |said| said.lease_age_ms = Some(3_599_990));
        }),
        ("life", |w| w.now += INTERVAL * 4),
        ("an active version", |w| {
            w.records.manifests[1].state = KeyState::Revoked;
        }),
        ("its version here", |w| w.records.manifests.truncate(1)),
    ];
    for (what, broken) in without {
        let mut world = World::new();
        assert_eq!(world.sites("euro"), ["fra"]);
        broken(&mut world);
        assert_eq!(world.sites("euro"), [""; 0], "without {what}");
    }
}

#[test]
fn l8_what_comes_on_demand_needs_no_revision_and_an_answer_ends_with_a_lease() {
    let mut world = World::new();
    world.records.classes[1].replication = Replication::OnDemand;
    world.hear("fra", 10, |said| said.applied = 4);
    assert_eq!(world.sites("euro"), ["fra"]);
    world.records.classes[1].bound_s = 30;
    world.hear("fra", 10, |said| said.lease_age_ms = Some(28_990));
    let found = world.ask("shop", "euro", Operation::Sign);
    assert_eq!(found.good_for_ms, 1000, "{found:?}");
}

#[test]
fn a_handshake_key_without_certificates_is_served_by_nobody() {
    let mut world = World::new();
    let id = world
        .records
        .add_key("web", KeyKind::EcP256, Purpose::Handshake, "both");
    world.records.grant("shop", id, &[Operation::Handshake]);
    let servers = |world: &World| {
        let by_host = KeyRef::ServerName("web.test".to_owned());
        world.view(|view| {
            let caller = &identity("client", "shop");
            let found = view.answer(Question {
                caller,
                key: &by_host,
                version: None,
                operation: Operation::Handshake,
            });
            found.servers.len()
        })
    };
    assert_eq!(servers(&world), 2);
    world.records.manifests.last_mut().unwrap().chain = [0; 32];
    assert_eq!(servers(&world), 0);
}

#[test]
fn m11_an_older_version_that_is_named_or_left_over_still_undoes() {
    let mut world = World::new();
    let key = world.records.keys[0].id;
    let mut next = world.records.manifests[0].clone();
    next.version = 2;
    world.records.manifests[0].state = KeyState::Deactivated;
    world.records.manifests.push(next);
    world.records.keys[0].versions = 2;
    world.records.keys[0].current = Some(2);
    let by = |world: &World, version, operation| {
        let question = Question {
            caller: &identity("client", "shop"),
            key: &KeyRef::Id(key),
            version,
            operation,
        };
        world.view(|view| view.candidates(question).len())
    };
    assert_eq!(by(&world, Some(1), Operation::Verify), 2);
    assert_eq!(by(&world, Some(1), Operation::Sign), 0);
    assert_eq!(by(&world, Some(3), Operation::Verify), 0);
    world.records.manifests[2].state = KeyState::Revoked;
    world.records.keys[0].current = None;
    assert_eq!(by(&world, None, Operation::Verify), 2);
    assert_eq!(by(&world, None, Operation::Sign), 0);
}

prop_compose! {
    /// A world in which anything may be missing.
    fn worlds()(
        sites in prop::collection::vec(
            (any::<[bool; 4]>(), 0_u32..400, 0_u64..12, prop::option::of(0_u64..90_000), 0_u32..50),
            1..6,
        ),
        grants in prop::collection::vec((0..3_usize, 0..3_usize), 0..6),
        states in prop::collection::vec(0..KeyState::ALL.len(), 3),
        own in 0..6_usize,
        later_ms in 0_u32..9_000,
    ) -> World {
        let mut records = Records::default();
        records.add_class("both", &["eu", "us"]).bound_s = 60;
        records.add_class("eu", &["eu"]).bound_s = 60;
        let names = ["a", "b", "c"];
        for (key, state) in names.iter().zip(states) {
            let class = if *key == "a" { "eu" } else { "both" };
            records.add_key(key, KeyKind::EcP256, Purpose::Sign, class);
            records.manifests.last_mut().unwrap().state = KeyState::ALL[state];
        }
        for (client, key) in grants {
            records.grant(names[client], key_id(names[key]), &[Operation::Sign]);
        }
        let now = Instant::now();
        let mut measured = Measured::default();
        measured.set_interval(INTERVAL);
        for (at, (bits, way, applied, lease, waiting)) in sites.into_iter().enumerate() {
            let site = format!("s{at}");
            let [is_eu, holds, evicted, proven] = bits;
            let classes: &[&str] = if holds { &["both", "eu"] } else { &[] };
            records.add_site(&site, if is_eu { "eu" } else { "us" }, classes).evicted = evicted;
            let mut said = status(&site);
            said.applied = applied;
            said.lease_age_ms = lease;
            said.waiting = waiting;
            if !proven {
                said.mechanisms.clear();
            }
            measured.answered(now, &name(&site), MS * way, said);
        }
        World {
            records,
            own: status(&format!("s{own}")),
            measured,
            now: now + MS * later_ms,
        }
    }
}

proptest! {
    #[test]
    fn l9_without_a_grant_a_key_is_as_one_that_does_not_exist(world in worlds()) {
        for client in ["a", "b", "c"] {
            for key in ["a", "b", "c"] {
                let caller = identity("client", client);
                let grant = (caller, key_id(key), Operation::Sign);
                if world.records.grants.contains(&grant) {
                    continue;
                }
                let forbidden = world.ask(client, key, Operation::Sign);
                prop_assert_eq!(forbidden, world.ask(client, "absent", Operation::Sign));
            }
        }
    }

    #[test]
    fn l3_l8_every_server_that_is_named_can_and_the_fastest_is_first(world in worlds()) {
        for client in ["a", "b", "c"] {
            for key in ["a", "b", "c"] {
                let found = world.ask(client, key, Operation::Sign);
                prop_assert!(found.servers.is_sorted_by_key(|server| server.estimate_us));
                let granted = (identity("client", client), key_id(key), Operation::Sign);
                for server in &found.servers {
                    prop_assert!(world.records.grants.contains(&granted));
                    let directory: &dyn Directory = &world.records;
                    let site = directory.site_of(&server.identity);
                    prop_assert!(site.is_some_and(|site| !site.holds.is_empty()));
                    let peer = world.measured.alive(world.now, &server.site);
                    prop_assert!(server.is_self || peer.is_some());
                    let said = if server.is_self { &world.own } else { &peer.unwrap().status };
                    let manifest = directory.manifest(key_id(key), 1).unwrap();
                    prop_assert_eq!(manifest.state, KeyState::Active);
                    prop_assert!(said.applied >= manifest.revision);
                    prop_assert!(said.lease_age_ms.unwrap() < 60_000);
                    prop_assert!(!said.mechanisms.is_empty());
                }
            }
        }
    }
}
