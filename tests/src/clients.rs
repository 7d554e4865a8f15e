//! Real clients, run as child processes with a deadline.
//!
//! Knows how each one is called, not what it should say. A client that hangs is ended by its own process id.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How a client ended.
#[derive(Debug)]
pub struct Finished {
    /// Its exit status.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: String,
}

impl Finished {
    /// Standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Both outputs, for a message.
    pub fn all(&self) -> String {
        format!("{}: {}\n{}", self.status, self.text(), self.stderr)
    }
}

/// Runs a command with this input to its end.
///
/// # Panics
/// When it cannot be started, or 60 seconds pass.
pub fn run(command: &mut Command, input: &[u8]) -> Finished {
    let what = format!("{command:?}");
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| {
            panic!("cannot start {what}: {error} (`cargo xtask test` installs what it needs)")
        });
    let mut stdin = child.stdin.take().expect("it is piped");
    let input = input.to_vec();
    let writer = thread::spawn(move || drop(stdin.write_all(&input)));
    let stdout = collect(child.stdout.take().expect("it is piped"));
    let stderr = collect(child.stderr.take().expect("it is piped"));
    let status = wait(&mut child, &what);
    let _ = writer.join();
    Finished {
        status,
        stdout: stdout.join().unwrap_or_default(),
        stderr: String::from_utf8_lossy(&stderr.join().unwrap_or_default()).into_owned(),
    }
}

fn wait(child: &mut Child, what: &str) -> ExitStatus {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().expect("it is our child") {
            return status;
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            panic!("{what} does not end");
        }
        thread::sleep(Duration::from_millis(3));
    }
}

fn collect(mut from: impl Read + Send + 'static) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = from.read_to_end(&mut bytes);
        bytes
    })
}

/// curl for `https://NAME/…`, sent to `address` and verified against `ca`; add options and the URL.
pub fn curl(name: &str, address: SocketAddr, ca: &Path) -> Command {
    let mut command = Command::new("curl");
    command.args([
        "--silent",
        "--show-error",
        "--max-time",
        "50",
        "--noproxy",
        "*",
        "--cacert",
    ]);
    command
        .arg(ca)
        .arg("--connect-to")
        .arg(format!("{name}:443:127.0.0.1:{}", address.port()));
    command
}

/// `openssl s_client` that verifies name and chain and fails on an error.
pub fn s_client(name: &str, address: SocketAddr, ca: &Path) -> Command {
    let mut command = Command::new("openssl");
    command.args([
        "s_client",
        "-connect",
        &address.to_string(),
        "-servername",
        name,
    ]);
    command
        .args(["-verify_hostname", name, "-verify_return_error", "-CAfile"])
        .arg(ca);
    command
}

/// `openssl s_client` that names nobody and checks nothing.
pub fn s_client_without_name(address: SocketAddr) -> Command {
    let mut command = Command::new("openssl");
    command.args([
        "s_client",
        "-connect",
        &address.to_string(),
        "-noservername",
    ]);
    command
}

/// `gnutls-cli` with a priority string.
pub fn gnutls(name: &str, address: SocketAddr, ca: &Path, priority: &str) -> Command {
    let mut command = Command::new("gnutls-cli");
    command
        .arg("--x509cafile")
        .arg(ca)
        .args(["--priority", priority, "--sni-hostname", name]);
    command.args([
        "--verify-hostname",
        name,
        "--port",
        &address.port().to_string(),
        "127.0.0.1",
    ]);
    command
}

/// The system's Python with `script`; the arguments follow as `sys.argv[1:]`.
pub fn python(script: &str) -> Command {
    let system = Path::new("/usr/bin/python3");
    let mut command = Command::new(if system.exists() {
        system
    } else {
        Path::new("python3")
    });
    command.args(["-c", script]);
    command
}

const PATIENCE: Duration = Duration::from_secs(60);
