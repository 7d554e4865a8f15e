//! A site over a real token and a real channel: what it serves, what it fetches, and when it stops.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "lookup/ca.rs"]
mod ca;
#[path = "intermediate/central.rs"]
mod central;
#[path = "intermediate/world.rs"]
mod world;

use std::{
    future::Future,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use central::{BOUND, id, key_name, made, who};
use keyhaven_hsm::managed::verifies;
use keyhaven_kms::intermediate::{BoxFuture, Peers};
use keyhaven_softhsm_test::fresh_token;
use keyhaven_types::{Identity, KeyState, Operation, Replication, SignatureScheme};
use keyhaven_wire::{
    ErrorCode, Reply,
    kms::{Fetch, Fetched, KeyRef, Record, Task, TaskError},
};
use world::{MESSAGE, World, until};

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(test);
}

fn shop() -> Identity {
    who("client", "shop")
}

/// A peer that gives what the test says.
#[derive(Default)]
struct Peer {
    gives: Mutex<Option<Fetched>>,
    asked: AtomicUsize,
}

impl Peers for Peer {
    fn fetch(&self, _fetch: Fetch) -> BoxFuture<Option<Fetched>> {
        self.asked.fetch_add(1, SeqCst);
        let gives = self.gives.lock().unwrap().clone();
        Box::pin(async { gives })
    }
}

fn fetch(key: u8) -> Fetch {
    Fetch {
        key: KeyRef::Id(id(key)),
        caller: shop(),
        operation: Operation::Sign,
    }
}

#[test]
fn m3_a_replicated_key_is_used_with_central_away_until_it_is_revoked() {
    let test = fresh_token!();
    run(async {
        let mut world = World::new(&test, Replication::Eager).await;
        let spki = world.central.create(1);
        world.central.grant(&shop(), 1, &[Operation::Sign]);
        world.settle().await;
        world.stop_central();
        let signature = world.sign(&shop(), 1).await.unwrap();
        let scheme = SignatureScheme::EcdsaSecp256r1Sha256;
        assert!(verifies(&spki, scheme, MESSAGE, &signature));
        assert_eq!(world.site().unwrapped(), 1);
        let stranger = who("client", "stranger");
        assert_eq!(world.sign(&stranger, 1).await, Err(TaskError::Denied));
        assert_eq!(world.sign(&shop(), 9).await, Err(TaskError::Denied));
        // After a restart, without a word to central.
        world.stop_site().await;
        world.start_site();
        assert!(world.sign(&shop(), 1).await.is_ok());
        world.start_central().await;
        world.central.set_state(1, KeyState::Revoked);
        world.settle().await;
        assert_eq!(world.sign(&shop(), 1).await, Err(TaskError::State));
        assert_eq!(world.site().unwrapped(), 0);
        let refused = world.site().may_serve(&shop(), id(1), 1, Operation::Sign);
        assert_eq!(refused, Err(TaskError::State));
        assert_eq!(world.central.asked.fetches.load(SeqCst), 0);
        world.stop_site().await;
    });
}

#[test]
fn m5_m9_a_miss_is_one_fetch_for_all_and_a_forbidden_key_is_never_fetched() {
    let test = fresh_token!();
    run(async {
        let mut world = World::new(&test, Replication::OnDemand).await;
        world.central.create(1);
        world.central.grant(&shop(), 1, &[Operation::Sign]);
        world.settle().await;
        let stranger = who("client", "stranger");
        for _ in 0..3 {
            assert_eq!(world.sign(&stranger, 1).await, Err(TaskError::Denied));
            assert_eq!(world.sign(&shop(), 9).await, Err(TaskError::Denied));
        }
        let fetches = || world.central.asked.fetches.load(SeqCst);
        assert_eq!(fetches(), 0);
        let shop = shop();
        let sign = || world.sign(&shop, 1);
        let signed = tokio::join!(sign(), sign(), sign(), sign(), sign(), sign());
        assert!(signed.0.is_ok() && signed.5.is_ok(), "{signed:?}");
        assert_eq!(fetches(), 1);
        assert!(sign().await.is_ok());
        assert_eq!(fetches(), 1);
        // It stays.
        world.stop_site().await;
        world.start_site();
        world.stop_central();
        assert!(world.sign(&shop, 1).await.is_ok());
    });
}

#[test]
fn m5_what_was_made_a_moment_ago_is_found_for_whom_it_is_meant() {
    let test = fresh_token!();
    run(async {
        let world = World::new(&test, Replication::Eager).await;
        world.settle().await;
        for key in 1..20 {
            // Another one's miss is no answer for this one.
            let stranger = who("client", "stranger");
            assert_eq!(world.sign(&stranger, key).await, Err(TaskError::Denied));
            world.central.create(key);
            world.central.grant(&shop(), key, &[Operation::Sign]);
            let signed = world.sign(&shop(), key).await;
            assert!(signed.is_ok(), "{key}: {signed:?}");
            assert_eq!(world.sign(&stranger, key).await, Err(TaskError::Denied));
        }
    });
}

#[test]
fn l9_absent_and_forbidden_ask_central_the_same_and_take_as_long() {
    let test = fresh_token!();
    run(async {
        let world = World::new(&test, Replication::Eager).await;
        world.central.create(1);
        world.settle().await;
        let mut times: [Vec<Duration>; 2] = Default::default();
        for round in 0..20 {
            for (key, times) in [1, 9].into_iter().zip(&mut times) {
                let caller = who("client", &format!("c{round}"));
                let began = Instant::now();
                assert_eq!(world.sign(&caller, key).await, Err(TaskError::Denied));
                times.push(began.elapsed());
            }
        }
        let [forbidden, absent] = times.map(|mut times| {
            times.sort();
            times[times.len() / 2]
        });
        let apart = forbidden.abs_diff(absent);
        assert!(apart < forbidden / 2, "{forbidden:?} and {absent:?}");
        assert_eq!(world.central.asked.fetches.load(SeqCst), 0);
    });
}

#[test]
fn m6_m12_a_key_comes_from_a_peer_and_no_forged_or_stale_one_does() {
    let test = fresh_token!();
    run(async {
        let mut world = World::new(&test, Replication::OnDemand).await;
        for key in [1, 2] {
            world.central.create(key);
            world.central.grant(&shop(), key, &[Operation::Sign]);
        }
        world.settle().await;
        let old = world.central.fetched(&fetch(1));
        world.central.set_state(1, KeyState::Active);
        world.settle().await;
        let good = world.central.fetched(&fetch(1));
        let other = world.central.fetched(&fetch(2));
        let peer = Arc::new(Peer::default());
        world.site().set_peers(peer.clone());
        world.stop_central();
        until("central is away", || {
            world.site().status().lease_age_ms > Some(1200)
        })
        .await;
        let altered = |alter: &dyn Fn(&mut keyhaven_wire::kms::Entry)| {
            let mut fetched = good.clone();
            let is_version = |entry: &&mut keyhaven_wire::kms::Entry| entry.parts.is_some();
            fetched
                .entries
                .iter_mut()
                .filter(is_version)
                .for_each(alter);
            fetched
        };
        let version = |fetched: &Fetched| {
            let mut entries = fetched.entries.iter();
            entries.find(|entry| entry.parts.is_some()).unwrap().clone()
        };
        let foreign = {
            // Signed by nobody who counts.
            let (_, manifest, parts) = made(1);
            let signed = keyhaven_kms::records::testing::SoftwareCentral::new()
                .sign(&Record::Version(manifest));
            keyhaven_wire::kms::Entry {
                signed,
                parts: Some(parts),
            }
        };
        let forgeries = [
            (
                "a flipped bit",
                altered(&|entry| entry.signed.body[20] ^= 1),
            ),
            (
                "another key's wrap",
                altered(&|entry| entry.parts.clone_from(&version(&other).parts)),
            ),
            ("another key", altered(&|entry| *entry = version(&other))),
            (
                "another central's",
                altered(&|entry| *entry = foreign.clone()),
            ),
            ("an older record", old),
        ];
        for (what, forged) in forgeries {
            *peer.gives.lock().unwrap() = Some(forged);
            let before = peer.asked.load(SeqCst);
            assert_eq!(
                world.sign(&shop(), 1).await,
                Err(TaskError::NotHere),
                "{what}"
            );
            assert_eq!(peer.asked.load(SeqCst), before + 1, "{what}");
        }
        *peer.gives.lock().unwrap() = Some(good);
        assert!(world.sign(&shop(), 1).await.is_ok());
    });
}

#[test]
fn m12_a_wrap_that_central_bound_to_the_wrong_public_part_is_not_used() {
    let test = fresh_token!();
    run(async {
        let world = World::new(&test, Replication::Eager).await;
        let (record, mut manifest, parts) = made(1);
        let (_, another, _) = made(2);
        manifest.public = another.public;
        world.central.write(vec![
            (Record::Key(record), None),
            (Record::Version(manifest), Some(parts)),
        ]);
        world.central.grant(&shop(), 1, &[Operation::Sign]);
        world.settle().await;
        assert_eq!(world.sign(&shop(), 1).await, Err(TaskError::NotHere));
    });
}

#[test]
fn m5_a_lease_ends_with_the_bound_with_the_boot_and_with_enrolment() {
    let test = fresh_token!();
    run(async {
        let mut world = World::new(&test, Replication::Eager).await;
        world.central.create(1);
        world.central.grant(&shop(), 1, &[Operation::Sign]);
        world.settle().await;
        assert!(world.sign(&shop(), 1).await.is_ok());
        // Thrown out: at once, and enrolled again.
        world.central.evicts.store(true, SeqCst);
        until("the site ends", || world.site().unwrapped() == 0).await;
        assert_eq!(world.sign(&shop(), 1).await, Err(TaskError::Lease));
        world.central.evicts.store(false, SeqCst);
        world.settle().await;
        assert!(world.sign(&shop(), 1).await.is_ok());
        // Behind a partition until the bound, a restart or not.
        world.stop_central();
        world.clock.advance(BOUND - Duration::from_secs(10));
        assert!(world.sign(&shop(), 1).await.is_ok());
        world.stop_site().await;
        world.start_site();
        assert!(world.sign(&shop(), 1).await.is_ok());
        world.clock.advance(Duration::from_secs(10));
        assert_eq!(world.sign(&shop(), 1).await, Err(TaskError::Lease));
        // Another start of the machine.
        world.start_central().await;
        world.settle().await;
        world.stop_site().await;
        world.stop_central();
        world.clock.reboot();
        world.start_site();
        assert_eq!(world.sign(&shop(), 1).await, Err(TaskError::Lease));
        world.start_central().await;
        world.settle().await;
        assert!(world.sign(&shop(), 1).await.is_ok());
    });
}

#[test]
fn m12_whoever_writes_to_the_replica_cannot_exchange_records() {
    use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition};
    const RECORDS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("records");
    let test = fresh_token!();
    run(async {
        let mut world = World::new(&test, Replication::Eager).await;
        for key in [1, 2] {
            world.central.create(key);
        }
        // A grant for one of the two.
        world.central.grant(&shop(), 1, &[Operation::Sign]);
        world.settle().await;
        world.stop_site().await;
        world.stop_central();
        let place = |key| keyhaven_kms::central::store_key::version(id(key), 1);
        let db = Database::open(world.replica()).unwrap();
        let read = db.begin_read().unwrap().open_table(RECORDS).unwrap();
        let of = |key| {
            read.get(place(key).as_slice())
                .unwrap()
                .unwrap()
                .value()
                .to_vec()
        };
        let (one, two) = (of(1), of(2));
        let write = db.begin_write().unwrap();
        {
            let mut records = write.open_table(RECORDS).unwrap();
            assert!(records.get(place(1).as_slice()).unwrap().is_some());
            records.insert(place(1).as_slice(), two.as_slice()).unwrap();
            records.insert(place(2).as_slice(), one.as_slice()).unwrap();
        }
        write.commit().unwrap();
        drop((read, db));
        world.start_site();
        assert_eq!(world.sign(&shop(), 1).await, Err(TaskError::NotHere));
    });
}

#[test]
fn m6_a_peer_is_given_what_is_meant_for_it_and_nobody_else_anything() {
    let test = fresh_token!();
    run(async {
        let world = World::new(&test, Replication::Eager).await;
        world.central.create(1);
        world.central.grant(&shop(), 1, &[Operation::Sign]);
        world.settle().await;
        let wraps = |reply: Reply| match reply {
            Reply::Fetched(fetched) => {
                let parts = fetched
                    .entries
                    .iter()
                    .filter_map(|entry| entry.parts.as_ref());
                parts.filter(|parts| !parts.site_wrap.is_empty()).count()
            }
            Reply::Error(ErrorCode::Denied) => 0,
            other => panic!("{other:?}"),
        };
        let site = world.site();
        let ask = |peer: Identity, fetch: Fetch| async move {
            wraps(site.fetch_for(&peer, &fetch).await)
        };
        assert_eq!(ask(who("signer", "nyc"), fetch(1)).await, 1);
        assert_eq!(ask(who("signer", "nobody"), fetch(1)).await, 0);
        assert_eq!(ask(shop(), fetch(1)).await, 0);
        let for_stranger = Fetch {
            caller: who("client", "stranger"),
            ..fetch(1)
        };
        assert_eq!(ask(who("signer", "nyc"), for_stranger).await, 0);
        // One that was thrown out, and one without the class's key.
        let mut nyc = central::site("nyc");
        nyc.holds.clear();
        world.central.write(vec![(Record::Site(nyc.clone()), None)]);
        world.settle().await;
        assert_eq!(ask(who("signer", "nyc"), fetch(1)).await, 0);
        nyc = central::site("nyc");
        nyc.evicted = true;
        world.central.write(vec![(Record::Site(nyc), None)]);
        world.settle().await;
        assert_eq!(ask(who("signer", "nyc"), fetch(1)).await, 0);
    });
}

#[test]
fn m13_results_come_in_order_each_with_its_own_outcome() {
    let test = fresh_token!();
    run(async {
        let world = World::new(&test, Replication::Eager).await;
        world.central.create(1);
        world.central.grant(
            &shop(),
            1,
            &[Operation::Sign, Operation::Mac, Operation::Verify],
        );
        world.settle().await;
        let key = || KeyRef::Name(key_name(1));
        let sign = |scheme| Task::Sign {
            key: key(),
            scheme,
            message: MESSAGE.to_vec(),
        };
        let mac = Task::Mac {
            key: key(),
            message: MESSAGE.to_vec(),
        };
        let verify = |version| Task::Verify {
            key: key(),
            version,
            scheme: None,
            message: MESSAGE.to_vec(),
            signature: Vec::new(),
        };
        let tasks = [
            sign(SignatureScheme::EcdsaSecp256r1Sha256),
            mac,
            sign(SignatureScheme::Ed25519),
            verify(Some(2)),
            verify(None),
            Task::Random { bytes: 8 },
        ];
        let results = world.site().operate(&shop(), &tasks, None).await;
        let outcomes: Vec<_> = results
            .into_iter()
            .map(|result| result.outcome.map(drop))
            .collect();
        let expected = [
            Ok(()),
            Err(TaskError::State),
            Err(TaskError::Input),
            Err(TaskError::Version),
            Err(TaskError::Input),
            Err(TaskError::Denied),
        ];
        assert_eq!(outcomes, expected);
        let counted: u64 = world
            .site()
            .outcomes()
            .iter()
            .map(|(.., count)| count)
            .sum();
        assert_eq!(counted, 6);
        let times = world.site().status().service_us;
        assert!(times.iter().any(|(what, _)| *what == Operation::Sign));
    });
}
