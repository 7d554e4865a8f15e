//! `cargo xtask check`: formatting, lints, boundaries.
//!
//! Changes nothing. It is the part of `test` that needs neither a token nor a built program.

use keyhaven_xtask::{
    Error,
    cargo::{cargo, target_dir},
    command,
    interrupt::Interrupt,
    say::step,
};

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
    })?;
    // A workspace of its own, which nothing else compiles.
    step("fuzz targets", || {
        let mut fuzz = cargo();
        fuzz.args(["clippy", "--manifest-path", "fuzz/Cargo.toml", "--locked"]);
        fuzz.args(["--", "-D", "warnings"]);
        fuzz.env("CARGO_TARGET_DIR", target_dir());
        command::run(&mut fuzz, interrupt)
    })
}
