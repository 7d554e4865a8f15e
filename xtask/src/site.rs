//! A whole site in one folder: a SoftHSM2 token with a key, a private CA, a certificate, two configurations.
//!
//! Only lays things out and writes them; the key is made by the real `signer-admin`. The folder is ours as a
//! whole: it is made anew by each run, and nobody else's folder is ever emptied.

mod config;
mod folder;
mod pki;
mod token;

use std::{net::SocketAddr, path::PathBuf, process::Command};

pub use config::{SiteOptions, write as write_configs};
pub use folder::Folder;
pub use pki::{issue_identities, issue_site_certificate};
pub use token::{Algorithm, Token, key_uri};

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
        interrupt: &Interrupt,
    ) -> Result<Running, Error> {
        Self::start_on(programs, folder, None, interrupt)
    }

    /// The same, with both bound to one processor.
    pub fn start_on(
        programs: &Programs,
        folder: &Folder,
        cpu: Option<usize>,
        interrupt: &Interrupt,
    ) -> Result<Running, Error> {
        let mut signer = daemon(programs, folder, "signer", cpu)?;
        signer.wait_listening(interrupt)?;
        let mut proxy = daemon(programs, folder, "proxy", cpu)?;
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

fn daemon(
    programs: &Programs,
    folder: &Folder,
    name: &str,
    cpu: Option<usize>,
) -> Result<Daemon, Error> {
    let mut command = Command::new(programs.path(name));
    command.arg("--config").arg(folder.config(name));
    command.env("SOFTHSM2_CONF", folder.softhsm_conf());
    if let Some(cpu) = cpu {
        command = on_cpu(&command, cpu);
    }
    Daemon::start(name, &command, &folder.log(name))
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
