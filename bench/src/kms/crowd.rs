//! Sites that are simulated: each has a connection and an enrolment of its own, follows as a site does, keeps nothing.
//!
//! They either verify every record, as a site must, or central's signature of each head alone: fifty sites have fifty
//! machines to verify on, and this process shares one with central. Invariant: one that stops following fails the
//! measurement that waits for it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use keyhaven_kms::records::CentralKey;
use keyhaven_wire::{
    Reply, Request,
    kms::{
        Changes, Entry, Follow, HeadMark, Record,
        admin::{Answer, Ask, NewSite},
    },
};
use keyhaven_xtask::{
    Error, say,
    site::{Kms, spiffe},
};
use rustls::pki_types::{SubjectPublicKeyInfoDer, pem::PemObject as _};
use tokio::{sync::watch, task::JoinSet};

use super::{
    channel::{Channel, failed, name},
    making::all_of,
};

/// What a simulated site verifies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verify {
    /// Each head: what central must do is measured, and little else.
    Heads,
    /// Each head and each record with what travels beside it.
    Everything,
}

/// Simulated sites that follow.
pub(crate) struct Crowd {
    applied: Vec<watch::Receiver<u64>>,
    began: Instant,
    counts: Arc<Counts>,
    _tasks: JoinSet<()>,
}

/// What came to all of them.
#[derive(Debug, Default)]
struct Counts {
    records: AtomicU64,
    wraps: AtomicU64,
    bytes: AtomicU64,
    pages: AtomicU64,
}

/// The same, read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Came {
    pub(crate) records: u64,
    /// Records with a wrap beside them.
    pub(crate) wraps: u64,
    /// Of records and wraps, without the frames around them.
    pub(crate) bytes: u64,
    /// Answers of central's.
    pub(crate) pages: u64,
}

/// Enrols simulated sites with what the ceremony gave a real one.
pub(crate) async fn enrol(
    sites: u32,
    real: &str,
    kms: &Kms<'_>,
    admin: &Channel,
) -> Result<(), Error> {
    let Answer::Sites { sites: known, .. } = admin.ask(Ask::SiteList { after: None }).await? else {
        return Err(failed("central", "it listed no sites"));
    };
    let real = known
        .into_iter()
        .find(|site| site.name.as_str() == real)
        .ok_or_else(|| failed("central", "it does not know the real site"))?;
    for number in 0..sites {
        let site = site_name(number);
        let identity = kms.identity("signer", &site)?;
        let new = NewSite {
            name: name(&site)?,
            identity: identity.parse().map_err(|error| failed(&identity, error))?,
            // Nobody listens there: to the real site, a peer that does not answer.
            address: format!("127.77.{}.{}:7443", 1 + number / 250, 1 + number % 250),
            region: real.region.clone(),
            hardware: real.hardware,
            holds: real.holds.clone(),
        };
        admin.commit(Ask::SiteAdd(new)).await?;
    }
    Ok(())
}

impl Crowd {
    /// Connects all of them, then lets them begin at once from nothing.
    pub(crate) async fn start(sites: u32, verify: Verify, kms: &Kms<'_>) -> Result<Crowd, Error> {
        let pem = kms.folder.kms("central.pem");
        let spki = SubjectPublicKeyInfoDer::from_pem_file(&pem)
            .map_err(|error| failed("central.pem", error))?;
        let central = CentralKey::from_spki(&spki).map_err(|error| failed("central.pem", error))?;
        let mut channels = Vec::new();
        for number in 0..sites {
            let pair = format!("signer-{}", site_name(number));
            channels.push(Channel::open(kms, &pair, kms.central, spiffe("central", "main")).await?);
        }
        let counts = Arc::new(Counts::default());
        let mut tasks = JoinSet::new();
        let mut applied = Vec::new();
        let began = Instant::now();
        for channel in channels {
            let (publish, receive) = watch::channel(0);
            applied.push(receive);
            let site = Simulated {
                channel,
                central: central.clone(),
                verify,
                counts: Arc::clone(&counts),
            };
            tasks.spawn(async move {
                if let Err(error) = site.follow(&publish).await {
                    say::error(&error);
                }
            });
        }
        Ok(Crowd {
            applied,
            began,
            counts,
            _tasks: tasks,
        })
    }

    /// How long after the start each had everything up to a revision, in order of time.
    pub(crate) async fn since_start(&self, revision: u64) -> Result<Vec<Duration>, Error> {
        self.reach(revision, self.began).await
    }

    /// The same, from a moment.
    pub(crate) async fn reach(
        &self,
        revision: u64,
        began: Instant,
    ) -> Result<Vec<Duration>, Error> {
        let mut waiting = JoinSet::new();
        for mut applied in self.applied.iter().cloned() {
            waiting.spawn(async move {
                match applied.wait_for(|applied| *applied >= revision).await {
                    Ok(_) => Ok(began.elapsed()),
                    Err(_) => Err(failed("a simulated site", "it stopped following")),
                }
            });
        }
        let reached = tokio::time::timeout(REACH_MAX, all_of(waiting)).await;
        let mut times = reached
            .map_err(|_| failed("a simulated site", "it did not get everything in time"))??;
        times.sort_unstable();
        Ok(times)
    }

    /// What came to all of them so far.
    pub(crate) fn came(&self) -> Came {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Came {
            records: read(&self.counts.records),
            wraps: read(&self.counts.wraps),
            bytes: read(&self.counts.bytes),
            pages: read(&self.counts.pages),
        }
    }
}

/// One of them.
struct Simulated {
    channel: Channel,
    central: CentralKey,
    verify: Verify,
    counts: Arc<Counts>,
}

impl Simulated {
    async fn follow(&self, publish: &watch::Sender<u64>) -> Result<(), Error> {
        let mut follow = Follow {
            after: 0,
            seen: HeadMark::default(),
            wait_ms: WAIT_MS,
            bytes_max: PAGE_BYTES,
        };
        loop {
            let reply = self.channel.call(Request::Follow(follow)).await?;
            let Reply::Changes(changes) = reply else {
                return Err(failed("central", format!("{reply:?}")));
            };
            follow.seen = judge(&self.central, self.verify, &changes)?;
            follow.after = changes.through;
            self.counts.add(&changes.entries);
            publish.send_replace(changes.through);
        }
    }
}

/// Verifies an answer; the head that came with it.
fn judge(central: &CentralKey, verify: Verify, changes: &Changes) -> Result<HeadMark, Error> {
    let distrusted = |error| failed("a record of central's", error);
    let Record::Head(head) = central.read(&changes.head).map_err(distrusted)? else {
        return Err(failed("central", "its head is another record"));
    };
    if verify == Verify::Everything {
        for entry in &changes.entries {
            central.believe(entry).map_err(distrusted)?;
        }
    }
    Ok(head.mark())
}

impl Counts {
    fn add(&self, entries: &[Entry]) {
        let add = |count: &AtomicU64, more: usize| {
            count.fetch_add(more as u64, Ordering::Relaxed);
        };
        let has_wrap = |entry: &&Entry| {
            let parts = entry.parts.as_ref();
            parts.is_some_and(|parts| !parts.site_wrap.is_empty())
        };
        add(&self.records, entries.len());
        add(&self.wraps, entries.iter().filter(has_wrap).count());
        add(&self.bytes, entries.iter().map(entry_bytes).sum());
        add(&self.pages, 1);
    }
}

fn entry_bytes(entry: &Entry) -> usize {
    let parts = entry.parts.as_ref().map_or(0, |parts| {
        parts.site_wrap.len() + parts.chain.iter().map(Vec::len).sum::<usize>()
    });
    entry.signed.body.len() + entry.signed.signature.len() + parts
}

fn site_name(number: u32) -> String {
    format!("sim-{number:04}")
}

/// What a real site asks for.
const PAGE_BYTES: u32 = 96 * 1024;
const WAIT_MS: u32 = 10_000;
/// Twenty million records, each verified on two slow processors, take half an hour.
const REACH_MAX: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests {
    use keyhaven_kms::records::testing::SoftwareCentral;
    use keyhaven_wire::kms::{Head, Signed, VersionParts};

    use super::*;

    #[test]
    fn a_forged_record_passes_where_heads_alone_are_verified() {
        let (central, other) = (SoftwareCentral::new(), SoftwareCentral::new());
        let head = Record::Head(Head {
            era: 0,
            revision: 3,
            chain: [1; 32],
            state: [0; 32],
            bound_s: 0,
            at_ms: 0,
        });
        let forged = Entry {
            signed: other.sign(&head),
            parts: None,
        };
        let mut changes = Changes {
            entries: vec![forged],
            through: 3,
            head: central.sign(&head),
        };
        let judged = |verify, changes: &Changes| judge(&central.key(), verify, changes);
        assert_eq!(judged(Verify::Heads, &changes).unwrap().revision, 3);
        assert!(judged(Verify::Everything, &changes).is_err());
        changes.head = other.sign(&head);
        assert!(judged(Verify::Heads, &changes).is_err());
    }

    #[test]
    fn wraps_and_bytes_are_counted_where_they_are() {
        let signed = Signed {
            body: vec![0; 100],
            signature: vec![0; 70],
        };
        let bare = Entry {
            signed: signed.clone(),
            parts: None,
        };
        let wrapped = Entry {
            signed,
            parts: Some(VersionParts {
                site_wrap: vec![0; 40],
                root_wrap: Vec::new(),
                chain: vec![vec![0; 500], vec![0; 400]],
            }),
        };
        let counts = Counts::default();
        counts.add(&[bare, wrapped]);
        assert_eq!(counts.records.into_inner(), 2);
        assert_eq!(counts.wraps.into_inner(), 1);
        assert_eq!(counts.bytes.into_inner(), 170 + 170 + 40 + 900);
        assert_eq!(counts.pages.into_inner(), 1);
    }
}
