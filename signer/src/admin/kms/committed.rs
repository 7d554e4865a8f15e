//! What central has written for good, as it is told.
//!
//! Invariant: the revision is always told, since it is what one can wait for.

use keyhaven_types::KeyId;
use keyhaven_wire::kms::admin::Answer;
use serde_json::{Value, json};

use crate::admin::{ask, failure::Failure, report::Report, text};

/// Something was written.
pub(super) struct Committed {
    pub(super) revision: u64,
    pub(super) key: Option<(KeyId, u32)>,
    pub(super) warnings: Vec<String>,
}

impl Committed {
    pub(super) fn of(answer: Answer) -> Result<Self, Failure> {
        match answer {
            Answer::Committed {
                revision,
                key,
                warnings,
            } => Ok(Self {
                revision,
                key,
                warnings,
            }),
            _ => Err(other_answer()),
        }
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "revision": self.revision,
            "key": self.key.map(|(id, version)| json!({"id": id, "version": version})),
            "warnings": self.warnings,
        })
    }

    pub(super) fn text(&self, done: &str) -> String {
        let mut out = format!("{done}\n");
        if let Some((id, version)) = self.key {
            out.push_str(&format!("  key       {id}, version {version}\n"));
        }
        out.push_str(&format!("  revision  {}\n", self.revision));
        out
    }

    /// Warnings are told beside the report: they must be seen when it goes to a file, too.
    pub(super) fn warn(&self) {
        for warning in &self.warnings {
            ask::tell(&format!("warning: {}", text::clean(warning)));
        }
    }
}

/// The usual report of something that was written.
pub(super) fn report(answer: Answer, done: &str) -> Result<Report, Failure> {
    let committed = Committed::of(answer)?;
    committed.warn();
    Ok(Report::new(committed.json(), committed.text(done)))
}

/// Central said something that is no answer to the question.
pub(super) fn other_answer() -> Failure {
    Failure::new(
        "central answered something else than was asked",
        "are both of the same version?",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_revision_and_the_key_are_told() {
        let answer = Answer::Committed {
            revision: 7,
            key: Some((KeyId([0xab; 16]), 2)),
            warnings: Vec::new(),
        };
        let report = report(answer, "key `a` is made").unwrap();
        let text = String::from_utf8(report.render(false).to_vec()).unwrap();
        assert!(text.contains("revision  7"), "{text}");
        let json: Value = serde_json::from_slice(&report.render(true)).unwrap();
        assert_eq!(json["revision"], 7);
        assert_eq!(json["key"]["id"], "ab".repeat(16));
        assert_eq!(json["key"]["version"], 2);
    }

    #[test]
    fn another_answer_is_no_success() {
        assert!(report(Answer::Csr(Vec::new()), "done").is_err());
    }
}
