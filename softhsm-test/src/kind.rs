//! The modules that a test can have a token of, and where each one is.
//!
//! Leaves the making of tokens to `backend`. A module that is found here need not work: a package may be broken.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::token::TokenError;

/// A PKCS#11 module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ModuleKind {
    /// SoftHSM2: digests and HMACs with a secret's handle, but no key derivation beyond ECDH.
    SoftHsm2,
    /// kryoptic on the system's OpenSSL: the whole TLS key schedule, without EdDSA.
    Kryoptic,
    /// kryoptic on an OpenSSL of its own: with EdDSA and ML-KEM. Built only when asked for.
    KryopticModern,
    /// NSS softokn: the whole TLS key schedule, with mechanisms and manners of its own.
    Nss,
    /// tpm2-pkcs11 on a software TPM: signs, and keeps no session keys.
    Tpm2,
    /// SoftHSM2 behind p11-kit's remoting, which passes on signatures and little else.
    P11Kit,
    /// craton-hsm: signs, without RSA; lists ECDH and no HMAC.
    Craton,
}

impl ModuleKind {
    /// Every kind.
    pub const ALL: [ModuleKind; 7] = [
        ModuleKind::SoftHsm2,
        ModuleKind::Kryoptic,
        ModuleKind::KryopticModern,
        ModuleKind::Nss,
        ModuleKind::Tpm2,
        ModuleKind::P11Kit,
        ModuleKind::Craton,
    ];

    /// The name for command lines, files and messages; [`FromStr`] reads it.
    pub const fn as_str(self) -> &'static str {
        match self {
            ModuleKind::SoftHsm2 => "softhsm2",
            ModuleKind::Kryoptic => "kryoptic",
            ModuleKind::KryopticModern => "kryoptic-modern",
            ModuleKind::Nss => "nss",
            ModuleKind::Tpm2 => "tpm2",
            ModuleKind::P11Kit => "p11kit",
            ModuleKind::Craton => "craton",
        }
    }

    /// Whether the module is on this machine. `cargo xtask test` provides all; `cargo xtask modules` alone
    /// leaves out [`ModuleKind::KryopticModern`], so for that one a test may be content without it.
    pub fn is_there(self) -> bool {
        self.module().is_ok()
    }

    /// The module's file.
    ///
    /// # Errors
    /// [`TokenError::NoModule`].
    pub fn module(self) -> Result<PathBuf, TokenError> {
        let found = match self.place() {
            Place::System(places) => places
                .iter()
                .map(Path::new)
                .find(|place| place.exists())
                .map(Path::to_path_buf),
            Place::Built(name) => built(name),
        };
        found.ok_or(TokenError::NoModule {
            kind: self,
            remedy: self.remedy(),
        })
    }

    fn place(self) -> Place {
        match self {
            ModuleKind::SoftHsm2 => Place::System(SOFTHSM_PLACES),
            ModuleKind::Kryoptic => Place::Built("libkryoptic_pkcs11.so"),
            ModuleKind::KryopticModern => Place::Built("libkryoptic_modern_pkcs11.so"),
            ModuleKind::Nss => Place::System(NSS_PLACES),
            ModuleKind::Tpm2 => Place::System(TPM2_PLACES),
            ModuleKind::P11Kit => Place::System(P11KIT_PLACES),
            ModuleKind::Craton => Place::Built("libcraton_pkcs11.so"),
        }
    }

    fn remedy(self) -> &'static str {
        match self {
            ModuleKind::SoftHsm2 => "apt-get install softhsm2 opensc",
            ModuleKind::Kryoptic | ModuleKind::Craton => "cargo xtask modules",
            ModuleKind::KryopticModern => "cargo xtask modules --modern",
            ModuleKind::Nss => "apt-get install libnss3 libnss3-tools",
            ModuleKind::Tpm2 => {
                "apt-get install libtpm2-pkcs11-1 libtpm2-pkcs11-tools swtpm tpm2-abrmd dbus"
            }
            ModuleKind::P11Kit => "apt-get install p11-kit p11-kit-modules",
        }
    }
}

impl fmt::Display for ModuleKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for ModuleKind {
    type Err = UnknownModule;

    fn from_str(name: &str) -> Result<ModuleKind, UnknownModule> {
        ModuleKind::ALL
            .into_iter()
            .find(|kind| kind.as_str() == name)
            .ok_or_else(|| UnknownModule(name.to_owned()))
    }
}

/// No module has this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no module is named {0}")]
pub struct UnknownModule(pub String);

enum Place {
    /// The first of these that exists.
    System(&'static [&'static str]),
    /// What `cargo xtask modules` has built under this name.
    Built(&'static str),
}

/// A module in `modules`, the folder that `cargo xtask modules` fills in Cargo's target folder: above the running
/// program, wherever that was built, else in the workspace.
fn built(name: &str) -> Option<PathBuf> {
    let binary = std::env::current_exe().ok()?;
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent()?;
    binary
        .ancestors()
        .skip(1)
        .map(Path::to_path_buf)
        .chain([workspace.join("target")])
        .map(|folder| folder.join("modules").join(name))
        .find(|file| file.exists())
}

/// Where distributions put the modules.
const SOFTHSM_PLACES: &[&str] = &[
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/lib64/softhsm/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
    "/opt/homebrew/lib/softhsm/libsofthsm2.so",
];
const NSS_PLACES: &[&str] = &[
    "/usr/lib/x86_64-linux-gnu/libsoftokn3.so",
    "/usr/lib/aarch64-linux-gnu/libsoftokn3.so",
    "/usr/lib/x86_64-linux-gnu/nss/libsoftokn3.so",
    "/usr/lib/aarch64-linux-gnu/nss/libsoftokn3.so",
    "/usr/lib64/libsoftokn3.so",
];
const TPM2_PLACES: &[&str] = &[
    "/usr/lib/x86_64-linux-gnu/pkcs11/libtpm2_pkcs11.so",
    "/usr/lib/aarch64-linux-gnu/pkcs11/libtpm2_pkcs11.so",
    "/usr/lib/x86_64-linux-gnu/libtpm2_pkcs11.so.1",
    "/usr/lib/aarch64-linux-gnu/libtpm2_pkcs11.so.1",
    "/usr/lib64/pkcs11/libtpm2_pkcs11.so",
];
const P11KIT_PLACES: &[&str] = &[
    "/usr/lib/x86_64-linux-gnu/pkcs11/p11-kit-client.so",
    "/usr/lib/aarch64-linux-gnu/pkcs11/p11-kit-client.so",
    "/usr/lib64/pkcs11/p11-kit-client.so",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_back() {
        for kind in ModuleKind::ALL {
            assert_eq!(kind.to_string().parse(), Ok(kind));
        }
        assert_eq!(
            "softhsm".parse::<ModuleKind>(),
            Err(UnknownModule("softhsm".to_owned()))
        );
    }

    #[test]
    fn every_module_but_the_optional_one_is_there() {
        for kind in ModuleKind::ALL {
            if kind != ModuleKind::KryopticModern {
                kind.module().unwrap();
            }
        }
    }
}
