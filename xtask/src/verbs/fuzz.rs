//! `cargo xtask fuzz`: runs one fuzz target for a while.
//!
//! Needs a nightly toolchain and cargo-fuzz, and says so; it installs neither.

use std::process::Command;

use keyhaven_xtask::{Error, cargo, command, interrupt::Interrupt, say};

/// Runs a target, or lists them.
pub(crate) fn run(target: Option<&str>, seconds: u32, interrupt: &Interrupt) -> Result<(), Error> {
    let targets = targets()?;
    let Some(target) = target else {
        say::line(format!("fuzz targets: {}", targets.join(", ")));
        return Ok(());
    };
    if !targets.iter().any(|known| known == target) {
        return Err(Error::Missing {
            what: format!("the fuzz target {target}"),
            remedy: format!("one of: {}", targets.join(", ")),
        });
    }
    let mut version = Command::new("cargo");
    command::capture(version.args(["+nightly", "fuzz", "--version"])).map_err(|_| {
        Error::Missing {
            what: "a nightly toolchain with cargo-fuzz".to_owned(),
            remedy:
                "rustup toolchain install nightly && cargo +nightly install cargo-fuzz --locked"
                    .to_owned(),
        }
    })?;
    let mut fuzz = Command::new("cargo");
    // The pinned toolchain of this workspace must not be handed down to nightly.
    fuzz.env_remove("RUSTUP_TOOLCHAIN").env_remove("CARGO");
    fuzz.current_dir(cargo::root());
    fuzz.args([
        "+nightly",
        "fuzz",
        "run",
        "--fuzz-dir",
        "fuzz",
        target,
        "--",
    ]);
    fuzz.arg(format!("-max_total_time={seconds}"));
    command::run(&mut fuzz, interrupt)
}

fn targets() -> Result<Vec<String>, Error> {
    let folder = cargo::root().join("fuzz/fuzz_targets");
    let failed = |source| Error::File {
        act: "read",
        path: folder.clone(),
        source,
    };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            names.extend(
                path.file_stem()
                    .map(|stem| stem.to_string_lossy().into_owned()),
            );
        }
    }
    names.sort();
    Ok(names)
}
