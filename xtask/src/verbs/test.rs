//! `cargo xtask test`: everything, with what it needs installed.
//!
//! Names the steps and runs them in order; the first failure ends it. Builds with one profile, so that nothing
//! is compiled twice.

mod rehearsal;

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use keyhaven_xtask::{
    Error,
    cargo::{cargo, root, target_dir},
    command,
    interrupt::Interrupt,
    modules,
    packages::{self, Need, Sign},
    say::{self, step},
    site::{Algorithm, ROWS, SOFTHSM2},
};

use super::check;

/// Runs every test.
pub(crate) fn run(interrupt: &Interrupt) -> Result<(), Error> {
    let begun = Instant::now();
    step("what the tests need", || {
        let all: Vec<Need> = [
            NEEDS,
            packages::TOKENS,
            packages::PROTOC,
            packages::ETCD,
            modules::NEEDS,
            modules::NEEDS_MODERN,
        ]
        .concat();
        packages::ensure(&all, interrupt)?;
        install_nextest(interrupt)
    })?;
    check::run(interrupt)?;
    step("licences, sources and bans", || audit(interrupt))?;
    step("token modules for the tests", || {
        super::modules::build(true, interrupt)
    })?;
    let programs = step("programs for the system tests", || test_programs(interrupt))?;
    step("documentation tests", || {
        command::run(
            cargo().args(["test", "--quiet", "--workspace", "--doc"]),
            interrupt,
        )
    })?;
    for (title, algorithm) in [
        ("demo --once", Algorithm::Ec),
        ("demo --once --tls-key rsa", Algorithm::Rsa),
        ("demo --once --tls-key ed25519", Algorithm::Ed25519),
    ] {
        step(title, || rehearsal::once(algorithm, interrupt))?;
    }
    for row in ROWS.iter().filter(|row| **row != SOFTHSM2) {
        step(&format!("demo --once --token {}", row.name), || {
            rehearsal::once_on(*row, interrupt)
        })?;
    }
    step("demo --kms --once", || rehearsal::kms_once(interrupt))?;
    step("demo until Ctrl-C", || {
        rehearsal::until_interrupted(interrupt)
    })?;
    step("tests", || {
        let mut nextest = cargo();
        nextest.args(["nextest", "run", "--workspace"]);
        nextest.env(BIN_DIR, &programs);
        command::run(&mut nextest, interrupt)
    })?;
    say::line(format!(
        "\nall tests passed in {:.0} s",
        begun.elapsed().as_secs_f64()
    ));
    Ok(())
}

/// Builds the programs and the variants of `proxy` that some tests ask for, side by side in one folder.
fn test_programs(interrupt: &Interrupt) -> Result<PathBuf, Error> {
    let folder = target_dir().join("test-bins");
    std::fs::create_dir_all(&folder).map_err(|source| Error::File {
        act: "make",
        path: folder.clone(),
        source,
    })?;
    for variant in VARIANTS {
        let mut build = cargo();
        build.args(["build", "--package", variant.package]);
        for program in variant.programs {
            build.args(["--bin", program]);
        }
        if let Some(feature) = variant.feature {
            build.args(["--features", feature]);
        }
        command::run(&mut build, interrupt)?;
        for program in variant.programs {
            let name = match variant.suffix {
                Some(suffix) => format!("{program}-{suffix}"),
                None => (*program).to_owned(),
            };
            copy(
                &target_dir().join("debug").join(program),
                &folder.join(name),
            )?;
        }
    }
    Ok(folder)
}

/// One build of some programs.
struct Variant {
    package: &'static str,
    programs: &'static [&'static str],
    feature: Option<&'static str>,
    suffix: Option<&'static str>,
}

/// The plain build of each program stands last, so that it is what `target/debug` holds afterwards.
const VARIANTS: &[Variant] = &[
    Variant {
        package: "keyhaven-proxy",
        programs: &["proxy"],
        feature: Some("nonce-log"),
        suffix: Some("nonce-log"),
    },
    Variant {
        package: "keyhaven-proxy",
        programs: &["proxy"],
        feature: Some("danger-skip-finished-check"),
        suffix: Some("danger-skip-finished-check"),
    },
    Variant {
        package: "keyhaven-proxy",
        programs: &["proxy"],
        feature: None,
        suffix: None,
    },
    Variant {
        package: "keyhaven-kms-central",
        programs: &["kms-central"],
        feature: None,
        suffix: None,
    },
    Variant {
        package: "keyhaven-signer",
        programs: &["signer", "signer-admin"],
        feature: None,
        suffix: None,
    },
];

/// Tells the system tests where the programs are.
const BIN_DIR: &str = "KEYHAVEN_BIN_DIR";

fn install_nextest(interrupt: &Interrupt) -> Result<(), Error> {
    if command::find("cargo-nextest").is_some() {
        return Ok(());
    }
    say::line("installing cargo-nextest, the test runner, with cargo install");
    let mut install = cargo();
    install.args(["install", "cargo-nextest", "--locked"]);
    // A test runner needs no optimisation, and this halves the time.
    install.env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1");
    install.env("CARGO_PROFILE_RELEASE_LTO", "off");
    install.env("CARGO_TARGET_DIR", target_dir().join("tools"));
    command::run(&mut install, interrupt)
}

fn audit(interrupt: &Interrupt) -> Result<(), Error> {
    if command::find("cargo-deny").is_none() {
        say::line("left out: cargo-deny is not installed (cargo install cargo-deny --locked)");
        return Ok(());
    }
    command::run(
        cargo().args(["deny", "check", "bans", "licenses", "sources"]),
        interrupt,
    )
}

fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    // A new file, not a changed one: the old one may be running.
    let _ = std::fs::remove_file(to);
    std::fs::copy(from, to)
        .map(drop)
        .map_err(|source| Error::File {
            act: "copy",
            path: from.strip_prefix(root()).unwrap_or(from).to_path_buf(),
            source,
        })
}

const NEEDS: &[Need] = &[
    Need {
        sign: Sign::Program("make"),
        package: "make",
    },
    Need {
        sign: Sign::Program("cmake"),
        package: "cmake",
    },
    Need {
        sign: Sign::Program("gnutls-cli"),
        package: "gnutls-bin",
    },
    Need {
        sign: Sign::Program("curl"),
        package: "curl",
    },
    Need {
        sign: Sign::Program("openssl"),
        package: "openssl",
    },
    Need {
        sign: Sign::Program("python3"),
        package: "python3",
    },
    Need {
        sign: Sign::Program("ip"),
        package: "iproute2",
    },
    Need {
        sign: Sign::Program("ss"),
        package: "iproute2",
    },
    Need {
        sign: Sign::Program("ps"),
        package: "procps",
    },
];
