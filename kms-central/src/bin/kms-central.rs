//! The `kms-central` program: the central KMS server.
//!
//! Turns arguments into a run and an error into an exit code: 0, 1 run time or cut at the stop, 64 usage, 78
//! configuration.
#![allow(clippy::print_stdout, reason = "says what --check found")]

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Parser, error::ErrorKind};
use keyhaven_kms_central::daemon::{self, DaemonError};
use keyhaven_service::shutdown::Ended;

/// Keyhaven's central KMS server: makes, imports, wraps, rotates and revokes managed keys in its PKCS#11 token, and
/// replicates them to sites.
#[derive(Parser)]
#[command(name = "kms-central", version)]
struct Arguments {
    /// The configuration file; `config/kms-central.toml` explains every key.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Check the file, the token with its keys, and the store, and exit. Tries the PIN once.
    #[arg(long)]
    check: bool,
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            return match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
                _ => ExitCode::from(EXIT_USAGE),
            };
        }
    };
    let result = if arguments.check {
        daemon::check(&arguments.config).map(|warnings| {
            say(&arguments.config, &warnings);
            true
        })
    } else {
        daemon::run(&arguments.config).map(Ended::is_in_order)
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            report(&error);
            match error {
                DaemonError::Config(_) => ExitCode::from(EXIT_CONFIG),
                DaemonError::Start { .. } | DaemonError::Run { .. } => ExitCode::FAILURE,
            }
        }
    }
}

fn say(config: &Path, warnings: &[String]) {
    for warning in warnings {
        println!("warning: {warning}");
    }
    println!("{}: in order", config.display());
}

fn report(error: &DaemonError) {
    eprintln!("error: {error}");
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        eprintln!("  because: {inner}");
        cause = inner.source();
    }
}

const EXIT_USAGE: u8 = 64;
const EXIT_CONFIG: u8 = 78;
