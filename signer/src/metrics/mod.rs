//! Metrics for Prometheus: what the signer counted, and how its tokens are.
//!
//! The text is `text`'s, the endpoint `http`'s. Invariant: asking costs a token one cheap call at most, however many
//! ask, and shows no secret and no client.

mod http;
mod site;
mod text;

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use keyhaven_hsm::{Error, Worker, Workers};
use tokio::sync::Mutex;

use crate::{
    counters::Counters,
    kms::Kms,
    policy::{Policy, ServedToken, Shared},
};

pub(crate) use http::Endpoint;

/// Where metrics come from.
pub(crate) struct Metrics {
    counters: Arc<Counters>,
    policy: Shared,
    kms: Option<Arc<Kms>>,
    workers: Workers,
    /// When the tokens were asked, and which of them answered.
    asked: Mutex<Asked>,
}

#[derive(Default)]
struct Asked {
    when: Option<Instant>,
    /// What was asked about.
    policy: Weak<Policy>,
    states: Vec<TokenState>,
    /// Questions that may still be with their tokens, by the tokens' names.
    open: HashMap<String, Weak<()>>,
}

/// A token, as metrics show it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct TokenState {
    name: String,
    label: String,
    is_up: bool,
}

impl Metrics {
    pub(crate) fn new(
        counters: Arc<Counters>,
        policy: Shared,
        kms: Option<Arc<Kms>>,
        workers: Workers,
    ) -> Self {
        Self {
            counters,
            policy,
            kms,
            workers,
            asked: Mutex::default(),
        }
    }

    /// All of them, in Prometheus' text format 0.0.4.
    pub(crate) async fn text(&self) -> String {
        let policy = self.policy.current();
        let states = self.states(&policy).await;
        let kms = self.kms.as_ref().map(|kms| kms.facts());
        text::of(&self.counters, &policy, &states, kms.as_ref())
    }

    async fn states(&self, policy: &Arc<Policy>) -> Vec<TokenState> {
        let mut asked = self.asked.lock().await;
        let this = Arc::downgrade(policy);
        if Weak::ptr_eq(&asked.policy, &this)
            && asked
                .when
                .is_some_and(|when| when.elapsed() < ANSWER_STANDS)
        {
            return asked.states.clone();
        }
        let mut states = Vec::new();
        for served in policy.tokens() {
            states.push(TokenState {
                name: served.name.clone(),
                label: served.token.info().label.clone(),
                is_up: self.ask(served, &mut asked.open).await,
            });
        }
        asked.when = Some(Instant::now());
        asked.policy = this;
        asked.states.clone_from(&states);
        states
    }

    /// A token that has not answered the last question gets no other one: each would hold a thread.
    async fn ask(&self, served: &ServedToken, open: &mut HashMap<String, Weak<()>>) -> bool {
        if open
            .get(&served.name)
            .is_some_and(|question| question.strong_count() > 0)
        {
            return false;
        }
        let question = Arc::new(());
        open.insert(served.name.clone(), Arc::downgrade(&question));
        let token = served.token.clone();
        let job = move |_: &Worker| {
            let _question = question;
            token.is_alive()
        };
        let alive = self.workers.run(Instant::now() + PATIENCE, job).await;
        // A full queue is load, not illness.
        matches!(alive, Ok(true) | Err(Error::Busy))
    }
}

const ANSWER_STANDS: Duration = Duration::from_secs(2);
/// How long a token may take to answer.
const PATIENCE: Duration = Duration::from_secs(1);
