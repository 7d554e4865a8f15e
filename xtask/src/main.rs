//! Developer verbs: `cargo xtask demo | test | bench | check | fuzz | modules`.
//!
//! Parses the command line and turns errors into exit codes; each verb has its file. Exit codes: 0, 1 when
//! something failed, 64 for a wrong command line.

mod verbs;

use std::{net::SocketAddr, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand, ValueEnum, builder::PossibleValuesParser};
use keyhaven_xtask::{
    Error,
    interrupt::Interrupt,
    say,
    site::{Algorithm, ROWS, Row, SOFTHSM2},
};

/// Developer verbs of Keyhaven.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// From a fresh machine to a working HTTPS site whose key is in a token: SoftHSM2, or what --token names.
    Demo(Demo),
    /// Every test, with what the tests need installed.
    Test,
    /// Side by side with peers: prints a table, writes JSON under target/bench/.
    Bench {
        /// What is measured.
        #[command(subcommand)]
        what: Bench,
    },
    /// Formatting, lints and the boundaries between the rooms.
    Check,
    /// Runs one fuzz target.
    Fuzz {
        /// The target; without it, the targets are listed.
        target: Option<String>,
        /// How long, in seconds.
        #[arg(long, default_value_t = 60)]
        seconds: u32,
    },
    /// Builds the token modules that no distribution has, for tests and for trying things out.
    Modules {
        /// Also kryoptic on an OpenSSL of its own, with EdDSA and ML-KEM: takes some minutes.
        #[arg(long)]
        modern: bool,
    },
}

/// The demo's options.
#[derive(Debug, clap::Args)]
struct Demo {
    /// Which modules the site's tokens are of. Two with a plus: the first one signs, the second one keeps exchange and
    /// key schedule.
    #[arg(long, value_name = "NAME", default_value = "softhsm2", value_parser = row_names())]
    token: String,
    /// The distributed KMS instead: central, three sites in three regions with a token each, two proxies.
    #[arg(long, conflicts_with_all = ["token", "tls_key", "listen"])]
    kms: bool,
    /// Prove that it works, stop everything, and exit.
    #[arg(long)]
    once: bool,
    /// The folder for token, certificates, configurations and logs. Made anew by each run.
    #[arg(long, default_value = "target/demo")]
    dir: PathBuf,
    /// Where the proxy listens.
    #[arg(long, default_value = "127.0.0.1:8443")]
    listen: SocketAddr,
    /// A plaintext backend of yours, in place of the built-in one.
    #[arg(long)]
    backend: Option<SocketAddr>,
    /// The kind of the site's key.
    #[arg(long, value_enum, default_value_t = TlsKey::Ec)]
    tls_key: TlsKey,
    /// Build with optimisation: slower to build, faster to run.
    #[arg(long)]
    release: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum TlsKey {
    /// ECDSA P-256.
    Ec,
    /// RSA-2048.
    Rsa,
    /// Ed25519: curl, openssl and GnuTLS take it, browsers do not.
    Ed25519,
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// Processor time for each TLS handshake, on each module and at each level, beside nginx.
    Handshake(verbs::bench::Options),
    /// Managed keys: replication, revocation, lookups, and what they take of a machine.
    Kms(verbs::bench::KmsOptions),
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Nothing is left to do when the error cannot be printed.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { EXIT_USAGE } else { 0 });
        }
    };
    match run(cli.verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say::error(&error);
            ExitCode::FAILURE
        }
    }
}

/// The names that `demo --token` and `bench --only` take.
pub(crate) fn row_names() -> PossibleValuesParser {
    PossibleValuesParser::new(ROWS.iter().map(|row| row.name))
}

fn run(verb: Verb) -> Result<(), Error> {
    let interrupt = Interrupt::listen()?;
    match verb {
        Verb::Demo(options) => {
            // The command line took no other name.
            let row = Row::named(&options.token).unwrap_or(SOFTHSM2);
            if options.kms {
                return verbs::demo::kms::run(&options.into(), &interrupt);
            }
            verbs::demo::run_on(row, &options.into(), &interrupt)
        }
        Verb::Test => verbs::test::run(&interrupt),
        Verb::Bench { what } => match what {
            Bench::Handshake(options) => verbs::bench::handshake(&options, &interrupt),
            Bench::Kms(options) => verbs::bench::kms(&options, &interrupt),
        },
        Verb::Check => verbs::check::run(&interrupt),
        Verb::Fuzz { target, seconds } => verbs::fuzz::run(target.as_deref(), seconds, &interrupt),
        Verb::Modules { modern } => verbs::modules::run(modern, &interrupt),
    }
}

impl From<Demo> for verbs::demo::Options {
    fn from(cli: Demo) -> Self {
        Self {
            once: cli.once,
            dir: keyhaven_xtask::cargo::root().join(cli.dir),
            listen: cli.listen,
            backend: cli.backend,
            algorithm: match cli.tls_key {
                TlsKey::Ec => Algorithm::Ec,
                TlsKey::Rsa => Algorithm::Rsa,
                TlsKey::Ed25519 => Algorithm::Ed25519,
            },
            release: cli.release,
        }
    }
}

/// As in sysexits.h.
const EXIT_USAGE: u8 = 64;
