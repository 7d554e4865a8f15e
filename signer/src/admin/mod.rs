//! `signer-admin`: the operator's command line.
//!
//! Parses arguments, runs one verb, prints its report and says how it ended. What a token can do is in `hsm`.
//! Invariant: a verb returns a value; only this file prints, and only the binary makes an exit code of it.

mod args;
mod ask;
mod cert;
mod channel;
mod custody;
mod doctor;
mod failure;
mod key;
pub mod keyfile;
mod kms;
mod nature;
mod operate;
mod report;
mod select;
mod served;
mod text;
mod tls_names;
mod token;

use std::{ffi::OsString, io::Write, process::ExitCode};

use clap::{CommandFactory, Parser, error::ErrorKind};

pub use args::Cli;
use args::{CertVerb, Command, KeyVerb, TokenVerb};
use failure::Failure;
use report::Report;

/// Runs the program with its arguments, the first of which is its name.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            let wanted = matches!(
                error.kind(),
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
            );
            // Nothing can be done about a closed terminal.
            let _ = error.print();
            return if wanted {
                ExitCode::SUCCESS
            } else {
                failure::USAGE.into()
            };
        }
    };
    let json = cli.json;
    match execute(cli) {
        Ok(report) => finish(&report, json),
        Err(failure) => {
            // As above.
            let _ = std::io::stderr().write_all(failure.render(json).as_bytes());
            failure.code.into()
        }
    }
}

fn execute(cli: Cli) -> Result<Report, Failure> {
    match cli.command {
        Command::Token(TokenVerb::List(args)) => token::list(&args),
        Command::Token(TokenVerb::Init(args)) => token::init(&args),
        Command::Token(TokenVerb::Status(args)) => token::status(&args),
        Command::Key(KeyVerb::Generate(args)) => key::generate(&args),
        Command::Key(KeyVerb::Import(args)) => key::import(&args, cli.json),
        Command::Key(KeyVerb::List(args)) => key::list(&args),
        Command::Key(KeyVerb::Show(args)) => key::show(&args),
        Command::Key(KeyVerb::Delete(args)) => key::delete(&args),
        Command::Key(KeyVerb::Csr(args)) => key::csr(&args),
        Command::Cert(CertVerb::Import(args)) => cert::import(&args),
        Command::Cert(CertVerb::Show(args)) => cert::show(&args),
        Command::Custody(args) => custody::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Kms(verb) => kms::run(&verb, cli.json),
        Command::Lookup(args) => operate::lookup(&args),
        Command::Sign(args) => operate::sign(&args),
        Command::Verify(args) => operate::verify(&args),
        Command::Encrypt(args) => operate::encrypt(&args),
        Command::Decrypt(args) => operate::decrypt(&args),
        Command::Mac(args) => operate::mac(&args),
        Command::Wrap(args) => operate::wrap(&args),
        Command::Unwrap(args) => operate::unwrap(&args),
        Command::Random(args) => operate::random(&args),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "signer-admin", &mut script);
            Ok(Report::text_only(
                String::from_utf8_lossy(&script).into_owned(),
            ))
        }
    }
}

fn finish(report: &Report, json: bool) -> ExitCode {
    let printed = std::io::stdout()
        .write_all(&report.render(json))
        .and_then(|()| std::io::stdout().flush());
    if let Some(note) = report.note(json) {
        ask::tell(note);
    }
    match printed {
        Ok(()) if report.passed => ExitCode::SUCCESS,
        // A reader that went away (`| head`) wanted no more; anything else is a failure.
        Err(error) if report.passed && error.kind() == std::io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        _ => failure::RUN_TIME.into(),
    }
}
