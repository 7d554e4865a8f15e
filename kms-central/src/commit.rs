//! One task that writes: drafts in, revisions out.
//!
//! What comes at the same time goes into one transaction. Another central may win: then the mirror must hear of it first.
//! Invariant: a draft is answered with a revision only when the store has said so, or was seen to have it.

use std::{sync::Arc, time::Duration};

use keyhaven_kms::central::{Draft, Sealed, SignError, Transaction, TransactionError, store_key};
use keyhaven_service::shutdown::Shutdown;
use keyhaven_wire::kms::admin::{Refused, RefusedCode};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep},
};

use crate::{
    desk::{Desk, token_refused},
    store::{Committed, Guard, StateStore as _, StoreError, Txn},
};

/// A draft on its way.
pub(crate) struct Order {
    pub(crate) draft: Draft,
    pub(crate) reply: oneshot::Sender<Outcome>,
}

/// What became of a draft.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Written.
    At(u64),
    /// What it was planned on has changed.
    Changed,
    /// It was not written, or nobody knows.
    Refused(Refused),
}

/// Runs until the last sender is gone or the daemon stops.
pub(crate) async fn run(desk: Arc<Desk>, mut orders: mpsc::Receiver<Order>, shutdown: Shutdown) {
    let stopping = shutdown.cut_token();
    let mut waiting: Vec<Order> = Vec::new();
    loop {
        if waiting.is_empty() {
            let next = tokio::select! {
                next = orders.recv() => next,
                () = stopping.cancelled() => return,
            };
            match next {
                Some(order) => waiting.push(order),
                None => return,
            }
        }
        while waiting.len() < BATCH_MAX
            && let Ok(order) = orders.try_recv()
        {
            waiting.push(order);
        }
        let (transaction, mut taken, left) = gather(&desk, waiting);
        waiting = left;
        if taken.is_empty() {
            continue;
        }
        let outcome = write(&desk, transaction).await;
        for order in taken.drain(..) {
            let outcome = match &outcome {
                Written::At(revision) => Outcome::At(*revision),
                Written::Changed => Outcome::Changed,
                Written::Refused(refused) => Outcome::Refused(refused.clone()),
            };
            // Whoever asked may have gone.
            let _ = order.reply.send(outcome);
        }
    }
}

/// As many drafts as go together; those that do not hold any more are told at once.
fn gather(desk: &Desk, waiting: Vec<Order>) -> (Transaction, Vec<Order>, Vec<Order>) {
    let mut transaction = Transaction::default();
    let (mut taken, mut left) = (Vec::new(), Vec::new());
    for order in waiting {
        if !desk.read(|mirror| order.draft.holds(mirror)) {
            let _ = order.reply.send(Outcome::Changed);
            continue;
        }
        match transaction.add(order.draft.clone()) {
            Ok(()) => taken.push(order),
            Err(_) => left.push(order),
        }
    }
    (transaction, taken, left)
}

enum Written {
    At(u64),
    Changed,
    Refused(Refused),
}

async fn write(desk: &Desk, transaction: Transaction) -> Written {
    let deadline = Instant::now() + PATIENCE;
    loop {
        // The head in the store: it may be another central's by now.
        let stored = match desk.store.get(store_key::HEAD).await {
            Ok(stored) => stored,
            Err(error) => return Written::Refused(desk.store_refused(&error)),
        };
        let guard = stored
            .as_ref()
            .map_or(Guard::Absent, |head| Guard::At(head.modified));
        let caught_up = match &stored {
            None => desk.read(|mirror| mirror.head().is_none()),
            Some(head) => desk.has_head(&head.value),
        };
        if caught_up {
            let sealed = match desk.seal(&transaction).await {
                Ok(sealed) => sealed,
                Err(SealError::Changed) => return Written::Changed,
                Err(SealError::Refused(refused)) => return Written::Refused(refused),
            };
            match commit(desk, guard, &sealed).await {
                Ok(Some(revision)) => return Written::At(revision),
                // Another central was faster.
                Ok(None) => {}
                Err(refused) => return Written::Refused(refused),
            }
        }
        if Instant::now() > deadline {
            return Written::Refused(Refused {
                code: RefusedCode::Store,
                why: "other centrals write all the time, or this one does not hear what they write; try again".to_owned(),
            });
        }
        // The feed brings what others have written.
        sleep(CATCH_UP).await;
    }
}

async fn commit(desk: &Desk, guard: Guard, sealed: &Sealed) -> Result<Option<u64>, Refused> {
    let txn = Txn {
        guards: vec![(store_key::HEAD.to_vec(), guard)],
        puts: sealed.puts.clone(),
    };
    match desk.store.txn(txn).await {
        Ok(Committed::At(_)) => {}
        Ok(Committed::Conflict) => return Ok(None),
        Err(StoreError::Unknown { source }) => {
            tracing::warn!(error = %source, revision = sealed.revision, "a write may or may not be done: the store is asked");
            if !was_done(desk, sealed).await? {
                return Ok(None);
            }
        }
        Err(error) => return Err(desk.store_refused(&error)),
    }
    desk.take(
        sealed
            .puts
            .iter()
            .map(|(key, value)| (key.as_slice(), value.as_slice())),
    );
    Ok(Some(sealed.revision))
}

/// After a write whose outcome is not known: whether the log of heads has ours.
async fn was_done(desk: &Desk, sealed: &Sealed) -> Result<bool, Refused> {
    let ours = sealed.puts.last().map(|(_, value)| value.as_slice());
    for pause in [100, 300, 1000, 3000] {
        match desk.store.get(&store_key::past_head(sealed.revision)).await {
            Ok(found) => {
                return Ok(found.as_ref().map(|found| found.value.as_slice()) == ours);
            }
            Err(_) => sleep(Duration::from_millis(pause)).await,
        }
    }
    Err(Refused {
        code: RefusedCode::Unknown,
        why: "the store went away in the middle of the write: look what there is before you try again".to_owned(),
    })
}

pub(crate) enum SealError {
    Changed,
    Refused(Refused),
}

impl From<TransactionError> for SealError {
    fn from(error: TransactionError) -> Self {
        match error {
            TransactionError::Changed => Self::Changed,
            TransactionError::Encode => Self::Refused(too_large()),
        }
    }
}

impl From<SignError<keyhaven_hsm::Error>> for SealError {
    fn from(error: SignError<keyhaven_hsm::Error>) -> Self {
        Self::Refused(match error {
            SignError::Sign(error) => token_refused(&error),
            SignError::Encode => too_large(),
        })
    }
}

fn too_large() -> Refused {
    Refused {
        code: RefusedCode::Rule,
        why: "a record is too large".to_owned(),
    }
}

/// Orders that are looked at together.
const BATCH_MAX: usize = 128;
/// How long a transaction may lose against others.
const PATIENCE: Duration = Duration::from_secs(10);
const CATCH_UP: Duration = Duration::from_millis(10);
