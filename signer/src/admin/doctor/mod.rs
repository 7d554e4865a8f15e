//! `doctor`: looks at a setup part by part, and says what to do about what is wrong.
//!
//! Changes nothing. Invariant: a PIN is sent at most once, after the token said that tries are left.

mod finding;
mod token;

use finding::{Findings, Severity};

use super::{args::DoctorArgs, failure::Failure, report::Report};

/// Examines a configuration, or one token.
pub(super) fn run(args: &DoctorArgs) -> Result<Report, Failure> {
    let mut findings = Findings::default();
    token::examine(&args.token, &mut findings);
    let failed = findings.worst() == Some(Severity::Problem);
    Ok(findings.report().failed_if(failed))
}
