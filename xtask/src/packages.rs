//! Installs what the verbs need from the system, and says so.
//!
//! Knows `apt-get` alone. On other systems it names what is missing and changes nothing.

use std::{collections::BTreeSet, process::Command};

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
    let packages: BTreeSet<_> = missing.iter().map(|need| need.package).collect();
    let packages = Vec::from_iter(packages);
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

/// What building central's etcd client needs.
pub const PROTOC: &[Need] = &[
    Need {
        sign: Sign::Program("protoc"),
        package: "protobuf-compiler",
    },
    Need {
        sign: Sign::File(&["/usr/include/google/protobuf/any.proto"]),
        package: "libprotobuf-dev",
    },
];

/// A real etcd, and networks of its own to put it in, for central's tests.
pub const ETCD: &[Need] = &[
    Need {
        sign: Sign::Program("ip"),
        package: "iproute2",
    },
    Need {
        sign: Sign::Program("etcd"),
        package: "etcd-server",
    },
    Need {
        sign: Sign::Program("etcdctl"),
        package: "etcd-client",
    },
];

/// Tokens of several kinds, with the programs that prepare them.
pub const TOKENS: &[Need] = &[
    SOFTHSM,
    Need {
        sign: Sign::Program("pkcs11-tool"),
        package: "opensc",
    },
    Need {
        sign: Sign::File(&[
            "/usr/lib/x86_64-linux-gnu/libsoftokn3.so",
            "/usr/lib/aarch64-linux-gnu/libsoftokn3.so",
            "/usr/lib/x86_64-linux-gnu/nss/libsoftokn3.so",
            "/usr/lib/aarch64-linux-gnu/nss/libsoftokn3.so",
        ]),
        package: "libnss3",
    },
    Need {
        sign: Sign::Program("certutil"),
        package: "libnss3-tools",
    },
    Need {
        sign: Sign::Program("p11-kit"),
        package: "p11-kit",
    },
    Need {
        sign: Sign::File(&[
            "/usr/lib/x86_64-linux-gnu/pkcs11/p11-kit-client.so",
            "/usr/lib/aarch64-linux-gnu/pkcs11/p11-kit-client.so",
        ]),
        package: "p11-kit-modules",
    },
    Need {
        sign: Sign::Program("swtpm"),
        package: "swtpm",
    },
    Need {
        sign: Sign::Program("tpm2-abrmd"),
        package: "tpm2-abrmd",
    },
    Need {
        sign: Sign::File(&[
            "/usr/lib/x86_64-linux-gnu/libtss2-tcti-swtpm.so.0",
            "/usr/lib/aarch64-linux-gnu/libtss2-tcti-swtpm.so.0",
        ]),
        package: "libtss2-tcti-swtpm0",
    },
    Need {
        sign: Sign::File(&[
            "/usr/lib/x86_64-linux-gnu/libtss2-tcti-tabrmd.so.0",
            "/usr/lib/aarch64-linux-gnu/libtss2-tcti-tabrmd.so.0",
        ]),
        package: "libtss2-tcti-tabrmd0",
    },
    Need {
        sign: Sign::File(&[
            "/usr/lib/x86_64-linux-gnu/pkcs11/libtpm2_pkcs11.so",
            "/usr/lib/aarch64-linux-gnu/pkcs11/libtpm2_pkcs11.so",
            "/usr/lib/x86_64-linux-gnu/libtpm2_pkcs11.so.1",
            "/usr/lib/aarch64-linux-gnu/libtpm2_pkcs11.so.1",
        ]),
        package: "libtpm2-pkcs11-1",
    },
    Need {
        sign: Sign::Program("tpm2_ptool"),
        package: "libtpm2-pkcs11-tools",
    },
    Need {
        sign: Sign::Program("dbus-daemon"),
        package: "dbus",
    },
    Need {
        sign: Sign::Program("dbus-send"),
        package: "dbus",
    },
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
