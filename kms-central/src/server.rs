//! Central's requests by role: sites follow, fetch and lease; operators administer; everybody may ping.
//!
//! Invariant: role comes before verb, and what a role may not ask is denied whatever it says.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use keyhaven_service::{Caller, Handler};
use keyhaven_types::Role;
use keyhaven_wire::{ErrorCode, Reply, Request};
use tokio::{sync::Mutex, time::timeout};

use crate::{
    asks::Asks,
    sites::Sites,
    store::{AnyStore, StateStore as _},
    view::Shared,
    words::error_chain,
    work::TokenWork,
};

/// Central, as its connections see it.
pub(crate) struct Central {
    pub(crate) asks: Asks,
    pub(crate) sites: Sites,
    pub(crate) shared: Shared,
    pub(crate) health: Health,
}

impl Handler for Central {
    async fn call(&self, caller: Arc<Caller>, request: Request) -> Reply {
        let identity = &caller.identity;
        match (identity.role(), request) {
            (_, Request::Ping) => match self.health.is_well(self.asks.token_work()).await {
                true => Reply::Pong,
                false => Reply::Error(ErrorCode::Unavailable),
            },
            (Role::Signer, request) => {
                // Before it is authorised: an eviction from now on closes this connection.
                self.shared.note_connection(&caller);
                match request {
                    Request::Follow(follow) => self.sites.follow(identity, &follow).await,
                    Request::Fetch(fetch) => self.sites.fetch(identity, &fetch).await,
                    Request::Lease(lease) => self.sites.lease(identity, &lease).await,
                    _ => Reply::Error(ErrorCode::Denied),
                }
            }
            (Role::Admin, Request::Admin(ask)) => self.asks.answer(identity, *ask).await,
            _ => Reply::Error(ErrorCode::Denied),
        }
    }

    fn closed(&self, caller: &Caller) {
        self.shared.forget_connection(caller);
    }
}

/// Whether token and store answer; one answer stands for a moment, however many ask.
pub(crate) struct Health {
    store: Arc<AnyStore>,
    last: Mutex<Option<(Instant, bool)>>,
}

impl Health {
    pub(crate) fn new(store: Arc<AnyStore>) -> Self {
        Self {
            store,
            last: Mutex::new(None),
        }
    }

    async fn is_well(&self, work: &TokenWork) -> bool {
        let mut last = self.last.lock().await;
        if let Some((when, well)) = *last
            && when.elapsed() < ANSWER_STANDS
        {
            return well;
        }
        let well = timeout(PATIENCE, self.ask(work)).await.unwrap_or(false);
        *last = Some((Instant::now(), well));
        well
    }

    async fn ask(&self, work: &TokenWork) -> bool {
        if let Err(error) = self.store.get(keyhaven_kms::central::store_key::HEAD).await {
            tracing::warn!(error = error_chain(&error), "the store is not well");
            return false;
        }
        match work.on_token(|token, worker| token.health(worker)).await {
            Ok(()) => true,
            Err(why) => {
                tracing::warn!(error = why.why, "the token is not well");
                false
            }
        }
    }
}

const ANSWER_STANDS: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(4);
