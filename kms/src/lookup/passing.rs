//! Operations that a caller has signed: some done here, some passed on to peers, one answer with all results.
//!
//! Where each is done is decided in `plan`, whether the batch is its caller's in `proof`. Grants are looked at where an
//! operation runs. Invariant: what a peer passed on is done here or not at all.

use std::{
    collections::{BTreeMap, HashMap},
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use keyhaven_service::CallError;
use keyhaven_types::{Identity, Name, Operation, Role};
use keyhaven_wire::{
    Reply, Request,
    kms::{BatchBody, KeyRef, PassedOn, SignedBatch, Task, TaskError, TaskResult},
};
use tokio::task::JoinSet;

use super::{
    answer::{Candidate, Question},
    plan::{self, Place, STAYS_OF},
    proof::{Parties, Refusal, believe},
    shared::{Handle, lock, wall_ms},
};

/// How long a peer may take.
const PEER_TIMEOUT: Duration = Duration::from_secs(3);
/// And all of them that are tried in turn: a caller that waits 5 seconds still gets what is done here instead.
const PEERS_TIMEOUT: Duration = Duration::from_secs(4);
/// Peers that are tried in turn before what is left is done here, or refused here.
const PEERS_TRIED: usize = 2;

/// Does a batch that its caller lets us pass on.
pub(super) async fn anywhere(shared: Handle, caller: &Identity, batch: SignedBatch) -> Reply {
    let parties = Parties {
        server: shared.identity(),
        sender: Some(caller),
    };
    let believed = believe(
        &shared.parts.credentials,
        &shared.asked,
        wall_ms(),
        parties,
        &batch,
    );
    match believed {
        Ok(body) => Reply::Results(Spread::new(&shared, batch, body).run().await),
        Err(refusal) => refused(&shared, caller, &refusal),
    }
}

/// Does what a peer passes on.
pub(super) async fn passed(shared: Handle, peer: &Identity, passed: PassedOn) -> Reply {
    let site = shared.parts.local.directory().site_of(peer);
    let Some(site) = site.filter(|_| peer.role() == Role::Signer) else {
        return refused(&shared, peer, &Refusal::Stranger(peer.clone()));
    };
    let parties = Parties {
        server: peer,
        sender: None,
    };
    let believed = believe(
        &shared.parts.credentials,
        &shared.passed,
        wall_ms(),
        parties,
        &passed.batch,
    );
    let chosen = believed.and_then(|body| Ok((body.caller, choose(body.tasks, &passed.which)?)));
    match chosen {
        Ok((caller, tasks)) => {
            let count = tasks.len() as u64;
            shared.counted.taken_over.fetch_add(count, Relaxed);
            let from = Some(site.name.clone());
            Reply::Results(shared.parts.local.operate(caller, tasks, from).await)
        }
        Err(refusal) => refused(&shared, peer, &refusal),
    }
}

/// The operations that are meant, in their order.
fn choose(tasks: Vec<Task>, which: &[u16]) -> Result<Vec<Task>, Refusal> {
    if which.iter().any(|at| usize::from(*at) >= tasks.len()) {
        return Err(Refusal::Which);
    }
    let numbered = (0_u16..).zip(tasks);
    let meant = numbered.filter(|(at, _)| which.contains(at));
    Ok(meant.map(|(_, task)| task).collect())
}

fn refused(shared: &Handle, sender: &Identity, refusal: &Refusal) -> Reply {
    shared.counted.refused.fetch_add(1, Relaxed);
    let code = refusal.code();
    let why = chain(refusal);
    tracing::warn!(
        target: "audit",
        event = "batch-refused",
        sender = %sender,
        why,
        "a signed batch is refused: {code}"
    );
    Reply::Error(code)
}

/// A batch on its way to results.
struct Spread<'a> {
    shared: &'a Handle,
    batch: SignedBatch,
    caller: Identity,
    asked: Vec<Asked>,
    /// Peers that did not do what they were asked.
    excluded: Vec<Name>,
    begun: Instant,
}

/// One operation.
struct Asked {
    /// Taken when it is done here.
    task: Option<Task>,
    result: Option<TaskResult>,
}

/// Candidates that were found already for a kind of operation.
type Known = HashMap<(KeyRef, Option<u32>, Operation), Vec<Candidate>>;

/// What came of one part of the batch.
enum Part {
    Here(Vec<usize>, Vec<TaskResult>),
    At(Name, Vec<usize>, Result<Reply, CallError>),
}

impl<'a> Spread<'a> {
    fn new(shared: &'a Handle, batch: SignedBatch, body: BatchBody) -> Self {
        let asked = body.tasks.into_iter().map(|task| Asked {
            task: Some(task),
            result: None,
        });
        Self {
            shared,
            batch,
            caller: body.caller,
            asked: asked.collect(),
            excluded: Vec::new(),
            begun: Instant::now(),
        }
    }

    async fn run(mut self) -> Vec<TaskResult> {
        for round in 0..=PEERS_TRIED {
            let places = self.places(round == PEERS_TRIED);
            if places.is_empty() {
                break;
            }
            let mut parts = JoinSet::new();
            for (place, numbers) in places {
                self.begin(&mut parts, place, numbers);
            }
            while let Some(part) = parts.join_next().await {
                match part {
                    Ok(Part::Here(numbers, results)) => self.done_here(&numbers, results),
                    Ok(Part::At(peer, numbers, reply)) => self.done_at(&peer, &numbers, reply),
                    // It panicked, or the runtime ends: its operations are refused below.
                    Err(error) => tracing::error!(%error, "a part of a batch was lost"),
                }
            }
        }
        let site = &self.shared.site;
        let results = self.asked.into_iter().map(|asked| {
            asked.result.unwrap_or_else(|| TaskResult {
                server: site.clone(),
                outcome: Err(TaskError::Internal),
            })
        });
        results.collect()
    }

    /// Where what is not done yet goes next, by place.
    fn places(&self, is_last: bool) -> Vec<(Place, Vec<usize>)> {
        let mut here = Vec::new();
        let mut at: BTreeMap<Name, Vec<usize>> = BTreeMap::new();
        let mut known = HashMap::new();
        for (number, asked) in self.asked.iter().enumerate() {
            let Some(task) = asked.task.as_ref().filter(|_| asked.result.is_none()) else {
                continue;
            };
            let place = match task.key().filter(|_| !is_last) {
                Some(key) => self.place(task, key, &mut known),
                None => Place::Here,
            };
            match place {
                Place::Here => here.push(number),
                Place::At(peer) => at.entry(peer).or_default().push(number),
            }
        }
        let mut places: Vec<_> = at
            .into_iter()
            .map(|(peer, numbers)| (Place::At(peer), numbers))
            .collect();
        if !here.is_empty() {
            places.push((Place::Here, here));
        }
        places
    }

    /// Chooses for one operation. Of a batch, like operations have the same candidates.
    fn place(&self, task: &Task, key: &KeyRef, known: &mut Known) -> Place {
        let (version, operation) = (version(task), task.operation());
        let candidates = known
            .entry((key.clone(), version, operation))
            .or_insert_with(|| {
                self.shared.candidates(Question {
                    caller: &self.caller,
                    key,
                    version,
                    operation,
                })
            });
        let place = plan::place(candidates, &self.excluded, false);
        let can_here = candidates.iter().any(|found| found.is_self);
        if place == Place::Here || !can_here {
            return place;
        }
        let count = self.shared.counted.slower_here.fetch_add(1, Relaxed);
        plan::place(candidates, &self.excluded, count % STAYS_OF == STAYS_OF - 1)
    }

    fn begin(&mut self, parts: &mut JoinSet<Part>, place: Place, numbers: Vec<usize>) {
        match place {
            Place::Here => {
                let tasks = numbers.iter().filter_map(|at| self.asked[*at].task.take());
                let local = &self.shared.parts.local;
                let work = local.operate(self.caller.clone(), tasks.collect(), None);
                parts.spawn(async move { Part::Here(numbers, work.await) });
            }
            Place::At(peer) => {
                let client = self.shared.client(&peer);
                let left = PEERS_TIMEOUT.saturating_sub(self.begun.elapsed());
                let at_most = PEER_TIMEOUT.min(left);
                let which = numbers.iter().filter_map(|at| u16::try_from(*at).ok());
                let request = Request::OperatePassed(PassedOn {
                    batch: self.batch.clone(),
                    which: which.collect(),
                });
                parts.spawn(async move {
                    let reply = match client {
                        Some(client) => client.call(request, at_most).await,
                        None => Err(CallError::Unreachable),
                    };
                    Part::At(peer, numbers, reply)
                });
            }
        }
    }

    fn done_here(&mut self, numbers: &[usize], results: Vec<TaskResult>) {
        for (number, result) in numbers.iter().zip(results) {
            self.asked[*number].result = Some(result);
        }
    }

    fn done_at(&mut self, peer: &Name, numbers: &[usize], reply: Result<Reply, CallError>) {
        let results = match reply {
            Ok(Reply::Results(results)) if results.len() == numbers.len() => results,
            other => return self.not_done_at(peer, numbers, other.as_ref()),
        };
        for (number, result) in numbers.iter().zip(results) {
            let outcome = result.outcome;
            self.audit(peer, *number, word(&outcome));
            if outcome.as_ref().err().is_some_and(is_for_another) {
                self.shared.counted.passed_on_failed.fetch_add(1, Relaxed);
                if !self.excluded.contains(peer) {
                    self.excluded.push(peer.clone());
                }
                continue;
            }
            self.shared.counted.passed_on.fetch_add(1, Relaxed);
            // Which site it was is known here; the peer's own word on it is not needed.
            let server = peer.clone();
            self.asked[*number].result = Some(TaskResult { server, outcome });
        }
    }

    fn not_done_at(&mut self, peer: &Name, numbers: &[usize], reply: Result<&Reply, &CallError>) {
        let why = match reply {
            Ok(Reply::Error(code)) => code.to_string(),
            Ok(_) => "it answered something else".to_owned(),
            Err(error) => error.to_string(),
        };
        tracing::warn!(%peer, why, "a peer did not do what was passed on to it");
        // Only the connection's end is held against the peer: what a caller sends, and how long it takes, is the caller's.
        if matches!(reply, Err(CallError::Unreachable | CallError::Lost)) {
            lock(&self.shared.measured).failed(peer);
        }
        for number in numbers {
            self.audit(peer, *number, "unanswered".to_owned());
        }
        let count = numbers.len() as u64;
        self.shared
            .counted
            .passed_on_failed
            .fetch_add(count, Relaxed);
        self.excluded.push(peer.clone());
    }

    /// One line for each operation that left this server, whatever came of it.
    fn audit(&self, peer: &Name, number: usize, outcome: String) {
        let Some(task) = &self.asked[number].task else {
            return;
        };
        tracing::info!(
            target: "audit",
            event = "passed-on",
            caller = %self.caller,
            operation = %task.operation(),
            key = task.key().map(describe),
            to = %peer,
            outcome,
            "operation passed on"
        );
    }
}

/// Whether another server may do what this one did not.
fn is_for_another(error: &TaskError) -> bool {
    matches!(
        error,
        TaskError::Lease | TaskError::NotHere | TaskError::Busy | TaskError::Unavailable
    )
}

fn word<T>(outcome: &Result<T, TaskError>) -> String {
    match outcome {
        Ok(_) => "done".to_owned(),
        Err(error) => format!("{error:?}"),
    }
}

fn describe(key: &KeyRef) -> String {
    match key {
        KeyRef::Id(id) => id.to_string(),
        KeyRef::Name(name) => name.to_string(),
        KeyRef::ServerName(name) => name.escape_default().to_string(),
    }
}

/// The version that an operation names.
fn version(task: &Task) -> Option<u32> {
    match task {
        Task::Verify { version, .. }
        | Task::Decrypt { version, .. }
        | Task::Unwrap { version, .. } => *version,
        _ => None,
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text = format!("{text}: {source}");
        next = source.source();
    }
    text
}
