//! `cargo xtask check`: formatting, lints, boundaries.
//!
//! Changes nothing. It is the part of `test` that needs neither a token nor a built program.

use keyhaven_xtask::{Error, cargo::cargo, command, interrupt::Interrupt, say::step};

use super::boundaries;

/// Runs the checks.
pub(crate) fn run(interrupt: &Interrupt) -> Result<(), Error> {
    step("formatting", || {
        command::run(cargo().args(["fmt", "--all", "--check"]), interrupt)
    })?;
    step("boundaries", boundaries::check)?;
    step("lints", || {
        let mut clippy = cargo();
        clippy.args([
            "clippy",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ]);
        command::run(&mut clippy, interrupt)
    })
}
