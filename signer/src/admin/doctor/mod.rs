//! `doctor`: looks at a setup part by part, and says what to do about what is wrong.
//!
//! Changes nothing. Invariant: a PIN is sent at most once, after the token said that tries are left.

mod finding;
mod kms;
mod probe;
mod road;
mod setup;
mod site;
mod softhsm;
mod token;

use finding::{Findings, Severity};

use super::{args::DoctorArgs, failure::Failure, report::Report, select::Selected};

/// Examines a configuration, or one token; or writes a probe report on one.
pub(super) fn run(args: &DoctorArgs) -> Result<Report, Failure> {
    if let Some(file) = &args.probe_report {
        return probe::run(&args.token, file.as_deref());
    }
    let mut findings = Findings::default();
    match &args.config {
        Some(path) => setup::examine(path, &mut findings),
        None => {
            // The session stays open until everything was looked at.
            let _session = token::examine(
                Selected::new(&args.token),
                args.token.module.module.as_deref(),
                false,
                &mut findings,
            );
        }
    }
    let failed = findings.worst() == Some(Severity::Problem);
    Ok(findings.report().failed_if(failed))
}
