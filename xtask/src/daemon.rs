//! Starts a daemon, waits until it serves, stops it.
//!
//! Reads of its log only what says that it listens. A daemon never outlives this value, and where `setpriv` is
//! installed the kernel ends it when we are killed.

use std::{
    fs::{self, File},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use std::os::unix::process::CommandExt;

use rustix::process::{Signal, kill_process};

use crate::{
    Error,
    command::{self, last_lines, pid_of},
    interrupt::Interrupt,
};

/// A running daemon.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts a program with its output in a log file. It gets a process group of its own, so that Ctrl-C
    /// reaches us alone and we stop the daemons in order.
    pub fn start(name: &str, command: &Command, log: &Path) -> Result<Daemon, Error> {
        let file_error = |source| Error::File {
            act: "write",
            path: log.to_path_buf(),
            source,
        };
        let out = File::create(log).map_err(file_error)?;
        let err = out.try_clone().map_err(file_error)?;
        let mut wrapped = die_with_us(command);
        wrapped
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .process_group(0);
        let child = wrapped.spawn().map_err(|source| Error::Start {
            program: name.to_owned(),
            source,
        })?;
        Ok(Daemon {
            name: name.to_owned(),
            child,
            log: log.to_path_buf(),
        })
    }

    /// Waits until the log says where the daemon listens.
    pub fn wait_listening(&mut self, interrupt: &Interrupt) -> Result<SocketAddr, Error> {
        self.wait_for("listens", interrupt, |log| {
            fields(log).find_map(|line| find_text(&line, "listening")?.parse().ok())
        })
    }

    /// Waits until the log holds what `look` looks for.
    pub fn wait_for<T>(
        &mut self,
        what: &str,
        interrupt: &Interrupt,
        look: impl Fn(&str) -> Option<T>,
    ) -> Result<T, Error> {
        let deadline = Instant::now() + READY_TIMEOUT;
        loop {
            interrupt.check()?;
            if let Some(found) = look(&self.log_text()) {
                return Ok(found);
            }
            if let Some(status) = self.ended()? {
                return Err(self.error(format!("ended with {status} at its start")));
            }
            if Instant::now() > deadline {
                let waited = READY_TIMEOUT.as_secs();
                return Err(self.error(format!("did not say within {waited} s that it {what}")));
            }
            thread::sleep(LOOK_AGAIN);
        }
    }

    /// An error when the daemon has ended by itself.
    pub fn check(&mut self) -> Result<(), Error> {
        match self.ended()? {
            Some(status) => Err(self.error(format!("ended with {status}"))),
            None => Ok(()),
        }
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What the daemon has written so far.
    pub fn log_text(&self) -> String {
        fs::read(&self.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// The processor time of all its threads until now.
    pub fn cpu_time(&self) -> Result<Duration, Error> {
        let tasks = PathBuf::from(format!("/proc/{}/task", self.pid()));
        let unreadable = |source| Error::File {
            act: "read",
            path: tasks.clone(),
            source,
        };
        let mut nanoseconds = 0;
        for task in fs::read_dir(&tasks).map_err(unreadable)? {
            let path = task.map_err(unreadable)?.path().join("schedstat");
            // A thread that ended between the two reads counts for nothing.
            let text = fs::read_to_string(path).unwrap_or_default();
            nanoseconds += text
                .split(' ')
                .next()
                .and_then(|first| first.parse::<u64>().ok())
                .unwrap_or(0);
        }
        Ok(Duration::from_nanos(nanoseconds))
    }

    /// Asks the daemon to stop and waits for it; says how it ended.
    pub fn stop(mut self, grace: Duration) -> Result<ExitStatus, Error> {
        self.stop_by(Signal::TERM, grace)
    }

    /// The same with a signal of the caller's.
    pub fn stop_by(&mut self, signal: Signal, grace: Duration) -> Result<ExitStatus, Error> {
        if let Some(status) = self.ended()? {
            return Ok(status);
        }
        if let Some(pid) = pid_of(&self.child) {
            // It may have ended in the meantime; the wait below sees that.
            let _ = kill_process(pid, signal);
        }
        let deadline = Instant::now() + grace;
        while Instant::now() < deadline {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            thread::sleep(LOOK_AGAIN);
        }
        let late = self.error(format!(
            "did not stop within {} s of the signal and was killed",
            grace.as_secs()
        ));
        let _ = self.child.kill();
        let _ = self.child.wait();
        Err(late)
    }

    /// An error about this daemon, with the end of its log.
    pub fn error(&self, what: String) -> Error {
        Error::Daemon {
            name: self.name.clone(),
            what,
            log: self.log.clone(),
            tail: last_lines(&self.log_text(), 15),
        }
    }

    fn ended(&mut self) -> Result<Option<ExitStatus>, Error> {
        self.child.try_wait().map_err(|source| Error::Start {
            program: self.name.clone(),
            source,
        })
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Reached without `stop` only when something failed before; that failure is the one to report.
        let _ = self.stop_by(Signal::TERM, DROP_GRACE);
    }
}

/// The log's lines that are JSON.
pub fn fields(log: &str) -> impl Iterator<Item = serde_json::Value> + '_ {
    log.lines()
        .filter_map(|line| serde_json::from_str(line).ok())
}

/// A text field of a log line, wherever the formatter put it.
pub fn find_text(line: &serde_json::Value, name: &str) -> Option<String> {
    let value = line
        .get("fields")
        .and_then(|fields| fields.get(name))
        .or_else(|| line.get(name))?;
    match value {
        serde_json::Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

/// The same command, under `setpriv` where that is installed: it asks the kernel for a SIGTERM at our death and
/// then becomes the program, so the process id stays the same.
fn die_with_us(command: &Command) -> Command {
    match command::find("setpriv") {
        Some(setpriv) => command::under(&setpriv, &["--pdeathsig", "SIGTERM", "--"], command),
        None => command::again(command),
    }
}

/// A signer proves its token's custody level before it listens, which takes seconds on a slow machine.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(20);
const DROP_GRACE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, log: &Path) -> Daemon {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Daemon::start("sh", &command, log).unwrap()
    }

    #[test]
    fn finds_the_address_in_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let mut daemon = shell(
            r#"echo 'not json'; echo '{"level":"INFO","fields":{"listening":"127.0.0.1:4321"}}'; exec sleep 60"#,
            &dir.path().join("log"),
        );
        let address = daemon.wait_listening(&Interrupt::default()).unwrap();
        assert_eq!(address, "127.0.0.1:4321".parse().unwrap());
        daemon.stop(Duration::from_secs(5)).unwrap();
    }

    #[test]
    fn a_daemon_that_ends_early_is_reported_with_its_words() {
        let dir = tempfile::tempdir().unwrap();
        let mut daemon = shell("echo no token; exit 78", &dir.path().join("log"));
        let error = daemon.wait_listening(&Interrupt::default()).unwrap_err();
        assert!(error.to_string().contains("78"), "{error}");
        assert_eq!(error.evidence(), "no token");
    }

    #[test]
    fn dropping_ends_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let daemon = shell("exec sleep 60", &dir.path().join("log"));
        let process = PathBuf::from(format!("/proc/{}", daemon.pid()));
        assert!(process.exists());
        drop(daemon);
        assert!(!process.exists());
    }
}
