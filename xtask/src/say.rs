//! What the verbs print, and nothing else does: headings, durations, errors.
//!
//! Keeps one shape for all verbs. Standard output carries the result, standard error the failures.
#![allow(
    clippy::print_stdout,
    reason = "this file is where the verbs speak to a person"
)]

use std::{error::Error as _, fmt::Display, time::Instant};

use crate::Error;

/// Prints one line.
pub fn line(text: impl Display) {
    println!("{text}");
}

/// Prints a heading, does the work, prints how long it took.
pub fn step<T>(title: &str, work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    println!("\n== {title}");
    let begun = Instant::now();
    let result = work();
    let verdict = if result.is_ok() { "done" } else { "FAILED" };
    println!(
        "== {title}: {verdict} in {:.1} s",
        begun.elapsed().as_secs_f64()
    );
    result
}

/// Prints an error with its causes, its evidence and what to try.
pub fn error(error: &Error) {
    eprintln!("\nerror: {error}");
    let mut cause = error.source();
    while let Some(inner) = cause {
        eprintln!("  because: {inner}");
        cause = inner.source();
    }
    if !error.evidence().trim().is_empty() {
        eprintln!(
            "---- last lines ----\n{}\n--------------------",
            error.evidence().trim_end()
        );
    }
    if let Some(remedy) = error.remedy() {
        eprintln!("try: {remedy}");
    }
}
