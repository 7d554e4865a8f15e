//! The nouns of managed keys: what central makes, intermediates use and lookup answers about.
//!
//! Only values. Which of them may be used, by whom and until when is decided in `kms`. Invariant: states move one way.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::KeyAlgorithm;

/// Names a managed key: 128 random bits, written as 32 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId(pub [u8; 16]);

/// Names a key-encryption key: its CKA_ID in central's token and at each site, 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KekId(pub [u8; 16]);

/// Why a text is not a [`KeyId`], [`KekId`] or [`Name`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Not 32 lower-case hexadecimal digits.
    #[error("an id is 32 lower-case hexadecimal digits")]
    Id,
    /// Not a name.
    #[error(
        "a name is 1 to 63 lower-case letters, digits, `.`, `_` and `-`, and begins with a letter or digit"
    )]
    Name,
}

macro_rules! id {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                parse_id(text).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    self.0.serialize(serializer)
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    let text = String::deserialize(deserializer)?;
                    text.parse().map_err(serde::de::Error::custom)
                } else {
                    <[u8; 16]>::deserialize(deserializer).map(Self)
                }
            }
        }
    };
}

id!(KeyId);
id!(KekId);

fn parse_id(text: &str) -> Result<[u8; 16], NameError> {
    let digits = text.as_bytes();
    let mut bytes = [0; 16];
    if digits.len() != 2 * bytes.len() {
        return Err(NameError::Id);
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |c: u8| match c {
            b'0'..=b'9' => Ok(c - b'0'),
            b'a'..=b'f' => Ok(c - b'a' + 10),
            _ => Err(NameError::Id),
        };
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Ok(bytes)
}

/// A name that people give: of a key, a class, a site or a region.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(String);

impl Name {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
        let first = text.bytes().next().is_some_and(plain);
        let rest = text
            .bytes()
            .all(|c| plain(c) || matches!(c, b'.' | b'_' | b'-'));
        if first && rest && text.len() <= 63 {
            Ok(Self(text.to_owned()))
        } else {
            Err(NameError::Name)
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl Serialize for Name {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A table of unit variants with the words that stand for them in files, on command lines and in logs.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident, $what:literal { $($(#[$doc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$doc])* #[serde(rename = $word)] $variant,)*
        }

        impl $name {
            /// Each of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The word that stands for it.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)*
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                Self::ALL
                    .iter()
                    .find(|known| known.as_str() == text)
                    .copied()
                    .ok_or_else(|| format!(
                        concat!("`{}` is no ", $what, "; known are {}"),
                        text,
                        [$($word),*].join(", "),
                    ))
            }
        }
    };
}

words! {
    /// What kind of key material a managed key is.
    KeyKind, "kind of key" {
        /// RSA with 2048 bits.
        Rsa2048 = "rsa-2048",
        /// RSA with 3072 bits.
        Rsa3072 = "rsa-3072",
        /// RSA with 4096 bits.
        Rsa4096 = "rsa-4096",
        /// ECDSA on P-256.
        EcP256 = "ec-p256",
        /// ECDSA on P-384.
        EcP384 = "ec-p384",
        /// Ed25519.
        Ed25519 = "ed25519",
        /// AES with 256 bits.
        Aes256 = "aes-256",
        /// A secret of 32 bytes for HMAC-SHA-256.
        Hmac = "hmac",
    }
}

words! {
    /// The one thing that a managed key is for, fixed when it is made.
    Purpose, "purpose" {
        /// TLS server handshakes, and nothing else.
        Handshake = "handshake",
        /// Signatures over callers' messages.
        Sign = "sign",
        /// RSA-OAEP decryption.
        Decrypt = "decrypt",
        /// AES-GCM encryption and decryption.
        Data = "data",
        /// HMAC.
        Mac = "mac",
        /// Wrapping data keys that are born in the token.
        Wrap = "wrap",
        /// Sealing TLS session tickets.
        Tickets = "tickets",
    }
}

words! {
    /// Where a key version stands in its life. States move one way, from the first to the last.
    KeyState, "state" {
        /// Made, not yet in use.
        Pending = "pending",
        /// In use.
        Active = "active",
        /// Verifies and decrypts what was made before; makes nothing new.
        Deactivated = "deactivated",
        /// Does nothing any more, and no site may use it.
        Revoked = "revoked",
        /// Its wraps are gone.
        Destroyed = "destroyed",
    }
}

words! {
    /// What can be asked of a managed key, or of a server.
    Operation, "operation" {
        /// Sign a message.
        Sign = "sign",
        /// Verify a signature or an HMAC.
        Verify = "verify",
        /// Encrypt: AES-GCM, or RSA-OAEP with the public part.
        Encrypt = "encrypt",
        /// Decrypt: AES-GCM or RSA-OAEP.
        Decrypt = "decrypt",
        /// HMAC a message.
        Mac = "mac",
        /// Make a data key in the token and give it wrapped.
        Wrap = "wrap",
        /// Use a wrapped data key, inside the token.
        Unwrap = "unwrap",
        /// Random bytes of the token; needs no key.
        Random = "random",
        /// Run TLS server handshakes.
        Handshake = "handshake",
    }
}

words! {
    /// How well a token keeps what it holds, as the operator states it at enrolment.
    HardwareLevel, "hardware level" {
        /// A token in software.
        Software = "software",
        /// A hardware module.
        Hardware = "hardware",
    }
}

words! {
    /// How a key came into central's token.
    Provenance, "provenance" {
        /// Born in the token.
        Generated = "generated",
        /// Wrapped by another token under a transport key.
        ImportedWrapped = "imported-wrapped",
        /// Read from a file: copies may exist.
        ImportedFile = "imported-file",
    }
}

words! {
    /// When a class's wraps come to its sites.
    Replication, "way of replication" {
        /// Before anyone asks.
        Eager = "eager",
        /// At the first request that needs one.
        OnDemand = "on-demand",
    }
}

impl KeyState {
    /// Whether a version may go from this state to that one: onward only.
    pub fn may_become(self, next: Self) -> bool {
        next > self
    }
}

impl KeyKind {
    /// The algorithm of its signatures; none for a secret key.
    pub fn algorithm(self) -> Option<KeyAlgorithm> {
        match self {
            Self::Rsa2048 => Some(KeyAlgorithm::Rsa(2048)),
            Self::Rsa3072 => Some(KeyAlgorithm::Rsa(3072)),
            Self::Rsa4096 => Some(KeyAlgorithm::Rsa(4096)),
            Self::EcP256 => Some(KeyAlgorithm::EcdsaP256),
            Self::EcP384 => Some(KeyAlgorithm::EcdsaP384),
            Self::Ed25519 => Some(KeyAlgorithm::Ed25519),
            Self::Aes256 | Self::Hmac => None,
        }
    }

    /// Whether it has a private and a public part.
    pub fn is_pair(self) -> bool {
        !matches!(self, Self::Aes256 | Self::Hmac)
    }

    /// Whether a key of this kind can serve that purpose.
    pub fn serves(self, purpose: Purpose) -> bool {
        match purpose {
            Purpose::Handshake | Purpose::Sign => self.is_pair(),
            Purpose::Decrypt => matches!(self, Self::Rsa2048 | Self::Rsa3072 | Self::Rsa4096),
            Purpose::Data | Purpose::Wrap => self == Self::Aes256,
            Purpose::Mac | Purpose::Tickets => self == Self::Hmac,
        }
    }
}

impl Purpose {
    /// What a key with this purpose can be asked for, and nothing else (security rule K5).
    pub fn operations(self) -> &'static [Operation] {
        match self {
            Self::Handshake => &[Operation::Handshake],
            Self::Sign => &[Operation::Sign, Operation::Verify],
            Self::Decrypt | Self::Data => &[Operation::Encrypt, Operation::Decrypt],
            Self::Mac => &[Operation::Mac, Operation::Verify],
            Self::Wrap => &[Operation::Wrap, Operation::Unwrap],
            // Signers use them for themselves; nobody can ask for it.
            Self::Tickets => &[],
        }
    }
}

impl Operation {
    /// Whether a version in this state may do it: what makes something new needs an active one.
    pub fn allowed_in(self, state: KeyState) -> bool {
        match self {
            Self::Verify | Self::Decrypt | Self::Unwrap => {
                matches!(state, KeyState::Active | KeyState::Deactivated)
            }
            _ => state == KeyState::Active,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn m11_states_move_one_way() {
        for (at, from) in KeyState::ALL.iter().enumerate() {
            for (to, next) in KeyState::ALL.iter().enumerate() {
                assert_eq!(from.may_become(*next), to > at, "{from} to {next}");
            }
        }
    }

    #[test]
    fn k5_no_purpose_can_do_what_another_one_does_with_secrets() {
        let makes = [
            (Operation::Sign, Purpose::Sign),
            (Operation::Mac, Purpose::Mac),
            (Operation::Wrap, Purpose::Wrap),
            (Operation::Unwrap, Purpose::Wrap),
            (Operation::Handshake, Purpose::Handshake),
        ];
        for (operation, only) in makes {
            for purpose in Purpose::ALL {
                let can = purpose.operations().contains(&operation);
                assert_eq!(can, *purpose == only, "{operation} with {purpose}");
            }
        }
    }

    #[test]
    fn ids_and_names_are_strict() {
        let id = KeyId([0xab; 16]);
        assert_eq!(id.to_string().parse(), Ok(id));
        for bad in [
            "",
            "AB",
            &"AB".repeat(16),
            &"ab".repeat(17),
            &"zz".repeat(16),
        ] {
            assert!(bad.parse::<KeyId>().is_err(), "{bad}");
        }
        for bad in ["", "-a", "A", "a b", "a/b", &"a".repeat(64)] {
            assert!(bad.parse::<Name>().is_err(), "{bad}");
        }
        assert!("shop.example-1_x".parse::<Name>().is_ok());
    }
}
