//! Central's life: open, read, serve, stop.
//!
//! Reads as the story of the process; each chapter lives in a file of its own.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use keyhaven_hsm::Workers;
use keyhaven_service::{
    Listener, ListenerConfig, ServeLimits,
    config::ConfigError,
    shutdown::{self, Ended, Shutdown},
    telemetry,
};
use keyhaven_types::Role;

use crate::{
    asks::{Asks, AsksParts},
    commit::{Committer, CommitterParts},
    config::Config,
    follow,
    server::{Central, Health},
    sites::Sites,
    startup::{self, StartError},
    view::{Alarm, Shared},
    work::TokenWork,
};

/// Why central did not run, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The configuration has problems.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Token or store are not usable.
    #[error(transparent)]
    Start(#[from] StartError),
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

/// Checks the file and everything that it names: opens the token, reads the whole store, and serves nobody. Gives the
/// warnings. A store that is not whole is an error unless it is to be taken as it is.
///
/// # Errors
/// What keeps central from starting.
pub fn check(path: &Path, accept_store: bool) -> Result<Vec<String>, DaemonError> {
    let config = Config::read(path)?;
    let token = startup::open_token(&config.token)?;
    let key = startup::central_key(&token)?;
    let (view, _) = runtime()?.block_on(async {
        let store = Arc::new(startup::open_store(&config.store).await?);
        startup::read_store(&store, &key, None).await
    })?;
    let mut warnings = config.warnings;
    match startup::judge_store(&view) {
        Err(error) if !accept_store => return Err(error.into()),
        judged => warnings.extend(judged.err().map(|error| error.to_string())),
    }
    warnings.extend(
        view.mirror
            .refused()
            .map(|what| format!("the store holds what central did not write: {what}")),
    );
    Ok(warnings)
}

/// Runs until a stop signal, and says which way it ended. A store that is not whole is served only when it is to be taken
/// as it is.
///
/// # Errors
/// What keeps central from serving.
pub fn run(path: &Path, accept_store: bool) -> Result<Ended, DaemonError> {
    let config = Config::read(path)?;
    telemetry::init(&config.log).map_err(failed("cannot start logging"))?;
    for warning in config.warnings.iter().chain(&shutdown::harden()) {
        tracing::warn!("{warning}");
    }
    shutdown::raise_file_limit();
    tracing::info!(version = env!("CARGO_PKG_VERSION"), config = %path.display(), "kms-central starts");
    runtime()?.block_on(serve(config, accept_store))
}

fn runtime() -> Result<tokio::runtime::Runtime, DaemonError> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(SERVICE_THREADS)
        .enable_all()
        .build()
        .map_err(failed("cannot start the runtime"))
}

async fn serve(config: Config, accept_store: bool) -> Result<Ended, DaemonError> {
    let shutdown = Shutdown::new();
    shutdown
        .listen()
        .map_err(failed("cannot listen for stop signals"))?;
    let started = Instant::now();
    let token = startup::open_token(&config.token)?;
    let key = startup::central_key(&token)?;
    let store = Arc::new(startup::open_store(&config.store).await?);
    let (view, loaded_at) = startup::read_store(&store, &key, Some(&shutdown)).await?;
    let judged = startup::judge_store(&view);
    let accepted = match judged {
        Err(error) if !accept_store => return Err(error.into()),
        judged => judged.err(),
    };
    let mut listener = ListenerConfig::new(
        config.listen,
        config.credentials,
        vec![Role::Signer, Role::Admin],
    );
    listener.connections_max = config.connections_max;
    let listener = Listener::bind(listener)
        .await
        .map_err(failed("cannot listen for sites and operators"))?;
    // The last thing that can fail: a module must not be taken apart under a thread that works in it.
    let workers = Workers::start(config.threads, config.queue_max)
        .map_err(failed("cannot start the token threads"))?;

    let shared = Shared::new(view);
    if let Some(error) = accepted {
        tracing::error!(target: "audit", event = "store-accepted", "{error}");
        shared.raise(
            Alarm::NotWhole,
            format!("{error}; it was accepted at the start: compare what it holds, then run `signer-admin kms era bump`"),
        );
    }
    tokio::spawn(follow::run(
        Arc::clone(&store),
        shared.clone(),
        loaded_at,
        shutdown.clone(),
    ));
    let committer = Committer::start(
        CommitterParts {
            store: Arc::clone(&store),
            shared: shared.clone(),
            token: token.clone(),
            workers: workers.clone(),
        },
        &shutdown,
    );
    let central = Central {
        asks: Asks::new(AsksParts {
            admins: config.admins,
            shared: shared.clone(),
            store: Arc::clone(&store),
            work: TokenWork::new(token, workers.clone()),
            committer,
            shutdown: shutdown.clone(),
            started,
        }),
        sites: Sites::new(
            shared.clone(),
            Arc::clone(&store),
            started,
            shutdown.token(),
        ),
        shared: shared.clone(),
        health: Health::new(Arc::clone(&store)),
    };
    let head = shared.view().mirror.head_or_none();
    tracing::info!(
        listening = %listener.local_addr(),
        revision = head.revision,
        era = head.era,
        keys = shared.view().mirror.key_count(),
        "kms-central is serving"
    );
    listener
        .serve(Arc::new(central), ServeLimits::default(), &shutdown)
        .await;

    let ended = shutdown.finish(config.shutdown_grace).await;
    tokio::select! {
        () = workers.shutdown(config.shutdown_grace) => {}
        // They may be in the middle of a call into the module.
        () = shutdown.at_once() => workers.shutdown(AT_ONCE).await,
    }
    ended.log();
    Ok(ended)
}

fn failed<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
    what: &'static str,
) -> impl FnOnce(E) -> DaemonError {
    move |source| DaemonError::Run {
        what,
        source: source.into(),
    }
}

/// How long the token threads may take to end at a second signal.
const AT_ONCE: Duration = Duration::from_millis(100);
/// Threads of the service's own: tokens have theirs.
const SERVICE_THREADS: usize = 2;
