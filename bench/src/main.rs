//! The same work on us and on peers, side by side: processor time, not rates.
//!
//! Started by `cargo xtask bench`, which installs the peers and builds with optimisation. Decides nothing about
//! the numbers: it prints them and writes them down.

mod handshake;
mod kms;
mod load;
mod measure;
mod nginx;
mod place;
mod report;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::{Parser, Subcommand};
use keyhaven_xtask::{Error, interrupt::Interrupt, say, site::Algorithm};

use crate::{handshake::Plan, measure::Extent};

#[derive(Debug, Parser)]
#[command(name = "keyhaven-bench")]
struct Cli {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Processor time for each handshake, on each module and at each level, beside nginx on a SoftHSM2 key.
    Handshake {
        /// Handshakes in each measurement; slow tokens stop after some seconds.
        #[arg(long, default_value_t = 2000)]
        handshakes: u32,
        /// How often everything is measured.
        #[arg(long, default_value_t = 3)]
        rounds: u32,
        /// Rows to be measured.
        #[arg(long)]
        only: Vec<String>,
        /// An RSA-2048 key in place of an ECDSA one.
        #[arg(long)]
        rsa: bool,
    },
    /// Managed keys: replication, revocation, lookups, and what they take of a machine.
    Kms {
        /// Managed keys.
        #[arg(long, default_value_t = 100_000)]
        keys: u32,
        /// Simulated sites, beside a real one.
        #[arg(long, default_value_t = 50)]
        sites: u32,
        /// Keys that are revoked, one after the other.
        #[arg(long, default_value_t = 200)]
        revocations: u32,
        /// Lines for `[store]` of central's configuration.
        #[arg(long)]
        store: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    match Interrupt::listen().and_then(|interrupt| run(Cli::parse().what, &interrupt)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say::error(&error);
            ExitCode::FAILURE
        }
    }
}

fn run(what: What, interrupt: &Interrupt) -> Result<(), Error> {
    match what {
        What::Handshake {
            handshakes,
            rounds,
            only,
            rsa,
        } => {
            let plan = Plan {
                extent: Extent {
                    handshakes,
                    time: MEASUREMENT_MAX,
                },
                rounds,
                only,
                algorithm: if rsa { Algorithm::Rsa } else { Algorithm::Ec },
            };
            handshake::run(&plan, interrupt)
        }
        What::Kms {
            keys,
            sites,
            revocations,
            store,
        } => kms::run(
            kms::Plan {
                keys,
                sites,
                revocations,
            },
            store.as_deref(),
            interrupt,
        ),
    }
}

/// How long one measurement may take.
const MEASUREMENT_MAX: Duration = Duration::from_secs(4);
