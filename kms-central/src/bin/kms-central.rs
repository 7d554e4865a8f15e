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

/// Keyhaven's central KMS server: makes, wraps, replicates and revokes managed keys.
#[derive(Parser)]
#[command(name = "kms-central", version)]
struct Arguments {
    /// The configuration file; `config/kms-central.toml` explains every key.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Check the file and the token and the store that it names, and exit. Tries the PIN once.
    #[arg(long)]
    check: bool,
    /// Take a store that is not what central has signed as it is: after a restore that was not whole, or an edit. Who was
    /// thrown out may be back in it.
    #[arg(long)]
    accept_store: bool,
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
        daemon::check(&arguments.config, arguments.accept_store).map(|warnings| {
            say(&arguments.config, &warnings);
            true
        })
    } else {
        daemon::run(&arguments.config, arguments.accept_store).map(Ended::is_in_order)
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            report(&error);
            match error {
                DaemonError::Config(_) => ExitCode::from(EXIT_CONFIG),
                DaemonError::Start(_) | DaemonError::Run { .. } => ExitCode::FAILURE,
            }
        }
    }
}

/// What a check found, when it found nothing that stops central.
fn say(config: &Path, warnings: &[String]) {
    for warning in warnings {
        println!("{}: warning: {warning}", config.display());
    }
    let verdict = match warnings.len() {
        0 => "no problem found".to_owned(),
        1 => "usable, with a warning".to_owned(),
        many => format!("usable, with {many} warnings"),
    };
    println!("{}: {verdict}", config.display());
}

/// One line for each level of the error.
fn report(error: &DaemonError) {
    eprintln!("kms-central: {error}");
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        eprintln!("  {inner}");
        source = inner.source();
    }
}

const EXIT_USAGE: u8 = 64;
const EXIT_CONFIG: u8 = 78;
