//! Processes that a token needs beside the module: a TPM, a bus, a server.
//!
//! Leaves what they do to the backends. A helper ends with its owner, however that ends: a small shell in between
//! waits for the end of a pipe that only the owner holds, and then kills it. No signal does that work, because one
//! that ends the owner may end the shell as well.

use std::fs::File;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::token::TokenError;

/// The processes of one token. The last one started is the first to end.
#[derive(Debug, Default)]
pub(crate) struct Helpers(Vec<Helper>);

impl Helpers {
    /// Starts a program and waits until it is ready. What it says goes to `NAME.log` in `dir`.
    pub(crate) fn start(
        &mut self,
        dir: &Path,
        name: &'static str,
        command: &Command,
        ready: impl Fn() -> bool,
    ) -> Result<(), TokenError> {
        let log = dir.join(format!("{name}.log"));
        let helper = Helper::start(command, &log)?;
        let deadline = Instant::now() + READY_WITHIN;
        while !ready() {
            if Instant::now() > deadline {
                return Err(TokenError::NotReady {
                    program: name,
                    said: std::fs::read_to_string(&log).unwrap_or_default(),
                });
            }
            thread::sleep(LOOK_AGAIN);
        }
        self.0.push(helper);
        Ok(())
    }
}

impl Drop for Helpers {
    fn drop(&mut self) {
        while let Some(helper) = self.0.pop() {
            drop(helper);
        }
    }
}

/// Whether something accepts connections at this path.
pub(crate) fn listens(path: &Path) -> bool {
    UnixStream::connect(path).is_ok()
}

#[derive(Debug)]
struct Helper {
    guard: Child,
}

impl Helper {
    fn start(command: &Command, log: &Path) -> Result<Helper, TokenError> {
        let file_error = |source| TokenError::File {
            path: PathBuf::from(log),
            source,
        };
        let said = File::create(log).map_err(file_error)?;
        let mut guard = Command::new("sh");
        guard.args(["-c", GUARD, "sh"]);
        guard.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            if let Some(value) = value {
                guard.env(name, value);
            }
        }
        let guard = guard
            // Out of reach of the signals that a terminal or a test runner sends to the owner's group.
            .process_group(0)
            .stdin(Stdio::piped())
            .stderr(said.try_clone().map_err(file_error)?)
            .stdout(said)
            .spawn()
            .map_err(|source| TokenError::Start {
                program: "sh".to_owned(),
                source,
            })?;
        Ok(Helper { guard })
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        // It kills, and asks nobody, so this is soon over.
        let _ = self.guard.wait();
    }
}

/// Runs its arguments until standard input ends, then kills its process group: the program, what that has started,
/// and itself.
const GUARD: &str = r#""$@" </dev/null &
read -r _
kill -KILL 0"#;

/// How long a helper may take until it is ready, on a busy machine.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// How often it is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
