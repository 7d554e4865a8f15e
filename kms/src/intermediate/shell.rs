//! The shell around the core: asks central, writes the replica, tells everybody what changed.
//!
//! Decides nothing. One task drives the core, one writes what it wants kept, and each question to central is a task of its
//! own. Invariant: the core hears that records are kept after the table tells of them, so that no lease counts before.

use std::{
    sync::{Arc, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use aws_lc_rs::rand;
use keyhaven_wire::{
    ErrorCode, Reply, Request,
    kms::{Follow, HeadMark, LeaseRequest, Record, Signed},
};
use tokio::{
    sync::mpsc,
    task::{AbortHandle, spawn_blocking},
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use super::{
    core::Core,
    event::{Action, Alarm, Event, Kept, Trouble},
    inner::Inner,
    judge,
    lease::Lease,
    replica::{self, ReplicaError},
    table::chain,
    version::version_at,
};

/// An event, and of which question to follow it is the answer.
pub(super) struct Told {
    pub(super) event: Event,
    pub(super) round: Option<u64>,
}

/// What is to be put into the replica, in this order.
pub(super) enum Write {
    Keep(Box<judge::Batch>),
    BeginAnew(Signed),
    Save(Option<Signed>, Option<Lease>),
    Recover,
}

/// Drives the core until the end.
pub(super) async fn drive(
    inner: Arc<Inner>,
    mut core: Core,
    mut told: mpsc::Receiver<Told>,
    writes: mpsc::Sender<Write>,
    end: CancellationToken,
) {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut following = Following::default();
    loop {
        let told = tokio::select! {
            () = end.cancelled() => break,
            Some(told) = told.recv() => told,
            _ = ticks.tick() => Told { event: Event::Tick, round: None },
        };
        if told.round.is_some_and(|round| round != following.round) {
            continue;
        }
        let head = head_of(&told.event);
        let actions = core.handle(&inner.now(), told.event);
        inner.publish(&core, head);
        for action in actions {
            match action {
                Action::Follow { central, ask } => {
                    following.begin(&inner, central, ask);
                }
                Action::StopFollowing => following.stop(),
                Action::Lease { central, seen } => {
                    let inner = Arc::clone(&inner);
                    let task = Arc::clone(&inner);
                    inner.tasks.spawn(async move {
                        let event = ask_lease(&task, central, seen, false).await;
                        task.tell(event).await;
                    });
                }
                Action::Keep(batch) => send(&writes, Write::Keep(batch)),
                Action::BeginAnew { head } => send(&writes, Write::BeginAnew(head)),
                Action::Save { head, lease } => send(&writes, Write::Save(head, lease)),
                Action::Recover => send(&writes, Write::Recover),
                Action::Forget => {
                    inner.keys.clear();
                    inner.forgotten.fetch_add(1, Ordering::Relaxed);
                }
                Action::Alarm(alarm) => raise(&inner, &alarm),
            }
        }
    }
    following.stop();
}

/// The question to central that waits for changes.
#[derive(Default)]
struct Following {
    round: u64,
    task: Option<AbortHandle>,
}

impl Following {
    fn begin(&mut self, inner: &Arc<Inner>, central: usize, ask: Follow) {
        self.stop();
        let round = self.round;
        let task = Arc::clone(inner);
        let handle = inner.tasks.spawn(async move {
            let answer = follow(&task, central, ask).await;
            let event = Event::Followed {
                central,
                asked: ask,
                answer,
            };
            // Nobody hears it after the end.
            let told = Told {
                event,
                round: Some(round),
            };
            let _ = task.events.send(told).await;
        });
        self.task = Some(handle.abort_handle());
    }

    fn stop(&mut self) {
        self.round += 1;
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}

/// Never waits: the writer may be waiting to tell what it has done. There is always room for the one thing of each other
/// kind, since leases leave it; one that finds none is in memory, and the next one is saved.
fn send(writes: &mpsc::Sender<Write>, write: Write) {
    let is_lease = matches!(write, Write::Save(..));
    if is_lease && writes.capacity() <= ROOM {
        return;
    }
    if writes.try_send(write).is_err() {
        tracing::error!("the replica's writer does not take its work");
    }
}

async fn follow(inner: &Arc<Inner>, central: usize, ask: Follow) -> Result<judge::Batch, Trouble> {
    let client = inner.centrals.get(central).ok_or(Trouble::Away)?;
    let patience = Duration::from_millis(ask.wait_ms.into()) + CALL_TIMEOUT;
    match client.call(Request::Follow(ask), patience).await {
        Ok(Reply::Changes(changes)) => {
            inner.heard();
            let key = inner.central_key.clone();
            // Many signatures.
            let judged = spawn_blocking(move || judge::changes(&key, &ask, changes));
            let judged = judged.await.map_err(|_| Trouble::Away)?;
            judged.map_err(Trouble::Refused)
        }
        other => Err(trouble(other)),
    }
}

/// Asks for a lease; time runs from before the question.
pub(super) async fn ask_lease(
    inner: &Inner,
    central: usize,
    seen: HeadMark,
    out_of_turn: bool,
) -> Event {
    let asked = inner.look();
    let answer = match &asked {
        Some(_) => lease(inner, central, seen).await,
        None => Err(Trouble::Away),
    };
    Event::Leased {
        central,
        asked: asked.unwrap_or_else(|| inner.now()),
        answer,
        out_of_turn,
    }
}

async fn lease(
    inner: &Inner,
    central: usize,
    seen: HeadMark,
) -> Result<(keyhaven_wire::kms::Head, Signed), Trouble> {
    let client = inner.centrals.get(central).ok_or(Trouble::Away)?;
    let mut nonce = [0; 16];
    rand::fill(&mut nonce).map_err(|_| Trouble::Away)?;
    let request = Request::Lease(LeaseRequest { nonce, seen });
    match client.call(request, CALL_TIMEOUT).await {
        Ok(Reply::Leased(grant)) if grant.nonce == nonce => {
            inner.heard();
            let head = judge::head(&inner.central_key, &grant.head).map_err(Trouble::Refused)?;
            Ok((head, grant.head))
        }
        other => Err(trouble(other)),
    }
}

fn trouble<E>(answer: Result<Reply, E>) -> Trouble {
    match answer {
        Ok(Reply::Error(ErrorCode::History)) => Trouble::History,
        Ok(Reply::Error(ErrorCode::NotEnrolled)) => Trouble::NotEnrolled,
        _ => Trouble::Away,
    }
}

/// The head that came with an event.
fn head_of(event: &Event) -> Option<(HeadMark, Signed)> {
    match event {
        Event::Followed {
            answer: Ok(batch), ..
        } => Some((batch.head.mark(), batch.signed_head.clone())),
        Event::Leased {
            answer: Ok((head, signed)),
            ..
        } => Some((head.mark(), signed.clone())),
        _ => None,
    }
}

/// Writes the replica, one thing after the other.
pub(super) async fn write(inner: Arc<Inner>, mut writes: mpsc::Receiver<Write>) {
    while let Some(write) = writes.recv().await {
        let task = Arc::clone(&inner);
        let event = spawn_blocking(move || put(&task, write)).await;
        if let Ok(Some(event)) = event {
            inner.tell(event).await;
        }
    }
}

fn put(inner: &Inner, write: Write) -> Option<Event> {
    match write {
        Write::Keep(batch) => match inner.replica.apply(&batch) {
            Ok(kept) => Some(keep(inner, &kept, batch.through)),
            Err(error) => Some(not_kept(&error)),
        },
        Write::BeginAnew(head) => match inner.replica.begin_anew(&head) {
            Ok(kept) => {
                inner.table.begin_anew();
                inner.keys.clear();
                inner.applied.send_replace(0);
                Some(Event::Kept(Kept {
                    through: 0,
                    durable: kept.durable,
                    bound_min: None,
                    site_changed: false,
                }))
            }
            Err(error) => Some(not_kept(&error)),
        },
        Write::Save(head, lease) => {
            match inner.replica.save(head.as_ref(), lease.as_ref()) {
                Ok(kept) if kept.durable => None,
                // The lease is in memory.
                Err(ReplicaError::ReadOnly) => None,
                Ok(_) => Some(Event::NotSaved),
                Err(error) => {
                    tracing::warn!(error = %chain(&error), "the lease is not saved");
                    None
                }
            }
        }
        Write::Recover => match inner.replica.recover() {
            Ok(()) => Some(Event::Recovered),
            Err(error) => {
                tracing::debug!(error = %error, "the replica's disk still takes nothing");
                None
            }
        },
    }
}

/// Lets everybody know what was kept.
fn keep(inner: &Inner, kept: &replica::Kept, through: u64) -> Event {
    let before = inner.table.site(&inner.site);
    inner.forget(kept);
    let through = through.max(inner.table.applied());
    inner.table.set_applied(through);
    inner.applied.send_replace(through);
    let after = inner.table.site(&inner.site);
    // Its first record says what it was entitled to all along.
    let site_changed = match (before, after) {
        (Some(before), Some(after)) => before.holds != after.holds,
        _ => false,
    };
    Event::Kept(Kept {
        through,
        durable: kept.durable,
        bound_min: inner
            .table
            .bound_min_s()
            .map(|s| Duration::from_secs(s.into())),
        site_changed,
    })
}

fn not_kept(error: &ReplicaError) -> Event {
    tracing::error!(error = %chain(error), "what came from central is not kept");
    Event::NotKept
}

fn raise(inner: &Inner, alarm: &Alarm) {
    let site = inner.site.as_str();
    match alarm {
        Alarm::Enrolled | Alarm::DiskBack => tracing::info!(site, "{alarm}"),
        Alarm::NewEra | Alarm::Clocks => tracing::warn!(site, "{alarm}"),
        Alarm::NotEnrolled => {
            let identity = &inner.identity;
            tracing::error!(
                target: "audit",
                event = "evicted",
                site,
                %identity,
                "{alarm}; a new one is registered by `signer-admin kms site add --from … --identity {identity}`"
            );
        }
        Alarm::History => tracing::error!(target: "audit", event = "history", site, "{alarm}"),
        Alarm::Refused(_) => {
            tracing::error!(target: "audit", event = "refused-record", site, "{alarm}");
        }
        Alarm::Disk => tracing::error!(site, "{alarm}"),
    }
}

impl Inner {
    /// Makes known what the core knows now.
    fn publish(&self, core: &Core, head: Option<(HeadMark, Signed)>) {
        *self.leases.write().unwrap_or_else(PoisonError::into_inner) = core.leases();
        let signed = head.filter(|(mark, _)| *mark == core.seen());
        self.table
            .set_head(core.seen(), signed.map(|(_, head)| head));
    }

    /// Drops from memory what changed in the replica.
    pub(super) fn forget(&self, kept: &replica::Kept) {
        self.table.changed(&kept.changed);
        for place in &kept.changed {
            if let Some((id, number)) = version_at(place)
                && self.keys.has(id, number)
                && let Some(version) = self.table.version(id, number)
            {
                self.keys.changed(&version);
            }
        }
        if kept.stale > 0 || kept.forked > 0 {
            tracing::error!(
                target: "audit",
                event = "refused-record",
                site = self.site.as_str(),
                stale = kept.stale,
                forked = kept.forked,
                "records were refused: older than what is known, or of another history"
            );
        }
    }

    pub(super) async fn tell(&self, event: Event) {
        // Nobody hears it after the end.
        let _ = self.events.send(Told { event, round: None }).await;
    }

    /// Central has answered.
    fn heard(&self) {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }
}

/// What a stored head says, if it is central's.
pub(super) fn stored_head(
    key: &crate::records::CentralKey,
    head: Option<Signed>,
) -> Option<(HeadMark, Signed)> {
    let signed = head?;
    match key.read(&signed) {
        Ok(Record::Head(head)) => Some((head.mark(), signed)),
        _ => None,
    }
}

/// How long central may take, beside the time that it is asked to wait.
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(2);
/// Places that leases leave to the rest.
const ROOM: usize = 8;
/// How often the core looks at the time.
const TICK: Duration = Duration::from_millis(50);
