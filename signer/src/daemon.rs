//! The signer's life: open, serve, stop.
//!
//! Reads as the story of the process; each chapter lives in a file of its own.

use std::{path::Path, sync::Arc, time::Duration};

use keyhaven_handshake::{SealKey, Sealer};
use keyhaven_hsm::Workers;
use keyhaven_service::{
    Listener, ListenerConfig, ServeLimits,
    config::ConfigError,
    shutdown::{self, Ended, Shutdown},
    telemetry,
};
use keyhaven_types::Role;

use crate::{
    config::Config,
    kms::{self, Kms, KmsParts},
    metrics::{self, Metrics},
    reload::Reloader,
    serve::{Signer, SignerParts},
    startup::{Inventory, StartErrors, Terminal},
};

/// Why the signer did not run, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The configuration has problems.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A token, key or site is not usable.
    #[error(transparent)]
    Start(#[from] StartErrors),
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

/// Checks the file and everything that it names; opens tokens, tries each PIN once, and serves nobody. Gives the
/// warnings.
pub fn check(path: &Path) -> Result<Vec<String>, DaemonError> {
    let config = Config::read(path)?;
    let opened = Inventory::default().open(&config, Terminal::Asked)?;
    let of_kms = match &config.kms {
        Some(section) => kms::check(section, &opened.policy).map_err(failed(NO_SITE))?,
        None => Vec::new(),
    };
    Ok([config.warnings, opened.warnings, of_kms].concat())
}

/// Runs until a stop signal, and says which way it ended.
pub fn run(path: &Path) -> Result<Ended, DaemonError> {
    let (reading, config) = Reloader::read(path)?;
    telemetry::init(&config.log).map_err(failed("cannot start logging"))?;
    for warning in config.warnings.iter().chain(&shutdown::harden()) {
        tracing::warn!("{warning}");
    }
    shutdown::raise_file_limit();
    tracing::info!(version = env!("CARGO_PKG_VERSION"), config = %path.display(), "signer starts");
    let reloader = Reloader::start(reading, &config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(SERVICE_THREADS)
        .enable_all()
        .build()
        .map_err(failed("cannot start the runtime"))?;
    runtime.block_on(serve(config, reloader))
}

async fn serve(config: Config, reloader: Reloader) -> Result<Ended, DaemonError> {
    let shutdown = Shutdown::new();
    shutdown
        .listen()
        .map_err(failed("cannot listen for stop signals"))?;
    let hangups = Reloader::listen().map_err(failed("cannot listen for SIGHUP"))?;
    let seal = match &config.rekey.seal_secret {
        Some(secret) => SealKey::new(secret),
        None => SealKey::generate(),
    };
    let seal = seal
        .ok_or("no key for rekey states")
        .map_err(failed("cannot make the seal"))?;
    let mut roles = vec![Role::Proxy];
    if config.kms.is_some() {
        roles.extend([Role::Signer, Role::Client, Role::Admin]);
    }
    let mut listener = ListenerConfig::new(config.listen, config.credentials.clone(), roles);
    listener.connections_max = config.limits.connections_max;
    let listener = Listener::bind(listener)
        .await
        .map_err(failed("cannot listen for proxies"))?;
    let metrics = match config.metrics {
        Some(address) => Some(
            metrics::Endpoint::bind(address)
                .await
                .map_err(failed("cannot listen for metrics"))?,
        ),
        None => None,
    };
    // Nothing but the site can fail after this: a module must not be taken apart under a thread that works in it.
    let workers = Workers::start(config.threads, config.queue_max)
        .map_err(failed("cannot start the token threads"))?;
    let kms = match &config.kms {
        None => None,
        Some(section) => {
            let policy = reloader.policy().current();
            let parts = KmsParts {
                config: section,
                credentials: config.credentials.clone(),
                policy: &policy,
                workers: workers.clone(),
                threads: config.threads,
                tickets: reloader.tickets(),
                ticket_days: section.ticket_key.as_ref().map(|_| reloader.ticket_days()),
                rekey_persistent: config.rekey.persistent,
                operations_max: config.limits.handshakes_max,
                shutdown: shutdown.clone(),
            };
            match Kms::start(parts).await {
                Ok(kms) => Some(kms),
                Err(error) => {
                    workers.shutdown(AT_ONCE).await;
                    return Err(failed(NO_SITE)(error));
                }
            }
        }
    };
    let signer = Arc::new(Signer::new(SignerParts {
        policy: reloader.policy(),
        workers: workers.clone(),
        sealer: Sealer::new(seal),
        counters: reloader.counters(),
        kms: kms.clone(),
        limits: config.limits,
        lifetime: config.rekey.connection_lifetime,
        shutdown: shutdown.clone(),
    }));
    if let Some(endpoint) = metrics {
        let metrics = Metrics::new(
            reloader.counters(),
            reloader.policy(),
            kms.clone(),
            workers.clone(),
        );
        tracing::info!(metrics = %endpoint.local_addr(), "metrics are served");
        tokio::spawn(endpoint.serve(metrics, shutdown.clone()));
    }
    shutdown.spawn(reloader.run(hangups, shutdown.clone()));
    tracing::info!(listening = %listener.local_addr(), "signer is ready");

    let sweeper = tokio::spawn(signer.clone().sweep());
    let limits = ServeLimits {
        in_flight: config.limits.in_flight_per_connection * QUICK_PER_HANDSHAKE,
        handshakes: config.limits.in_flight_per_connection,
        ..ServeLimits::default()
    };
    listener.serve(signer.clone(), limits, &shutdown).await;

    let ended = shutdown.finish(config.limits.shutdown_grace).await;
    sweeper.abort();
    if let Some(kms) = kms {
        kms.stop().await;
    }
    tokio::select! {
        () = workers.shutdown(config.limits.shutdown_grace) => {}
        // They may be in the middle of a call into the module.
        () = shutdown.at_once() => workers.shutdown(AT_ONCE).await,
    }
    signer.log_counters();
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

const NO_SITE: &str = "the signer cannot be a site of the KMS";
/// How long the token threads may take to end at a second signal.
const AT_ONCE: Duration = Duration::from_millis(100);
/// Threads of the service's own: handshakes run on the token threads.
const SERVICE_THREADS: usize = 2;
/// Quick requests (outcomes, next keys, pings) that a connection may have at work beside each handshake step.
const QUICK_PER_HANDSHAKE: usize = 8;
