//! The core, the replica and the table in a world that fails: messages that are late or lost, centrals that lag, power cuts,
//! full disks, clocks that stop or jump, backups that come back.
//!
//! One thing is held against it at each step: a revoked key is not served later than its class's bound, with the margin that
//! central waits. In the end the world is mended, and the site must have what central has.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use keyhaven_types::{KeyState, Operation};
use keyhaven_wire::kms::{Changes, Follow, Head, HeadMark, Manifest, Record, Scope, Signed};
use proptest::prelude::*;

use super::{
    clock::Now,
    core::Core,
    event::{Action, Event, Kept, Trouble},
    judge,
    replica::{Owner, Replica, TestDisk},
    shell::stored_head,
    table::Table,
    testing::{self, Central, KEY, Memory, Store, caller, name},
};
use crate::central::{Followed, store_key};

const BOUND_S: u32 = 8;

/// What happens next.
#[derive(Clone, Debug)]
enum Step {
    Advance(u64),
    /// The machine stands still with its clock, but not the one on the wall.
    Pause(u64),
    /// Somebody sets the clock on the wall.
    SetWall(i32),
    Write,
    Revoke,
    /// The lagging central reads the store.
    CatchUp,
    /// A central works on a question.
    Answer(usize),
    /// An answer is altered on its way.
    Forge(usize),
    Deliver(usize),
    DeliverTwice(usize),
    Lose(usize),
    /// The replica is written.
    Keep,
    PowerCut(u64),
    Reboot,
    CopyReplica,
    RestoreReplica,
    BackUpStore,
    RestoreStore,
    BumpEra,
    FillDisk(bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (1..2500u64).prop_map(Step::Advance),
        1 => (1..6000u64).prop_map(Step::Pause),
        3 => Just(Step::Write),
        2 => Just(Step::Revoke),
        2 => Just(Step::CatchUp),
        14 => (0..4usize).prop_map(Step::Answer),
        1 => (0..4usize).prop_map(Step::Forge),
        14 => (0..4usize).prop_map(Step::Deliver),
        2 => (0..4usize).prop_map(Step::DeliverTwice),
        2 => (0..4usize).prop_map(Step::Lose),
        10 => Just(Step::Keep),
        1 => any::<u64>().prop_map(Step::PowerCut),
        1 => Just(Step::Reboot),
        1 => Just(Step::CopyReplica),
        1 => Just(Step::RestoreReplica),
        1 => Just(Step::BackUpStore),
        1 => Just(Step::RestoreStore),
        1 => Just(Step::BumpEra),
        1 => any::<bool>().prop_map(Step::FillDisk),
        1 => (-60..60i32).prop_map(Step::SetWall),
    ]
}

#[derive(Clone, Debug)]
enum Question {
    Follow {
        central: usize,
        ask: Follow,
        round: u64,
    },
    Lease {
        central: usize,
        seen: HeadMark,
        asked: Now,
    },
}

#[derive(Clone, Debug)]
enum Answer {
    Followed {
        central: usize,
        ask: Follow,
        round: u64,
        answer: Result<judge::Batch, Trouble>,
    },
    Leased {
        central: usize,
        asked: Now,
        answer: Result<(Head, Signed), Trouble>,
    },
}

struct World {
    central: Central,
    lagging: Store,
    backup: Option<(Store, Option<u64>)>,
    /// True time in milliseconds.
    time: u64,
    booted_at: u64,
    paused: u64,
    wall_offset_s: i64,
    /// Clocks that stop and clocks that are set could undo each other.
    is_wall_set: bool,
    boot: u8,
    memory: Memory,
    copy: Option<Vec<u8>>,
    site: Site,
    questions: Vec<Question>,
    answers: Vec<Answer>,
    revoked_at: Option<u64>,
    /// Of answers about changes, only one in so many arrives.
    follow_one_in: usize,
    turns: usize,
    /// The revision of the key's version that was last seen here.
    version_at: u64,
    seen: HeadMark,
}

struct Site {
    core: Core,
    replica: Arc<Replica>,
    table: Table,
    writes: VecDeque<Action>,
    round: u64,
}

impl World {
    fn new(is_wall_set: bool, follow_one_in: usize) -> Self {
        let central = Central::new(BOUND_S);
        let memory = Memory::default();
        let now = now_at(1_000_000, 0, 0, 0, 1);
        let site = Site::start(&central, &memory, &now);
        Self {
            lagging: central.store.clone(),
            central,
            backup: None,
            time: 1_000_000,
            booted_at: 0,
            paused: 0,
            wall_offset_s: 0,
            is_wall_set,
            boot: 1,
            memory,
            copy: None,
            site,
            questions: Vec::new(),
            answers: Vec::new(),
            revoked_at: None,
            follow_one_in,
            turns: 0,
            version_at: 0,
            seen: HeadMark::default(),
        }
    }

    fn now(&self) -> Now {
        let Self {
            time,
            booted_at,
            paused,
            wall_offset_s,
            boot,
            ..
        } = self;
        now_at(*time, *booted_at, *paused, *wall_offset_s, *boot)
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Advance(ms) => {
                self.time += ms;
                self.handle(Event::Tick);
            }
            Step::Pause(ms) if !self.is_wall_set => {
                self.time += ms;
                self.paused += ms;
            }
            Step::SetWall(seconds) if self.is_wall_set => {
                self.wall_offset_s += i64::from(*seconds);
            }
            Step::Pause(_) | Step::SetWall(_) => {}
            Step::Write => {
                self.central.write(vec![Record::Grant(testing::grant())]);
            }
            Step::Revoke => self.revoke(),
            Step::CatchUp => self.lagging = self.central.store.clone(),
            Step::Answer(which) => self.answer(*which),
            Step::Forge(which) => self.forge(*which),
            Step::Deliver(which) => self.deliver(*which, false),
            Step::DeliverTwice(which) => self.deliver(*which, true),
            Step::Lose(which) => self.lose(*which),
            Step::Keep => self.keep(),
            Step::PowerCut(seed) => self.power_cut(*seed),
            Step::Reboot => {
                self.boot = self.boot.wrapping_add(1);
                (self.booted_at, self.paused) = (self.time, 0);
                self.power_cut(0);
            }
            Step::CopyReplica => self.copy = Some(self.memory.cut(|| true)),
            Step::RestoreReplica => {
                if let Some(copy) = self.copy.clone() {
                    self.restart(copy);
                }
            }
            Step::BackUpStore => self.backup = Some((self.central.store.clone(), self.revoked_at)),
            Step::RestoreStore => {
                if let Some((store, revoked_at)) = self.backup.clone() {
                    self.central.restore(store);
                    self.revoked_at = revoked_at;
                }
            }
            Step::BumpEra => self.bump(),
            Step::FillDisk(is_full) => self.memory.fill(*is_full),
        }
        self.check();
    }

    fn revoke(&mut self) {
        if self.revoked_at.is_none() {
            let revoked = Manifest {
                state: KeyState::Revoked,
                ..testing::manifest(1)
            };
            self.central.write(vec![Record::Version(revoked)]);
            self.revoked_at = Some(self.time);
        }
    }

    fn bump(&mut self) {
        self.central.bump();
        self.lagging = self.central.store.clone();
    }

    /// Everything that must hold.
    fn check(&mut self) {
        let now = self.now();
        let bound = Duration::from_secs(BOUND_S.into());
        let lease = self.site.core.leases();
        let version = self.site.table.version(KEY, 1);
        let state = version.as_ref().map(|version| version.manifest.state);
        let granted = self
            .site
            .table
            .is_granted(&caller(), Scope::Key(KEY), Operation::Sign);
        let serves = lease.is_good(bound, &now) && state == Some(KeyState::Active) && granted;
        if let (true, Some(revoked_at)) = (serves, self.revoked_at) {
            let since = self.time - revoked_at;
            let bound_ms = u64::from(BOUND_S) * 1000;
            let margin = bound_ms / 100 + 2000;
            assert!(
                since <= bound_ms + margin,
                "served {since} ms after it was revoked"
            );
        }
        let seen = self.site.core.seen();
        let is_onward = (seen.era, seen.revision) >= (self.seen.era, self.seen.revision);
        assert!(is_onward, "{seen:?} after {:?}", self.seen);
        let at = version.map_or(0, |version| version.manifest.revision);
        assert!(
            at >= self.version_at || seen.era > self.seen.era || self.site.table.applied() == 0,
            "the version of revision {at} came after the one of {}",
            self.version_at
        );
        (self.seen, self.version_at) = (seen, at);
    }

    fn handle(&mut self, event: Event) {
        let now = self.now();
        for action in self.site.core.handle(&now, event) {
            match action {
                Action::Follow { central, ask } => {
                    self.site.round += 1;
                    let round = self.site.round;
                    self.questions.push(Question::Follow {
                        central,
                        ask,
                        round,
                    });
                }
                Action::StopFollowing => self.site.round += 1,
                Action::Lease { central, seen } => self.questions.push(Question::Lease {
                    central,
                    seen,
                    asked: now,
                }),
                Action::Forget | Action::Alarm(_) => {}
                action => self.site.writes.push_back(action),
            }
        }
    }

    fn answer(&mut self, which: usize) {
        if which >= self.questions.len() {
            return;
        }
        // What is oldest need not be first.
        match self.questions.remove(which) {
            Question::Follow {
                central,
                ask,
                round,
            } => {
                if round != self.site.round {
                    return;
                }
                match self.changes(central, &ask) {
                    Some(answer) => {
                        let key = self.central.key();
                        let judged = answer.and_then(|changes| {
                            judge::changes(&key, &ask, changes).map_err(Trouble::Refused)
                        });
                        self.answers.push(Answer::Followed {
                            central,
                            ask,
                            round,
                            answer: judged,
                        });
                    }
                    None => self.questions.push(Question::Follow {
                        central,
                        ask,
                        round,
                    }),
                }
            }
            Question::Lease {
                central,
                seen,
                asked,
            } => {
                let mirror = self.central.mirror(&self.central.store);
                let answer = match mirror.compare(&seen) {
                    Ok(()) => Ok((self.central.head, self.central.signed_head())),
                    Err(_) => Err(Trouble::History),
                };
                self.answers.push(Answer::Leased {
                    central,
                    asked,
                    answer,
                });
            }
        }
    }

    /// What a central says to a site that follows; nothing as long as it waits.
    fn changes(&self, central: usize, ask: &Follow) -> Option<Result<Changes, Trouble>> {
        let store = match central {
            0 => &self.central.store,
            _ => &self.lagging,
        };
        let mirror = self.central.mirror(store);
        let head = postcard::from_bytes(&store[store_key::HEAD]).unwrap();
        let (entries, through) = match mirror.follow(&testing::site(), ask) {
            Followed::Changes { entries, through } => (entries, through),
            Followed::Nothing if ask.wait_ms > 0 => return None,
            Followed::Nothing => (Vec::new(), ask.after),
            Followed::History(_) => return Some(Err(Trouble::History)),
        };
        Some(Ok(Changes {
            entries,
            through,
            head,
        }))
    }

    /// Whoever sits between alters what central says; nothing of it may be believed.
    fn forge(&mut self, which: usize) {
        let Some(Question::Follow { central, ask, .. }) = self.questions.get(which).cloned() else {
            return;
        };
        let Some(Ok(mut changes)) = self.changes(central, &ask) else {
            return;
        };
        if let Some(entry) = changes.entries.last_mut() {
            let at = entry.signed.body.len() / 2;
            entry.signed.body[at] ^= 1;
            let judged = judge::changes(&self.central.key(), &ask, changes);
            assert!(judged.is_err(), "{judged:?}");
        }
    }

    fn deliver(&mut self, which: usize, twice: bool) {
        if which >= self.answers.len() {
            return;
        }
        self.turns += 1;
        let is_starved = !self.turns.is_multiple_of(self.follow_one_in);
        if is_starved && matches!(self.answers[which], Answer::Followed { .. }) {
            return;
        }
        let answer = self.answers.remove(which);
        if twice && matches!(answer, Answer::Leased { .. }) {
            self.answers.push(answer.clone());
        }
        match answer {
            Answer::Followed {
                central,
                ask,
                round,
                answer,
            } => {
                if round == self.site.round {
                    self.handle(Event::Followed {
                        central,
                        asked: ask,
                        answer,
                    });
                }
            }
            Answer::Leased {
                central,
                asked,
                answer,
            } => self.handle(Event::Leased {
                central,
                asked,
                answer,
                out_of_turn: twice,
            }),
        }
    }

    fn lose(&mut self, which: usize) {
        if let Some(answer) = self.answers.get_mut(which) {
            match answer {
                Answer::Followed { answer, .. } => *answer = Err(Trouble::Away),
                Answer::Leased { answer, .. } => *answer = Err(Trouble::Away),
            }
        }
    }

    fn keep(&mut self) {
        let Some(write) = self.site.writes.pop_front() else {
            return;
        };
        if let Some(event) = self.site.put(write) {
            self.handle(event);
        }
    }

    fn power_cut(&mut self, seed: u64) {
        let mut state = seed | 1;
        let left = self.memory.cut(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.is_multiple_of(2)
        });
        self.restart(left);
    }

    fn restart(&mut self, left: Vec<u8>) {
        self.memory = Memory::with(left);
        let now = self.now();
        self.site = Site::start(&self.central, &self.memory, &now);
        self.questions.clear();
        self.answers.clear();
        // What the file has is what counts now.
        (self.version_at, self.seen) = (0, HeadMark::default());
    }

    /// Everything is well from here on.
    fn mend(&mut self) {
        self.memory.fill(false);
        self.follow_one_in = 1;
        self.lagging = self.central.store.clone();
        for _ in 0..2000 {
            // What is still on its way may be of the history that was given up; a backup from before an earlier bump
            // needs more than one.
            while self.is_history_refused() {
                self.bump();
            }
            self.time += 100;
            self.handle(Event::Tick);
            for _ in 0..self.questions.len() {
                self.answer(0);
            }
            while !self.answers.is_empty() {
                self.deliver(0, false);
            }
            while !self.site.writes.is_empty() {
                self.keep();
            }
            self.check();
            if self.is_mended() {
                return;
            }
        }
        panic!(
            "not mended: {:?} of {:?}",
            self.site.core, self.central.head
        );
    }

    fn is_history_refused(&self) -> bool {
        let mirror = self.central.mirror(&self.central.store);
        mirror.compare(&self.site.core.seen()).is_err()
    }

    fn is_mended(&self) -> bool {
        let bound = Duration::from_secs(BOUND_S.into());
        self.site.core.seen() == self.central.head.mark()
            && self.site.table.applied() == self.central.head.revision
            && self.site.core.leases().is_good(bound, &self.now())
    }

    /// The site has what central has.
    fn compare(&self) {
        for (place, value) in &self.central.store {
            if place == store_key::HEAD || place.starts_with(store_key::HEADS) {
                continue;
            }
            let theirs: keyhaven_wire::kms::Entry = postcard::from_bytes(value).unwrap();
            let ours = self.site.replica.record(place).unwrap();
            let ours = ours.unwrap_or_else(|| panic!("{} is missing", name_of(place)));
            assert_eq!(ours.signed.body, theirs.signed.body, "{}", name_of(place));
            let is_revoked = self.revoked_at.is_some();
            if let Some(parts) = ours.parts {
                assert_eq!(parts.site_wrap.is_empty(), is_revoked);
            }
        }
    }
}

impl Site {
    fn start(central: &Central, memory: &Memory, now: &Now) -> Self {
        let owner = Owner {
            site: name(testing::SITE),
            central: central.key().fingerprint(),
        };
        let disk = TestDisk::new(memory.clone());
        let (replica, stored) = Replica::on(disk, &owner, 1 << 20).unwrap();
        let replica = Arc::new(replica);
        let seen = stored_head(&central.key(), stored.head)
            .map_or_else(HeadMark::default, |(mark, _)| mark);
        let table = Table::open(central.key(), Arc::clone(&replica), 1 << 20, stored.applied);
        let bound = Some(Duration::from_secs(BOUND_S.into()));
        Self {
            core: Core::new(2, seen, stored.applied, stored.lease, bound, now),
            replica,
            table,
            writes: VecDeque::new(),
            round: 0,
        }
    }

    /// As the shell does it.
    fn put(&self, write: Action) -> Option<Event> {
        match write {
            Action::Keep(batch) => Some(match self.replica.apply(&batch) {
                Ok(kept) => {
                    self.table.changed(&kept.changed);
                    let through = batch.through.max(self.table.applied());
                    self.table.set_applied(through);
                    Event::Kept(kept_through(through, kept.durable))
                }
                Err(_) => Event::NotKept,
            }),
            Action::BeginAnew { head } => Some(match self.replica.begin_anew(&head) {
                Ok(kept) => {
                    self.table.begin_anew();
                    Event::Kept(kept_through(0, kept.durable))
                }
                Err(_) => Event::NotKept,
            }),
            Action::Save { head, lease } => {
                let saved = self.replica.save(head.as_ref(), lease.as_ref());
                saved
                    .is_ok_and(|kept| !kept.durable)
                    .then_some(Event::NotSaved)
            }
            Action::Recover => self.replica.recover().ok().map(|()| Event::Recovered),
            other => panic!("{other:?} writes nothing"),
        }
    }
}

fn kept_through(through: u64, durable: bool) -> Kept {
    Kept {
        through,
        durable,
        bound_min: None,
        site_changed: false,
    }
}

fn name_of(place: &[u8]) -> String {
    String::from_utf8_lossy(place).into_owned()
}

fn now_at(time: u64, booted_at: u64, paused: u64, wall_offset_s: i64, boot: u8) -> Now {
    let wall = i64::try_from(time).unwrap() + WALL_MS + wall_offset_s * 1000;
    Now {
        boottime: Duration::from_millis(time - booted_at - paused),
        wall: Duration::from_millis(wall.try_into().unwrap()),
        boot_id: [boot; 16],
    }
}

const WALL_MS: i64 = 1_700_000_000_000;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(200)))]

    #[test]
    fn m5_m12_whatever_fails_a_revoked_key_stops_in_time_and_a_mended_site_has_what_central_has(
        steps in proptest::collection::vec(step(), 1..240),
        is_wall_set: bool,
        follow_one_in in prop_oneof![2 => Just(1usize), 1 => Just(4), 1 => Just(40)],
    ) {
        let mut world = World::new(is_wall_set, follow_one_in);
        for step in &steps {
            world.step(step);
        }
        world.mend();
        world.compare();
    }
}

#[test]
fn the_world_lets_a_site_serve_so_that_stopping_means_something() {
    let mut world = World::new(false, 1);
    world.mend();
    let bound = Duration::from_secs(BOUND_S.into());
    assert!(world.site.core.leases().is_good(bound, &world.now()));
    let version = world.site.table.version(KEY, 1).unwrap();
    assert_eq!(version.manifest.state, KeyState::Active);
    // Behind a partition it goes on until the bound, and a copy from before does not help it.
    world.step(&Step::CopyReplica);
    world.step(&Step::Revoke);
    for _ in 0..7 {
        world.step(&Step::Advance(1000));
    }
    assert!(world.site.core.leases().is_good(bound, &world.now()));
    world.step(&Step::RestoreReplica);
    assert!(world.site.core.leases().is_good(bound, &world.now()));
    world.step(&Step::Advance(2000));
    assert!(!world.site.core.leases().is_good(bound, &world.now()));
}
