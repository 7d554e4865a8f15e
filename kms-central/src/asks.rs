//! What operators ask: authorised, done step by step, audited.
//!
//! The rules are in `kms`, writing in `commit`, the token's part in `work`. Invariant: a request that changes something
//! runs to its end even when the operator's connection does not last.

use std::sync::Arc;

use keyhaven_kms::central::{Plan, Step, WorkDone};
use keyhaven_service::shutdown::Shutdown;
use keyhaven_types::{Identity, KeyId, Purpose};
use keyhaven_wire::{
    ErrorCode, FRAME_BYTES_MAX, Reply,
    kms::admin::{Answer, Ask, Refused, RefusedCode, Status},
};

use crate::{
    audit, clock,
    commit::{Committer, Outcome},
    config::Admins,
    store::{AnyStore, StateStore as _},
    view::Shared,
    words::refused,
    work::TokenWork,
};

/// Answers operators. Clones are the same.
#[derive(Clone)]
pub(crate) struct Asks(Arc<AsksParts>);

/// What that takes.
pub(crate) struct AsksParts {
    pub(crate) admins: Admins,
    pub(crate) shared: Shared,
    pub(crate) store: Arc<AnyStore>,
    pub(crate) work: TokenWork,
    pub(crate) committer: Committer,
    pub(crate) shutdown: Shutdown,
    pub(crate) started: std::time::Instant,
}

impl Asks {
    pub(crate) fn new(parts: AsksParts) -> Self {
        Self(Arc::new(parts))
    }

    /// The token, for those who ask whether it is well.
    pub(crate) fn token_work(&self) -> &TokenWork {
        &self.0.work
    }

    /// One request of an operator.
    pub(crate) async fn answer(&self, caller: &Identity, ask: Ask) -> Reply {
        let admins = &self.0.admins;
        let is_allowed = match audit::changes(&ask) {
            true => admins.may_write(caller),
            false => admins.may_read(caller),
        };
        if !is_allowed {
            audit::admin(caller, &ask, None, Err("denied"));
            return Reply::Error(ErrorCode::Denied);
        }
        let asks = self.clone();
        let who = caller.clone();
        // In a task of its own: what was begun is not given up with the connection.
        let task = self.0.shutdown.spawn(async move {
            let answer = asks.work_off(&ask).await;
            let answer = fitting(answer.unwrap_or_else(Answer::Refused));
            audit::answered(&who, &ask, &answer);
            answer
        });
        match task.await {
            Ok(answer) => Reply::Admin(Box::new(answer)),
            Err(_) => Reply::Error(ErrorCode::Internal),
        }
    }

    async fn work_off(&self, ask: &Ask) -> Result<Answer, Refused> {
        match ask {
            Ask::Status => return Ok(self.status().await),
            Ask::Enforced { revision } => return self.enforced(*revision),
            _ => {}
        }
        let plan = Plan::new(ask.clone(), KeyId(crate::random_id()), clock::wall_ms());
        let mut progress = Progress::default();
        let mut done: Option<WorkDone> = None;
        loop {
            let step = {
                let view = self.0.shared.view();
                match done.clone() {
                    None => plan.begin(&view.mirror)?,
                    Some(done) => plan.go_on(&view.mirror, done)?,
                }
            };
            let outcome = match step {
                Step::Answer(answer) => Outcome::Answer(answer),
                Step::Work(work) => Outcome::Work(work),
                Step::Again => Outcome::Again,
                Step::Write(_) => {
                    let submitted = self.0.committer.submit(plan.clone(), done.take());
                    submitted.await?
                }
            };
            match outcome {
                Outcome::Answer(answer) => return Ok(progress.join(answer)),
                Outcome::Written {
                    answer,
                    more: false,
                } => {
                    if !matches!(ask, Ask::EraBump) {
                        progress.warnings.extend(self.0.shared.splits());
                    }
                    return Ok(progress.join(answer));
                }
                Outcome::Written { answer, more: true } => {
                    progress.add(answer);
                    done = None;
                }
                Outcome::Work(work) => {
                    progress.count()?;
                    done = Some(self.0.work.run(work).await?);
                }
                Outcome::Again => {
                    progress.count()?;
                    done = None;
                }
            }
        }
    }

    async fn status(&self) -> Answer {
        let pool = match self.0.work.pool().await {
            Ok(WorkDone::Pool(pool)) => Ok(pool),
            Ok(_) => Ok(Vec::new()),
            Err(why) => Err(why.why),
        };
        let store = self.0.store.describe();
        let shared = &self.0.shared;
        let view = shared.view();
        let mirror = &view.mirror;
        let mut warnings = shared.warnings(mirror);
        let pool = pool.unwrap_or_else(|why| {
            warnings.push(format!("the token is away: {why}"));
            self.0.work.known_pool()
        });
        let free = mirror.free_count(&pool);
        let empty = free
            .iter()
            .filter(|(purpose, left)| *left == 0 && mirror.has_class_for(*purpose))
            .map(|(purpose, _)| *purpose);
        let empty: Vec<Purpose> = empty.collect();
        for purpose in empty {
            warnings.push(format!(
                "the pool has no key-encryption key for {purpose} left: before a class of that purpose can be made or \
                 rotated, `signer-admin kms ceremony pool --purpose {purpose}`"
            ));
        }
        for (site, class) in mirror.left_behind() {
            warnings.push(format!(
                "site `{site}` lacks key-encryption keys that are in use in class `{class}`, and cannot use what is under them: \
                 hold a ceremony for it, then `signer-admin kms site add --from …`"
            ));
        }
        let sites = mirror.lags(&shared.acks(), clock::ms(self.0.started.elapsed()));
        Answer::Status(Box::new(Status {
            head: mirror.head_or_none(),
            store,
            keys: mirror.key_count() as u64,
            classes: u32::try_from(mirror.classes().count()).unwrap_or(u32::MAX),
            grants: mirror.grants().count() as u64,
            sites,
            pool: free,
            signer: mirror.central().fingerprint(),
            free_keks: mirror.free(&pool),
            warnings,
        }))
    }

    fn enforced(&self, revision: u64) -> Result<Answer, Refused> {
        let shared = &self.0.shared;
        let view = shared.view();
        let head = view.mirror.head_or_none().revision;
        if revision == 0 || revision > head {
            return Err(refused(
                RefusedCode::NotFound,
                format!("there is no revision {revision} yet; the latest is {head}"),
            ));
        }
        let age_ms = |revision| shared.age_ms(&view.mirror, revision);
        Ok(view.mirror.enforced(&shared.acks(), revision, age_ms))
    }
}

/// What was written of a request that takes more than one transaction.
#[derive(Default)]
struct Progress {
    key: Option<(KeyId, u32)>,
    warnings: Vec<String>,
    /// Pieces of work without anything written in between.
    idle: u32,
}

impl Progress {
    fn add(&mut self, answer: Answer) {
        self.idle = 0;
        if let Answer::Committed { key, warnings, .. } = answer {
            self.key = self.key.or(key);
            for warning in warnings {
                if !self.warnings.contains(&warning) {
                    self.warnings.push(warning);
                }
            }
        }
    }

    /// Bounds how often a request is begun again for nothing.
    fn count(&mut self) -> Result<(), Refused> {
        self.idle += 1;
        if self.idle > IDLE_MAX {
            return Err(refused(
                RefusedCode::Store,
                "what it is about changes all the time; ask again later",
            ));
        }
        Ok(())
    }

    fn join(mut self, answer: Answer) -> Answer {
        let Answer::Committed { revision, .. } = answer else {
            return answer;
        };
        self.add(answer);
        Answer::Committed {
            revision,
            key: self.key,
            warnings: self.warnings,
        }
    }
}

/// What a frame cannot carry is said.
fn fitting(answer: Answer) -> Answer {
    let bytes = postcard::to_stdvec(&answer).map_or(usize::MAX, |bytes| bytes.len());
    if bytes <= FRAME_BYTES_MAX - FRAME_ROOM {
        return answer;
    }
    Answer::Refused(refused(
        RefusedCode::Rule,
        format!(
            "the answer has {bytes} bytes, more than one message can carry; ask for a part of it"
        ),
    ))
}

/// Pieces of work for nothing after which a request is given up.
const IDLE_MAX: u32 = 20;
/// What a frame has beside the answer.
const FRAME_ROOM: usize = 1024;
