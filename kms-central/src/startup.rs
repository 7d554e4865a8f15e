//! From a valid configuration to an open token and a store that was read.
//!
//! Everything about the token blocks. Invariant: the PIN is tried once.

use std::{sync::Arc, time::Duration};

use keyhaven_hsm::{Module, Token, managed::CentralToken};
use keyhaven_kms::records::CentralKey;
use keyhaven_service::shutdown::Shutdown;
use tokio::time::sleep;

use crate::{
    config::{StoreConfig, TokenConfig},
    follow,
    store::{AnyStore, EtcdStore, RedbStore, StoreError},
    view::{NOT_WHOLE, View},
    words::error_chain,
};

/// What keeps central from starting.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct StartError {
    what: &'static str,
    source: Box<dyn std::error::Error + Send + Sync>,
}

fn failed<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
    what: &'static str,
) -> impl FnOnce(E) -> StartError {
    move |source| StartError {
        what,
        source: source.into(),
    }
}

/// Opens central's token, and finds the keys that the ceremony has made.
pub(crate) fn open_token(config: &TokenConfig) -> Result<CentralToken, StartError> {
    let module = Module::load_with(config.module.as_deref(), config.init_args.as_deref())
        .map_err(failed("the PKCS#11 module does not load"))?;
    let pin = config
        .pin_source
        .read(&config.base, "central")
        .map_err(failed("the token's PIN cannot be read"))?;
    let token =
        Token::open(&module, &config.uri, pin).map_err(failed("the token cannot be opened"))?;
    let central = CentralToken::open(&token).map_err(failed("the token cannot be central's"))?;
    tracing::info!(
        label = token.info().label,
        model = token.info().model,
        module = %module.path().display(),
        key_encryption_keys = central.keks().len(),
        "token is open and proven"
    );
    Ok(central)
}

/// Opens the store.
pub(crate) async fn open_store(config: &StoreConfig) -> Result<AnyStore, StartError> {
    let opened = match config {
        StoreConfig::Redb { path, cache_bytes } => {
            RedbStore::open(path, *cache_bytes).map(AnyStore::Redb)
        }
        StoreConfig::Etcd(etcd) => EtcdStore::connect(etcd)
            .await
            .map(|store| AnyStore::Etcd(Box::new(store))),
    };
    opened.map_err(failed("the store cannot be opened"))
}

/// Reads the store. One that is away is waited for when the daemon starts: after a power cut it may need longer.
pub(crate) async fn read_store(
    store: &Arc<AnyStore>,
    key: &CentralKey,
    patient: Option<&Shutdown>,
) -> Result<(View, u64), StartError> {
    loop {
        match follow::load(store, key).await {
            Ok(loaded) => return Ok(loaded),
            Err(error @ StoreError::Unavailable { .. })
                if patient.is_some_and(|shutdown| !shutdown.is_stopping()) =>
            {
                tracing::warn!(error = error_chain(&error), "waiting for the store");
                sleep(PAUSE).await;
            }
            Err(error) => return Err(failed("the store cannot be read")(error)),
        }
    }
}

/// A store that is not what central has signed is served only when an operator says so: who was thrown out may be back in
/// it.
pub(crate) fn judge_store(view: &View) -> Result<(), StartError> {
    if view.mirror.is_whole() {
        return Ok(());
    }
    let mut found: Vec<&str> = view.mirror.refused().take(FOUND_TOLD).collect();
    if found.is_empty() {
        found.push("each record by itself is central's own");
    }
    Err(StartError {
        what: NOT_WHOLE,
        source: format!(
            "{}; restore a backup of the whole store, or let a central that still runs put it right. To take it as it is: \
             start with --accept-store, compare sites, grants and states with the audit log, and run `signer-admin kms era \
             bump`",
            found.join("; ")
        )
        .into(),
    })
}

/// The key that records are judged by.
pub(crate) fn central_key(token: &CentralToken) -> Result<CentralKey, StartError> {
    CentralKey::from_spki(token.signing_spki())
        .map_err(failed("the key that signs records cannot be used"))
}

const PAUSE: Duration = Duration::from_secs(1);
/// How many bad records an error names.
const FOUND_TOLD: usize = 5;
