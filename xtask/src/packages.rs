//! Installs what the verbs need from the system, and says so.
//!
//! Knows `apt-get` alone. On other systems it names what is missing and changes nothing.

use std::process::Command;

use crate::{Error, command, interrupt::Interrupt, say};

/// Something that a verb needs from the system.
#[derive(Clone, Copy, Debug)]
pub struct Need {
    /// What to look for.
    pub sign: Sign,
    /// The Debian package that brings it.
    pub package: &'static str,
}

/// How to see that something is installed.
#[derive(Clone, Copy, Debug)]
pub enum Sign {
    /// A program in `PATH`.
    Program(&'static str),
    /// One of these files.
    File(&'static [&'static str]),
}

impl Sign {
    fn is_there(self) -> bool {
        match self {
            Self::Program(program) => command::find(program).is_some(),
            Self::File(places) => places
                .iter()
                .any(|place| std::path::Path::new(place).exists()),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Program(program) => program,
            Self::File(places) => places.first().copied().unwrap_or_default(),
        }
    }
}

/// Installs those of the needs that are missing.
pub fn ensure(needs: &[Need], interrupt: &Interrupt) -> Result<(), Error> {
    let missing = missing(needs);
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<_> = missing.iter().map(|need| need.package).collect();
    let Some(apt) = command::find("apt-get") else {
        return Err(Error::Missing {
            what: names(&missing),
            remedy: format!(
                "this system has no apt-get: install the equivalents of Debian's {} with its package manager, then run this again",
                packages.join(", ")
            ),
        });
    };
    say::line(format!("installing with apt-get: {}", packages.join(" ")));
    let mut prefix = Vec::new();
    if !rustix::process::geteuid().is_root() {
        if command::find("sudo").is_none() {
            return Err(Error::Missing {
                what: names(&missing),
                remedy: format!("as root: apt-get install {}", packages.join(" ")),
            });
        }
        prefix.push("sudo");
    }
    let apt = apt.to_string_lossy().into_owned();
    let apt_get = |arguments: &[&str]| {
        let mut words = prefix.clone();
        words.extend(["env", "DEBIAN_FRONTEND=noninteractive", &apt]);
        words.extend(arguments);
        command::run_quietly(Command::new(words[0]).args(&words[1..]), interrupt)
    };
    let mut install = vec!["install", "-y", "--no-install-recommends"];
    install.extend(&packages);
    apt_get(&["update"])?;
    apt_get(&install)?;
    let still = self::missing(needs);
    if still.is_empty() {
        return Ok(());
    }
    Err(Error::Missing {
        what: names(&still),
        remedy:
            "apt-get installed the packages, but they did not bring it: look at `dpkg -L PACKAGE`"
                .to_owned(),
    })
}

/// SoftHSM2, where distributions put it.
pub const SOFTHSM: Need = Need {
    sign: Sign::File(SOFTHSM_PLACES),
    package: "softhsm2",
};

/// Where distributions put the SoftHSM2 module.
pub const SOFTHSM_PLACES: &[&str] = &[
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/lib64/softhsm/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
    "/opt/homebrew/lib/softhsm/libsofthsm2.so",
];

fn missing(needs: &[Need]) -> Vec<Need> {
    needs
        .iter()
        .copied()
        .filter(|need| !need.sign.is_there())
        .collect()
}

fn names(needs: &[Need]) -> String {
    needs
        .iter()
        .map(|need| need.sign.name())
        .collect::<Vec<_>>()
        .join(", ")
}
