//! The same work on us and on peers, side by side: processor time, not rates.
//!
//! Started by `cargo xtask bench`, which installs the peers and builds with optimisation. Decides nothing about
//! the numbers: it prints them and writes them down.

mod handshake;
mod load;
mod nginx;
mod report;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use keyhaven_xtask::{interrupt::Interrupt, say};

#[derive(Debug, Parser)]
#[command(name = "keyhaven-bench")]
struct Cli {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Processor time for each full handshake, beside nginx with the libp11 engine on the same key.
    Handshake {
        /// Handshakes in each measurement.
        #[arg(long, default_value_t = 3000)]
        handshakes: u32,
    },
}

fn main() -> ExitCode {
    let What::Handshake { handshakes } = Cli::parse().what;
    match Interrupt::listen().and_then(|interrupt| handshake::run(handshakes, &interrupt)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say::error(&error);
            ExitCode::FAILURE
        }
    }
}
