//! `cargo xtask check`: formatting, lints, boundaries.
//!
//! Changes nothing. It is the part of `test` that needs neither a token nor a built program.

use keyhaven_xtask::{
    Error,
    cargo::{cargo, root, target_dir},
    command,
    interrupt::Interrupt,
    modules,
    say::step,
};

use super::boundaries;

/// Runs the checks.
pub(crate) fn run(interrupt: &Interrupt) -> Result<(), Error> {
    step("formatting", || {
        command::run(cargo().args(["fmt", "--all", "--check"]), interrupt)?;
        // Each a workspace of its own. They are so small that lints are not worth what they would compile.
        for folder in modules::FOLDERS {
            let mut fmt = cargo();
            fmt.current_dir(root().join(folder));
            command::run(fmt.args(["fmt", "--check"]), interrupt)?;
        }
        Ok(())
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
