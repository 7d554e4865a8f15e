//! Sites that are simulated: each has a connection and an enrolment of its own, follows as a site does, and keeps nothing.
//!
//! They read central's signature of each head, and leave the records' signatures to the real site: fifty sites have
//! fifty machines for that, and this process shares one with central.

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
    kms::{Changes, Entry, Follow, HeadMark, Record},
};
use keyhaven_xtask::{
    Error,
    site::{Kms, spiffe},
};
use rustls::pki_types::{SubjectPublicKeyInfoDer, pem::PemObject as _};
use tokio::{sync::watch, task::JoinSet};

use super::parts::{Channel, failed};

/// Simulated sites that follow.
pub(crate) struct Crowd {
    applied: Vec<watch::Receiver<u64>>,
    started: Instant,
    counts: Arc<Counts>,
    _tasks: JoinSet<()>,
}

/// What came to one of them.
#[derive(Debug, Default)]
struct Counts {
    records: AtomicU64,
    bytes: AtomicU64,
}

/// The name of a simulated site.
pub(crate) fn site_name(number: u32) -> String {
    format!("sim-{number:03}")
}

impl Crowd {
    /// Connects all of them, then lets them begin at once from nothing.
    pub(crate) async fn start(kms: &Kms<'_>, sites: u32) -> Result<Crowd, Error> {
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
        let started = Instant::now();
        for (number, channel) in channels.into_iter().enumerate() {
            let (publish, receive) = watch::channel(0);
            applied.push(receive);
            let counts = (number == 0).then(|| counts.clone());
            let central = central.clone();
            tasks.spawn(async move {
                // Its end is seen by whoever waits for it.
                let _ = follow(&channel, &central, counts.as_deref(), &publish).await;
            });
        }
        Ok(Crowd {
            applied,
            started,
            counts,
            _tasks: tasks,
        })
    }

    /// When each has everything up to a revision, from the start.
    pub(crate) async fn reach(
        &self,
        revision: u64,
        at_most: Duration,
    ) -> Result<Vec<Duration>, Error> {
        let reached = self.watch().reach(revision, self.started);
        let reached = tokio::time::timeout(at_most, reached).await;
        reached.map_err(|_| failed("a simulated site", "it did not get everything in time"))?
    }

    /// Watches from now.
    pub(crate) fn watch(&self) -> Watch {
        Watch(self.applied.clone())
    }

    /// Records and their bytes that came to one of them.
    pub(crate) fn counted(&self) -> (u64, u64) {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (read(&self.counts.records), read(&self.counts.bytes))
    }
}

/// Watches how far each is.
pub(crate) struct Watch(Vec<watch::Receiver<u64>>);

impl Watch {
    /// How long after `started` each had everything up to a revision.
    pub(crate) async fn reach(
        self,
        revision: u64,
        started: Instant,
    ) -> Result<Vec<Duration>, Error> {
        let mut waiting = JoinSet::new();
        for mut applied in self.0 {
            waiting.spawn(async move {
                let reached = applied.wait_for(|applied| *applied >= revision).await;
                reached.is_ok().then(|| started.elapsed())
            });
        }
        let mut times = Vec::new();
        while let Some(time) = waiting.join_next().await {
            let time = time.map_err(|error| failed("a simulated site", error))?;
            times.push(time.ok_or_else(|| failed("a simulated site", "it stopped following"))?);
        }
        times.sort_unstable();
        Ok(times)
    }
}

async fn follow(
    channel: &Channel,
    central: &CentralKey,
    counts: Option<&Counts>,
    publish: &watch::Sender<u64>,
) -> Result<(), Error> {
    let mut follow = Follow {
        after: 0,
        seen: HeadMark::default(),
        wait_ms: 10_000,
        bytes_max: 96 * 1024,
    };
    loop {
        let reply = channel.call(Request::Follow(follow)).await?;
        let Reply::Changes(Changes {
            entries,
            through,
            head,
        }) = reply
        else {
            return Err(failed("central", format!("{reply:?}")));
        };
        let Ok(Record::Head(head)) = central.read(&head) else {
            return Err(failed("central", "its head is not signed"));
        };
        if let Some(counts) = counts {
            let bytes = entries.iter().map(entry_bytes).sum::<usize>();
            counts
                .records
                .fetch_add(entries.len() as u64, Ordering::Relaxed);
            counts.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        }
        follow.after = through;
        follow.seen = head.mark();
        publish.send_replace(through);
    }
}

fn entry_bytes(entry: &Entry) -> usize {
    let parts = entry.parts.as_ref().map_or(0, |parts| {
        parts.site_wrap.len() + parts.chain.iter().map(Vec::len).sum::<usize>()
    });
    entry.signed.body.len() + entry.signed.signature.len() + parts
}
