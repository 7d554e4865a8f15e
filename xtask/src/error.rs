//! Why a verb failed, and what to try.
//!
//! Decides no exit code: `main` does. The variants carry what a person needs to go on.

use std::{io, net::SocketAddr, path::PathBuf};

/// Why a verb failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Something is not installed.
    #[error("{what} is not installed")]
    Missing {
        /// What.
        what: String,
        /// How to get it.
        remedy: String,
    },
    /// A program could not be started.
    #[error("cannot start {program}")]
    Start {
        /// The program.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// A command failed.
    #[error("`{command}` ended with {status}")]
    Failed {
        /// The command line.
        command: String,
        /// Its exit status.
        status: String,
        /// The end of what it said, when that was not shown.
        said: String,
    },
    /// A file or folder could not be used.
    #[error("cannot {act} {path}")]
    File {
        /// What we were doing.
        act: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The folder for the demo holds something else.
    #[error("{0} is not empty and was not made by this command")]
    ForeignDir(PathBuf),
    /// The folder is used by another run.
    #[error("{0} is used by another run of this command")]
    DirInUse(PathBuf),
    /// The path of a folder leaves no room for a socket in it.
    #[error("{0} is too long for the path of a socket")]
    LongPath(PathBuf),
    /// An address is taken.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// A daemon ended, or did not become ready in time.
    #[error("{name} {what}")]
    Daemon {
        /// Its name.
        name: String,
        /// What happened.
        what: String,
        /// Its log.
        log: PathBuf,
        /// The log's last lines.
        tail: String,
    },
    /// A certificate could not be made.
    #[error("cannot make the certificate of {subject}")]
    Certificate {
        /// Whose.
        subject: String,
        /// Why.
        source: rcgen::Error,
    },
    /// A request through the proxy failed.
    #[error("the {version} request failed: {why}")]
    Request {
        /// The TLS version asked for.
        version: &'static str,
        /// Why.
        why: String,
    },
    /// What a program wrote is not what it should be.
    #[error("cannot read the output of {program}: {why}")]
    Output {
        /// The program.
        program: String,
        /// Why.
        why: String,
    },
    /// Rules of the house are broken; each is printed before.
    #[error("{0} rule(s) of the house are broken, see above")]
    Rules(usize),
    /// The user or the system asked us to stop.
    #[error("stopped by a signal")]
    Interrupted,
}

impl Error {
    /// What to try, when there is something better to say than the error itself.
    pub fn remedy(&self) -> Option<String> {
        match self {
            Self::Missing { remedy, .. } => Some(remedy.clone()),
            Self::ForeignDir(_) => Some("choose an empty or a new folder with --dir".to_owned()),
            Self::LongPath(_) => Some("choose a folder with a shorter path with --dir".to_owned()),
            Self::DirInUse(_) => Some("stop that run, or choose another --dir".to_owned()),
            Self::Listen { source, .. } if source.kind() == io::ErrorKind::AddrInUse => Some(
                "another program uses the port: stop it, or choose another port with --listen"
                    .to_owned(),
            ),
            Self::Daemon { log, .. } => Some(format!("the whole log is in {}", log.display())),
            _ => None,
        }
    }

    /// Lines of a log or of a command's output that explain the error; may be empty.
    pub fn evidence(&self) -> &str {
        match self {
            Self::Failed { said, .. } => said,
            Self::Daemon { tail, .. } => tail,
            _ => "",
        }
    }
}
