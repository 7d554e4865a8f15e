//! The one place that writes: requests that are ready are planned, numbered, signed and written together.
//!
//! Planning again is cheap, so each round plans on the mirror as it is then; another central that was faster only costs
//! a round. Invariant: nobody is told "committed" before the store has it for good, and nobody is told "refused" when it
//! may have been done.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use keyhaven_hsm::{Workers, managed::CentralToken};
use keyhaven_kms::central::{
    Draft, Numbered, Plan, Sealed, SignError, Step, Transaction, TransactionError, Work, WorkDone,
    store_key,
};
use keyhaven_service::shutdown::Shutdown;
use keyhaven_wire::kms::admin::{Answer, Refused, RefusedCode};
use tokio::{
    sync::{mpsc, oneshot},
    time::sleep,
};

use crate::{
    clock,
    store::{AnyStore, Committed, Guard, StateStore as _, StoreError, Txn},
    view::Shared,
    words::{error_chain, refused, refused_by_store, refused_by_token},
};

/// What became of a request.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Written; whether it has more to write.
    Written { answer: Answer, more: bool },
    /// There was nothing to write.
    Answer(Answer),
    /// The token must do something first, since what it did was for what is no more.
    Work(Work),
    /// Plan it from the beginning.
    Again,
}

/// Hands requests to the writer. Clones are the same.
#[derive(Clone)]
pub(crate) struct Committer(mpsc::Sender<Submission>);

struct Submission {
    plan: Plan,
    done: Option<WorkDone>,
    reply: oneshot::Sender<Result<Outcome, Refused>>,
    conflicts: u32,
}

/// What the writer works with.
pub(crate) struct CommitterParts {
    pub(crate) store: Arc<AnyStore>,
    pub(crate) shared: Shared,
    pub(crate) token: CentralToken,
    pub(crate) workers: Workers,
}

impl Committer {
    /// Starts the writer. It ends when the daemon is over and nobody can ask it any more.
    pub(crate) fn start(parts: CommitterParts, shutdown: &Shutdown) -> Self {
        let (sender, queue) = mpsc::channel(QUEUE_MAX);
        let cut = shutdown.cut_token();
        let writer = Writer { parts };
        tokio::spawn(async move {
            tokio::select! {
                () = writer.run(queue) => {}
                () = cut.cancelled() => {}
            }
        });
        Self(sender)
    }

    /// Writes what a request comes to.
    pub(crate) async fn submit(
        &self,
        plan: Plan,
        done: Option<WorkDone>,
    ) -> Result<Outcome, Refused> {
        let (reply, outcome) = oneshot::channel();
        let submission = Submission {
            plan,
            done,
            reply,
            conflicts: 0,
        };
        let stopped = || {
            refused(
                RefusedCode::Store,
                "central is stopping; nothing was written",
            )
        };
        self.0.send(submission).await.map_err(|_| stopped())?;
        let unknown = || refused(RefusedCode::Unknown, "central stopped while it wrote");
        outcome.await.map_err(|_| unknown())?
    }
}

struct Writer {
    parts: CommitterParts,
}

/// What the store made of a transaction.
enum Fate {
    Committed,
    Conflict,
    Failed(Refused),
}

impl Writer {
    async fn run(self, mut queue: mpsc::Receiver<Submission>) {
        let mut waiting: VecDeque<Submission> = VecDeque::new();
        loop {
            if waiting.is_empty() {
                match queue.recv().await {
                    Some(submission) => waiting.push_back(submission),
                    None => return,
                }
            }
            while waiting.len() < ROUND_MAX {
                match queue.try_recv() {
                    Ok(submission) => waiting.push_back(submission),
                    Err(_) => break,
                }
            }
            waiting = self.round(waiting).await;
        }
    }

    /// Plans what waits, writes what goes together, and gives back what is for the next round.
    async fn round(&self, waiting: VecDeque<Submission>) -> VecDeque<Submission> {
        let mut round = self.plan(waiting);
        if round.transaction.is_empty() {
            return round.later;
        }
        let written = match round.numbered {
            Some(numbered) => self.write(numbered, round.guard).await,
            None => Fate::Conflict,
        };
        match written {
            Fate::Committed => {
                // The mirror follows by the store's watch; the next round is planned on it.
                if !self.parts.shared.reaches(round.revision, CATCH_UP).await {
                    tracing::warn!(
                        revision = round.revision,
                        "the watch is behind what was written"
                    );
                }
                for (submission, draft) in round.taken {
                    let outcome = Outcome::Written {
                        answer: draft.committed(round.revision),
                        more: draft.more,
                    };
                    let _ = submission.reply.send(Ok(outcome));
                }
            }
            Fate::Conflict => {
                self.catch_up(round.revision, &round.taken).await;
                let again = round.taken.into_iter().rev();
                for (mut submission, _) in again {
                    submission.conflicts += 1;
                    if submission.conflicts > CONFLICTS_MAX {
                        let _ = submission.reply.send(Err(refused(
                            RefusedCode::Store,
                            "other centrals were faster again and again; nothing was written, ask again",
                        )));
                    } else {
                        round.later.push_front(submission);
                    }
                }
            }
            Fate::Failed(why) => {
                tracing::warn!(
                    revision = round.revision,
                    requests = round.taken.len(),
                    error = why.why,
                    "a transaction was not written"
                );
                for (submission, _) in round.taken {
                    let _ = submission.reply.send(Err(why.clone()));
                }
            }
        }
        round.later
    }

    fn plan(&self, waiting: VecDeque<Submission>) -> Round {
        let view = self.parts.shared.view();
        let mut round = Round {
            transaction: Transaction::default(),
            taken: Vec::new(),
            later: VecDeque::new(),
            numbered: None,
            guard: view.head_at.map_or(Guard::Absent, Guard::At),
            revision: view.mirror.head_or_none().revision + 1,
        };
        for submission in waiting {
            // Nobody waits for it any more, and nothing was written.
            if submission.reply.is_closed() {
                continue;
            }
            let step = match submission.done.clone() {
                None => submission.plan.begin(&view.mirror),
                Some(done) => submission.plan.go_on(&view.mirror, done),
            };
            let outcome = match step {
                Ok(Step::Write(draft)) => match round.transaction.add(draft.clone()) {
                    Ok(()) => {
                        round.taken.push((submission, draft));
                        continue;
                    }
                    Err(_) => {
                        round.later.push_back(submission);
                        continue;
                    }
                },
                Ok(Step::Answer(answer)) => Ok(Outcome::Answer(answer)),
                Ok(Step::Work(work)) => Ok(Outcome::Work(work)),
                Ok(Step::Again) => Ok(Outcome::Again),
                Err(why) => Err(why),
            };
            let _ = submission.reply.send(outcome);
        }
        if !round.transaction.is_empty() {
            match round.transaction.number(&view.mirror, clock::wall_ms()) {
                Ok(numbered) => round.numbered = Some(numbered),
                Err(TransactionError::Changed) => {}
                Err(error @ TransactionError::Encode) => {
                    tracing::error!(error = error_chain(&error), "a defect of this program");
                }
            }
        }
        round
    }

    async fn write(&self, numbered: Numbered, guard: Guard) -> Fate {
        let token = self.parts.token.clone();
        let deadline = Instant::now() + SIGN_TIMEOUT;
        let signed = self
            .parts
            .workers
            .run(deadline, move |worker| {
                numbered.sign(|text| token.sign_record(worker, text))
            })
            .await;
        let sealed = match signed {
            Ok(Ok(sealed)) => sealed,
            Ok(Err(SignError::Sign(error))) | Err(error) => {
                return Fate::Failed(refused_by_token(&error));
            }
            Ok(Err(error @ SignError::Encode)) => {
                return Fate::Failed(refused(RefusedCode::Token, error.to_string()));
            }
        };
        self.store(&sealed, guard).await
    }

    /// Writes, and finds out what happened when the store does not say. The same transaction is tried again: if an
    /// earlier try comes through after all, the later one meets its guard.
    async fn store(&self, sealed: &Sealed, guard: Guard) -> Fate {
        let txn = Txn {
            guards: vec![(store_key::HEAD.to_vec(), guard)],
            puts: sealed.puts.clone(),
        };
        let mut is_unknown = false;
        for attempt in 0..ATTEMPTS {
            match self.parts.store.txn(txn.clone()).await {
                Ok(Committed::At(_)) => return Fate::Committed,
                Ok(Committed::Conflict) if !is_unknown => return Fate::Conflict,
                Ok(Committed::Conflict) => match self.landed(sealed).await {
                    Ok(true) => return Fate::Committed,
                    Ok(false) => return Fate::Conflict,
                    Err(error) => tracing::warn!(error = error_chain(&error), "cannot read back"),
                },
                Err(error @ StoreError::Unknown { .. }) => {
                    is_unknown = true;
                    tracing::warn!(
                        error = error_chain(&error),
                        attempt,
                        "a write's fate is not known"
                    );
                    if matches!(self.landed(sealed).await, Ok(true)) {
                        return Fate::Committed;
                    }
                }
                Err(error) if !is_unknown => return Fate::Failed(refused_by_store(&error)),
                Err(error) => {
                    tracing::warn!(error = error_chain(&error), attempt, "a write failed")
                }
            }
            sleep(PAUSE * (attempt + 1)).await;
        }
        Fate::Failed(refused(
            RefusedCode::Unknown,
            "the store did not say whether it was written; look what there is before you ask again",
        ))
    }

    async fn landed(&self, sealed: &Sealed) -> Result<bool, StoreError> {
        let key = store_key::past_head(sealed.revision);
        let found = self.parts.store.get(&key).await?;
        let ours = sealed.puts.iter().find(|(put, _)| *put == key);
        Ok(found.is_some_and(|found| ours.is_some_and(|(_, value)| *value == found.value)))
    }

    /// Waits until the mirror has what was faster.
    async fn catch_up(&self, revision: u64, taken: &[(Submission, Draft)]) {
        let shared = &self.parts.shared;
        if !shared.reaches(revision, CATCH_UP).await {
            // The store is not where the mirror is: it was restored, or the head was edited.
            shared.ask_reload();
            sleep(CATCH_UP / 4).await;
        }
        let conflicts = taken.iter().map(|(submission, _)| submission.conflicts);
        let conflicts = conflicts.max().unwrap_or(0);
        if conflicts > 0 {
            sleep(Duration::from_millis(u64::from(crate::random_byte()) % 16) * conflicts).await;
        }
    }
}

struct Round {
    transaction: Transaction,
    taken: Vec<(Submission, Draft)>,
    later: VecDeque<Submission>,
    /// Nothing when what was planned on has changed already.
    numbered: Option<Numbered>,
    guard: Guard,
    revision: u64,
}

/// Requests that wait for the writer; more wait for a place.
const QUEUE_MAX: usize = 1024;
/// Requests that are planned together.
const ROUND_MAX: usize = 128;
/// How often a request is planned anew because another central was faster.
const CONFLICTS_MAX: u32 = 30;
/// How often a write whose fate is not known is tried.
const ATTEMPTS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(200);
/// How long the watch may take to bring what was written.
const CATCH_UP: Duration = Duration::from_secs(5);
/// How long the signatures of one transaction may take.
const SIGN_TIMEOUT: Duration = Duration::from_secs(30);
