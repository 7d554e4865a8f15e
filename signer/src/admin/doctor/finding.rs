//! What the doctor finds: a subject, how bad it is, and the remedy.
//!
//! A list with its two ways of printing. Invariant: whatever is not good has a remedy.

use serde::Serialize;
use serde_json::json;

use crate::admin::{failure::Failure, report::Report};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Severity {
    Good,
    /// It may be as it should be; only the operator knows.
    Hint,
    Warning,
    Problem,
}

/// One finding.
#[derive(Debug, Serialize)]
struct Finding {
    subject: String,
    severity: Severity,
    what: String,
    #[serde(rename = "try")]
    remedy: Option<String>,
}

/// Everything found so far, in order.
#[derive(Debug, Default)]
pub(super) struct Findings(Vec<Finding>);

impl Findings {
    pub(super) fn good(&mut self, subject: &str, what: impl Into<String>) {
        self.push(subject, Severity::Good, what.into(), None);
    }

    pub(super) fn hint(
        &mut self,
        subject: &str,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.push(subject, Severity::Hint, what.into(), Some(remedy.into()));
    }

    pub(super) fn warning(
        &mut self,
        subject: &str,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.push(subject, Severity::Warning, what.into(), Some(remedy.into()));
    }

    pub(super) fn problem(
        &mut self,
        subject: &str,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.push(subject, Severity::Problem, what.into(), Some(remedy.into()));
    }

    /// A failure of another verb's code, as a problem.
    pub(super) fn failure(&mut self, subject: &str, failure: impl Into<Failure>) {
        let failure = failure.into();
        self.problem(subject, failure.what, failure.remedy);
    }

    pub(super) fn worst(&self) -> Option<Severity> {
        self.0.iter().map(|finding| finding.severity).max()
    }

    pub(super) fn report(&self) -> Report {
        let mut out = String::new();
        for finding in &self.0 {
            let mark = match finding.severity {
                Severity::Good => "ok      ",
                Severity::Hint => "hint    ",
                Severity::Warning => "warning ",
                Severity::Problem => "PROBLEM ",
            };
            out.push_str(&format!("{mark} {}: {}\n", finding.subject, finding.what));
            if let Some(remedy) = &finding.remedy {
                out.push_str(&format!("          try: {remedy}\n"));
            }
        }
        let count = |severity| {
            self.0
                .iter()
                .filter(|finding| finding.severity == severity)
                .count()
        };
        let (problems, warnings) = (count(Severity::Problem), count(Severity::Warning));
        out.push_str(&match (problems, warnings) {
            (0, 0) => "all well\n".to_owned(),
            _ => format!("problems: {problems}, warnings: {warnings}\n"),
        });
        Report::new(
            json!({"findings": self.0, "problems": problems, "warnings": warnings}),
            out,
        )
    }

    /// Once: tokens of one module share its file and its folder.
    fn push(&mut self, subject: &str, severity: Severity, what: String, remedy: Option<String>) {
        let is_known = |finding: &Finding| finding.subject == subject && finding.what == what;
        if self.0.iter().any(is_known) {
            return;
        }
        self.0.push(Finding {
            subject: subject.to_owned(),
            severity,
            what,
            remedy,
        });
    }
}
