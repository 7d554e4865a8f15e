//! Central's rules under everything that can happen: two centrals on one store, lost answers, crashes, sites whose answers
//! come late, twice and in pieces.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod central_kit;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use central_kit::{Central, Fault, Site, Store, Token, Told, name, plan, record, site_wrap};
use keyhaven_kms::records::chain_after;
use keyhaven_types::{
    HardwareLevel, KekId, KeyId, KeyKind, KeyState, Operation, Purpose, Replication,
};
use keyhaven_wire::kms::{
    Head, Held, KeyRef, Record,
    admin::{Answer, Ask, NewClass, NewKey, NewSite},
};
use proptest::{collection::vec, prelude::*, test_runner::FileFailurePersistence};

/// What happens next.
#[derive(Clone, Debug)]
enum Happens {
    Ask {
        central: bool,
        what: What,
        fault: u8,
    },
    Together {
        central: bool,
        whats: Vec<What>,
    },
    Hear {
        central: bool,
        most: usize,
    },
    Crash {
        central: bool,
    },
    Follow {
        site: bool,
        central: bool,
        bytes_max: u32,
    },
    /// An old answer comes again.
    Again {
        site: bool,
        which: usize,
    },
    /// A site loses what is not on its disk, which is nothing here, and its old answers.
    Restart {
        site: bool,
    },
}

#[derive(Clone, Debug)]
enum What {
    Create {
        name: u8,
        host: Option<u8>,
        class: bool,
        kind: u8,
    },
    Rotate {
        name: u8,
    },
    State {
        name: u8,
        version: Option<u32>,
        state: u8,
    },
    Class {
        class: bool,
        on_demand: bool,
    },
    Bound {
        class: bool,
        bound_s: u32,
    },
    RotateClass {
        class: bool,
    },
    Rewrap {
        class: bool,
    },
    Site {
        site: bool,
    },
    Evict {
        site: bool,
    },
    Grant {
        name: u8,
        who: u8,
        is_withdrawn: bool,
    },
}

fn what() -> impl Strategy<Value = What> {
    prop_oneof![
        8 => (0..4_u8, proptest::option::of(0..2_u8), any::<bool>(), 0..3_u8)
            .prop_map(|(name, host, class, kind)| What::Create { name, host, class, kind }),
        3 => (0..4_u8).prop_map(|name| What::Rotate { name }),
        4 => (0..4_u8, proptest::option::of(1..4_u32), 0..5_u8)
            .prop_map(|(name, version, state)| What::State { name, version, state }),
        4 => (any::<bool>(), any::<bool>())
            .prop_map(|(class, on_demand)| What::Class { class, on_demand }),
        1 => (any::<bool>(), 5..100_u32).prop_map(|(class, bound_s)| What::Bound { class, bound_s }),
        2 => any::<bool>().prop_map(|class| What::RotateClass { class }),
        2 => any::<bool>().prop_map(|class| What::Rewrap { class }),
        3 => any::<bool>().prop_map(|site| What::Site { site }),
        1 => any::<bool>().prop_map(|site| What::Evict { site }),
        3 => (0..4_u8, 0..2_u8, any::<bool>())
            .prop_map(|(name, who, is_withdrawn)| What::Grant { name, who, is_withdrawn }),
    ]
}

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        8 => (any::<bool>(), what(), 0..6_u8)
            .prop_map(|(central, what, fault)| Happens::Ask { central, what, fault }),
        2 => (any::<bool>(), vec(what(), 2..6))
            .prop_map(|(central, whats)| Happens::Together { central, whats }),
        3 => (any::<bool>(), 0..3_usize).prop_map(|(central, most)| Happens::Hear { central, most }),
        1 => any::<bool>().prop_map(|central| Happens::Crash { central }),
        5 => (any::<bool>(), any::<bool>(), 1..4000_u32)
            .prop_map(|(site, central, bytes_max)| Happens::Follow { site, central, bytes_max }),
        2 => (any::<bool>(), any::<usize>()).prop_map(|(site, which)| Happens::Again { site, which }),
        1 => any::<bool>().prop_map(|site| Happens::Restart { site }),
    ]
}

/// Everything together.
struct World {
    token: Token,
    store: Store,
    centrals: [Central; 2],
    sites: [Site; 2],
    told: [Vec<Told>; 2],
    fresh: u64,
}

const CLASSES: [&str; 2] = ["near", "far"];
const SITES: [&str; 2] = ["fra", "nyc"];

impl World {
    fn new() -> Self {
        let (token, store) = (Token::new(4), Store::default());
        let centrals = [
            Central::start(&token, &store),
            Central::start(&token, &store),
        ];
        Self {
            token,
            store,
            centrals,
            sites: Default::default(),
            told: Default::default(),
            fresh: 0,
        }
    }

    fn ask(&self, what: &What, central: usize) -> Ask {
        let class = |which: &bool| name(CLASSES[usize::from(*which)]);
        let site = |which: &bool| name(SITES[usize::from(*which)]);
        let key = |number: &u8| KeyRef::Name(name(&format!("key-{number}")));
        match what {
            What::Create {
                name: number,
                host,
                class: of,
                kind,
            } => {
                let (kind, purpose) = [
                    (KeyKind::Aes256, Purpose::Data),
                    (KeyKind::Hmac, Purpose::Mac),
                    (KeyKind::EcP256, Purpose::Handshake),
                ][usize::from(*kind)];
                let hosts = host.iter().filter(|_| purpose == Purpose::Handshake);
                Ask::KeyCreate(NewKey {
                    name: name(&format!("key-{number}")),
                    kind,
                    purpose,
                    class: class(of),
                    server_names: hosts.map(|host| format!("host-{host}.example")).collect(),
                })
            }
            What::Rotate { name } => Ask::KeyRotate { key: key(name) },
            What::State {
                name,
                version,
                state,
            } => Ask::KeyState {
                key: key(name),
                version: *version,
                state: KeyState::ALL[usize::from(*state)],
            },
            What::Class {
                class: of,
                on_demand,
            } => Ask::ClassCreate(NewClass {
                name: class(of),
                regions: vec![name("eu")],
                hardware_min: HardwareLevel::Software,
                bound_s: 30,
                generated_only: false,
                replication: if *on_demand {
                    Replication::OnDemand
                } else {
                    Replication::Eager
                },
                purposes: vec![Purpose::Data, Purpose::Mac, Purpose::Handshake],
            }),
            What::Bound { class: of, bound_s } => Ask::ClassBound {
                class: class(of),
                bound_s: *bound_s,
            },
            What::RotateClass { class: of } => Ask::ClassRotate {
                class: class(of),
                purposes: Vec::new(),
            },
            What::Rewrap { class: of } => Ask::ClassRewrap {
                class: class(of),
                leave_behind: true,
            },
            // It was given whatever there is for the purposes but one, so that some wraps are not for it.
            What::Site { site: of } => Ask::SiteAdd(NewSite {
                name: site(of),
                identity: format!("spiffe://example.org/signer/{}", site(of))
                    .parse()
                    .unwrap(),
                address: "site.example:7443".to_owned(),
                region: name("eu"),
                hardware: HardwareLevel::Software,
                holds: self.held(central),
            }),
            What::Evict { site: of } => Ask::SiteEvict { site: site(of) },
            What::Grant {
                name,
                who,
                is_withdrawn,
            } => Ask::GrantSet {
                identity: format!("spiffe://example.org/client/c{who}")
                    .parse()
                    .unwrap(),
                key: Some(key(name)),
                operations: if *is_withdrawn {
                    Vec::new()
                } else {
                    vec![Operation::Encrypt]
                },
            },
        }
    }

    fn held(&self, central: usize) -> Vec<Held> {
        let classes = self.centrals[central].mirror.classes();
        let epochs = classes.flat_map(|(class, _)| {
            let epochs = class.epochs.iter();
            epochs.map(|epoch| (class.name.clone(), *epoch))
        });
        epochs
            .filter(|(_, epoch)| epoch.purpose != Purpose::Mac)
            .map(|(class, epoch)| Held {
                class,
                purpose: epoch.purpose,
                epoch: epoch.epoch,
                kek: epoch.kek,
            })
            .collect()
    }

    fn next_plan(&mut self, what: &What, central: usize) -> keyhaven_kms::central::Plan {
        self.fresh += 1;
        plan(self.ask(what, central), self.fresh)
    }

    fn happen(&mut self, happens: &Happens) {
        match happens {
            Happens::Ask {
                central,
                what,
                fault,
            } => {
                let central = usize::from(*central);
                let plan = self.next_plan(what, central);
                let faults = [Fault::None, Fault::AnswerLost, Fault::WriteLost];
                let fault = faults
                    .get(usize::from(*fault))
                    .copied()
                    .unwrap_or(Fault::None);
                // Refusals are answers, too; what must not happen is looked for in the store.
                let _ = self.centrals[central].ask(&self.token, &mut self.store, &plan, fault);
            }
            Happens::Together { central, whats } => {
                let central = usize::from(*central);
                let plans: Vec<_> = whats
                    .iter()
                    .map(|what| self.next_plan(what, central))
                    .collect();
                self.centrals[central].ask_together(&self.token, &mut self.store, &plans);
            }
            Happens::Hear { central, most } => {
                self.centrals[usize::from(*central)].hear(&self.store, *most);
            }
            Happens::Crash { central } => {
                self.centrals[usize::from(*central)] = Central::start(&self.token, &self.store);
            }
            Happens::Follow {
                site,
                central,
                bytes_max,
            } => {
                let (at, central) = (usize::from(*site), usize::from(*central));
                let site = &mut self.sites[at];
                let told = site.follow(&self.centrals[central], &name(SITES[at]), *bytes_max);
                if let Some(told) = told {
                    site.take(&self.token, &told);
                    self.told[at].push(told);
                }
            }
            Happens::Again { site, which } => {
                let at = usize::from(*site);
                if !self.told[at].is_empty() {
                    let told = &self.told[at][which % self.told[at].len()];
                    self.sites[at].take(&self.token, told);
                }
            }
            Happens::Restart { site } => self.told[usize::from(*site)].clear(),
        }
    }

    /// The whole history: one revision after the other, chained, and no state that goes back.
    fn check_history(&self) {
        let mut head: Option<Head> = None;
        let mut states: HashMap<(KeyId, u32), KeyState> = HashMap::new();
        for puts in &self.store.log {
            let before = head.map_or((0, [0; 32]), |head| (head.revision, head.chain));
            let (mut bodies, mut now) = (BTreeMap::new(), None);
            for (key, value) in puts {
                if key == b"head" {
                    let signed = postcard::from_bytes(value).unwrap();
                    match self.token.key.read(&signed).unwrap() {
                        Record::Head(head) => now = Some(head),
                        other => panic!("{other:?}"),
                    }
                } else if !key.starts_with(b"h/") {
                    let entry: keyhaven_wire::kms::Entry = postcard::from_bytes(value).unwrap();
                    let record = self.token.key.believe(&entry).unwrap().record;
                    let revision = keyhaven_kms::central::store_key::revision_of(&record);
                    assert_eq!(revision, Some(before.0 + 1), "a record of another revision");
                    if let Record::Version(manifest) = &record {
                        let at = (manifest.id, manifest.version);
                        let old = states.insert(at, manifest.state);
                        assert!(
                            old.is_none_or(|old| old <= manifest.state),
                            "a state went back"
                        );
                    }
                    bodies.insert(key.clone(), entry.signed.body);
                }
            }
            let now = now.expect("every transaction moves the head");
            assert_eq!(now.revision, before.0 + 1);
            let bodies = bodies.values().map(Vec::as_slice);
            assert_eq!(now.chain, chain_after(&before.1, bodies), "the chain broke");
            head = Some(now);
        }
    }

    /// What is there now: nothing has what another one has.
    fn check_store(&self) {
        let (mut names, mut hosts, mut keks) = (HashSet::new(), HashSet::new(), HashSet::new());
        let mut identities = HashSet::new();
        for (_, entry) in self.store.entries() {
            match record(&entry) {
                Record::Key(key) => {
                    assert!(names.insert(key.name.clone()), "two keys `{}`", key.name);
                    if key.current.is_some() {
                        for host in key.server_names {
                            assert!(hosts.insert(host.clone()), "two keys for {host}");
                        }
                    }
                }
                Record::Class(class) => {
                    for purpose in Purpose::ALL {
                        let of = class
                            .epochs
                            .iter()
                            .filter(|epoch| epoch.purpose == *purpose);
                        let current = of.clone().filter(|epoch| epoch.current).count();
                        assert_eq!(current, usize::from(of.count() > 0), "one current epoch");
                    }
                    for epoch in class.epochs {
                        assert!(keks.insert(epoch.kek), "two uses of one key-encryption key");
                    }
                }
                Record::Version(manifest) => {
                    let parts = entry.parts.unwrap();
                    let is_destroyed = manifest.state == KeyState::Destroyed;
                    let wanted = match is_destroyed {
                        true => Vec::new(),
                        false => site_wrap(manifest.id, manifest.version, manifest.kek),
                    };
                    assert_eq!(parts.site_wrap, wanted, "another wrap");
                    assert_eq!(parts.root_wrap.is_empty(), is_destroyed);
                }
                Record::Site(site) => assert!(identities.insert(site.identity)),
                _ => {}
            }
        }
    }

    /// Sites that go on to the end have what the store has, however it came, and no wrap that is not for them.
    fn check_sites(&mut self) {
        for central in &mut self.centrals {
            central.hear_all(&self.store);
        }
        let restarted = Central::start(&self.token, &self.store);
        assert!(restarted.mirror.is_whole());
        for (at, site) in self.sites.iter_mut().enumerate() {
            let central = &self.centrals[at];
            let Some(own) = central.mirror.site(&name(SITES[at])).cloned() else {
                continue;
            };
            if own.evicted {
                continue;
            }
            site.follow_to_the_end(&self.token, central, &own.name);
            let held: BTreeSet<KekId> = own.holds.iter().map(|held| held.kek).collect();
            let mut wanted = 0;
            for (key, entry) in self.store.entries() {
                wanted += 1;
                let (_, had) = site.records.get(key).expect("it has every record");
                assert_eq!(had.signed, entry.signed, "and the latest");
                let (Record::Version(manifest), Some(parts)) = (record(had), &had.parts) else {
                    continue;
                };
                assert!(parts.root_wrap.is_empty(), "central's own wrap left it");
                let is_for_it = held.contains(&manifest.kek);
                assert!(
                    is_for_it || parts.site_wrap.is_empty(),
                    "a wrap for another site"
                );
                let class = central.mirror.class(&manifest.class).unwrap();
                let is_wanted = is_for_it
                    && class.replication == Replication::Eager
                    && manifest.state < KeyState::Revoked;
                let is_there = !parts.site_wrap.is_empty();
                assert_eq!(is_there, is_wanted, "{manifest:?}");
            }
            assert_eq!(site.records.len(), wanted);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 512,
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        ..ProptestConfig::default()
    })]

    #[test]
    fn whatever_happens_history_is_one_and_sites_end_with_it(all in vec(happens(), 1..60)) {
        let mut world = World::new();
        for happens in &all {
            world.happen(happens);
        }
        world.check_history();
        world.check_store();
        world.check_sites();
    }
}

#[test]
fn the_generator_reaches_what_it_is_for() {
    // A property over requests that are all refused would hold and say nothing.
    let mut world = World::new();
    let all = [
        What::Class {
            class: false,
            on_demand: false,
        },
        What::Create {
            name: 0,
            host: None,
            class: false,
            kind: 0,
        },
        What::Create {
            name: 1,
            host: Some(0),
            class: false,
            kind: 2,
        },
        What::Rotate { name: 0 },
        What::Site { site: false },
        What::Grant {
            name: 0,
            who: 0,
            is_withdrawn: false,
        },
        What::State {
            name: 0,
            version: Some(1),
            state: 3,
        },
        What::RotateClass { class: false },
        What::Rewrap { class: false },
        What::Bound {
            class: false,
            bound_s: 5,
        },
        What::Evict { site: false },
    ];
    for what in &all {
        let plan = world.next_plan(what, 0);
        let answer = world.centrals[0].ask(&world.token, &mut world.store, &plan, Fault::None);
        assert!(
            matches!(answer, Ok(Answer::Committed { .. })),
            "{what:?}: {answer:?}"
        );
    }
    world.check_history();
    world.check_store();
}

#[test]
fn m1_a_site_that_is_given_a_key_encryption_key_later_hears_of_what_it_had_passed() {
    let mut world = World::new();
    let ask = |world: &mut World, what: &What| {
        let plan = world.next_plan(what, 0);
        let answer = world.centrals[0].ask(&world.token, &mut world.store, &plan, Fault::None);
        assert!(answer.is_ok(), "{what:?}: {answer:?}");
    };
    let site = What::Site { site: false };
    ask(&mut world, &site);
    ask(
        &mut world,
        &What::Class {
            class: false,
            on_demand: false,
        },
    );
    let keys = 4;
    for name in 0..keys {
        let create = What::Create {
            name,
            host: None,
            class: false,
            kind: 0,
        };
        ask(&mut world, &create);
    }
    let fra = name(SITES[0]);
    let wraps = |world: &mut World| {
        let site = &mut world.sites[0];
        site.follow_to_the_end(&world.token, &world.centrals[0], &fra);
        let parts = site
            .records
            .values()
            .filter_map(|(_, entry)| entry.parts.as_ref());
        parts.filter(|parts| !parts.site_wrap.is_empty()).count()
    };
    assert_eq!(wraps(&mut world), 0);
    ask(&mut world, &site);
    assert_eq!(wraps(&mut world), usize::from(keys));
    // The same once more finds nothing to do.
    let before = world.store.log.len();
    ask(&mut world, &site);
    assert_eq!(world.store.log.len(), before);
}
