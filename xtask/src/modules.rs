//! Builds the token modules that no distribution has, for tests and for trying things out.
//!
//! Each comes from a crate in `softhsm-test/modules`, a workspace of its own. Never builds what is newer than its
//! sources, and never what we ship.

use std::{
    io,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::SystemTime,
};

use crate::{
    Error,
    cargo::{cargo, root, target_dir},
    command,
    interrupt::Interrupt,
    packages::{Need, Sign},
    say,
};

/// A module that is built here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Module {
    /// kryoptic on the system's OpenSSL.
    Kryoptic,
    /// kryoptic on an OpenSSL of its own, which knows EdDSA and ML-KEM. Takes minutes.
    KryopticModern,
    /// craton-hsm.
    Craton,
}

impl Module {
    /// Those that the tests count on.
    pub const USUAL: &[Module] = &[Module::Kryoptic, Module::Craton];

    /// Where it is once it is built.
    pub fn file(self) -> PathBuf {
        target_dir().join("modules").join(match self {
            Module::Kryoptic => "libkryoptic_pkcs11.so",
            Module::KryopticModern => "libkryoptic_modern_pkcs11.so",
            Module::Craton => "libcraton_pkcs11.so",
        })
    }

    /// Builds it, unless that was done since its sources have changed.
    pub fn build(self, interrupt: &Interrupt) -> Result<(), Error> {
        if self.is_fresh() {
            return Ok(());
        }
        let mut build = cargo_in(self.folder());
        build.args(["build", "--release", "--locked"]);
        if self == Module::KryopticModern {
            build.args(["--no-default-features", "--features", "modern"]);
            build.env("KRYOPTIC_OPENSSL_SOURCES", openssl(interrupt)?);
            // Both builds of the crate give the same file, so they do not share a folder.
            build.env("CARGO_TARGET_DIR", build_dir().join("modern"));
        }
        command::run(&mut build, interrupt)?;
        let built = match self {
            Module::Kryoptic => "release/libkryoptic_pkcs11.so",
            Module::KryopticModern => "modern/release/libkryoptic_pkcs11.so",
            Module::Craton => "release/libcraton_pkcs11.so",
        };
        install(&build_dir().join(built), &self.file())?;
        say::line(format!("built {}", short(&self.file())));
        Ok(())
    }

    fn folder(self) -> &'static str {
        match self {
            Module::Kryoptic | Module::KryopticModern => "softhsm-test/modules/kryoptic",
            Module::Craton => "softhsm-test/modules/craton",
        }
    }

    fn is_fresh(self) -> bool {
        let folder = root().join(self.folder());
        let sources = ["Cargo.toml", "Cargo.lock", "src/lib.rs"].map(|name| folder.join(name));
        is_newer(&self.file(), &sources)
    }
}

/// The folders of all crates that are built here, each a workspace of its own.
pub const FOLDERS: &[&str] = &[
    "softhsm-test/modules/craton",
    "softhsm-test/modules/kryoptic",
    OPENSSL_FOLDER,
];

/// What [`Module::build`] needs from the system.
pub const NEEDS: &[Need] = &[
    Need {
        sign: Sign::Program("cc"),
        package: "gcc",
    },
    Need {
        sign: Sign::Program("pkg-config"),
        package: "pkg-config",
    },
    Need {
        sign: Sign::Program("clang"),
        package: "clang",
    },
    Need {
        sign: Sign::File(&["/usr/include/openssl/ssl.h"]),
        package: "libssl-dev",
    },
    Need {
        sign: Sign::File(&["/usr/include/sqlite3.h"]),
        package: "libsqlite3-dev",
    },
];

/// What [`Module::KryopticModern`] needs besides.
pub const NEEDS_MODERN: &[Need] = &[
    Need {
        sign: Sign::Program("make"),
        package: "make",
    },
    Need {
        // Of the whole Perl, not of the small one that every Debian has.
        sign: Sign::Program("prove"),
        package: "perl",
    },
];

/// Builds OpenSSL, unless that was done, and gives the folder with the library and its headers.
fn openssl(interrupt: &Interrupt) -> Result<PathBuf, Error> {
    let folder = build_dir().join("openssl");
    let install = folder.join("install");
    let lock = root().join(OPENSSL_FOLDER).join("Cargo.lock");
    if !is_newer(&install.join("libcrypto.a"), &[lock]) {
        let mut build = cargo_in(OPENSSL_FOLDER);
        build.args(["run", "--quiet", "--locked", "--"]).arg(folder);
        // What make runs at once; cargo tells it nothing.
        let jobs = thread::available_parallelism().map_or(1, |jobs| jobs.get());
        build.env("MAKEFLAGS", format!("-j{jobs}"));
        command::run_quietly(&mut build, interrupt)?;
    }
    Ok(install)
}

/// cargo on one of the crates.
fn cargo_in(folder: &str) -> Command {
    let mut cargo = cargo();
    cargo.current_dir(root().join(folder));
    cargo.env("CARGO_TARGET_DIR", build_dir());
    cargo
}

/// Where cargo puts what it builds for the modules, apart from the product's.
fn build_dir() -> PathBuf {
    target_dir().join("modules-build")
}

fn is_newer(file: &Path, sources: &[PathBuf]) -> bool {
    let changed = |path: &Path| -> io::Result<SystemTime> { path.metadata()?.modified() };
    let Ok(made) = changed(file) else {
        return false;
    };
    sources
        .iter()
        .all(|source| changed(source).is_ok_and(|changed| changed < made))
}

/// Puts a module in its place in one step, because an older one may be in use.
fn install(from: &Path, to: &Path) -> Result<(), Error> {
    let failed = |source| Error::File {
        act: "write",
        path: to.to_path_buf(),
        source,
    };
    let new = to.with_extension("new");
    if let Some(folder) = to.parent() {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    std::fs::copy(from, &new).map_err(failed)?;
    std::fs::rename(&new, to).map_err(failed)
}

fn short(path: &Path) -> String {
    path.strip_prefix(root())
        .unwrap_or(path)
        .display()
        .to_string()
}

const OPENSSL_FOLDER: &str = "softhsm-test/modules/openssl";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_older_than_a_source_is_built_again() {
        let dir = tempfile::tempdir().unwrap();
        let [module, source] = ["module", "source"].map(|name| dir.path().join(name));
        std::fs::write(&source, "").unwrap();
        assert!(!is_newer(&module, std::slice::from_ref(&source)));
        std::fs::write(&module, "").unwrap();
        let later = |path: &Path, seconds| {
            let file = std::fs::File::options().write(true).open(path).unwrap();
            let time = SystemTime::now() + std::time::Duration::from_secs(seconds);
            file.set_modified(time).unwrap();
        };
        later(&module, 1);
        assert!(is_newer(&module, std::slice::from_ref(&source)));
        later(&source, 2);
        assert!(!is_newer(&module, std::slice::from_ref(&source)));
        assert!(!is_newer(&module, &[dir.path().join("no source")]));
    }

    #[test]
    fn each_crate_is_a_workspace_with_locked_versions() {
        for folder in FOLDERS {
            let manifest = std::fs::read_to_string(root().join(folder).join("Cargo.toml")).unwrap();
            assert!(manifest.contains("[workspace]"), "{folder}");
            assert!(root().join(folder).join("Cargo.lock").exists(), "{folder}");
        }
    }
}
