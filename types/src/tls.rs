//! TLS names with their code points (RFC 8446, RFC 5246, RFC 8422).
//!
//! Only what the product offers has a name here; TLS below 1.2, RSA key exchange and CBC are absent on purpose.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The TLS versions that are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum TlsVersion {
    /// RFC 5246.
    #[serde(rename = "1.2")]
    Tls12,
    /// RFC 8446.
    #[serde(rename = "1.3")]
    Tls13,
}

impl fmt::Display for TlsVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tls12 => "1.2",
            Self::Tls13 => "1.3",
        })
    }
}

/// Hash functions of the key schedules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum HashAlgorithm {
    /// 32 bytes of output, blocks of 64.
    Sha256,
    /// 48 bytes of output, blocks of 128.
    Sha384,
}

impl HashAlgorithm {
    /// Output length in bytes.
    pub fn output_len(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha384 => 48,
        }
    }

    /// Input block length in bytes, as HMAC needs it (RFC 2104).
    pub fn block_len(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha384 => 128,
        }
    }
}

/// Ephemeral key exchange groups, with their code points.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u16)]
pub enum NamedGroup {
    /// P-256.
    Secp256r1 = 0x0017,
    /// P-384.
    Secp384r1 = 0x0018,
    /// Curve25519, RFC 7748.
    X25519 = 0x001d,
}

impl NamedGroup {
    /// Every group that there is, in no order of preference.
    pub const ALL: [Self; 3] = [Self::Secp256r1, Self::Secp384r1, Self::X25519];

    /// The name that people and logs use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Secp256r1 => "secp256r1",
            Self::Secp384r1 => "secp384r1",
            Self::X25519 => "x25519",
        }
    }

    /// Length of a public value on the wire: an uncompressed point, or 32 bytes.
    pub fn public_len(self) -> usize {
        match self {
            Self::Secp256r1 => 65,
            Self::Secp384r1 => 97,
            Self::X25519 => 32,
        }
    }

    /// Length of the shared secret in bytes.
    pub fn secret_len(self) -> usize {
        match self {
            Self::Secp256r1 | Self::X25519 => 32,
            Self::Secp384r1 => 48,
        }
    }
}

/// AEADs of the cipher suites that are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AeadAlgorithm {
    /// RFC 5116, 16-byte key.
    Aes128Gcm,
    /// RFC 5116, 32-byte key.
    Aes256Gcm,
    /// RFC 8439, 32-byte key.
    Chacha20Poly1305,
}

impl AeadAlgorithm {
    /// Key length in bytes.
    pub fn key_len(self) -> usize {
        match self {
            Self::Aes128Gcm => 16,
            Self::Aes256Gcm | Self::Chacha20Poly1305 => 32,
        }
    }
}

/// Which way a traffic key works, as the server sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Direction {
    /// Client to server: the server reads.
    Read,
    /// Server to client: the server writes.
    Write,
}

/// What kind of private key a token holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyAlgorithm {
    /// RSA with its modulus length in bits, 2048 to 4096.
    Rsa(u16),
    /// ECDSA on P-256.
    EcdsaP256,
    /// ECDSA on P-384.
    EcdsaP384,
    /// Ed25519, RFC 8032.
    Ed25519,
}

impl fmt::Display for KeyAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rsa(bits) => write!(f, "RSA-{bits}"),
            Self::EcdsaP256 => f.write_str("ECDSA P-256"),
            Self::EcdsaP384 => f.write_str("ECDSA P-384"),
            Self::Ed25519 => f.write_str("Ed25519"),
        }
    }
}

/// Signature schemes with their code points (RFC 8446, section 4.2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u16)]
pub enum SignatureScheme {
    /// RSASSA-PKCS1-v1_5 with SHA-256; TLS 1.2 only.
    RsaPkcs1Sha256 = 0x0401,
    /// RSASSA-PKCS1-v1_5 with SHA-384; TLS 1.2 only.
    RsaPkcs1Sha384 = 0x0501,
    /// RSASSA-PKCS1-v1_5 with SHA-512; TLS 1.2 only.
    RsaPkcs1Sha512 = 0x0601,
    /// ECDSA on P-256 with SHA-256.
    EcdsaSecp256r1Sha256 = 0x0403,
    /// ECDSA on P-384 with SHA-384.
    EcdsaSecp384r1Sha384 = 0x0503,
    /// RSASSA-PSS with SHA-256 and a salt of 32 bytes.
    RsaPssRsaeSha256 = 0x0804,
    /// RSASSA-PSS with SHA-384 and a salt of 48 bytes.
    RsaPssRsaeSha384 = 0x0805,
    /// RSASSA-PSS with SHA-512 and a salt of 64 bytes.
    RsaPssRsaeSha512 = 0x0806,
    /// Ed25519, RFC 8032.
    Ed25519 = 0x0807,
}

impl SignatureScheme {
    /// The schemes a key of this kind can make, in order of preference.
    pub fn of(algorithm: KeyAlgorithm) -> &'static [Self] {
        match algorithm {
            KeyAlgorithm::Rsa(_) => &[
                Self::RsaPssRsaeSha256,
                Self::RsaPssRsaeSha384,
                Self::RsaPssRsaeSha512,
                Self::RsaPkcs1Sha256,
                Self::RsaPkcs1Sha384,
                Self::RsaPkcs1Sha512,
            ],
            KeyAlgorithm::EcdsaP256 => &[Self::EcdsaSecp256r1Sha256],
            KeyAlgorithm::EcdsaP384 => &[Self::EcdsaSecp384r1Sha384],
            KeyAlgorithm::Ed25519 => &[Self::Ed25519],
        }
    }
}

/// TLS alert descriptions (RFC 8446, section 6) by the names of the standard.
pub mod alert {
    #![allow(missing_docs)]
    pub const CLOSE_NOTIFY: u8 = 0;
    pub const UNEXPECTED_MESSAGE: u8 = 10;
    pub const BAD_RECORD_MAC: u8 = 20;
    pub const RECORD_OVERFLOW: u8 = 22;
    pub const HANDSHAKE_FAILURE: u8 = 40;
    pub const ILLEGAL_PARAMETER: u8 = 47;
    pub const ACCESS_DENIED: u8 = 49;
    pub const DECODE_ERROR: u8 = 50;
    pub const DECRYPT_ERROR: u8 = 51;
    pub const PROTOCOL_VERSION: u8 = 70;
    pub const INTERNAL_ERROR: u8 = 80;
    pub const USER_CANCELED: u8 = 90;
    pub const NO_RENEGOTIATION: u8 = 100;
    pub const UNRECOGNIZED_NAME: u8 = 112;
    pub const NO_APPLICATION_PROTOCOL: u8 = 120;

    /// The standard's name of an alert, for people; those that are only received have names here, too.
    pub fn name(description: u8) -> &'static str {
        match description {
            CLOSE_NOTIFY => "close_notify",
            UNEXPECTED_MESSAGE => "unexpected_message",
            BAD_RECORD_MAC => "bad_record_mac",
            RECORD_OVERFLOW => "record_overflow",
            HANDSHAKE_FAILURE => "handshake_failure",
            42 => "bad_certificate",
            43 => "unsupported_certificate",
            44 => "certificate_revoked",
            45 => "certificate_expired",
            46 => "certificate_unknown",
            ILLEGAL_PARAMETER => "illegal_parameter",
            48 => "unknown_ca",
            ACCESS_DENIED => "access_denied",
            DECODE_ERROR => "decode_error",
            DECRYPT_ERROR => "decrypt_error",
            PROTOCOL_VERSION => "protocol_version",
            71 => "insufficient_security",
            INTERNAL_ERROR => "internal_error",
            86 => "inappropriate_fallback",
            USER_CANCELED => "user_canceled",
            NO_RENEGOTIATION => "no_renegotiation",
            109 => "missing_extension",
            110 => "unsupported_extension",
            UNRECOGNIZED_NAME => "unrecognized_name",
            113 => "bad_certificate_status_response",
            116 => "certificate_required",
            NO_APPLICATION_PROTOCOL => "no_application_protocol",
            _ => "unknown alert",
        }
    }
}
