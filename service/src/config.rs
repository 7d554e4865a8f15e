//! Reading a daemon's TOML file, and saying what is wrong with it.
//!
//! Gives the raw form with its places in the file; turning that into a valid form is the daemon's part. One
//! invariant: a problem tells the line, what is wrong there, and what to do.

use std::{
    fmt, io,
    ops::Range,
    path::{Path, PathBuf},
};

use keyhaven_types::Role;
use serde::{Deserialize, de::DeserializeOwned};
use toml::Spanned;

use crate::{
    credentials::{Credentials, CredentialsFile},
    tls::chain,
};

/// Reads and parses a file. Unknown keys are errors where the type says `deny_unknown_fields`.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<Document<T>, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })?;
    match toml::from_str(&text) {
        Ok(value) => {
            let base = path.parent().unwrap_or(Path::new("")).to_owned();
            let file = File {
                path: path.to_owned(),
                base,
                text,
            };
            Ok(Document { value, file })
        }
        Err(error) => {
            let (line, column) = error.span().map_or((1, 1), |span| place(&text, span.start));
            Err(ConfigError::Parse {
                path: path.to_owned(),
                line,
                column,
                message: error.message().to_owned(),
            })
        }
    }
}

/// `path`, or, if it is relative, what it means in the folder `base`.
pub fn resolve(base: &Path, path: &Path) -> PathBuf {
    base.join(path)
}

/// A parsed file.
#[derive(Debug)]
pub struct Document<T> {
    /// What the file says.
    pub value: T,
    file: File,
}

#[derive(Clone, Debug)]
struct File {
    path: PathBuf,
    base: PathBuf,
    text: String,
}

impl<T> Document<T> {
    /// The file.
    pub fn path(&self) -> &Path {
        &self.file.path
    }

    /// The folder that relative paths in it start from.
    pub fn base(&self) -> &Path {
        &self.file.base
    }

    /// An empty list of problems of this file.
    pub fn problems(&self) -> Problems {
        Problems {
            file: self.file.clone(),
            items: Vec::new(),
        }
    }

    /// The value, and an empty list of problems of this file.
    pub fn split(self) -> (T, Problems) {
        let problems = self.problems();
        (self.value, problems)
    }
}

/// Why a file gives no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("cannot read {}; check the path and its permissions", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not TOML, or a key is unknown, missing or of another type.
    #[error("{}:{line}:{column}: {message}\n  Compare with the annotated file in config/.", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// What the parser says.
        message: String,
    },
    /// It parses, and what it says cannot be done.
    #[error("{0}")]
    Problems(Problems),
}

/// Everything that is wrong with one file, in the order it was found.
#[derive(Debug)]
pub struct Problems {
    file: File,
    items: Vec<Problem>,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The line in the file, from 1, when it is about one.
    pub line: Option<usize>,
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub remedy: String,
    /// Whether the daemon runs all the same.
    pub warning: bool,
}

impl Problems {
    /// Adds an error at a place in the file. An empty span is no place.
    pub fn add(
        &mut self,
        span: impl Into<Option<Range<usize>>>,
        what: impl fmt::Display,
        remedy: impl fmt::Display,
    ) {
        self.push(span.into(), what.to_string(), remedy.to_string(), false);
    }

    /// Adds a warning: it is shown, and the daemon runs all the same.
    pub fn warn(
        &mut self,
        span: impl Into<Option<Range<usize>>>,
        what: impl fmt::Display,
        remedy: impl fmt::Display,
    ) {
        self.push(span.into(), what.to_string(), remedy.to_string(), true);
    }

    fn push(&mut self, span: Option<Range<usize>>, what: String, remedy: String, warning: bool) {
        let line = span
            .filter(|span| !span.is_empty())
            .map(|span| self.line(span));
        self.items.push(Problem {
            line,
            what,
            remedy,
            warning,
        });
    }

    /// The folder that relative paths start from.
    pub fn base(&self) -> &Path {
        &self.file.base
    }

    /// A path of the file, resolved against its folder.
    pub fn resolve(&self, path: &Path) -> PathBuf {
        resolve(&self.file.base, path)
    }

    /// The line on which a span starts, from 1.
    pub fn line(&self, span: Range<usize>) -> usize {
        place(&self.file.text, span.start).0
    }

    /// Whether there is no error; warnings do not count.
    pub fn is_empty(&self) -> bool {
        self.items.iter().all(|problem| problem.warning)
    }

    /// Everything found so far, warnings too.
    pub fn items(&self) -> &[Problem] {
        &self.items
    }

    /// The warnings among them.
    pub fn warnings(&self) -> impl Iterator<Item = &Problem> {
        self.items.iter().filter(|problem| problem.warning)
    }

    /// An error if there is one; warnings alone are none.
    pub fn into_result(self) -> Result<(), ConfigError> {
        if self.is_empty() {
            Ok(())
        } else {
            Err(ConfigError::Problems(self))
        }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.items.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{}:", self.file.path.display())?;
            if let Some(line) = problem.line {
                write!(f, "{line}:")?;
            }
            let kind = if problem.warning { "warning: " } else { "" };
            write!(f, " {kind}{}\n  {}", problem.what, problem.remedy)?;
        }
        Ok(())
    }
}

/// The `[identity]` table: what a daemon proves itself with.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdentitySection {
    /// PEM chain, leaf first.
    pub certificate: Spanned<PathBuf>,
    /// PEM private key.
    pub key: Spanned<PathBuf>,
    /// PEM certificates of the private CA.
    pub ca: Spanned<PathBuf>,
}

impl IdentitySection {
    /// Reads the files and checks that they make an identity of this role. What is wrong goes into `problems`.
    pub fn load(&self, problems: &mut Problems, role: Role) -> Option<Credentials> {
        let loaded = Credentials::load(
            &problems.resolve(self.certificate.get_ref()),
            &problems.resolve(self.key.get_ref()),
            &problems.resolve(self.ca.get_ref()),
        );
        let credentials = match loaded {
            Ok(credentials) => credentials,
            Err(error) => {
                let span = match error.file() {
                    CredentialsFile::Certificate => self.certificate.span(),
                    CredentialsFile::Key => self.key.span(),
                    CredentialsFile::Ca => self.ca.span(),
                };
                problems.add(span, chain(&error), error.remedy());
                return None;
            }
        };
        for warning in credentials.warnings() {
            problems.warn(self.certificate.span(), warning, "It is used as it is.");
        }
        let found = credentials.identity();
        if found.role() != role {
            problems.add(
                self.certificate.span(),
                format!("{found} has not the role `{}`", role.as_str()),
                format!(
                    "Give a certificate that names spiffe://DOMAIN/{}/NAME.",
                    role.as_str()
                ),
            );
            return None;
        }
        Some(credentials)
    }
}

/// The `[log]` table.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogSection {
    /// How lines look.
    pub format: LogFormat,
    /// Filter in the form of `tracing`: `info`, or `keyhaven_hsm=debug,info`.
    pub level: Spanned<String>,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Human,
    /// One JSON object a line.
    Json,
}

impl Default for LogSection {
    fn default() -> Self {
        Self {
            format: LogFormat::Human,
            level: Spanned::new(0..0, "info".to_owned()),
        }
    }
}

/// Line and column of a byte offset, both from 1.
fn place(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
    (line, before[line_start..].chars().count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Raw {
        port: Spanned<u16>,
        #[serde(default)]
        log: LogSection,
    }

    fn written(text: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("daemon.toml");
        std::fs::write(&path, text).unwrap();
        (folder, path)
    }

    #[test]
    fn a_syntax_error_tells_its_line_and_column() {
        let (_folder, path) = written("port = 1\nwhat = 2\n");
        let error = read::<Raw>(&path).unwrap_err().to_string();
        assert!(
            error.contains("daemon.toml:2:1: unknown field `what`"),
            "{error}"
        );
    }

    #[test]
    fn every_problem_is_listed_with_line_and_remedy() {
        let (folder, path) = written("# first\n\nport = 0\n");
        let (raw, mut problems) = read::<Raw>(&path).unwrap().split();
        assert_eq!(raw.log.level.get_ref(), "info");
        problems.warn(None, "it is late", "Sleep.");
        assert!(problems.is_empty());
        problems.add(raw.port.span(), "port 0 is no port", "Give another.");
        let shown = problems.to_string();
        assert!(
            shown.contains("daemon.toml: warning: it is late\n  Sleep.\n"),
            "{shown}"
        );
        assert!(
            shown.contains("daemon.toml:3: port 0 is no port\n  Give another."),
            "{shown}"
        );
        assert_eq!(
            problems.resolve(Path::new("a/b")),
            folder.path().join("a/b")
        );
        assert_eq!(problems.resolve(Path::new("/a/b")), Path::new("/a/b"));
        assert!(problems.into_result().is_err());
    }

    #[test]
    fn a_missing_file_says_which() {
        let error = read::<Raw>(Path::new("/nowhere/x.toml"))
            .unwrap_err()
            .to_string();
        assert!(error.contains("/nowhere/x.toml"), "{error}");
    }
}
