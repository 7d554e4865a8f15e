//! Doing operations for callers: grant, state and lease first, then the key, then the operation, then the lease once more.
//!
//! Invariant: a result leaves only if the key could be used both before and after it was made.

use std::{
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use keyhaven_hsm::managed::ManagedKey;
use keyhaven_types::{Identity, KeyId, KeyState, Name, Operation, Purpose, Secret};
use keyhaven_wire::kms::{
    ClassRecord, Done, KeyRecord, KeyRef, Scope, Task, TaskError, TaskResult,
};

use super::{
    inner::Inner,
    lease::LeaseView,
    table::chain,
    version::Version,
    work::{self, Way},
};

/// A version that may be used now.
pub(super) struct Admitted {
    pub(super) key: Arc<KeyRecord>,
    pub(super) version: Arc<Version>,
    pub(super) bound: Duration,
}

/// Who wants to use a key.
#[derive(Clone, Copy)]
pub(super) enum User<'a> {
    /// Somebody who needs a grant for this.
    Caller(&'a Identity, Operation),
    /// The same, for what goes on after a key was had.
    Continuing(&'a Identity, Operation),
    /// The site itself, for its tickets.
    Site,
}

impl Inner {
    /// One operation, with its audit line.
    pub(super) async fn one(
        self: &Arc<Self>,
        caller: &Identity,
        task: &Task,
        passed_from: Option<&Name>,
    ) -> TaskResult {
        let operation = task.operation();
        let (used, outcome) = self.try_one(caller, task).await;
        let word = work::word(outcome.as_ref().map(drop).map_err(|error| *error));
        self.meter.ended(operation, word);
        let (key, version) = used.unzip();
        tracing::info!(
            target: "audit",
            event = "operation",
            caller = caller.as_str(),
            operation = operation.as_str(),
            key = key.map_or_else(|| named(task), |key: KeyId| key.to_string()),
            version,
            outcome = word,
            passed_from = passed_from.map(Name::as_str),
        );
        TaskResult {
            server: self.site.clone(),
            outcome,
        }
    }

    async fn try_one(
        self: &Arc<Self>,
        caller: &Identity,
        task: &Task,
    ) -> (Option<(KeyId, u32)>, Result<Done, TaskError>) {
        let Some(key) = task.key() else {
            return (None, self.random(caller, task).await);
        };
        let named = match task {
            Task::Verify { version, .. }
            | Task::Decrypt { version, .. }
            | Task::Unwrap { version, .. } => *version,
            _ => None,
        };
        let admitted = match self.admit_later(caller, key, task.operation(), named).await {
            Ok(admitted) => admitted,
            Err(error) => return (None, Err(error)),
        };
        let used = (admitted.key.id, admitted.version.manifest.version);
        let done = self.work(caller, task, &admitted).await;
        let user = User::Caller(caller, task.operation());
        let after = self.admit(user, &KeyRef::Id(used.0), Some(used.1));
        (Some(used), done.and_then(|done| after.map(|_| done)))
    }

    async fn work(
        self: &Arc<Self>,
        caller: &Identity,
        task: &Task,
        admitted: &Admitted,
    ) -> Result<Done, TaskError> {
        let operation = task.operation();
        let manifest = &admitted.version.manifest;
        let work = match work::way(task, manifest, self.keys.token().oaep_hash()) {
            Way::Done(done) => return done,
            Way::Token(work) => work,
        };
        let _at_work = self.meter.begin();
        let managed = self.managed(admitted, caller, operation).await?;
        let version = manifest.version;
        let began = Instant::now();
        let done = self
            .keys
            .workers()
            .run(began + TOKEN_TIMEOUT, move |worker| {
                work.run(worker, &managed, version)
            });
        let done = done.await.and_then(|done| done);
        if done.is_ok() {
            self.meter.served(operation, began.elapsed());
        }
        done.map_err(|error| {
            tracing::warn!(
                key = %manifest.id,
                version,
                operation = operation.as_str(),
                error = %chain(&error),
                "an operation failed"
            );
            work::refusal(&error)
        })
    }

    /// The key in the token; its wrap is brought here first if it is not.
    pub(super) async fn managed(
        self: &Arc<Self>,
        admitted: &Admitted,
        caller: &Identity,
        operation: Operation,
    ) -> Result<ManagedKey, TaskError> {
        let manifest = &admitted.version.manifest;
        let mut version = Arc::clone(&admitted.version);
        if version.wrap.is_empty() {
            let (id, number) = (manifest.id, manifest.version);
            self.obtain(id, number, caller, operation).await?;
            version = self
                .table
                .version(id, number)
                .filter(|version| !version.wrap.is_empty())
                .ok_or(TaskError::NotHere)?;
        }
        let got = self
            .keys
            .get(&version, Instant::now() + TOKEN_TIMEOUT)
            .await;
        got.map_err(|error| {
            tracing::error!(
                key = %manifest.id,
                version = manifest.version,
                error = %chain(&error),
                "a managed key cannot be unwrapped"
            );
            work::not_unwrapped(&error)
        })
    }

    async fn random(&self, caller: &Identity, task: &Task) -> Result<Done, TaskError> {
        let Task::Random { bytes } = task else {
            return Err(TaskError::Internal);
        };
        let may = || {
            let lease = self.lease();
            if !self
                .table
                .is_granted(caller, Scope::Server, Operation::Random)
            {
                return Err(TaskError::Denied);
            }
            self.is_fresh(lease, RANDOM_BOUND)
        };
        may()?;
        let _at_work = self.meter.begin();
        let token = self.keys.token().token().clone();
        let len = usize::from(*bytes);
        let began = Instant::now();
        let random = self
            .keys
            .workers()
            .run(began + TOKEN_TIMEOUT, move |worker| {
                worker
                    .token_random(&token, len)
                    .map(|bytes| Secret::copy_from(&bytes))
            });
        let random = random.await.and_then(|random| random);
        let bytes = random.map_err(|error| work::refusal(&error))?;
        self.meter.served(Operation::Random, began.elapsed());
        may()?;
        Ok(Done::Random { bytes })
    }

    /// As [`Inner::admit`]; who is refused gets a second answer after looking further.
    async fn admit_later(
        self: &Arc<Self>,
        caller: &Identity,
        key: &KeyRef,
        operation: Operation,
        version: Option<u32>,
    ) -> Result<Admitted, TaskError> {
        let user = User::Caller(caller, operation);
        match self.admit(user, key, version) {
            Err(TaskError::Denied) => {
                let wanted = (caller.clone(), key.clone(), operation);
                self.look_further(wanted).await?;
                self.admit(user, key, version)
            }
            admitted => admitted,
        }
    }

    /// Whether a version may be used now. The lease is taken first, so that the records that follow are as new as it says.
    pub(super) fn admit(
        &self,
        user: User<'_>,
        key: &KeyRef,
        version: Option<u32>,
    ) -> Result<Admitted, TaskError> {
        let lease = self.lease();
        let key = match user {
            User::Caller(caller, operation) | User::Continuing(caller, operation) => self
                .granted(caller, key, operation)
                .ok_or(TaskError::Denied)?,
            User::Site => self.table.key(key).ok_or(TaskError::Denied)?,
        };
        let serves = match user {
            User::Caller(_, operation) | User::Continuing(_, operation) => {
                key.purpose.operations().contains(&operation)
            }
            User::Site => key.purpose == Purpose::Tickets,
        };
        if !serves {
            return Err(TaskError::State);
        }
        let number = version.or(key.current).ok_or(TaskError::State)?;
        if !(1..=key.versions).contains(&number) {
            return Err(TaskError::Version);
        }
        let class = self.table.class(&key.class).ok_or(TaskError::NotHere)?;
        let version = self
            .table
            .version(key.id, number)
            .ok_or(TaskError::NotHere)?;
        check(user, &key, &class, &version)?;
        let bound = Duration::from_secs(class.bound_s.into());
        self.is_fresh(lease, bound)?;
        Ok(Admitted {
            key,
            version,
            bound,
        })
    }

    /// The first key of that name which an identity may use like this.
    pub(super) fn granted(
        &self,
        caller: &Identity,
        key: &KeyRef,
        operation: Operation,
    ) -> Option<Arc<KeyRecord>> {
        self.all_granted(caller, key, operation).into_iter().next()
    }

    pub(super) fn all_granted(
        &self,
        caller: &Identity,
        key: &KeyRef,
        operation: Operation,
    ) -> Vec<Arc<KeyRecord>> {
        let mut keys = self.table.keys(key);
        keys.retain(|key| self.table.is_granted(caller, Scope::Key(key.id), operation));
        keys
    }

    pub(super) fn lease(&self) -> LeaseView {
        *self.leases.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_fresh(&self, lease: LeaseView, bound: Duration) -> Result<(), TaskError> {
        if lease.is_good(bound, &self.now()) {
            Ok(())
        } else {
            Err(TaskError::Lease)
        }
    }
}

/// Whether a version belongs to its key and may be used like this in its state.
fn check(
    user: User<'_>,
    key: &KeyRecord,
    class: &ClassRecord,
    version: &Version,
) -> Result<(), TaskError> {
    if !version.belongs_to(key, class) {
        tracing::error!(
            target: "audit",
            event = "refused-record",
            key = %key.id,
            version = version.manifest.version,
            "a version does not fit its key and class"
        );
        return Err(TaskError::NotHere);
    }
    let state = version.manifest.state;
    let is_allowed = match user {
        User::Caller(_, operation) => operation.allowed_in(state),
        // A rotation ends nothing that goes on.
        User::Continuing(..) => matches!(state, KeyState::Active | KeyState::Deactivated),
        User::Site => state == KeyState::Active,
    };
    if is_allowed {
        Ok(())
    } else {
        Err(TaskError::State)
    }
}

/// How a caller named a key, for the audit log.
fn named(task: &Task) -> String {
    match task.key() {
        Some(KeyRef::Id(id)) => id.to_string(),
        Some(KeyRef::Name(name)) => name.to_string(),
        Some(KeyRef::ServerName(host)) => format!("host {host:?}"),
        None => String::new(),
    }
}

/// How long an operation may take with its wait for a token thread.
pub(super) const TOKEN_TIMEOUT: Duration = Duration::from_secs(10);
/// Random bytes belong to no class: a withdrawn grant holds within the default bound.
const RANDOM_BOUND: Duration = Duration::from_secs(60 * 60);
