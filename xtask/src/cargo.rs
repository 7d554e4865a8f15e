//! Runs cargo on this workspace.
//!
//! Builds the product's programs with the same profile and target folder as everything else, so that nothing is
//! compiled twice. Does not know what the programs do.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::{Error, command, interrupt::Interrupt};

/// The workspace's folder.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// Where cargo puts what it builds.
pub fn target_dir() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root().join(dir),
        None => root().join("target"),
    }
}

/// cargo, in the workspace's folder.
pub fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root());
    cargo
}

/// The product's programs of one build.
#[derive(Clone, Debug)]
pub struct Programs {
    folder: PathBuf,
}

impl Programs {
    /// Builds `signer`, `signer-admin` and `proxy`.
    pub fn build(release: bool, interrupt: &Interrupt) -> Result<Programs, Error> {
        Self::build_packages(&["keyhaven-signer", "keyhaven-proxy"], release, interrupt)
    }

    /// The same, and `kms-central`.
    pub fn build_kms(release: bool, interrupt: &Interrupt) -> Result<Programs, Error> {
        let packages = ["keyhaven-signer", "keyhaven-proxy", "keyhaven-kms-central"];
        Self::build_packages(&packages, release, interrupt)
    }

    fn build_packages(
        packages: &[&str],
        release: bool,
        interrupt: &Interrupt,
    ) -> Result<Programs, Error> {
        let mut build = cargo();
        build.arg("build");
        for package in packages {
            build.args(["--package", package]);
        }
        build.arg("--bins");
        if release {
            build.arg("--release");
        }
        command::run(&mut build, interrupt)?;
        Ok(Self::built(release))
    }

    /// The programs of an earlier build.
    pub fn built(release: bool) -> Programs {
        Programs {
            folder: target_dir().join(if release { "release" } else { "debug" }),
        }
    }

    /// The path of one of them.
    pub fn path(&self, program: &str) -> PathBuf {
        self.folder.join(program)
    }
}
