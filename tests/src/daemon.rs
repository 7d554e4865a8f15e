//! One of our programs, running as a child process, with its log.
//!
//! Leaves configuration to `site`. A daemon ends with the value, by its own process id; a panic or a PIN in its
//! log fails the test.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use serde_json::Value;

/// A running program.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    child: Child,
    log: Arc<Log>,
    reader: Option<JoinHandle<()>>,
    /// Texts that must not be in the log.
    secrets: Vec<String>,
    ended: Option<ExitStatus>,
}

#[derive(Debug, Default)]
struct Log {
    state: Mutex<LogState>,
    news: Condvar,
}

#[derive(Debug, Default)]
struct LogState {
    lines: Vec<String>,
    closed: bool,
}

/// The program's file: where `KEYHAVEN_BIN_DIR` says, or among what cargo and `cargo xtask test` have built.
///
/// # Panics
/// When it is not built.
pub fn binary(name: &str) -> PathBuf {
    let this = env::current_exe().expect("a running program has a path");
    // target/debug/deps/TEST
    let debug = this
        .parent()
        .and_then(Path::parent)
        .unwrap_or(Path::new("/"));
    let places = match env::var_os("KEYHAVEN_BIN_DIR") {
        Some(dir) => vec![PathBuf::from(dir)],
        None => vec![debug.to_path_buf(), debug.join("../test-bins")],
    };
    let found = places
        .iter()
        .map(|place| place.join(name))
        .find(|file| file.exists());
    found.unwrap_or_else(|| {
        panic!("no program {name} in {places:?}: run `cargo xtask test`, which builds it")
    })
}

impl Daemon {
    /// Starts a program; its standard error is its log.
    pub fn spawn(name: &str, command: &mut Command) -> Daemon {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        let log = Arc::new(Log::default());
        let stderr = child.stderr.take().expect("it is piped");
        let to = log.clone();
        let reader = thread::spawn(move || {
            for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
                to.lock()
                    .lines
                    .push(String::from_utf8_lossy(&line).into_owned());
                to.news.notify_all();
            }
            to.lock().closed = true;
            to.news.notify_all();
        });
        Daemon {
            name: name.to_owned(),
            child,
            log,
            reader: Some(reader),
            secrets: Vec::new(),
            ended: None,
        }
    }

    /// Fails the test when the log holds this text at the end.
    pub fn must_not_log(&mut self, secret: &str) {
        self.secrets.push(secret.to_owned());
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The address in the log line that has the field `listening`.
    pub fn listening(&self) -> SocketAddr {
        let line = self.wait_for("an address in the field listening", |line| {
            field(line, "listening").is_some()
        });
        let address = field(&line, "listening").expect("it was there");
        address
            .parse()
            .unwrap_or_else(|_| panic!("{}: no address: {address}", self.name))
    }

    /// The first log line, past or to come, that `fits`; lines that are no JSON are handed in as a JSON text.
    ///
    /// # Panics
    /// When the program ends first, or 20 seconds pass.
    pub fn wait_for(&self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        self.wait_from(0, what, fits)
    }

    /// The same among the lines from this one on; the number of lines so far is that of [`Daemon::log`].
    pub fn wait_from(&self, first: usize, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        let mut state = self.log.lock();
        let mut seen = first;
        loop {
            while let Some(line) = state.lines.get(seen) {
                let value = parse(line);
                if fits(&value) {
                    return value;
                }
                seen += 1;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if state.closed || left.is_zero() {
                let log = state.lines.join("\n");
                panic!("{}: waited in vain for {what}; its log:\n{log}", self.name);
            }
            state = self
                .log
                .news
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Waits for a line that holds this text.
    pub fn wait_for_text(&self, text: &str) -> Value {
        self.wait_for(text, |line| line.to_string().contains(text))
    }

    /// The log so far.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().lines.clone()
    }

    /// The last value of a number in the log so far.
    pub fn last_number(&self, name: &str) -> Option<u64> {
        let lines = self.log();
        lines
            .iter()
            .rev()
            .find_map(|line| find(&parse(line), name).and_then(Value::as_u64))
    }

    /// Open file descriptors.
    pub fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid()))
            .map(Iterator::count)
            .unwrap_or(0)
    }

    /// Resident memory in KiB.
    pub fn memory_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap_or_default();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .unwrap_or("0");
        line.trim()
            .trim_end_matches("kB")
            .trim()
            .parse()
            .unwrap_or(0)
    }

    /// Whether any part of its writable memory holds these bytes; nothing when its memory cannot be read, which
    /// needs the privileges of a debugger.
    pub fn memory_holds(&self, bytes: &[u8]) -> Option<bool> {
        let maps = fs::read_to_string(format!("/proc/{}/maps", self.pid())).ok()?;
        let memory = fs::File::open(format!("/proc/{}/mem", self.pid())).ok()?;
        let mut pages_read = false;
        for line in maps.lines().filter(|line| {
            line.split(' ')
                .nth(1)
                .is_some_and(|flags| flags.starts_with("rw"))
        }) {
            let (from, to) = line.split(' ').next()?.split_once('-')?;
            let from = u64::from_str_radix(from, 16).ok()?;
            let mut region = vec![0; (u64::from_str_radix(to, 16).ok()? - from) as usize];
            // Some regions are the kernel's own.
            if memory.read_exact_at(&mut region, from).is_ok() {
                pages_read = true;
                if contains(&region, bytes) {
                    return Some(true);
                }
            }
        }
        pages_read.then_some(false)
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.ended.is_none() && matches!(self.child.try_wait(), Ok(None))
    }

    /// Asks it to stop.
    pub fn terminate(&self) {
        signal(self.pid(), "TERM");
    }

    /// Asks it to read its files again.
    pub fn hang_up(&self) {
        signal(self.pid(), "HUP");
    }

    /// Halts it where it is.
    pub fn pause(&self) {
        signal(self.pid(), "STOP");
    }

    /// Lets it go on.
    pub fn resume(&self) {
        signal(self.pid(), "CONT");
    }

    /// Ends it at once, as a crash would.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        self.wait();
    }

    /// Asks it to stop and waits until it has.
    pub fn stop(&mut self) -> ExitStatus {
        if self.ended.is_none() {
            self.terminate();
        }
        self.wait()
    }

    /// Waits until it has ended by itself.
    pub fn wait(&mut self) -> ExitStatus {
        if let Some(status) = self.ended {
            return status;
        }
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            match self.child.try_wait().expect("it is our child") {
                Some(status) => break status,
                None if Instant::now() > deadline => {
                    let log = self.log().join("\n");
                    panic!("{} does not end; its log:\n{log}", self.name);
                }
                None => thread::sleep(Duration::from_millis(5)),
            }
        };
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        self.ended = Some(status);
        status
    }

    fn check_log(&self) {
        let log = self.log().join("\n");
        for bad in ["panicked", "overflow"]
            .into_iter()
            .chain(self.secrets.iter().map(String::as_str))
        {
            assert!(
                !log.contains(bad),
                "{}: {bad:?} is in its log:\n{log}",
                self.name
            );
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        if thread::panicking() {
            let log = self.log();
            let from = log.len().saturating_sub(LOG_LINES_SHOWN);
            eprintln!("---- {} said last:\n{}", self.name, log[from..].join("\n"));
        } else {
            self.check_log();
        }
    }
}

impl Log {
    fn lock(&self) -> MutexGuard<'_, LogState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether `bytes` are somewhere in `haystack`.
pub fn contains(haystack: &[u8], bytes: &[u8]) -> bool {
    let Some(first) = bytes.first() else {
        return true;
    };
    let mut rest = haystack;
    while let Some(at) = rest.iter().position(|byte| byte == first) {
        if rest[at..].starts_with(bytes) {
            return true;
        }
        rest = &rest[at + 1..];
    }
    false
}

/// A text field of a log line, at any depth.
pub fn field(line: &Value, name: &str) -> Option<String> {
    match find(line, name)? {
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

fn find<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    let object = value.as_object()?;
    object
        .get(name)
        .or_else(|| object.values().find_map(|inner| find(inner, name)))
}

fn parse(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|_| Value::String(line.to_owned()))
}

/// `kill` of procps: sending a signal needs no unsafe code of ours then.
fn signal(pid: u32, name: &str) {
    let status = Command::new("kill")
        .args([&format!("-{name}"), &pid.to_string()])
        .status();
    assert!(
        status.is_ok_and(|status| status.success()),
        "cannot send {name} to {pid}"
    );
}

const PATIENCE: Duration = Duration::from_secs(20);
const LOG_LINES_SHOWN: usize = 40;
