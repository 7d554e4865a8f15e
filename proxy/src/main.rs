//! The `proxy` program: reads its configuration, listens, serves until it is told to stop.
//!
//! Turns errors into exit codes (0, 1 run time or cut at the stop, 64 usage, 78 configuration) and does nothing else by itself.
#![allow(
    clippy::print_stdout,
    reason = "--check answers on the standard output"
)]

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::Parser;
use keyhaven_proxy::{Server, config::Config};
use keyhaven_service::{
    shutdown::{self, Ended, Shutdown},
    telemetry,
};

const RUN_TIME: u8 = 1;
const USAGE: u8 = 64;
const CONFIG: u8 = 78;
/// How long the runtime may take to end when everything is served.
const LAST_TASKS_TIMEOUT: Duration = Duration::from_secs(1);

/// The thin TLS frontend: TLS clients in front, signers beside, a plaintext backend behind.
#[derive(Parser)]
#[command(name = "proxy", version)]
struct Arguments {
    /// The configuration; config/proxy.toml documents every key.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Check the configuration, say every problem with its line and the remedy, and exit.
    #[arg(long)]
    check: bool,
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let code = if error.use_stderr() { USAGE } else { 0 };
            // Nobody is left to tell when even the terminal is gone.
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    let (config, warnings) = match Config::read(&arguments.config) {
        Ok(read) => read,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(CONFIG);
        }
    };
    if arguments.check {
        for warning in &warnings {
            println!("warning: {warning}");
        }
        println!("{}: ok", arguments.config.display());
        return ExitCode::SUCCESS;
    }
    match run(&arguments.config, config, &warnings) {
        Ok(ended) if ended.is_in_order() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(RUN_TIME),
        Err(error) => {
            eprintln!("proxy: {error:#}", error = Chain(error.as_ref()));
            ExitCode::from(RUN_TIME)
        }
    }
}

fn run(
    path: &Path,
    mut config: Config,
    warnings: &[String],
) -> Result<Ended, Box<dyn std::error::Error>> {
    telemetry::init(&config.log)?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), config = %path.display(), "proxy starts");
    let hardening = shutdown::harden();
    for warning in warnings.iter().chain(&hardening) {
        tracing::warn!("{warning}");
    }
    let files = shutdown::raise_file_limit();
    if let Some(warning) = config.limits.fit_open_files(files) {
        tracing::warn!("{warning}");
    }

    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let served = runtime.block_on(serve(config));
    // A look-up of a name that hangs, on a thread of its own, must not hold the end up.
    runtime.shutdown_timeout(LAST_TASKS_TIMEOUT);
    served
}

async fn serve(config: Config) -> Result<Ended, Box<dyn std::error::Error>> {
    let shutdown = Shutdown::new();
    shutdown.listen()?;
    let grace = config.limits.shutdown_grace;
    let server = Server::bind(config, &shutdown)?;
    server.serve().await;
    let ended = shutdown.finish(grace).await;
    ended.log();
    Ok(ended)
}

/// Prints an error with its causes.
struct Chain<'a>(&'a dyn std::error::Error);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(cause) = source {
            write!(f, ": {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}
