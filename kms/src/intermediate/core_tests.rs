//! The core step by step: whom it asks when, and what makes it stop.

use std::time::Duration;

use keyhaven_wire::kms::{Follow, Head, HeadMark, Signed};

use super::{
    clock::Now,
    core::Core,
    event::{Action, Alarm, Event, Kept, Trouble},
};

fn at(ms: u64) -> Now {
    Now {
        boottime: Duration::from_millis(ms),
        wall: Duration::from_millis(1_700_000_000_000 + ms),
        boot_id: [1; 16],
    }
}

fn head(revision: u64) -> Head {
    Head {
        era: 1,
        revision,
        chain: [u8::try_from(revision).unwrap(); 32],
        state: [0; 32],
        bound_s: 0,
        at_ms: 0,
    }
}

fn leased(central: usize, ms: u64, revision: u64) -> Event {
    let signed = Signed {
        body: Vec::new(),
        signature: Vec::new(),
    };
    Event::Leased {
        central,
        asked: at(ms),
        answer: Ok((head(revision), signed)),
        out_of_turn: false,
    }
}

fn core(applied: u64) -> Core {
    let bound = Some(Duration::from_secs(30));
    Core::new(2, head(applied).mark(), applied, None, bound, &at(0))
}

fn follow(actions: &[Action]) -> Option<(usize, Follow)> {
    actions.iter().find_map(|action| match action {
        Action::Follow { central, ask } => Some((*central, *ask)),
        _ => None,
    })
}

fn lease(actions: &[Action]) -> Option<usize> {
    actions.iter().find_map(|action| match action {
        Action::Lease { central, .. } => Some(*central),
        _ => None,
    })
}

fn alarms(actions: &[Action]) -> Vec<&Alarm> {
    let mut alarms = Vec::new();
    for action in actions {
        if let Action::Alarm(alarm) = action {
            alarms.push(alarm);
        }
    }
    alarms
}

fn is_good(core: &Core, ms: u64) -> bool {
    core.leases().is_good(Duration::from_secs(30), &at(ms))
}

fn troubled(trouble: Trouble) -> Event {
    Event::Leased {
        central: 0,
        asked: at(0),
        answer: Err(trouble),
        out_of_turn: false,
    }
}

#[test]
fn m5_a_site_that_is_thrown_out_ends_at_once_and_goes_on_when_it_is_enrolled_again() {
    let mut core = core(4);
    core.handle(&at(0), Event::Tick);
    core.handle(&at(10), leased(0, 0, 4));
    assert!(is_good(&core, 20));
    let actions = core.handle(&at(20), troubled(Trouble::NotEnrolled));
    assert_eq!(alarms(&actions), [&Alarm::NotEnrolled]);
    assert!(actions.contains(&Action::Forget));
    let saved = Action::Save {
        head: None,
        lease: None,
    };
    assert!(actions.contains(&saved), "a restart has no lease, either");
    assert!(!is_good(&core, 21));
    // It is said once, and asked on.
    let again = core.handle(&at(30), troubled(Trouble::NotEnrolled));
    assert!(alarms(&again).is_empty());
    let actions = core.handle(&at(3000), leased(1, 2900, 4));
    assert_eq!(alarms(&actions), [&Alarm::Enrolled]);
    assert!(is_good(&core, 3000));
}

#[test]
fn m4_history_that_went_back_is_an_alarm_and_changes_nothing() {
    let mut core = core(9);
    core.handle(&at(0), Event::Tick);
    let mut told = Vec::new();
    for round in 1..12 {
        let actions = core.handle(&at(round * 100), leased(0, round * 100 - 10, 7));
        told.extend(alarms(&actions).into_iter().cloned());
    }
    assert_eq!(told, [Alarm::History]);
    assert_eq!(core.seen(), head(9).mark());
    assert!(!is_good(&core, 1200), "an earlier head gives no lease");
    // Another history with the same number is said at once.
    let mut fork = head(9);
    fork.chain = [0xff; 32];
    let signed = Signed {
        body: Vec::new(),
        signature: Vec::new(),
    };
    let actions = core.handle(
        &at(2000),
        Event::Leased {
            central: 0,
            asked: at(1990),
            answer: Ok((fork, signed)),
            out_of_turn: false,
        },
    );
    assert!(matches!(alarms(&actions)[..], [Alarm::Refused(_)]));
    assert!(!is_good(&core, 2000));
}

#[test]
fn m1_a_central_that_lags_is_left_for_the_one_that_knows_more() {
    let mut core = core(4);
    let actions = core.handle(&at(0), Event::Tick);
    let (first, ask) = follow(&actions).unwrap();
    assert_eq!((first, ask.after, ask.wait_ms > 0), (0, 4, true));
    // The lease, from the other one, tells of more; the first may still learn of it.
    core.handle(&at(5), troubled(Trouble::Away));
    let actions = core.handle(&at(100), Event::Tick);
    assert_eq!(lease(&actions), Some(1));
    let actions = core.handle(&at(110), leased(1, 100, 6));
    assert!(!actions.contains(&Action::StopFollowing));
    let actions = core.handle(&at(800), Event::Tick);
    assert!(actions.contains(&Action::StopFollowing));
    let (second, ask) = follow(&actions).unwrap();
    assert_eq!((second, ask.after, ask.wait_ms), (1, 4, 0));
    assert_eq!(ask.seen, head(6).mark());
}

#[test]
fn m1_a_site_that_got_more_keys_goes_through_everything_once_more() {
    let mut core = core(4);
    let actions = core.handle(&at(0), Event::Tick);
    assert!(follow(&actions).is_some());
    let kept = Kept {
        through: 5,
        durable: true,
        bound_min: None,
        site_changed: true,
    };
    core.handle(&at(10), troubled(Trouble::Away));
    let asked = follow(&actions).unwrap().1;
    core.handle(
        &at(20),
        Event::Followed {
            central: 0,
            asked,
            answer: Err(Trouble::Away),
        },
    );
    let actions = core.handle(&at(30), Event::Kept(kept));
    let (_, ask) = follow(&actions).unwrap();
    assert_eq!((ask.after, ask.wait_ms), (0, 0));
}

#[test]
fn m10_central_is_told_only_of_what_is_on_the_disk() {
    let mut core = core(4);
    let asked = follow(&core.handle(&at(0), Event::Tick)).unwrap().1;
    core.handle(
        &at(10),
        Event::Followed {
            central: 0,
            asked,
            answer: Err(Trouble::Away),
        },
    );
    let kept = Kept {
        through: 6,
        durable: false,
        bound_min: None,
        site_changed: false,
    };
    let actions = core.handle(&at(20), Event::Kept(kept));
    assert_eq!(alarms(&actions), [&Alarm::Disk]);
    // What is in memory counts for leases, and nothing more is asked for.
    core.handle(&at(30), leased(0, 25, 6));
    assert!(is_good(&core, 40));
    let actions = core.handle(&at(900), Event::Tick);
    assert!(follow(&actions).is_none());
    let actions = core.handle(&at(1100), Event::Tick);
    assert!(actions.contains(&Action::Recover));
    let actions = core.handle(&at(1110), Event::Recovered);
    assert_eq!(alarms(&actions), [&Alarm::DiskBack]);
    let (_, ask) = follow(&actions).unwrap();
    assert_eq!((ask.after, ask.seen), (6, head(6).mark()));
    assert_ne!(ask.seen, HeadMark::default());
}
