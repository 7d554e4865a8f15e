//! What is special about each module, as one table of data.
//!
//! Nothing else in this room asks who made a token. An unknown module gets the standard's ways; the self-tests
//! find out whether they work. Invariant: a quirk never raises a custody level, it may only lower one.

use cryptoki::mechanism::Mechanism;
use cryptoki_sys::{
    CK_MECHANISM_TYPE, CKM_AES_KEY_WRAP_KWP, CKM_AES_KEY_WRAP_PAD,
    CKM_TLS12_EXTENDED_MASTER_KEY_DERIVE_DH,
};
use keyhaven_types::NamedGroup;

use crate::module::TokenInfo;

/// How a module wants to be spoken to. Where there are several ways, the self-tests try them in turn and keep the
/// first that is proven.
#[derive(Debug)]
pub(crate) struct Quirks {
    /// The module's family, for logs.
    pub(crate) name: &'static str,
    /// Start of the token's manufacturer.
    manufacturer: &'static str,
    /// Start of the token's model.
    model: &'static str,
    /// Start of the library's manufacturer.
    library: &'static str,
    /// How an X25519 key pair is made.
    pub(crate) x25519: &'static [X25519],
    /// How the extended master secret of TLS 1.2 is derived.
    pub(crate) ems: &'static [Ems],
    /// How the key block of TLS 1.2 comes out.
    pub(crate) key_block: &'static [KeyBlock],
    /// How a Finished of TLS 1.2 is made.
    pub(crate) finished12: &'static [Finished],
    /// Which mechanism is the AES key wrapping of RFC 5649.
    pub(crate) wrap: &'static [Wrap],
    /// What is asked of the keys that wrap and seal.
    pub(crate) guards: &'static [Guards],
    /// CKA_PRIVATE of ephemeral objects. False is cheaper (SoftHSM2 encrypts private objects in memory) and as
    /// safe: session objects stay in this process, and CKA_SENSITIVE is what guards the value.
    ephemeral_private: bool,
    /// What a secret must be to be wrapped.
    pub(crate) wrappable: &'static [Wrappable],
    /// It makes a shorter AES key of a longer one when it is told CKA_VALUE_LEN at unwrapping, so that a template has to
    /// say the length. Others refuse the attribute there, as the standard says.
    pub(crate) unwraps_cut: bool,
    /// Groups, cheapest first.
    pub(crate) group_order: [NamedGroup; 3],
    /// The module is known to keep derived secrets in the host's memory, whatever its attributes say.
    pub(crate) derives_in_host: bool,
}

/// The ways of one token: one of each kind, chosen by the self-tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ways {
    pub(crate) x25519: X25519,
    pub(crate) ems: Ems,
    pub(crate) key_block: KeyBlock,
    pub(crate) finished12: Finished,
    pub(crate) wrap: Wrap,
    pub(crate) guards: Guards,
    pub(crate) ephemeral_private: bool,
    pub(crate) wrappable: Wrappable,
    /// Groups whose secret is the base of derivations, by their place in [`NamedGroup::ALL`].
    pub(crate) derives: [bool; 3],
}

impl Ways {
    /// The first of each kind; until the self-tests know better, every secret may be derived from.
    pub(crate) fn first_of(quirks: &Quirks) -> Self {
        Self {
            x25519: first(quirks.x25519, X25519::Montgomery),
            ems: first(quirks.ems, Ems::Standard),
            key_block: first(quirks.key_block, KeyBlock::TlsKdf),
            finished12: first(quirks.finished12, Finished::TlsMac),
            wrap: first(quirks.wrap, Wrap::Kwp),
            guards: first(quirks.guards, Guards::Full),
            ephemeral_private: quirks.ephemeral_private,
            wrappable: first(quirks.wrappable, Wrappable::Extractable),
            derives: [true; 3],
        }
    }

    /// Whether the group's secret needs CKA_DERIVE.
    pub(crate) fn derives_from(&self, group: NamedGroup) -> bool {
        let place = NamedGroup::ALL.iter().position(|&other| other == group);
        place.is_some_and(|place| self.derives[place])
    }

    /// Says whether it does.
    pub(crate) fn set_derives(&mut self, group: NamedGroup, derives: bool) {
        if let Some(place) = NamedGroup::ALL.iter().position(|&other| other == group) {
            self.derives[place] = derives;
        }
    }
}

fn first<T: Copy>(ways: &[T], otherwise: T) -> T {
    ways.first().copied().unwrap_or(otherwise)
}

/// How an X25519 key pair is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum X25519 {
    /// CKM_EC_MONTGOMERY_KEY_PAIR_GEN, as PKCS#11 3.0 has it.
    Montgomery,
    /// CKM_EC_EDWARDS_KEY_PAIR_GEN with the OID of X25519.
    Edwards,
    /// CKM_EC_KEY_PAIR_GEN with the private OID of NSS.
    Nss,
}

/// How the extended master secret of TLS 1.2 is derived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ems {
    /// CKM_TLS12_EXTENDED_MASTER_KEY_DERIVE_DH with CKA_VALUE_LEN.
    Standard,
    /// The same without CKA_VALUE_LEN, which the mechanism does not need.
    WithoutLength,
    /// CKM_NSS_TLS_EXTENDED_MASTER_KEY_DERIVE_DH.
    Nss,
}

impl Ems {
    pub(crate) fn mechanism(self) -> CK_MECHANISM_TYPE {
        match self {
            Self::Standard | Self::WithoutLength => CKM_TLS12_EXTENDED_MASTER_KEY_DERIVE_DH,
            Self::Nss => CKM_NSS_TLS_EXTENDED_MASTER_KEY_DERIVE_DH,
        }
    }

    pub(crate) fn says_length(self) -> bool {
        self == Self::Standard
    }
}

/// How the key block of TLS 1.2 comes out of a token that keeps the master secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyBlock {
    /// CKM_TLS_KDF to a readable secret.
    TlsKdf,
    /// The PRF of RFC 5246 by HMACs keyed by the master secret.
    HmacPrf,
}

/// How a Finished of TLS 1.2 is made in a token that keeps the master secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finished {
    /// CKM_TLS_MAC.
    TlsMac,
    /// The PRF of RFC 5246 by HMACs keyed by the master secret.
    HmacPrf,
}

/// Which mechanism is the AES key wrapping with padding of RFC 5649: the known blob decides, not the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wrap {
    /// CKM_AES_KEY_WRAP_KWP.
    Kwp,
    /// CKM_AES_KEY_WRAP_PAD, which is another padding elsewhere.
    Pad,
}

impl Wrap {
    pub(crate) fn mechanism(self) -> CK_MECHANISM_TYPE {
        match self {
            Self::Kwp => CKM_AES_KEY_WRAP_KWP,
            Self::Pad => CKM_AES_KEY_WRAP_PAD,
        }
    }
}

/// What a secret must be to be wrapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wrappable {
    /// CKA_EXTRACTABLE, as the standard says.
    Extractable,
    /// Anything, whatever CKA_EXTRACTABLE says.
    AsItIs,
}

impl Wrappable {
    /// CKA_EXTRACTABLE of a secret that may be wrapped.
    pub(crate) fn is_extractable(self) -> bool {
        self == Self::Extractable
    }
}

/// What is asked of the keys that wrap and seal, beyond their usages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Guards {
    /// Templates for what is wrapped and unwrapped, the one mechanism, and no copies.
    Full,
    /// None, for modules that do not know or not heed them.
    UsagesAlone,
}

impl X25519 {
    pub(crate) fn mechanism(self) -> Mechanism<'static> {
        match self {
            Self::Montgomery => Mechanism::EccMontgomeryKeyPairGen,
            Self::Edwards => Mechanism::EccEdwardsKeyPairGen,
            Self::Nss => Mechanism::EccKeyPairGen,
        }
    }

    /// CKA_EC_PARAMS: a DER object identifier.
    pub(crate) fn params(self) -> &'static [u8] {
        match self {
            // 1.3.101.110, RFC 8410.
            Self::Montgomery | Self::Edwards => &[0x06, 0x03, 0x2b, 0x65, 0x6e],
            // 1.3.6.1.4.1.11591.15.1.
            Self::Nss => &[
                0x06, 0x09, 0x2b, 0x06, 0x01, 0x04, 0x01, 0xda, 0x47, 0x0f, 0x01,
            ],
        }
    }
}

impl Quirks {
    /// The row that fits a token.
    pub(crate) fn of(info: &TokenInfo) -> &'static Self {
        TABLE
            .iter()
            .find(|row| {
                info.manufacturer.starts_with(row.manufacturer)
                    && info.model.starts_with(row.model)
                    && info.library_manufacturer.starts_with(row.library)
            })
            .unwrap_or(&STANDARD)
    }
}

/// A vendor's own (CKM_NSS + 26), with the parameters of the standard's.
const CKM_NSS_TLS_EXTENDED_MASTER_KEY_DERIVE_DH: CK_MECHANISM_TYPE = 0xCE53_4350 + 26;

const P256_FIRST: [NamedGroup; 3] = [
    NamedGroup::Secp256r1,
    NamedGroup::X25519,
    NamedGroup::Secp384r1,
];
const X25519_FIRST: [NamedGroup; 3] = [
    NamedGroup::X25519,
    NamedGroup::Secp256r1,
    NamedGroup::Secp384r1,
];

static STANDARD: Quirks = Quirks {
    name: "standard",
    manufacturer: "",
    model: "",
    library: "",
    x25519: &[X25519::Montgomery, X25519::Edwards, X25519::Nss],
    ems: &[Ems::Standard, Ems::WithoutLength, Ems::Nss],
    key_block: &[KeyBlock::TlsKdf, KeyBlock::HmacPrf],
    finished12: &[Finished::TlsMac, Finished::HmacPrf],
    wrap: &[Wrap::Kwp, Wrap::Pad],
    guards: &[Guards::Full, Guards::UsagesAlone],
    ephemeral_private: false,
    wrappable: &[Wrappable::Extractable, Wrappable::AsItIs],
    unwraps_cut: false,
    group_order: P256_FIRST,
    derives_in_host: false,
};

static TABLE: [Quirks; 6] = [
    // X25519 costs three times P-256 here; its mechanism list has no Montgomery key generation.
    Quirks {
        name: "SoftHSM2",
        manufacturer: "SoftHSM project",
        model: "SoftHSM v2",
        x25519: &[X25519::Edwards],
        wrap: &[Wrap::Pad],
        ..STANDARD
    },
    // P-256 costs twelve times X25519 here.
    Quirks {
        name: "NSS",
        manufacturer: "Mozilla Foundation",
        model: "NSS 3",
        x25519: &[X25519::Nss],
        ems: &[Ems::Nss],
        key_block: &[KeyBlock::HmacPrf],
        finished12: &[Finished::HmacPrf],
        wrap: &[Wrap::Kwp],
        // It keeps templates as pointers into the caller's memory, and heeds none of them.
        guards: &[Guards::UsagesAlone],
        // It derives no extractable secret from one that is not, and wraps either.
        wrappable: &[Wrappable::AsItIs],
        group_order: X25519_FIRST,
        ..STANDARD
    },
    Quirks {
        name: "kryoptic",
        manufacturer: "Kryoptic",
        x25519: &[X25519::Montgomery],
        ems: &[Ems::Standard],
        key_block: &[KeyBlock::TlsKdf],
        finished12: &[Finished::TlsMac],
        wrap: &[Wrap::Kwp],
        guards: &[Guards::Full],
        wrappable: &[Wrappable::Extractable],
        unwraps_cut: true,
        group_order: X25519_FIRST,
        ..STANDARD
    },
    // Its derivations come out of the device in clear and live in the library.
    Quirks {
        name: "YubiHSM",
        manufacturer: "Yubico",
        model: "YubiHSM",
        derives_in_host: true,
        ..STANDARD
    },
    // Ignores CKA_SENSITIVE and CKA_EXTRACTABLE of derived secrets. Manufacturer and model are the chip's.
    Quirks {
        name: "tpm2-pkcs11",
        library: "tpm2-software",
        derives_in_host: true,
        ..STANDARD
    },
    // Smart cards: what a card derives comes into the library's memory (read in its source, not run).
    Quirks {
        name: "OpenSC",
        library: "OpenSC Project",
        derives_in_host: true,
        ..STANDARD
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    fn of(manufacturer: &str, model: &str) -> &'static Quirks {
        Quirks::of(&TokenInfo {
            manufacturer: manufacturer.to_owned(),
            model: model.to_owned(),
            ..TokenInfo::default()
        })
    }

    #[test]
    fn softhsm_is_known_and_a_stranger_gets_the_standard() {
        assert_eq!(of("SoftHSM project", "SoftHSM v2").name, "SoftHSM2");
        assert_eq!(of("Somebody", "Thing").name, "standard");
    }

    #[test]
    fn a_library_is_known_whatever_chip_is_behind_it() {
        let info = TokenInfo {
            manufacturer: "IBM".to_owned(),
            model: "SW   TPM".to_owned(),
            library_manufacturer: "tpm2-software.github.io".to_owned(),
            ..TokenInfo::default()
        };
        assert!(Quirks::of(&info).derives_in_host);
    }

    #[test]
    fn every_row_has_a_way_of_each_kind() {
        for row in TABLE.iter().chain([&STANDARD]) {
            let none = row.x25519.is_empty()
                || row.ems.is_empty()
                || row.key_block.is_empty()
                || row.finished12.is_empty()
                || row.wrap.is_empty()
                || row.guards.is_empty()
                || row.wrappable.is_empty();
            assert!(!none, "{}", row.name);
        }
    }

    #[test]
    fn every_row_orders_every_group_once() {
        for row in TABLE.iter().chain([&STANDARD]) {
            for group in NamedGroup::ALL {
                let times = row.group_order.iter().filter(|&&g| g == group).count();
                assert_eq!(times, 1, "{}", row.name);
            }
        }
    }
}
