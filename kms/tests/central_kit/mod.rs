//! Centrals without I/O: a store in memory, a token that is a table, and sites that follow.
//!
//! What fails and when is the test's choice. Invariant: the store is what the real ones promise: a transaction is whole,
//! guarded by the head, and told in order.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    missing_docs,
    reason = "a kit of tests"
)]

use std::collections::{BTreeMap, HashMap};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use keyhaven_kms::{
    central::{
        Followed, Material, Mirror, Plan, Rewrapped, Sealed, Step, Transaction, TransactionError,
        Work, WorkDone, store_key,
    },
    records::CentralKey,
};
use keyhaven_types::{KekId, KeyId, Name, Purpose};
use keyhaven_wire::kms::{
    Entry, Follow, Head, HeadMark, Public, Record,
    admin::{Answer, Ask, Refused},
};

/// Central's token: signs records, and has a pool.
pub struct Token {
    pair: EcdsaKeyPair,
    pub key: CentralKey,
    pub pool: Vec<(Purpose, KekId)>,
}

impl Token {
    pub fn new(pool: u8) -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
        let header = [
            0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06,
            0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
        ];
        let spki = [&header, pair.public_key().as_ref()].concat();
        let keks = Purpose::ALL
            .iter()
            .enumerate()
            .flat_map(|(number, purpose)| {
                (0..pool).map(move |n| {
                    let mut id = [0; 16];
                    (id[0], id[1]) = (number as u8 + 1, n + 1);
                    (*purpose, KekId(id))
                })
            });
        Self {
            key: CentralKey::from_spki(&spki).unwrap(),
            pool: keks.collect(),
            pair,
        }
    }

    pub fn sign(&self, text: &[u8]) -> Result<Vec<u8>, Refused> {
        let signature = self.pair.sign(&SystemRandom::new(), text).unwrap();
        Ok(signature.as_ref().to_vec())
    }

    /// Wraps tell what they are, so that a test sees one that is another's.
    pub fn work(&self, work: Work) -> WorkDone {
        match work {
            Work::Generate {
                id, version, kek, ..
            } => WorkDone::Made(Material {
                id,
                version,
                kek,
                public: Public::Kcv([version as u8; 8]),
                site_wrap: site_wrap(id, version, kek),
                root_wrap: root_wrap(id, version),
            }),
            Work::Rewrap(rewraps) => {
                let wrap = |of: keyhaven_kms::central::Rewrap| {
                    assert_eq!(of.root_wrap, root_wrap(of.manifest.id, of.manifest.version));
                    let site_wrap = site_wrap(of.manifest.id, of.manifest.version, of.kek);
                    Rewrapped { of, site_wrap }
                };
                WorkDone::Rewrapped(rewraps.into_iter().map(wrap).collect())
            }
            Work::Pool => WorkDone::Pool(self.pool.clone()),
            Work::Transport => WorkDone::Transport {
                id: [1; 16],
                spki: vec![1],
            },
            other => panic!("no test asks for {other:?}"),
        }
    }
}

pub fn site_wrap(id: KeyId, version: u32, kek: KekId) -> Vec<u8> {
    format!("site wrap of {id} {version} under {kek}").into_bytes()
}

pub fn root_wrap(id: KeyId, version: u32) -> Vec<u8> {
    format!("root wrap of {id} {version}").into_bytes()
}

type Puts = Vec<(Vec<u8>, Vec<u8>)>;

/// The store: what is there, and every transaction.
#[derive(Clone, Default)]
pub struct Store {
    pub data: BTreeMap<Vec<u8>, (u64, Vec<u8>)>,
    pub log: Vec<Puts>,
}

/// What becomes of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    None,
    /// It is done, and nobody hears of it.
    AnswerLost,
    /// It is not done, and nobody hears of that.
    WriteLost,
}

impl Store {
    fn txn(&mut self, guard: Option<u64>, puts: &Puts) -> bool {
        let head = self.data.get(store_key::HEAD).map(|(at, _)| *at);
        if head != guard {
            return false;
        }
        self.log.push(puts.clone());
        let at = self.log.len() as u64;
        for (key, value) in puts {
            self.data.insert(key.clone(), (at, value.clone()));
        }
        true
    }

    /// A record that is there.
    pub fn entries(&self) -> impl Iterator<Item = (&Vec<u8>, Entry)> {
        self.data
            .iter()
            .filter(|(key, _)| !key.starts_with(b"h"))
            .map(|(key, (_, value))| (key, postcard::from_bytes(value).unwrap()))
    }
}

/// One central.
pub struct Central {
    pub mirror: Mirror,
    /// How many transactions of the store it has heard of.
    heard: usize,
    head_at: Option<u64>,
}

impl Central {
    /// As after a start: everything that the store has.
    pub fn start(token: &Token, store: &Store) -> Self {
        let mut mirror = Mirror::new(token.key.clone());
        for (key, (_, value)) in &store.data {
            mirror.take(key, value).unwrap();
        }
        Self {
            mirror,
            heard: store.log.len(),
            head_at: store.data.get(store_key::HEAD).map(|(at, _)| *at),
        }
    }

    /// Hears of some transactions.
    pub fn hear(&mut self, store: &Store, most: usize) {
        for puts in store.log.iter().skip(self.heard).take(most) {
            self.heard += 1;
            let (heads, records): (Vec<_>, Vec<_>) =
                puts.iter().partition(|(key, _)| key == store_key::HEAD);
            for (key, value) in records.into_iter().chain(heads) {
                self.mirror.take(key, value).unwrap();
            }
            assert!(self.mirror.is_whole(), "the head speaks for another state");
            self.head_at = Some(self.heard as u64);
        }
    }

    pub fn hear_all(&mut self, store: &Store) {
        self.hear(store, usize::MAX);
    }

    /// Does what an operator asks, to its end. The first write meets the fault.
    pub fn ask(
        &mut self,
        token: &Token,
        store: &mut Store,
        plan: &Plan,
        mut fault: Fault,
    ) -> Result<Answer, Refused> {
        for _ in 0..1000 {
            let mut step = plan.begin(&self.mirror)?;
            if let Step::Work(work) = step {
                step = plan.go_on(&self.mirror, token.work(work))?;
            }
            let draft = match step {
                Step::Answer(answer) => return Ok(answer),
                Step::Write(draft) => draft,
                Step::Again => panic!("nobody came between"),
                Step::Work(work) => panic!("twice to the token: {work:?}"),
            };
            let mut transaction = Transaction::default();
            transaction.add(draft.clone()).unwrap();
            let sealed = self.seal(token, &transaction, 1000);
            let fault = std::mem::replace(&mut fault, Fault::None);
            let is_done = fault != Fault::WriteLost && store.txn(self.head_at, &sealed.puts);
            if fault != Fault::None {
                // It reads back, as the shell does.
                let found = store.data.get(&store_key::past_head(sealed.revision));
                let ours = sealed.puts.last().map(|(_, value)| value);
                assert_eq!(found.map(|(_, value)| value) == ours, is_done);
            }
            self.hear_all(store);
            if is_done && !draft.more {
                return Ok(draft.committed(sealed.revision));
            }
        }
        panic!("it never ends");
    }

    /// Several requests in one transaction, as far as they go together.
    pub fn ask_together(&mut self, token: &Token, store: &mut Store, plans: &[Plan]) -> usize {
        let mut transaction = Transaction::default();
        let mut taken = 0;
        for plan in plans {
            let step = plan.begin(&self.mirror).and_then(|step| match step {
                Step::Work(work) => plan.go_on(&self.mirror, token.work(work)),
                step => Ok(step),
            });
            // What takes several transactions is for `ask`.
            if let Ok(Step::Write(draft)) = step
                && !draft.more
            {
                taken += usize::from(transaction.add(draft).is_ok());
            }
        }
        if !transaction.is_empty() {
            let sealed = self.seal(token, &transaction, 1000);
            assert!(store.txn(self.head_at, &sealed.puts) || self.is_behind(store));
            self.hear_all(store);
        }
        taken
    }

    /// Writes a transaction that nobody has been faster than.
    pub fn write(&mut self, token: &Token, store: &mut Store, transaction: &Transaction) {
        let sealed = self.seal(token, transaction, 1000);
        assert!(store.txn(self.head_at, &sealed.puts));
        self.hear_all(store);
    }

    fn is_behind(&self, store: &Store) -> bool {
        self.heard < store.log.len()
    }

    pub fn seal(&self, token: &Token, transaction: &Transaction, now_ms: u64) -> Sealed {
        let numbered = transaction.number(&self.mirror, now_ms);
        let numbered = numbered.unwrap_or_else(|error| match error {
            TransactionError::Changed => panic!("it was planned on this mirror"),
            error => panic!("{error}"),
        });
        numbered.sign(|text| token.sign(text)).unwrap()
    }
}

/// A site that follows, and keeps what it was told.
#[derive(Clone, Default)]
pub struct Site {
    pub records: HashMap<Vec<u8>, (u64, Entry)>,
    pub applied: u64,
    pub seen: HeadMark,
}

/// One answer to a site.
#[derive(Clone, Debug)]
pub struct Told {
    pub entries: Vec<Entry>,
    pub through: u64,
    pub head: Head,
    /// What it had asked from.
    after: u64,
}

impl Site {
    /// Asks one central; nothing when it is not enrolled there or there is nothing.
    pub fn follow(&self, central: &Central, name: &Name, bytes_max: u32) -> Option<Told> {
        let site = central.mirror.site(name).filter(|site| !site.evicted)?;
        let follow = Follow {
            after: self.applied,
            seen: self.seen,
            wait_ms: 0,
            bytes_max,
        };
        match central.mirror.follow(site, &follow) {
            Followed::Changes { entries, through } => Some(Told {
                entries,
                through,
                head: central.mirror.head_or_none(),
                after: self.applied,
            }),
            Followed::Nothing => None,
            // A central that is behind: the shell asks the store, and waits for it.
            Followed::History(why) => {
                assert!(
                    central.mirror.head_or_none().revision < self.seen.revision,
                    "{why}"
                );
                None
            }
        }
    }

    /// Takes an answer, be it late or a second time.
    pub fn take(&mut self, token: &Token, told: &Told) {
        for entry in &told.entries {
            let believed = token.key.believe(entry).unwrap();
            let key = store_key::of(&believed.record).unwrap();
            let revision = store_key::revision_of(&believed.record).unwrap();
            if self
                .records
                .get(&key)
                .is_none_or(|(known, _)| *known <= revision)
            {
                self.records.insert(key, (revision, entry.clone()));
            }
        }
        if told.after <= self.applied {
            self.applied = self.applied.max(told.through);
        }
        if (told.head.era, told.head.revision) > (self.seen.era, self.seen.revision) {
            self.seen = told.head.mark();
        }
    }

    pub fn follow_to_the_end(&mut self, token: &Token, central: &Central, name: &Name) {
        while let Some(told) = self.follow(central, name, 4096) {
            self.take(token, &told);
        }
    }
}

pub fn name(text: &str) -> Name {
    text.parse().unwrap()
}

pub fn plan(ask: Ask, fresh: u64) -> Plan {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&fresh.to_be_bytes());
    Plan::new(ask, KeyId(id), 1000)
}

pub fn record(entry: &Entry) -> Record {
    postcard::from_bytes(&entry.signed.body).unwrap()
}
