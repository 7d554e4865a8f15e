//! A whole site in one folder: tokens with a key, a private CA, a certificate, two configurations.
//!
//! Only lays things out and writes them; the key is made by the real `signer-admin`. The folder is ours as a
//! whole: it is made anew by each run, and nobody else's folder is ever emptied.

mod config;
mod folder;
mod helpers;
mod home;
mod kind;
mod kms;
mod pki;
mod token;

use std::{ffi::OsString, net::SocketAddr, path::PathBuf, process::Command};

pub use config::{SiteOptions, Tickets, write as write_configs};
pub use folder::Folder;
pub use kind::{Kind, ROWS, Row, SOFTHSM2};
pub use kms::{Kms, KmsSite, spiffe};
pub use pki::{issue_identities, issue_site_certificate};
pub use token::{Algorithm, Token, Tokens};

use crate::{Error, cargo::Programs, command, daemon::Daemon, interrupt::Interrupt};

/// The name that the demo's certificate is for.
pub const SERVER_NAME: &str = "demo.keyhaven.test";
/// What the site answers to: its name, and the one that a browser on the same machine can use.
pub const SERVER_NAMES: &[&str] = &[SERVER_NAME, "localhost"];

/// A site whose daemons run.
#[derive(Debug)]
pub struct Running {
    /// The key server.
    pub signer: Daemon,
    /// The frontend.
    pub proxy: Daemon,
    /// Where the frontend listens.
    pub address: SocketAddr,
}

impl Running {
    /// Starts `signer`, waits for it, then starts `proxy` and waits for it.
    pub fn start(
        programs: &Programs,
        folder: &Folder,
        tokens: &Tokens<'_>,
        interrupt: &Interrupt,
    ) -> Result<Running, Error> {
        Self::start_on(programs, folder, tokens, None, interrupt)
    }

    /// The same, with both bound to one processor.
    pub fn start_on(
        programs: &Programs,
        folder: &Folder,
        tokens: &Tokens<'_>,
        cpu: Option<usize>,
        interrupt: &Interrupt,
    ) -> Result<Running, Error> {
        let start = |name, env| {
            let mut command = Command::new(programs.path(name));
            command.arg("--config").arg(folder.config(name));
            command.envs::<_, &str, OsString>(env);
            if let Some(cpu) = cpu {
                command = on_cpu(&command, cpu);
            }
            Daemon::start(name, &command, &folder.log(name))
        };
        let mut signer = start("signer", tokens.env())?;
        signer.wait_listening(interrupt)?;
        let mut proxy = start("proxy", Vec::new())?;
        let address = proxy.wait_listening(interrupt)?;
        Ok(Running {
            signer,
            proxy,
            address,
        })
    }
}

/// The command, bound to one processor where `taskset` is installed.
pub fn on_cpu(command: &Command, cpu: usize) -> Command {
    match command::find("taskset") {
        Some(taskset) => command::under(&taskset, &["--cpu-list", &cpu.to_string()], command),
        None => command::again(command),
    }
}

/// Writes a file, and says which one could not be written.
fn write_file(path: PathBuf, text: impl AsRef<[u8]>) -> Result<(), Error> {
    std::fs::write(&path, text).map_err(|source| Error::File {
        act: "write",
        path,
        source,
    })
}

/// Writes a file that its owner alone can read.
pub fn write_private(path: PathBuf, text: impl AsRef<[u8]>) -> Result<(), Error> {
    use std::{io::Write, os::unix::fs::OpenOptionsExt};
    std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .and_then(|mut file| file.write_all(text.as_ref()))
        .map_err(|source| Error::File {
            act: "write",
            path,
            source,
        })
}

/// Percent-encodes all but the unreserved characters of RFC 3986.
fn percent(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            other => format!("%{other:02X}"),
        })
        .collect()
}
