//! A new state while the signer serves: the file read again at SIGHUP, or what it names when that changes.
//!
//! At a look only the named files are read again, by the configuration as it was last taken over: a file that is
//! being edited waits for its SIGHUP. Invariant: a state is taken over as a whole or not at all, and the old one
//! serves on.

mod fixed;
mod watch;

use std::{
    future::pending,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use keyhaven_handshake::{TicketDays, TicketSpec};
use keyhaven_service::{
    config::{ConfigError, Document},
    shutdown::Shutdown,
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::oneshot,
    time::sleep,
};

use crate::{
    audit::error_chain,
    config::{Config, Raw},
    counters::Counters,
    policy::{Policy, Shared},
    startup::{Change, Inventory, SiteFacts, StartErrors, Terminal},
};

use fixed::Fixed;
use watch::Watch;

/// What is asked for a new state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    /// The operator.
    Signal,
    /// A file that changed, or a staple that ends.
    Look,
}

/// Why a new state is refused.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Start(#[from] StartErrors),
}

/// Everything that is needed to take over a new state.
pub struct Reloader {
    path: PathBuf,
    /// The configuration as it was last taken over.
    document: Document<Raw>,
    inventory: Inventory,
    facts: Vec<SiteFacts>,
    warnings: Vec<String>,
    /// What the running process cannot change.
    fixed: Fixed,
    watch: Watch,
    every: Duration,
    staples_until: Option<SystemTime>,
    /// Why the last look was refused; told once, although it is tried again at the next.
    failed_look: Option<String>,
    policy: Shared,
    /// How sessions with managed keys are resumed; as it was at the start.
    tickets: Option<TicketSpec>,
    counters: Arc<Counters>,
}

/// A file as it was read for the first time.
pub struct Reading {
    path: PathBuf,
    document: Document<Raw>,
    watch: Watch,
}

impl Reloader {
    /// Reads the file for the first time.
    ///
    /// # Errors
    /// Every problem of the file.
    pub fn read(path: &Path) -> Result<(Reading, Config), ConfigError> {
        let document = keyhaven_service::config::read(path)?;
        let (config, watch) = read_watched(&document)?;
        let reading = Reading {
            path: path.to_owned(),
            document,
            watch,
        };
        Ok((reading, config))
    }

    /// Opens everything for the first time.
    ///
    /// # Errors
    /// Everything that keeps the signer from starting.
    pub fn start(reading: Reading, config: &Config) -> Result<Self, StartErrors> {
        let mut inventory = Inventory::default();
        let opened = inventory.open(config, Terminal::Asked)?;
        opened.facts.iter().for_each(SiteFacts::log);
        for warning in &opened.warnings {
            tracing::warn!("{warning}");
        }
        Ok(Self {
            path: reading.path,
            document: reading.document,
            inventory,
            facts: opened.facts,
            warnings: [&config.warnings[..], &opened.warnings].concat(),
            fixed: Fixed::of(config),
            watch: reading.watch,
            every: config.limits.reload_every,
            staples_until: config.staples_until(),
            failed_look: None,
            policy: Shared::new(opened.policy),
            tickets: opened.tickets,
            counters: Arc::default(),
        })
    }

    /// What is served by; it is replaced here.
    pub fn policy(&self) -> Shared {
        self.policy.clone()
    }

    /// How sessions with managed keys are resumed.
    pub fn tickets(&self) -> Option<TicketSpec> {
        self.tickets.clone()
    }

    /// Where a managed ticket key's days go.
    pub fn ticket_days(&self) -> TicketDays {
        self.inventory.ticket_days()
    }

    /// Where reloads are counted, with everything else.
    pub fn counters(&self) -> Arc<Counters> {
        self.counters.clone()
    }

    /// Catches SIGHUP from now on: until then it ends the process. Call it inside a runtime.
    ///
    /// # Errors
    /// When it cannot be caught.
    pub fn listen() -> io::Result<Signal> {
        signal(SignalKind::hangup())
    }

    /// Takes over new states until the signer stops. What blocks is done on a thread of its own.
    pub async fn run(mut self, mut hangups: Signal, shutdown: Shutdown) {
        loop {
            let cause = tokio::select! {
                () = shutdown.stopping() => return,
                _ = hangups.recv() => Cause::Signal,
                () = until(self.pause()) => Cause::Look,
            };
            let done = on_a_thread(move || {
                if cause == Cause::Signal || self.is_due() {
                    self.reload(cause);
                }
                self
            });
            match done.await {
                Some(kept) => self = kept,
                None => {
                    tracing::error!("reloading failed; the signer serves on and reloads no more");
                    return;
                }
            }
        }
    }

    /// Whether something asks for a new state.
    fn is_due(&self) -> bool {
        let staple_ended = self
            .staples_until
            .is_some_and(|until| until <= SystemTime::now());
        // After a refused look this holds until one is taken over.
        staple_ended || self.watch.has_changed()
    }

    /// How long until the next look, if there is one.
    fn pause(&self) -> Option<Duration> {
        let every = (!self.every.is_zero()).then_some(self.every);
        let staple = self.staples_until.map(|until| {
            let left = until.duration_since(SystemTime::now()).unwrap_or_default();
            let failed = self.failed_look.is_some();
            left + if failed { RETRY_PAUSE } else { STAPLE_PAUSE }
        });
        every.into_iter().chain(staple).min()
    }

    /// Reads, opens, and takes over, or says why not.
    fn reload(&mut self, cause: Cause) {
        match self.try_reload(cause) {
            Ok(()) => self.failed_look = None,
            Err(refused) => {
                Counters::add(&self.counters.reload_refused);
                // Problems come on many lines; the log has one for each event.
                let said = error_chain(&refused)
                    .replace("\n  ", "; ")
                    .replace('\n', " | ");
                if cause == Cause::Signal || self.failed_look.as_ref() != Some(&said) {
                    tracing::error!(
                        config = %self.path.display(),
                        "the new configuration is refused, the old one serves on: {said}"
                    );
                }
                if cause == Cause::Look {
                    self.failed_look = Some(said);
                }
            }
        }
    }

    fn try_reload(&mut self, cause: Cause) -> Result<(), Refused> {
        let read = match cause {
            Cause::Signal => Some(keyhaven_service::config::read(&self.path)?),
            Cause::Look => None,
        };
        let document = read.as_ref().unwrap_or(&self.document);
        // Looked at before they are read, so that a change in between is seen the next time.
        let (config, watch) = read_watched(document)?;
        let opened = self.inventory.open(&config, Terminal::NotAsked)?;
        let warnings = [&config.warnings[..], &opened.warnings].concat();
        for warning in &warnings {
            if cause == Cause::Signal || !self.warnings.contains(warning) {
                tracing::warn!("{warning}");
            }
        }
        for what in self.fixed.differences(&Fixed::of(&config)) {
            tracing::warn!(
                what,
                "changed in the file; it is taken over at the next start"
            );
        }
        let changes = SiteFacts::changes(&self.facts, &opened.facts);
        self.take_over(opened.policy);
        changes.iter().for_each(Change::log);
        tracing::info!(
            config = %self.path.display(),
            cause = if cause == Cause::Signal { "SIGHUP" } else { "files" },
            changes = changes.len(),
            "configuration taken over"
        );
        self.facts = opened.facts;
        self.warnings = warnings;
        self.watch = watch;
        self.every = config.limits.reload_every;
        self.staples_until = config.staples_until();
        if let Some(document) = read {
            self.document = document;
        }
        Ok(())
    }

    fn take_over(&self, policy: Policy) {
        // Handshakes under way keep the old one until they end.
        drop(self.policy.replace(policy));
        Counters::add(&self.counters.reloaded);
    }
}

fn read_watched(document: &Document<Raw>) -> Result<(Config, Watch), ConfigError> {
    let watch = Watch::of(&Config::watched(document));
    Ok((Config::check(document)?, watch))
}

async fn until(pause: Option<Duration>) {
    match pause {
        Some(pause) => sleep(pause).await,
        None => pending().await,
    }
}

/// A thread that nobody has to wait for at the end: a token may keep it.
async fn on_a_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (done, waiting) = oneshot::channel();
    std::thread::Builder::new()
        .name("reload".to_owned())
        .spawn(move || drop(done.send(work())))
        .ok()?;
    waiting.await.ok()
}

/// After a staple's end.
const STAPLE_PAUSE: Duration = Duration::from_secs(1);
/// Between tries to leave it out, while something else is wrong.
const RETRY_PAUSE: Duration = Duration::from_secs(30);
