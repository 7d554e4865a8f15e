//! How a daemon ends: stop accepting, finish what is in flight, and say which way it went.
//!
//! One token says "stop", another "the grace is over", a third "at once", one tracker knows the tasks. Also what a process does to
//! itself at its start: no core dumps, as many file descriptors as it may have. Tasks must watch the tokens
//! themselves; nothing is torn down under them before the grace is over.

use std::{
    fmt,
    future::Future,
    io,
    sync::{Arc, OnceLock},
    time::Duration,
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinHandle,
    time::sleep,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The one handle on a daemon's end.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    stop: CancellationToken,
    cut: CancellationToken,
    now: CancellationToken,
    tasks: TaskTracker,
    /// How many tasks were open when the second signal came.
    open_at_signal: Arc<OnceLock<usize>>,
}

/// Which way a daemon ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Everything in flight was finished.
    Clean,
    /// Something was cut.
    Cut {
        /// How many tasks were.
        open: usize,
        /// Why they were not waited for.
        why: Cause,
    },
}

/// Why a daemon cut what was in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The grace was over.
    Grace,
    /// A second signal came.
    Signal,
}

/// How long tasks may take to say goodbye when they are cut.
const CUT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long they may take to end at a second signal.
const NOW_TIMEOUT: Duration = Duration::from_millis(100);

impl Shutdown {
    /// A daemon that runs.
    pub fn new() -> Self {
        Self::default()
    }

    /// Stops on SIGTERM and SIGINT from now on; a second signal cuts the grace short. Call it inside a runtime.
    pub fn listen(&self) -> io::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let shutdown = self.clone();
        tokio::spawn(async move {
            for cut in [false, true] {
                let name = tokio::select! {
                    _ = terminate.recv() => "SIGTERM",
                    _ = interrupt.recv() => "SIGINT",
                };
                if cut {
                    tracing::warn!(signal = name, "second signal: ending now");
                    shutdown.end_now();
                } else {
                    tracing::info!(signal = name, "stopping");
                    shutdown.stop();
                }
            }
        });
        Ok(())
    }

    /// Says "stop".
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Cuts everything. Counts before: what is cut may end at once, and was not finished.
    fn end_now(&self) {
        self.open_at_signal.get_or_init(|| self.tasks.len());
        self.now.cancel();
        self.cut.cancel();
    }

    /// Whether "stop" was said.
    pub fn is_stopping(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Returns when "stop" is said.
    pub async fn stopping(&self) {
        self.stop.cancelled().await;
    }

    /// Cancelled by "stop": accept nothing new, finish what is there.
    pub fn token(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Cancelled when the grace is over: end now.
    pub fn cut_token(&self) -> CancellationToken {
        self.cut.clone()
    }

    /// Returns at a second signal: wait for nobody any more.
    pub async fn at_once(&self) {
        self.now.cancelled().await;
    }

    /// Runs a task that [`Shutdown::finish`] waits for.
    pub fn spawn<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.tasks.spawn(task)
    }

    /// Stops, waits for the tasks, and after `grace` cuts them.
    pub async fn finish(&self, grace: Duration) -> Ended {
        self.stop();
        self.tasks.close();
        let why = tokio::select! {
            biased;
            () = self.tasks.wait() => return self.ended(),
            () = self.at_once() => Cause::Signal,
            () = sleep(grace) => Cause::Grace,
        };
        let open = match why {
            Cause::Signal => self.open_at_signal(),
            Cause::Grace => self.tasks.len(),
        };
        self.cut.cancel();
        let is_over = async {
            tokio::select! {
                () = sleep(CUT_TIMEOUT) => {}
                () = self.at_once() => sleep(NOW_TIMEOUT).await,
            }
        };
        tokio::select! {
            biased;
            () = self.tasks.wait() => {}
            () = is_over => tracing::warn!(
                tasks = self.tasks.len(),
                "tasks did not end when they were cut"
            ),
        }
        Ended::Cut { open, why }
    }

    /// How it went when all tasks have ended within the grace: by themselves, or because a second signal cut them.
    fn ended(&self) -> Ended {
        match self.open_at_signal() {
            0 => Ended::Clean,
            open => Ended::Cut {
                open,
                why: Cause::Signal,
            },
        }
    }

    fn open_at_signal(&self) -> usize {
        self.open_at_signal.get().copied().unwrap_or(0)
    }
}

impl Ended {
    /// Whether nothing was cut.
    pub fn is_clean(self) -> bool {
        self == Self::Clean
    }

    /// Whether the stop went as the operator configured it: a connection that outlives the grace, as idle ones
    /// of HTTP do, is no failure of the process; one cut at a second signal is.
    pub fn is_in_order(self) -> bool {
        !matches!(
            self,
            Self::Cut {
                why: Cause::Signal,
                ..
            }
        )
    }

    /// Writes a daemon's last line: a warning when something was cut.
    pub fn log(self) {
        if self.is_clean() {
            tracing::info!("{self}");
        } else {
            tracing::warn!("{self}");
        }
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (open, why) = match self {
            Self::Clean => return f.write_str("stopped: everything in flight was finished"),
            Self::Cut { open, why } => (open, why),
        };
        let tasks = if *open == 1 { "task was" } else { "tasks were" };
        let when = match why {
            Cause::Grace => "when the grace was over",
            Cause::Signal => "at the second signal",
        };
        write!(f, "stopped: {open} {tasks} cut {when}")
    }
}

/// Keeps this process's memory out of core dumps and away from debuggers of the same user.
///
/// Returns a sentence for each thing that could not be done; the log may not stand yet.
pub fn harden() -> Vec<String> {
    let mut warnings = Vec::new();
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    if let Err(error) = setrlimit(Resource::Core, none) {
        warnings.push(format!("core dumps cannot be limited to 0 bytes: {error}"));
    }
    // The limit does not bind dumps that the kernel pipes to a collector; this does (prctl(2), core(5)).
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if let Err(error) =
        rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
    {
        warnings.push(format!("the process cannot be made undumpable: {error}"));
    }
    warnings
}

/// Raises the soft limit of open files to the hard one and returns what holds now.
pub fn raise_file_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let holds = if setrlimit(Resource::Nofile, raised).is_ok() {
        limit.maximum
    } else {
        limit.current
    };
    holds.unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::timeout;

    #[tokio::test]
    async fn what_finishes_in_time_is_a_clean_end() {
        let shutdown = Shutdown::new();
        let token = shutdown.token();
        shutdown.spawn(async move { token.cancelled().await });
        assert_eq!(shutdown.finish(Duration::from_secs(60)).await, Ended::Clean);
    }

    #[tokio::test]
    async fn what_does_not_is_cut_and_counted() {
        let shutdown = Shutdown::new();
        let cut = shutdown.cut_token();
        shutdown.spawn(async move { cut.cancelled().await });
        let ended = shutdown.finish(Duration::from_millis(10)).await;
        let why = Cause::Grace;
        assert_eq!(ended, Ended::Cut { open: 1, why });
        assert!(ended.to_string().contains("1 task was cut"));
    }

    #[tokio::test]
    async fn a_second_signal_waits_for_nobody() {
        let shutdown = Shutdown::new();
        shutdown.spawn(std::future::pending::<()>());
        shutdown.end_now();
        let hour = Duration::from_secs(3600);
        let ended = timeout(CUT_TIMEOUT, shutdown.finish(hour)).await.unwrap();
        let why = Cause::Signal;
        assert_eq!(ended, Ended::Cut { open: 1, why });
        assert!(ended.to_string().contains("second signal"));
    }

    #[tokio::test]
    async fn what_ends_when_a_second_signal_cuts_it_was_not_finished() {
        let shutdown = Shutdown::new();
        let cut = shutdown.cut_token();
        let task = shutdown.spawn(async move { cut.cancelled().await });
        shutdown.end_now();
        task.await.unwrap();
        let ended = shutdown.finish(Duration::from_secs(3600)).await;
        let why = Cause::Signal;
        assert_eq!(ended, Ended::Cut { open: 1, why });
    }

    #[tokio::test]
    async fn a_signal_stops_and_a_second_one_cuts() {
        use rustix::process::{Signal, getpid, kill_process};
        let shutdown = Shutdown::new();
        shutdown.listen().unwrap();
        assert!(!shutdown.is_stopping());
        kill_process(getpid(), Signal::TERM).unwrap();
        timeout(Duration::from_secs(20), shutdown.stopping())
            .await
            .unwrap();
        assert!(!shutdown.cut_token().is_cancelled());
        kill_process(getpid(), Signal::INT).unwrap();
        timeout(
            Duration::from_secs(20),
            shutdown.cut_token().cancelled_owned(),
        )
        .await
        .unwrap();
        assert!(shutdown.now.is_cancelled());
    }

    #[test]
    fn the_process_is_hardened() {
        assert_eq!(harden(), Vec::<String>::new());
        assert_eq!(getrlimit(Resource::Core).maximum, Some(0));
        assert!(raise_file_limit() >= 256);
    }
}
