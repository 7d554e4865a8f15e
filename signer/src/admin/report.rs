//! What a verb found or did: one JSON document and the same for people.
//!
//! Verbs build it, `run` prints it. Invariant: the JSON has whatever the text has.

use serde_json::Value;
use zeroize::Zeroizing;

/// The outcome of a verb.
#[derive(Debug)]
pub(super) struct Report {
    json: Value,
    text: String,
    /// Printed as they are instead of the text.
    bytes: Option<Zeroizing<Vec<u8>>>,
    /// Whether what was examined is as it should be; otherwise the exit code is 1.
    pub(super) passed: bool,
}

impl Report {
    pub(super) fn new(json: Value, text: impl Into<String>) -> Self {
        Self {
            json,
            text: text.into(),
            bytes: None,
            passed: true,
        }
    }

    /// A text that is its own format, as a script or a PEM file is; `--json` wraps it.
    pub(super) fn text_only(text: String) -> Self {
        Self::new(serde_json::json!({ "text": text }), text)
    }

    /// An output that is bytes and not for people, with what they should know of it; `--json` has it in base64.
    pub(super) fn bytes(json: Value, bytes: Zeroizing<Vec<u8>>, note: String) -> Self {
        Self {
            bytes: Some(bytes),
            ..Self::new(json, note)
        }
    }

    /// What is told beside the output, where it would spoil it: only of bytes.
    pub(super) fn note(&self, json: bool) -> Option<&str> {
        (self.bytes.is_some() && !json).then_some(self.text.as_str())
    }

    pub(super) fn failed_if(mut self, failed: bool) -> Self {
        self.passed &= !failed;
        self
    }

    pub(super) fn render(&self, json: bool) -> Zeroizing<Vec<u8>> {
        if let (Some(bytes), false) = (&self.bytes, json) {
            return bytes.clone();
        }
        let mut out = if json {
            format!("{:#}", self.json)
        } else {
            self.text.clone()
        };
        if !out.ends_with('\n') {
            out.push('\n');
        }
        Zeroizing::new(out.into_bytes())
    }
}

/// Rows with columns as wide as their widest cell; the last is not padded.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:width$}  "));
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_printed_as_they_are_and_text_ends_its_line() {
        let json = serde_json::json!({"signature": "AAE="});
        let report = Report::bytes(json, Zeroizing::new(vec![0, 1]), "by version 2".to_owned());
        assert_eq!(report.render(false)[..], [0, 1]);
        assert_eq!(report.note(false), Some("by version 2"));
        assert_eq!(report.note(true), None);
        assert!(report.render(true).ends_with(b"}\n"));
        let report = Report::text_only("a".to_owned());
        assert_eq!(report.note(false), None);
        assert_eq!(report.render(false)[..], *b"a\n");
    }

    #[test]
    fn columns_are_aligned_and_lines_not_padded() {
        let row = |cells: &[&str]| cells.iter().map(|cell| (*cell).to_owned()).collect();
        let text = table(&[row(&["a", "bb"]), row(&["ccc", ""])]);
        assert_eq!(text, "a    bb\nccc\n");
    }
}
