//! Rehearses the demo: each kind of key with `--once`, then as a person runs it, to the Ctrl-C.
//!
//! Sees of the second run only what a person sees: what it prints, what its curl line fetches, what it leaves.

use std::{
    net::{SocketAddr, TcpListener},
    process::Command,
    time::Duration,
};

use keyhaven_xtask::{
    Error,
    backend::{self, Page},
    cargo::target_dir,
    command,
    daemon::Daemon,
    interrupt::Interrupt,
    say,
    site::{Algorithm, Row},
};
use rustix::process::{Pid, Signal, test_kill_process};

use crate::verbs::demo;

/// `demo --once` with a key of one kind.
pub(super) fn once(algorithm: Algorithm, interrupt: &Interrupt) -> Result<(), Error> {
    demo::run(&options(algorithm), interrupt)
}

/// `demo --once --token …`.
pub(super) fn once_on(row: Row, interrupt: &Interrupt) -> Result<(), Error> {
    demo::run_on(row, &options(Algorithm::Ec), interrupt)
}

/// `demo --kms --once`.
pub(super) fn kms_once(interrupt: &Interrupt) -> Result<(), Error> {
    demo::kms::run(&options(Algorithm::Ec), interrupt)
}

fn options(algorithm: Algorithm) -> demo::Options {
    demo::Options {
        once: true,
        dir: target_dir().join(FOLDER),
        listen: ([127, 0, 0, 1], 0).into(),
        backend: None,
        algorithm,
        release: false,
    }
}

/// `demo --listen … --backend …`: it stays, its curl line works, and one SIGINT ends all of it.
pub(super) fn until_interrupted(interrupt: &Interrupt) -> Result<(), Error> {
    let listen = free_address()?;
    let mut demo = start(listen, backend::start_with(PAGE)?)?;
    let shown = demo.wait_for("can be stopped with Ctrl-C", interrupt, |said| {
        said.contains("Ctrl-C stops everything.")
            .then(|| Shown::read(said))
    })?;
    let shown = shown.map_err(|what| demo.error(what))?;
    if !shown.curl.contains(&listen.port().to_string()) {
        return Err(demo.error(format!("did not print a curl line for {listen}")));
    }
    let page = command::capture(
        Command::new("sh")
            .args(["-c", &shown.curl])
            // The site is on this machine, whatever the way to others is.
            .env("NO_PROXY", "*"),
    )?;
    let page = String::from_utf8_lossy(&page).into_owned();
    if !page.contains(PAGE.greeting) {
        return Err(demo.error(format!("served {page:?}, which is not the backend's page")));
    }
    say::line(format!("fetched through {listen}: {}", PAGE.greeting));
    demo.check()?;
    if let Some(pid) = shown.daemons.iter().find(|pid| !is_alive(**pid)) {
        return Err(demo.error(format!("named the process {pid:?}, which does not run")));
    }
    stop(demo, &shown)
}

/// What the demo printed for a person.
#[derive(Debug, PartialEq, Eq)]
struct Shown {
    /// A line for the shell.
    curl: String,
    /// The processes of signer and proxy.
    daemons: [Pid; 2],
}

impl Shown {
    fn read(said: &str) -> Result<Shown, String> {
        let curl = said.lines().find(|line| line.starts_with("  curl "));
        let pid = |name: &str| {
            said.lines()
                .find(|line| line.starts_with(name))
                .and_then(|line| line.rsplit_once(", process ")?.1.parse().ok())
                .and_then(Pid::from_raw)
                .ok_or_else(|| format!("did not print the process of the {}", name.trim_end()))
        };
        Ok(Shown {
            curl: curl
                .ok_or("did not print a curl line")?
                .trim_start()
                .to_owned(),
            daemons: [pid("signer ")?, pid("proxy ")?],
        })
    }
}

fn start(listen: SocketAddr, backend: SocketAddr) -> Result<Daemon, Error> {
    let xtask = std::env::current_exe().map_err(|source| Error::Start {
        program: "xtask once more".to_owned(),
        source,
    })?;
    let mut command = Command::new(xtask);
    command.arg("demo");
    command.arg("--dir").arg(target_dir().join(FOLDER));
    command.args(["--listen", &listen.to_string()]);
    command.args(["--backend", &backend.to_string()]);
    Daemon::start("demo", &command, &target_dir().join("demo-test.log"))
}

/// One SIGINT to the demo alone; it must end well, say so, and leave nothing running.
fn stop(mut demo: Daemon, shown: &Shown) -> Result<(), Error> {
    let status = demo.stop_by(Signal::INT, STOP_GRACE)?;
    if !status.success() {
        return Err(demo.error(format!("ended with {status} after SIGINT")));
    }
    if !demo.log_text().contains(STOPPED) {
        return Err(demo.error(format!("did not say {STOPPED:?}")));
    }
    if let Some(pid) = shown.daemons.iter().find(|pid| is_alive(**pid)) {
        return Err(demo.error(format!("left the process {pid:?} running")));
    }
    say::line(format!("SIGINT: {status}, {STOPPED:?}, nothing left"));
    Ok(())
}

fn is_alive(pid: Pid) -> bool {
    test_kill_process(pid).is_ok()
}

fn free_address() -> Result<SocketAddr, Error> {
    let address = SocketAddr::from(([127, 0, 0, 1], 0));
    TcpListener::bind(address)
        .and_then(|listener| listener.local_addr())
        .map_err(|source| Error::Listen { address, source })
}

/// Not 200, because a backend of the user's may answer so.
const PAGE: Page = Page {
    status: "404 Not Found",
    greeting: "Nothing here, says the backend of the rehearsal.",
};
const STOPPED: &str = "stopped: proxy exit status: 0, signer exit status: 0";
const FOLDER: &str = "demo-test";
/// Longer than the demo's own patience with its two daemons.
const STOP_GRACE: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_a_person_would() {
        let said = "backend  127.0.0.1:1\nsigner   127.0.0.1:2, process 22\nproxy    127.0.0.1:3, process 33\n\
                    \nTry it:\n  curl --cacert '/a b' https://x:3/\n  openssl s_client\n  signer.toml /x\n";
        let shown = Shown::read(said).unwrap();
        assert_eq!(shown.curl, "curl --cacert '/a b' https://x:3/");
        assert_eq!(
            shown.daemons.map(|pid| pid.as_raw_nonzero().get()),
            [22, 33]
        );
        let missing = Shown::read(&said.replace("proxy ", "other ")).unwrap_err();
        assert!(missing.contains("proxy"), "{missing}");
    }
}
