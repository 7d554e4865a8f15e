//! Central's rules, one by one: what is wrapped anew after a crash, how long a revocation takes, what a certificate is for.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod central_kit;

use std::slice;

use central_kit::{Central, Fault, Store, Token, name, plan, record};
use keyhaven_kms::central::{Acks, Step, Transaction, store_key};
use keyhaven_types::{HardwareLevel, KeyKind, KeyState, Operation, Purpose, Replication};
use keyhaven_wire::FRAME_BYTES_MAX;
use keyhaven_wire::kms::{
    Held, KeyRef, Record,
    admin::{Answer, Ask, NewClass, NewKey, NewSite},
    chain_digest,
};

struct World {
    token: Token,
    store: Store,
    central: Central,
    fresh: u64,
}

impl World {
    /// With a class whose bound is an hour.
    fn new() -> Self {
        let (token, store) = (Token::new(4), Store::default());
        let central = Central::start(&token, &store);
        let mut world = Self {
            token,
            store,
            central,
            fresh: 0,
        };
        world.class("near", 3600);
        world
    }

    fn class(&mut self, class: &str, bound_s: u32) -> u64 {
        self.change(Ask::ClassCreate(NewClass {
            name: name(class),
            regions: vec![name("eu")],
            hardware_min: HardwareLevel::Software,
            bound_s,
            generated_only: false,
            replication: Replication::Eager,
            purposes: vec![Purpose::Data, Purpose::Handshake],
        }))
    }

    fn change(&mut self, ask: Ask) -> u64 {
        self.fresh += 1;
        let plan = plan(ask, self.fresh);
        let answer = self
            .central
            .ask(&self.token, &mut self.store, &plan, Fault::None);
        match answer {
            Ok(Answer::Committed { revision, .. }) => revision,
            other => panic!("{other:?}"),
        }
    }

    fn create(&mut self, key: &str) -> u64 {
        self.create_in("near", key)
    }

    fn create_in(&mut self, class: &str, key: &str) -> u64 {
        self.change(Ask::KeyCreate(NewKey {
            name: name(key),
            kind: KeyKind::Aes256,
            purpose: Purpose::Data,
            class: name(class),
            server_names: Vec::new(),
        }))
    }

    fn site(&mut self, site: &str) -> u64 {
        let class = self.central.mirror.class(&name("near")).unwrap();
        let holds = class.epochs.iter().map(|epoch| Held {
            class: name("near"),
            purpose: epoch.purpose,
            epoch: epoch.epoch,
            kek: epoch.kek,
        });
        let holds = holds.collect();
        self.change(Ask::SiteAdd(NewSite {
            name: name(site),
            identity: format!("spiffe://example.org/signer/{site}")
                .parse()
                .unwrap(),
            address: "site.example:7443".to_owned(),
            region: name("eu"),
            hardware: HardwareLevel::Software,
            holds,
        }))
    }

    fn revoke(&mut self, key: &str) -> u64 {
        self.change(moved_on(key, KeyState::Revoked))
    }

    /// Whether a revision holds everywhere after so many milliseconds, and in how many seconds it will at the latest.
    fn enforced(&self, acks: &Acks, revision: u64, age_ms: u64) -> (bool, u64) {
        match self.central.mirror.enforced(acks, revision, |_| age_ms) {
            Answer::Enforced {
                enforced,
                at_most_s,
                ..
            } => (enforced, at_most_s),
            other => panic!("{other:?}"),
        }
    }

    fn epochs(&self) -> Vec<u32> {
        let versions = self
            .store
            .entries()
            .filter_map(|(_, entry)| match record(&entry) {
                Record::Version(manifest) => Some(manifest.epoch),
                _ => None,
            });
        versions.collect()
    }
}

#[test]
fn a_rewrap_that_was_cut_short_is_finished_by_the_next_one() {
    let mut world = World::new();
    for number in 0..150 {
        world.create(&format!("key-{number}"));
    }
    world.change(Ask::ClassRotate {
        class: name("near"),
        purposes: vec![Purpose::Data],
    });
    let rewrap = plan(
        Ask::ClassRewrap {
            class: name("near"),
            leave_behind: false,
        },
        999,
    );
    // The first two transactions, and then a crash.
    for _ in 0..2 {
        let mut step = rewrap.begin(&world.central.mirror).unwrap();
        if let Step::Work(work) = step {
            step = rewrap
                .go_on(&world.central.mirror, world.token.work(work))
                .unwrap();
        }
        let Step::Write(draft) = step else {
            panic!("{step:?}");
        };
        let mut transaction = Transaction::default();
        transaction.add(draft).unwrap();
        assert!(transaction.records() <= 100);
        world
            .central
            .write(&world.token, &mut world.store, &transaction);
    }
    let new = world.epochs().iter().filter(|epoch| **epoch == 2).count();
    assert!((1..150).contains(&new), "{new}");
    world.central = Central::start(&world.token, &world.store);
    // Nothing new is made under the old one meanwhile.
    world.create("late");
    world.change(Ask::ClassRewrap {
        class: name("near"),
        leave_behind: false,
    });
    assert!(world.epochs().iter().all(|epoch| *epoch == 2));
}

fn moved_on(key: &str, state: KeyState) -> Ask {
    Ask::KeyState {
        key: KeyRef::Name(name(key)),
        version: None,
        state,
    }
}

#[test]
fn m5_a_revocation_holds_when_every_site_has_it_or_every_lease_has_ended() {
    let mut world = World::new();
    world.site("fra");
    world.create("orders");
    let revision = world.revoke("orders");
    let mut acks = Acks::default();
    assert_eq!(world.enforced(&acks, revision, 0), (false, 3638));
    acks.followed(&name("fra"), revision - 1, 0);
    assert!(!world.enforced(&acks, revision, 3_637_999).0);
    assert!(world.enforced(&acks, revision, 3_638_000).0);
    acks.followed(&name("fra"), revision, 0);
    assert_eq!(world.enforced(&acks, revision, 0), (true, 0));
}

#[test]
fn m5_a_lowered_bound_does_not_shorten_leases_that_run() {
    let mut world = World::new();
    world.site("fra");
    world.create("orders");
    world.change(Ask::ClassBound {
        class: name("near"),
        bound_s: 30,
    });
    let revision = world.revoke("orders");
    let (enforced, at_most_s) = world.enforced(&Acks::default(), revision, 0);
    assert!(!enforced && at_most_s >= 3600, "{at_most_s}");
}

#[test]
fn m5_a_site_that_was_thrown_out_may_serve_until_its_lease_ends() {
    let mut world = World::new();
    world.site("fra");
    world.create("orders");
    let evicted = world.change(Ask::SiteEvict { site: name("fra") });
    let revoked = world.revoke("orders");
    for revision in [evicted, revoked] {
        assert!(!world.enforced(&Acks::default(), revision, 0).0);
        assert!(world.enforced(&Acks::default(), revision, 3_638_000).0);
    }
}

#[test]
fn m5_what_a_revision_promises_stays_when_its_records_are_replaced() {
    let mut world = World::new();
    world.class("far", 30);
    world.site("fra");
    world.create("orders");
    world.create_in("far", "invoices");
    // Both are revoked by one transaction, and the one of the longer bound is then destroyed.
    let both = [("orders", 500), ("invoices", 501)];
    let both = both.map(|(key, at)| plan(moved_on(key, KeyState::Revoked), at));
    let taken = world
        .central
        .ask_together(&world.token, &mut world.store, &both);
    assert_eq!(taken, 2);
    let revision = world.central.mirror.head_or_none().revision;
    world.change(moved_on("orders", KeyState::Destroyed));
    let acks = Acks::default();
    assert_eq!(world.enforced(&acks, revision, 0), (false, 3638));
    assert!(!world.enforced(&acks, revision, 3_637_999).0);
    assert!(world.enforced(&acks, revision, 3_638_000).0);
}

#[test]
fn m5_a_grant_is_gone_within_the_bound_of_its_keys_class() {
    let mut world = World::new();
    world.class("far", 30);
    world.site("fra");
    world.create_in("far", "invoices");
    let revision = world.change(Ask::GrantSet {
        identity: "spiffe://keyhaven.test/client/shop".parse().unwrap(),
        key: Some(KeyRef::Name(name("invoices"))),
        operations: vec![Operation::Encrypt],
    });
    assert_eq!(world.enforced(&Acks::default(), revision, 0), (false, 33));
}

#[test]
fn sites_are_listed_whole_in_answers_that_fit_a_frame() {
    let mut world = World::new();
    let names: Vec<String> = (0..700).map(|number| format!("site-{number:03}")).collect();
    for site in &names {
        world.site(site);
    }
    let (mut listed, mut after, mut answers) = (Vec::new(), None, 0);
    loop {
        answers += 1;
        let ask = plan(Ask::SiteList { after }, 0);
        let answer = world
            .central
            .ask(&world.token, &mut world.store, &ask, Fault::None)
            .unwrap();
        assert!(postcard::to_stdvec(&answer).unwrap().len() < FRAME_BYTES_MAX);
        let Answer::Sites { sites, more } = answer else {
            panic!("{answer:?}");
        };
        after = sites.last().map(|site| site.name.clone());
        listed.extend(sites.into_iter().map(|site| site.name.to_string()));
        if !more {
            break;
        }
    }
    assert_eq!(listed, names);
    assert!(answers > 1);
}

#[test]
fn a_revocation_of_many_certificates_goes_in_transactions_that_fit_a_frame() {
    let mut world = World::new();
    world.create("shop");
    let key = KeyRef::Name(name("shop"));
    for number in 0..20 {
        let rotate = plan(Ask::KeyRotate { key: key.clone() }, 1000 + number);
        let mut step = rotate.begin(&world.central.mirror).unwrap();
        if let Step::Work(work) = step {
            step = rotate
                .go_on(&world.central.mirror, world.token.work(work))
                .unwrap();
        }
        let Step::Write(mut draft) = step else {
            panic!("{step:?}");
        };
        for (record, parts) in &mut draft.records {
            if let (Record::Version(manifest), Some(parts)) = (record, parts) {
                parts.chain = vec![vec![0; 15_000]];
                manifest.chain = chain_digest(&parts.chain);
            }
        }
        let mut transaction = Transaction::default();
        transaction.add(draft).unwrap();
        world
            .central
            .write(&world.token, &mut world.store, &transaction);
    }
    let before = world.store.log.len();
    world.revoke("shop");
    let revoked = &world.store.log[before..];
    assert!(revoked.len() > 1, "one transaction is too large");
    for puts in revoked {
        let bytes: usize = puts.iter().map(|(_, value)| value.len()).sum();
        assert!(bytes < FRAME_BYTES_MAX / 2, "{bytes} bytes");
    }
    let all_are = world.store.entries().all(|(_, entry)| {
        !matches!(record(&entry), Record::Version(manifest) if manifest.state != KeyState::Revoked)
    });
    assert!(all_are);
}

#[test]
fn m4_a_record_that_was_put_back_does_not_replace_what_was_known() {
    let mut world = World::new();
    world.site("fra");
    let at = b"s/fra".to_vec();
    let old = world.store.data[&at].clone();
    world.change(Ask::SiteEvict { site: name("fra") });
    // Whoever can write to the store puts the former record back, and central reads everything anew.
    let mut tampered = world.store.clone();
    tampered.data.insert(at.clone(), old);
    let mut anew = Central::start(&world.token, &tampered);
    let is_evicted = |central: &Central| central.mirror.site(&name("fra")).unwrap().evicted;
    assert!(!is_evicted(&anew) && !anew.mirror.is_whole());
    assert_eq!(
        anew.mirror.keep_newer(&world.central.mirror),
        slice::from_ref(&at)
    );
    assert!(is_evicted(&anew) && anew.mirror.is_whole());
    assert_eq!(anew.mirror.keep_newer(&world.central.mirror).len(), 0);
    // This is what the store must be given again.
    let stored = anew.mirror.stored(&at);
    assert_eq!(stored.as_ref(), Some(&world.store.data[&at].1));
}

#[test]
fn m4_a_store_that_lacks_a_record_or_has_an_older_one_is_not_whole() {
    let mut world = World::new();
    world.site("fra");
    world.create("orders");
    let earlier = world.store.clone();
    world.change(Ask::SiteEvict { site: name("fra") });
    world.revoke("orders");
    let is_whole = |store: &Store| Central::start(&world.token, store).mirror.is_whole();
    assert!(is_whole(&earlier) && is_whole(&world.store));
    let records = |key: &&Vec<u8>| !key.starts_with(b"h/");
    for key in world.store.data.keys().filter(records) {
        let mut without = world.store.clone();
        without.data.remove(key);
        assert!(!is_whole(&without), "without {}", store_key::name(key));
        let mut older = world.store.clone();
        let Some(old) = earlier.data.get(key) else {
            continue;
        };
        older.data.insert(key.clone(), old.clone());
        let is_other = *old != world.store.data[key];
        assert_eq!(!is_whole(&older), is_other, "{}", store_key::name(key));
    }
}

#[test]
fn m5_what_was_said_of_another_history_is_forgotten() {
    let mut world = World::new();
    world.site("fra");
    world.create("orders");
    let mut acks = Acks::default();
    acks.followed(&name("fra"), 1000, 0);
    let revision = world.revoke("orders");
    assert!(world.enforced(&acks, revision, 0).0);
    acks.forget();
    assert!(!world.enforced(&acks, revision, 0).0);
}

#[test]
fn a_rewrap_leaves_no_site_behind_unless_it_is_told_to() {
    let mut world = World::new();
    world.site("fra");
    world.create("orders");
    world.change(Ask::ClassRotate {
        class: name("near"),
        purposes: vec![Purpose::Data],
    });
    let rewrap = |leave_behind| Ask::ClassRewrap {
        class: name("near"),
        leave_behind,
    };
    let asked = plan(rewrap(false), 500);
    let refused = world
        .central
        .ask(&world.token, &mut world.store, &asked, Fault::None);
    let is_named = matches!(&refused, Err(why) if format!("{why:?}").contains("fra"))
        || matches!(&refused, Ok(Answer::Refused(why)) if why.why.contains("fra"));
    assert!(is_named, "{refused:?}");
    assert!(world.central.mirror.left_behind().is_empty());
    world.change(rewrap(true));
    let behind = world.central.mirror.left_behind();
    assert_eq!(behind, [("fra".to_owned(), name("near"))]);
    // What a ceremony gave it mends this.
    world.site("fra");
    assert!(world.central.mirror.left_behind().is_empty());
}
