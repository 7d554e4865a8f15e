//! What is special about each module, as one table of data.
//!
//! Nothing else in this room asks who made a token. An unknown module gets the standard's ways; the self-tests
//! find out whether they work. Invariant: a quirk never raises a custody level, it may only lower one.

use cryptoki::mechanism::Mechanism;
use keyhaven_types::NamedGroup;

use crate::module::TokenInfo;

/// How a module wants to be spoken to.
#[derive(Debug)]
pub(crate) struct Quirks {
    /// The module's family, for logs.
    pub(crate) name: &'static str,
    /// Start of the token's manufacturer.
    manufacturer: &'static str,
    /// Start of the token's model.
    model: &'static str,
    /// How an X25519 key pair is made.
    pub(crate) x25519: X25519,
    /// CKA_PRIVATE of ephemeral objects. False is cheaper (SoftHSM2 encrypts private objects in memory) and as
    /// safe: session objects stay in this process, and CKA_SENSITIVE is what guards the value.
    pub(crate) ephemeral_private: bool,
    /// Groups, cheapest first.
    pub(crate) group_order: [NamedGroup; 3],
    /// The module is known to keep derived secrets in the host's memory, whatever its attributes say.
    pub(crate) derives_in_host: bool,
}

/// How an X25519 key pair is made.
#[derive(Clone, Copy, Debug)]
pub(crate) enum X25519 {
    /// CKM_EC_MONTGOMERY_KEY_PAIR_GEN, as PKCS#11 3.0 has it.
    Montgomery,
    /// CKM_EC_EDWARDS_KEY_PAIR_GEN with the OID of X25519.
    Edwards,
    /// CKM_EC_KEY_PAIR_GEN with the private OID of NSS.
    Nss,
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
                info.manufacturer.starts_with(row.manufacturer) && info.model.starts_with(row.model)
            })
            .unwrap_or(&STANDARD)
    }
}

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
    x25519: X25519::Montgomery,
    ephemeral_private: false,
    group_order: P256_FIRST,
    derives_in_host: false,
};

static TABLE: [Quirks; 5] = [
    // X25519 costs three times P-256 here; its mechanism list has no Montgomery key generation.
    Quirks {
        name: "SoftHSM2",
        manufacturer: "SoftHSM project",
        model: "SoftHSM v2",
        x25519: X25519::Edwards,
        ..STANDARD
    },
    // P-256 costs twelve times X25519 here.
    Quirks {
        name: "NSS",
        manufacturer: "Mozilla Foundation",
        model: "NSS 3",
        x25519: X25519::Nss,
        group_order: X25519_FIRST,
        ..STANDARD
    },
    Quirks {
        name: "kryoptic",
        manufacturer: "Kryoptic",
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
    // Ignores CKA_SENSITIVE and CKA_EXTRACTABLE of derived secrets.
    Quirks {
        name: "tpm2-pkcs11",
        model: "TPM2 PKCS#11",
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
    fn every_row_orders_every_group_once() {
        for row in TABLE.iter().chain([&STANDARD]) {
            for group in NamedGroup::ALL {
                let times = row.group_order.iter().filter(|&&g| g == group).count();
                assert_eq!(times, 1, "{}", row.name);
            }
        }
    }
}
