//! Records in a file: what joins, what is refused, and what a full or broken disk leaves.

use std::process::Command;

use keyhaven_types::KeyState;
use keyhaven_wire::kms::Manifest;

use super::*;
use crate::{
    central::store_key,
    intermediate::{
        table::Table,
        testing::{self, Central, KEY, Memory, name, set_revision},
    },
};

const BOUND: u32 = 30;

fn owner() -> Owner {
    Owner {
        site: name(testing::SITE),
        central: [7; 32],
    }
}

fn on(memory: &Memory) -> Replica {
    let opened = Replica::on(Disk::new(memory.clone()), &owner(), 1 << 20);
    opened.unwrap().0
}

fn filled(central: &Central) -> (Memory, Replica) {
    let memory = Memory::default();
    let replica = on(&memory);
    let kept = replica.apply(&central.batch(0)).unwrap();
    assert!(kept.durable && kept.stale == 0 && kept.forked == 0);
    (memory, replica)
}

fn version_entry(replica: &Replica) -> Entry {
    let at = store_key::version(KEY, 1);
    replica.record(&at).unwrap().unwrap()
}

fn state(replica: &Replica) -> KeyState {
    match read(&version_entry(replica)) {
        Record::Version(manifest) => manifest.state,
        other => panic!("{other:?}"),
    }
}

fn wrap(replica: &Replica) -> Vec<u8> {
    version_entry(replica).parts.unwrap().site_wrap
}

fn read(entry: &Entry) -> Record {
    postcard::from_bytes(&entry.signed.body).unwrap()
}

fn in_state(state: KeyState) -> Record {
    Record::Version(Manifest {
        state,
        ..testing::manifest(1)
    })
}

fn at(mut record: Record, revision: u64) -> Record {
    set_revision(&mut record, revision);
    record
}

#[test]
fn m10_what_was_applied_is_there_again_in_a_file_of_this_user_alone() {
    let central = Central::new(BOUND);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("replica.redb");
    {
        let (replica, stored) = Replica::open(&path, &owner(), 1 << 20).unwrap();
        assert_eq!(stored.applied, 0);
        replica.apply(&central.batch(0)).unwrap();
        // One process has it.
        let second = Replica::open(&path, &owner(), 1 << 20);
        assert!(matches!(second, Err(ReplicaError::Locked)), "{second:?}");
    }
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let (replica, stored) = Replica::open(&path, &owner(), 1 << 20).unwrap();
    assert_eq!(stored.applied, central.head.revision);
    let body = stored.head.map(|head| head.body);
    assert_eq!(body, Some(central.signed_head().body));
    assert_eq!(replica.named("orders").unwrap(), [KEY]);
    assert_eq!(replica.named("order").unwrap(), []);
    drop(replica);
    let other = Owner {
        site: name("nyc"),
        ..owner()
    };
    let foreign = Replica::open(&path, &other, 1 << 20);
    assert!(
        matches!(foreign, Err(ReplicaError::Foreign { .. })),
        "{foreign:?}"
    );
}

#[test]
fn m12_an_older_record_or_another_one_of_the_same_revision_is_refused() {
    let mut central = Central::new(BOUND);
    let (_memory, replica) = filled(&central);
    let old = central.checked(&at(in_state(KeyState::Active), 3));
    let before = central.head.revision;
    central.write(vec![in_state(KeyState::Revoked)]);
    replica.apply(&central.batch(before)).unwrap();
    assert_eq!(state(&replica), KeyState::Revoked);
    assert!(wrap(&replica).is_empty(), "what is revoked has no wrap");
    // By fetching.
    let kept = replica.take(1, std::slice::from_ref(&old)).unwrap();
    assert_eq!((kept.stale, kept.changed.len()), (1, 0));
    // By following.
    let mut batch = central.batch(before);
    batch.records = vec![old];
    let kept = replica.apply(&batch).unwrap();
    assert_eq!((kept.stale, kept.changed.len()), (1, 0));
    let fork = central.checked(&at(in_state(KeyState::Active), before + 1));
    let kept = replica.take(1, &[fork]).unwrap();
    assert_eq!((kept.forked, kept.changed.len()), (1, 0));
    assert_eq!(state(&replica), KeyState::Revoked);
}

#[test]
fn m5_a_wrap_that_was_fetched_stays_while_it_is_the_one_that_is_bound() {
    let mut central = Central::new(BOUND);
    let mut class = testing::class(BOUND);
    class.replication = keyhaven_types::Replication::OnDemand;
    central.write(vec![Record::Class(class)]);
    let (_memory, replica) = filled(&central);
    assert!(wrap(&replica).is_empty());
    let fetched = central.checked(&at(in_state(KeyState::Active), 3));
    replica.take(1, &[fetched]).unwrap();
    assert_eq!(wrap(&replica), [1; 40]);
    // The same version onward in its life, without its wrap.
    let before = central.head.revision;
    central.write(vec![in_state(KeyState::Deactivated)]);
    replica.apply(&central.batch(before)).unwrap();
    assert_eq!(
        (state(&replica), wrap(&replica)),
        (KeyState::Deactivated, vec![1; 40])
    );
    // Wrapped anew.
    let before = central.head.revision;
    let mut anew = testing::manifest(1);
    anew.site_wrap = [9; 32];
    central.write(vec![Record::Version(anew)]);
    replica.apply(&central.batch(before)).unwrap();
    assert!(wrap(&replica).is_empty());
}

#[test]
fn m12_what_is_fetched_before_its_time_goes_when_history_has_no_such_record() {
    let mut central = Central::new(BOUND);
    let (_memory, replica) = filled(&central);
    let before = central.head.revision;
    // Of another history, with a genuine signature.
    let never = central.checked(&at(in_state(KeyState::Deactivated), before + 1));
    let kept = replica.take(1, std::slice::from_ref(&never)).unwrap();
    assert_eq!((kept.forked, state(&replica)), (0, KeyState::Deactivated));
    central.write(vec![Record::Class(testing::class(BOUND))]);
    let kept = replica.apply(&central.batch(before)).unwrap();
    assert_eq!((kept.forked, state(&replica)), (1, KeyState::Active));
    assert_eq!(wrap(&replica), [1; 40]);
    // All that is applied is known: it cannot come late.
    let kept = replica.take(1, &[never]).unwrap();
    assert_eq!((kept.forked, state(&replica)), (1, KeyState::Active));
    // What history has stays without a gap.
    let before = central.head.revision;
    let next = central.checked(&at(in_state(KeyState::Deactivated), before + 1));
    replica.take(1, &[next]).unwrap();
    central.write(vec![in_state(KeyState::Deactivated)]);
    let kept = replica.apply(&central.batch(before)).unwrap();
    assert_eq!((kept.forked, state(&replica)), (0, KeyState::Deactivated));
}

#[test]
fn m10_a_disk_that_is_full_leaves_a_replica_that_is_read_and_recovers() {
    for by_sync in [false, true] {
        let mut central = Central::new(BOUND);
        let (memory, replica) = filled(&central);
        let before = central.head.revision;
        central.write(vec![in_state(KeyState::Revoked)]);
        let fill = |is_full| match by_sync {
            true => memory.fail_sync(is_full),
            false => memory.fill(is_full),
        };
        fill(true);
        let kept = replica.apply(&central.batch(before)).unwrap();
        assert!(!kept.durable);
        // In memory it holds at once, and nothing more is written.
        assert_eq!(state(&replica), KeyState::Revoked);
        assert!(matches!(
            replica.apply(&central.batch(before)),
            Err(ReplicaError::ReadOnly)
        ));
        assert!(replica.recover().is_err());
        // A power cut now leaves what was there before, or all of it.
        for left in [memory.cut(|| false), memory.cut(|| true)] {
            let after = on(&Memory::with(left));
            assert!(matches!(
                state(&after),
                KeyState::Active | KeyState::Revoked
            ));
        }
        fill(false);
        replica.recover().unwrap();
        let after = on(&Memory::with(memory.cut(|| false)));
        assert_eq!(state(&after), KeyState::Revoked);
        // And it goes on.
        let before = central.head.revision;
        central.write(vec![in_state(KeyState::Destroyed)]);
        assert!(replica.apply(&central.batch(before)).unwrap().durable);
    }
}

#[test]
fn m10_a_power_cut_at_any_moment_leaves_the_records_before_or_after() {
    let mut central = Central::new(BOUND);
    let (memory, replica) = filled(&central);
    let before = central.head.revision;
    central.write(vec![in_state(KeyState::Revoked)]);
    memory.keep_cuts();
    replica.apply(&central.batch(before)).unwrap();
    let cuts = memory.cuts();
    assert!(cuts.len() > 4, "{}", cuts.len());
    let mut seen = Vec::new();
    for left in cuts {
        let disk = Disk::new(Memory::with(left));
        let (after, stored) = Replica::on(disk, &owner(), 1 << 20).unwrap();
        let expected = match stored.applied {
            applied if applied == before => KeyState::Active,
            _ => KeyState::Revoked,
        };
        assert_eq!(state(&after), expected);
        seen.push(expected);
    }
    assert!(seen.contains(&KeyState::Active) && seen.contains(&KeyState::Revoked));
}

#[test]
fn m10_a_real_disk_that_is_full_is_met_in_the_same_way() {
    let dir = tempfile::tempdir().unwrap();
    let mount = |arguments: &[&str]| {
        let status = Command::new(arguments[0])
            .args(&arguments[1..])
            .arg(dir.path())
            .status();
        status.is_ok_and(|status| status.success())
    };
    if !mount(&["mount", "-t", "tmpfs", "-o", "size=2m", "replica-test"]) {
        eprintln!("not run: only root can mount a small file system");
        return;
    }
    let outcome = std::panic::catch_unwind(|| fill_up(dir.path()));
    assert!(mount(&["umount", "-l"]));
    outcome.unwrap();
}

fn fill_up(dir: &Path) {
    let mut central = Central::new(BOUND);
    let (replica, _) = Replica::open(&dir.join("replica.redb"), &owner(), 1 << 20).unwrap();
    replica.apply(&central.batch(0)).unwrap();
    let ballast = dir.join("ballast");
    let fill = || {
        use std::io::Write as _;
        let mut file = File::create(&ballast).unwrap();
        while file.write_all(&[1; 4096]).is_ok() {}
    };
    fill();
    let mut number = 0;
    let is_met = |central: &mut Central, number: &mut u64| {
        let before = central.head.revision;
        let mut grant = testing::grant();
        let text = format!("spiffe://keyhaven.test/client/c{number}");
        grant.identity = text.parse().unwrap();
        *number += 1;
        central.write(vec![Record::Grant(grant)]);
        !replica.apply(&central.batch(before)).unwrap().durable
    };
    while !is_met(&mut central, &mut number) {
        assert!(number < 10_000, "the disk is never full");
    }
    assert_eq!(state(&replica), KeyState::Active);
    std::fs::remove_file(&ballast).unwrap();
    replica.recover().unwrap();
    assert!(!is_met(&mut central, &mut number));
}

#[test]
fn m4_a_new_era_begins_with_nothing() {
    let central = Central::new(BOUND);
    let (memory, replica) = filled(&central);
    replica.begin_anew(&central.signed_head()).unwrap();
    assert!(
        replica
            .record(&store_key::version(KEY, 1))
            .unwrap()
            .is_none()
    );
    assert_eq!(replica.named("orders").unwrap(), []);
    drop(replica);
    let (_, stored) = Replica::on(Disk::new(memory), &owner(), 1 << 20).unwrap();
    assert_eq!(stored.applied, 0);
    assert!(stored.lease.is_none());
}

#[test]
fn m5_a_class_that_was_fetched_makes_no_lease_longer() {
    let central = Central::new(BOUND);
    let (_memory, replica) = filled(&central);
    let replica = std::sync::Arc::new(replica);
    let before = central.head.revision;
    let table = Table::open(central.key(), replica.clone(), 1 << 20, before);
    let class = testing::class(BOUND).name;
    assert_eq!(table.class(&class).unwrap().bound_s, BOUND);
    let raised = at(Record::Class(testing::class(BOUND * 100)), before + 1);
    let kept = replica.take(1, &[central.checked(&raised)]).unwrap();
    assert_eq!(kept.changed.len(), 1);
    table.changed(&kept.changed);
    assert_eq!(table.class(&class).unwrap().bound_s, BOUND);
}

#[test]
fn m4_what_was_fetched_in_an_era_that_is_over_is_not_taken() {
    let central = Central::new(BOUND);
    let (_memory, replica) = filled(&central);
    let next = central.checked(&at(in_state(KeyState::Revoked), central.head.revision + 1));
    let kept = replica.take(2, std::slice::from_ref(&next)).unwrap();
    assert_eq!((kept.changed.len(), state(&replica)), (0, KeyState::Active));
    replica.take(1, &[next]).unwrap();
    assert_eq!(state(&replica), KeyState::Revoked);
}
