//! The modules that a site's tokens can be of, and where each comes from.
//!
//! Leaves the making of a token to `setup`. What a module can do is for the signer to prove; nothing here says it.

use std::path::{Path, PathBuf};

use crate::{
    Error,
    interrupt::Interrupt,
    modules::{self, Module},
    packages::{self, Need, Sign},
};

/// A PKCS#11 module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// SoftHSM2.
    SoftHsm2,
    /// kryoptic on the system's OpenSSL.
    Kryoptic,
    /// kryoptic on an OpenSSL of its own, with EdDSA and ML-KEM. It takes minutes to build.
    KryopticModern,
    /// NSS softokn.
    Nss,
    /// tpm2-pkcs11 on a software TPM.
    Tpm2,
    /// SoftHSM2 behind p11-kit's remoting.
    P11Kit,
    /// craton-hsm.
    Craton,
}

impl Kind {
    /// Its name for people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SoftHsm2 => "SoftHSM2",
            Self::Kryoptic => "kryoptic",
            Self::KryopticModern => "kryoptic on its own OpenSSL",
            Self::Nss => "NSS softokn",
            Self::Tpm2 => "tpm2-pkcs11 on a software TPM",
            Self::P11Kit => "SoftHSM2 behind p11-kit",
            Self::Craton => "craton-hsm",
        }
    }

    /// Installs or builds the module and the tools that make its tokens, where they are missing.
    pub fn provide(self, interrupt: &Interrupt) -> Result<(), Error> {
        let mut needs = packaged(self.packages());
        if self.built().is_some() {
            needs.extend(modules::NEEDS);
        }
        if self == Self::KryopticModern {
            needs.extend(modules::NEEDS_MODERN);
        }
        packages::ensure(&needs, interrupt)?;
        self.built()
            .map_or(Ok(()), |module| module.build(interrupt))
    }

    /// The module's file.
    pub fn module(self) -> Result<PathBuf, Error> {
        let found = match (self.built(), self.package()) {
            (Some(module), _) => Some(module.file()).filter(|file| file.exists()),
            (None, package) => places(package)
                .map(Path::new)
                .find(|place| place.exists())
                .map(Path::to_path_buf),
        };
        found.ok_or_else(|| Error::Missing {
            what: format!("the module of {}", self.as_str()),
            remedy: match self.built() {
                Some(Module::KryopticModern) => "cargo xtask modules --modern".to_owned(),
                Some(_) => "cargo xtask modules".to_owned(),
                None => format!("apt-get install {}", self.package()),
            },
        })
    }

    /// The module that is built here, where no package brings it.
    fn built(self) -> Option<Module> {
        match self {
            Self::Kryoptic => Some(Module::Kryoptic),
            Self::KryopticModern => Some(Module::KryopticModern),
            Self::Craton => Some(Module::Craton),
            Self::SoftHsm2 | Self::Nss | Self::Tpm2 | Self::P11Kit => None,
        }
    }

    /// The Debian package that brings the module's file.
    fn package(self) -> &'static str {
        match self {
            Self::Nss => "libnss3",
            Self::Tpm2 => "libtpm2-pkcs11-1",
            Self::P11Kit => "p11-kit-modules",
            _ => "softhsm2",
        }
    }

    /// What it takes to have a token.
    fn packages(self) -> &'static [&'static str] {
        match self {
            Self::SoftHsm2 => &["softhsm2"],
            Self::Kryoptic | Self::KryopticModern => &["opensc"],
            Self::Nss => &["libnss3", "libnss3-tools"],
            Self::Tpm2 => &[
                "libtpm2-pkcs11-1",
                "libtpm2-pkcs11-tools",
                "swtpm",
                "tpm2-abrmd",
                "libtss2-tcti-swtpm0",
                "libtss2-tcti-tabrmd0",
                "dbus",
                "opensc",
            ],
            Self::P11Kit => &["softhsm2", "p11-kit", "p11-kit-modules"],
            Self::Craton => &[],
        }
    }
}

/// A site's tokens: the one with the key, and the one that keeps exchange and key schedule where that is another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// The name for command lines.
    pub name: &'static str,
    /// Has the key.
    pub key: Kind,
    /// Keeps the rest.
    pub exchange: Option<Kind>,
    /// The level that both TLS versions must reach. It is written down, not asked of the product.
    pub level: &'static str,
}

impl Row {
    /// The row of this name.
    pub fn named(name: &str) -> Option<Row> {
        ROWS.iter().copied().find(|row| row.name == name)
    }

    /// Its modules.
    pub fn kinds(self) -> impl Iterator<Item = Kind> {
        std::iter::once(self.key).chain(self.exchange)
    }
}

/// Every row.
pub const ROWS: &[Row] = &[
    SOFTHSM2,
    row("kryoptic", Kind::Kryoptic, None, "schedule"),
    row("nss", Kind::Nss, None, "schedule"),
    row(
        "softhsm2+kryoptic",
        Kind::SoftHsm2,
        Some(Kind::Kryoptic),
        "schedule",
    ),
    row("softhsm2+nss", Kind::SoftHsm2, Some(Kind::Nss), "schedule"),
    row("tpm2", Kind::Tpm2, None, "signature"),
    row(
        "tpm2+kryoptic",
        Kind::Tpm2,
        Some(Kind::Kryoptic),
        "schedule",
    ),
    row("p11kit", Kind::P11Kit, None, "signature"),
    row("craton", Kind::Craton, None, "signature"),
    row("kryoptic-modern", Kind::KryopticModern, None, "schedule"),
];

/// The row of those who want to have nothing to do with modules.
pub const SOFTHSM2: Row = row("softhsm2", Kind::SoftHsm2, None, "premaster");

const fn row(name: &'static str, key: Kind, exchange: Option<Kind>, level: &'static str) -> Row {
    Row {
        name,
        key,
        exchange,
        level,
    }
}

/// The needs that these packages bring.
fn packaged(names: &[&str]) -> Vec<Need> {
    let wanted = |need: &&Need| names.contains(&need.package);
    packages::TOKENS.iter().filter(wanted).copied().collect()
}

/// Where a package puts its library.
fn places(package: &str) -> impl Iterator<Item = &'static str> {
    packages::TOKENS
        .iter()
        .filter(move |need| need.package == package)
        .filter_map(|need| match need.sign {
            Sign::File(places) => Some(places),
            Sign::Program(_) => None,
        })
        .flatten()
        .copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_package_of_a_row_can_be_installed_and_brings_its_module() {
        for kind in ROWS.iter().flat_map(|row| row.kinds()) {
            for package in kind.packages() {
                assert!(!packaged(&[package]).is_empty(), "{package}");
            }
            if kind.built().is_none() {
                assert!(places(kind.package()).count() > 0, "{kind:?}");
                assert!(kind.packages().contains(&kind.package()), "{kind:?}");
            }
        }
    }

    #[test]
    fn a_row_is_found_by_its_name_alone() {
        assert_eq!(
            Row::named("softhsm2+nss").unwrap().exchange,
            Some(Kind::Nss)
        );
        assert_eq!(Row::named("softhsm"), None);
        let names: std::collections::BTreeSet<_> = ROWS.iter().map(|row| row.name).collect();
        assert_eq!(names.len(), ROWS.len());
    }
}
