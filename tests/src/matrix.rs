//! The modules that a site is tried with: which token has the keys, and which one keeps the secrets.
//!
//! Says what is expected of each; whoever runs a site compares. What is expected is written down, not asked of the
//! product: a change of a module or of the product is to be noticed.

use keyhaven_softhsm_test::ModuleKind;
use keyhaven_types::CustodyLevel;

use crate::rawtls::{Group, Hash};
use crate::site::{Builder, site};

/// One row.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Its name, as in the demo.
    pub name: &'static str,
    /// Has the keys.
    pub keys: ModuleKind,
    /// Keeps exchange and schedule, where that is another token.
    pub exchange: Option<ModuleKind>,
    /// The level of both versions.
    pub level: CustodyLevel,
    /// The types of key that the key token can make.
    pub key_types: &'static [&'static str],
}

impl Row {
    /// A site with one name and one P-256 key.
    pub fn site(&self) -> Builder {
        self.site_with("EC:prime256v1")
    }

    /// A site with one name and one key.
    pub fn site_with(&self, key_type: &str) -> Builder {
        site(key_type).token(self.keys).exchange(self.exchange)
    }

    /// The module that keeps exchange and schedule.
    pub fn keeper(&self) -> ModuleKind {
        self.exchange.unwrap_or(self.keys)
    }

    /// The groups in the order in which they are chosen when a client has them all: the keeper's, cheapest first; the
    /// hybrid before them where it costs no custody, else behind.
    pub fn groups(&self) -> Vec<Group> {
        let mut groups = match self.keeper() {
            ModuleKind::SoftHsm2 => vec![Group::P256, Group::X25519, Group::P384],
            _ => vec![Group::X25519, Group::P256, Group::P384],
        };
        let hybrid = Group::X25519MlKem768;
        let costs_nothing = self.level13(hybrid) == self.level;
        groups.insert(if costs_nothing { 0 } else { groups.len() }, hybrid);
        groups
    }

    /// The level of a TLS 1.3 handshake with this group; every suite has it.
    pub fn level13(&self, group: Group) -> CustodyLevel {
        let is_half_outside = self.keeper() != ModuleKind::KryopticModern;
        if group == Group::X25519MlKem768 && is_half_outside {
            CustodyLevel::Signature
        } else {
            self.level
        }
    }

    /// The level of a TLS 1.2 handshake with this group and suite; none where it is refused.
    pub fn level12(&self, group: Group, suite: u16) -> Option<CustodyLevel> {
        // SoftHSM2 keys no HMAC-SHA384 with a secret of 32 bytes.
        let is_too_short = self.keeper() == ModuleKind::SoftHsm2
            && Hash::of_suite(suite) == Hash::Sha384
            && group != Group::P384;
        (!is_too_short).then_some(self.level)
    }

    /// The same where TLS 1.2 has tickets: up to `premaster` they are sealed in the process, with the master secret in
    /// them, so that nothing but the signature is in a token.
    pub fn level12_with_tickets(&self, group: Group, suite: u16) -> Option<CustodyLevel> {
        let level = self.level12(group, suite)?;
        if level > CustodyLevel::Premaster {
            Some(level)
        } else {
            Some(CustodyLevel::Signature)
        }
    }

    /// What left the tokens, as the signer's log has it: TLS 1.3 with a group, or TLS 1.2.
    pub fn left(&self, group: Option<Group>) -> String {
        let left = match (self.level, group) {
            (CustodyLevel::Signature, _) => return "shared secret and whole schedule".to_owned(),
            (CustodyLevel::Premaster, None) => "master secret",
            (_, None) => "key block, Finished",
            (CustodyLevel::Premaster, _) => "handshake secret",
            (CustodyLevel::Master, _) => "traffic secrets",
            (CustodyLevel::Schedule, _) => "keys, IVs, MACs",
        };
        match group {
            Some(group) if self.level13(group) < self.level => format!("ML-KEM secret, {left}"),
            _ => left.to_owned(),
        }
    }
}

/// The row, if its module is here. All are but the one that is built only when it is asked for.
pub fn ready(row: &'static Row) -> Option<&'static Row> {
    if row.keys == ModuleKind::KryopticModern && !row.keys.is_there() {
        eprintln!(
            "left out: {} is not built (cargo xtask modules --modern)",
            row.name
        );
        return None;
    }
    Some(row)
}

/// A test for each row and theme. A theme is a function that takes the row.
#[macro_export]
macro_rules! each_row {
    ($($theme:ident),* $(,)?) => {
        $crate::row_tests!(softhsm2, SOFTHSM2, $($theme),*);
        $crate::row_tests!(kryoptic, KRYOPTIC, $($theme),*);
        $crate::row_tests!(kryoptic_modern, KRYOPTIC_MODERN, $($theme),*);
        $crate::row_tests!(nss, NSS, $($theme),*);
        $crate::row_tests!(softhsm2_kryoptic, SOFTHSM2_KRYOPTIC, $($theme),*);
        $crate::row_tests!(softhsm2_nss, SOFTHSM2_NSS, $($theme),*);
        $crate::row_tests!(tpm2, TPM2, $($theme),*);
        $crate::row_tests!(tpm2_kryoptic, TPM2_KRYOPTIC, $($theme),*);
        $crate::row_tests!(p11kit, P11KIT, $($theme),*);
        $crate::row_tests!(craton, CRATON, $($theme),*);
    };
}

/// The tests of one row, in a module of its name.
#[macro_export]
macro_rules! row_tests {
    ($name:ident, $row:ident, $($theme:ident),*) => {
        mod $name {
            $(
                #[test]
                fn $theme() {
                    if let Some(row) = $crate::matrix::ready(&$crate::matrix::$row) {
                        super::$theme(row);
                    }
                }
            )*
        }
    };
}

macro_rules! rows {
    ($($name:ident $text:literal: $keys:ident, $exchange:expr, $level:ident, $types:expr;)*) => {
        $(
            /// A row of the matrix.
            pub static $name: Row = Row {
                name: $text,
                keys: ModuleKind::$keys,
                exchange: $exchange,
                level: CustodyLevel::$level,
                key_types: $types,
            };
        )*
        /// All rows.
        pub static ROWS: &[&Row] = &[$(&$name),*];
    };
}

rows! {
    SOFTHSM2 "softhsm2": SoftHsm2, None, Premaster, WITH_EDDSA;
    KRYOPTIC "kryoptic": Kryoptic, None, Schedule, CLASSICAL;
    KRYOPTIC_MODERN "kryoptic-modern": KryopticModern, None, Schedule, WITH_EDDSA;
    NSS "nss": Nss, None, Schedule, CLASSICAL;
    SOFTHSM2_KRYOPTIC "softhsm2+kryoptic": SoftHsm2, Some(ModuleKind::Kryoptic), Schedule, WITH_EDDSA;
    SOFTHSM2_NSS "softhsm2+nss": SoftHsm2, Some(ModuleKind::Nss), Schedule, WITH_EDDSA;
    TPM2 "tpm2": Tpm2, None, Signature, CLASSICAL;
    TPM2_KRYOPTIC "tpm2+kryoptic": Tpm2, Some(ModuleKind::Kryoptic), Schedule, CLASSICAL;
    P11KIT "p11kit": P11Kit, None, Signature, CLASSICAL;
    CRATON "craton": Craton, None, Signature, EC;
}

const EC: &[&str] = &["EC:prime256v1", "EC:secp384r1"];
const CLASSICAL: &[&str] = &["EC:prime256v1", "EC:secp384r1", "rsa:2048"];
const WITH_EDDSA: &[&str] = &[
    "EC:prime256v1",
    "EC:secp384r1",
    "EC:edwards25519",
    "rsa:2048",
];
