//! `cargo xtask bench`: builds with optimisation what is measured, and runs the measurement.
//!
//! The measuring itself is `bench/`. This file installs the peers and starts it.

use std::{path::PathBuf, process::Command};

use keyhaven_xtask::{
    Error,
    cargo::{Programs, cargo, target_dir},
    command,
    interrupt::Interrupt,
    packages::{self, Need, Sign},
    say::step,
    site::{Kind, ROWS, Row},
};

use crate::row_names;

/// How much of the KMS is measured.
#[derive(Debug, clap::Args)]
pub(crate) struct KmsOptions {
    /// Managed keys
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(256..))]
    keys: u32,
    /// Simulated sites, beside a real one
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
    sites: u32,
    /// A first impression: 2,000 keys, 5 sites
    #[arg(long, conflicts_with_all = ["keys", "sites"])]
    quick: bool,
    /// Lines for `[store]` of central's configuration, instead of a file of its own: an etcd that runs, with absolute
    /// paths and a prefix that has nothing yet
    #[arg(long, value_name = "FILE")]
    store: Option<PathBuf>,
}

/// Managed keys: replication, revocation, lookups, and what they take of a machine.
pub(crate) fn kms(options: &KmsOptions, interrupt: &Interrupt) -> Result<(), Error> {
    step("packages", || {
        packages::ensure(&[packages::SOFTHSM], interrupt)?;
        packages::ensure(packages::PROTOC, interrupt)
    })?;
    step("build with optimisation", || {
        Programs::build_kms(true, interrupt)?;
        command::run(
            cargo().args(["build", "--release", "--package", "keyhaven-bench"]),
            interrupt,
        )
    })?;
    let (keys, sites, revocations) = match options.quick {
        true => (2000, 5, 20),
        false => (options.keys, options.sites, 200.min(options.keys / 2)),
    };
    let mut bench = Command::new(target_dir().join("release/keyhaven-bench"));
    bench.args(["kms", "--keys", &keys.to_string()]);
    bench.args(["--sites", &sites.to_string()]);
    bench.args(["--revocations", &revocations.to_string()]);
    if let Some(store) = &options.store {
        bench.arg("--store").arg(store);
    }
    command::run(&mut bench, interrupt)
}

/// What the user chose.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Handshakes in each measurement; slow tokens stop after some seconds
    #[arg(long, default_value_t = 2000)]
    handshakes: u32,
    /// How often everything is measured; the table has the medians
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Measure this row alone, and nginx; may be given again
    #[arg(long, value_name = "ROW", value_parser = row_names())]
    only: Vec<String>,
    /// An RSA-2048 key in place of an ECDSA one
    #[arg(long)]
    rsa: bool,
    /// A first impression: one round of 300 handshakes
    #[arg(long, conflicts_with_all = ["handshakes", "rounds"])]
    quick: bool,
}

/// Processor time for each handshake, on each module and at each level, beside nginx on a SoftHSM2 key.
pub(crate) fn handshake(options: &Options, interrupt: &Interrupt) -> Result<(), Error> {
    step("the peers", || packages::ensure(NEEDS, interrupt))?;
    step("token modules", || {
        rows(options)
            .flat_map(Row::kinds)
            .try_for_each(|kind| kind.provide(interrupt))
    })?;
    step("build with optimisation", || {
        Programs::build(true, interrupt)?;
        command::run(
            cargo().args(["build", "--release", "--package", "keyhaven-bench"]),
            interrupt,
        )
    })?;
    let program = target_dir().join("release/keyhaven-bench");
    // The servers get the first processor, the load gets the others.
    let last_cpu = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) - 1;
    let mut bench = match command::find("taskset") {
        Some(taskset) if last_cpu > 0 => {
            let cpus = format!("1-{last_cpu}");
            command::under(&taskset, &["--cpu-list", &cpus], &Command::new(program))
        }
        _ => Command::new(program),
    };
    let (handshakes, rounds) = match options.quick {
        true => (300, 1),
        false => (options.handshakes, options.rounds),
    };
    bench.args(["handshake", "--handshakes", &handshakes.to_string()]);
    bench.args(["--rounds", &rounds.to_string()]);
    for row in rows(options) {
        bench.args(["--only", row.name]);
    }
    if options.rsa {
        bench.arg("--rsa");
    }
    command::run(&mut bench, interrupt)
}

/// What is measured. A module that takes minutes to build counts only where it was built or asked for.
fn rows(options: &Options) -> impl Iterator<Item = Row> {
    ROWS.iter().copied().filter(|row| {
        let asked = options.only.iter().any(|name| name == row.name);
        let lengthy = row.kinds().any(|kind| kind == Kind::KryopticModern);
        // craton-hsm knows no RSA.
        let unable = options.rsa && row.kinds().any(|kind| kind == Kind::Craton);
        asked
            || options.only.is_empty()
                && !unable
                && (!lengthy || row.kinds().all(|kind| kind.module().is_ok()))
    })
}

const NEEDS: &[Need] = &[
    packages::SOFTHSM,
    Need {
        sign: Sign::Program("nginx"),
        package: "nginx-light",
    },
    Need {
        sign: Sign::File(&[
            "/usr/lib/x86_64-linux-gnu/engines-3/pkcs11.so",
            "/usr/lib/aarch64-linux-gnu/engines-3/pkcs11.so",
        ]),
        package: "libengine-pkcs11-openssl",
    },
];
