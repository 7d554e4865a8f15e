//! `cargo xtask bench`: builds with optimisation what is measured, and runs the measurement.
//!
//! The measuring itself is `bench/`. This file installs the peers and starts it.

use std::process::Command;

use keyhaven_xtask::{
    Error,
    cargo::{Programs, cargo, target_dir},
    command,
    interrupt::Interrupt,
    packages::{self, Need, Sign},
    say::step,
};

/// Processor time for each handshake, beside nginx with the libp11 engine on the same key.
pub(crate) fn handshake(handshakes: u32, interrupt: &Interrupt) -> Result<(), Error> {
    step("SoftHSM2 and the peers", || {
        packages::ensure(NEEDS, interrupt)
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
    bench.args(["handshake", "--handshakes", &handshakes.to_string()]);
    command::run(&mut bench, interrupt)
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
