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
    let mut bench = Command::new(target_dir().join("release/keyhaven-bench"));
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
