//! What a verb found or did: one JSON document and the same for people.
//!
//! Verbs build it, `run` prints it. Invariant: the JSON has whatever the text has.

use serde_json::Value;

/// The outcome of a verb.
#[derive(Debug)]
pub(super) struct Report {
    json: Value,
    text: String,
    /// Whether what was examined is as it should be; otherwise the exit code is 1.
    pub(super) passed: bool,
}

impl Report {
    pub(super) fn new(json: Value, text: impl Into<String>) -> Self {
        Self {
            json,
            text: text.into(),
            passed: true,
        }
    }

    /// A text that is its own format, as a script or a PEM file is; `--json` wraps it.
    pub(super) fn text_only(text: String) -> Self {
        Self::new(serde_json::json!({ "text": text }), text)
    }

    pub(super) fn failed_if(mut self, failed: bool) -> Self {
        self.passed &= !failed;
        self
    }

    pub(super) fn render(&self, json: bool) -> String {
        let mut out = if json {
            format!("{:#}", self.json)
        } else {
            self.text.clone()
        };
        if !out.ends_with('\n') {
            out.push('\n');
        }
        out
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
    fn columns_are_aligned_and_lines_not_padded() {
        let row = |cells: &[&str]| cells.iter().map(|cell| (*cell).to_owned()).collect();
        let text = table(&[row(&["a", "bb"]), row(&["ccc", ""])]);
        assert_eq!(text, "a    bb\nccc\n");
    }
}
