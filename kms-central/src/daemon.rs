//! Central's life: open, load, serve, stop.

use std::{path::Path, sync::Arc, time::Duration};

use keyhaven_hsm::{Module, Token, Workers, managed::CentralToken};
use keyhaven_service::{
    Listener, ListenerConfig, ServeLimits,
    config::ConfigError,
    shutdown::{self, Ended, Shutdown},
    telemetry,
};
use keyhaven_types::Role;

use crate::{
    config::{Config, StoreConfig, TokenConfig},
    desk::{Desk, DeskParts},
    feed,
    serve::Central,
    store::{AnyStore, EtcdStore, RedbStore},
};

/// Why central did not run, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The configuration has problems.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The token or the store is not usable.
    #[error("{what}")]
    Start {
        /// What was being done, and what to look at.
        what: &'static str,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Anything at run time.
    #[error("{what}")]
    Run {
        /// What was being done.
        what: &'static str,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Checks the file and everything that it names, tries the PIN once, and serves nobody. Gives the warnings.
///
/// # Errors
/// [`DaemonError`].
pub fn check(path: &Path) -> Result<Vec<String>, DaemonError> {
    let config = Config::read(path)?;
    open_token(&config.token)?;
    let runtime = runtime()?;
    let store = runtime.block_on(open_store(&config.store))?;
    runtime
        .block_on(feed::try_read(&store))
        .map_err(start("the store cannot be read"))?;
    Ok(config.warnings)
}

/// Runs until a stop signal, and says which way it ended.
///
/// # Errors
/// [`DaemonError`].
pub fn run(path: &Path) -> Result<Ended, DaemonError> {
    let config = Config::read(path)?;
    telemetry::init(&config.log).map_err(failed("cannot start logging"))?;
    for warning in config.warnings.iter().chain(&shutdown::harden()) {
        tracing::warn!("{warning}");
    }
    shutdown::raise_file_limit();
    tracing::info!(version = env!("CARGO_PKG_VERSION"), config = %path.display(), "kms-central starts");
    let token = open_token(&config.token)?;
    runtime()?.block_on(serve(config, token))
}

async fn serve(config: Config, token: CentralToken) -> Result<Ended, DaemonError> {
    let shutdown = Shutdown::new();
    shutdown
        .listen()
        .map_err(failed("cannot listen for stop signals"))?;
    let store = Arc::new(open_store(&config.store).await?);
    let mut listener = ListenerConfig::new(
        config.listen,
        config.credentials,
        vec![Role::Admin, Role::Signer],
    );
    listener.connections_max = config.connections_max;
    let listener = Listener::bind(listener)
        .await
        .map_err(failed("cannot listen"))?;
    let workers = Workers::start(config.threads, config.queue_max)
        .map_err(failed("cannot start the token threads"))?;
    let desk = Desk::start(DeskParts {
        store,
        token,
        workers: workers.clone(),
        shutdown: shutdown.clone(),
    })
    .map_err(start("central's key cannot be used"))?;
    desk.loaded(&shutdown).await;
    tracing::info!(
        listening = %listener.local_addr(),
        store = desk.store(),
        signer = desk.fingerprint(),
        revision = desk.revision(),
        "kms-central is ready"
    );
    let central = Arc::new(Central::new(desk, config.admins));
    let limits = ServeLimits {
        in_flight: IN_FLIGHT,
        handshakes: 1,
        ..ServeLimits::default()
    };
    listener.serve(central, limits, &shutdown).await;
    let ended = shutdown.finish(config.shutdown_grace).await;
    tokio::select! {
        () = workers.shutdown(config.shutdown_grace) => {}
        () = shutdown.at_once() => workers.shutdown(AT_ONCE).await,
    }
    ended.log();
    Ok(ended)
}

fn open_token(config: &TokenConfig) -> Result<CentralToken, DaemonError> {
    let module = Module::load_with(config.module.as_deref(), config.init_args.as_deref())
        .map_err(start("the PKCS#11 module does not load"))?;
    let pin = config
        .pin_source
        .read(&config.base, "central")
        .map_err(start("the PIN cannot be read"))?;
    let token =
        Token::open(&module, &config.uri, pin).map_err(start("the token cannot be opened"))?;
    CentralToken::open(&token).map_err(start(
        "the token is not one for central: hold the ceremony first (`signer-admin kms ceremony init`), and see docs/kms.md \
         for modules that can be central",
    ))
}

async fn open_store(config: &StoreConfig) -> Result<AnyStore, DaemonError> {
    match config {
        StoreConfig::Redb { path, cache_bytes } => RedbStore::open(path, *cache_bytes)
            .map(AnyStore::Redb)
            .map_err(start("the store cannot be opened")),
        StoreConfig::Etcd(etcd) => EtcdStore::connect(etcd)
            .await
            .map(|store| AnyStore::Etcd(Box::new(store)))
            .map_err(start("the store cannot be opened")),
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, DaemonError> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(SERVICE_THREADS)
        .enable_all()
        .build()
        .map_err(failed("cannot start the runtime"))
}

fn start<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
    what: &'static str,
) -> impl FnOnce(E) -> DaemonError {
    move |source| DaemonError::Start {
        what,
        source: source.into(),
    }
}

fn failed<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
    what: &'static str,
) -> impl FnOnce(E) -> DaemonError {
    move |source| DaemonError::Run {
        what,
        source: source.into(),
    }
}

/// Threads of the service's own: what takes time runs on the token threads or waits for the store.
const SERVICE_THREADS: usize = 2;
/// Requests that a connection may have at work: an operator's import runs many beside each other.
const IN_FLIGHT: usize = 128;
/// How long the token threads may take to end at a second signal.
const AT_ONCE: Duration = Duration::from_millis(100);
