//! Why a key file was refused, and what its owner can do.
//!
//! Two sentences for each case: `Display` says what is wrong, [`KeyFileError::remedy`] what to try. Invariant:
//! neither repeats bytes of the file, for they may be the key.

/// Why there is no key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFileError {
    /// More than [`super::FILE_BYTES_MAX`].
    #[error("the file is larger than 1 MiB: that is no key file")]
    TooLarge,
    /// Neither PEM nor any DER structure of a key.
    #[error("the file is not a private key in a known format")]
    Unknown,
    /// The structure is longer than the file.
    #[error("the file is cut short, or damaged")]
    Truncated,
    /// PEM whose frame or base64 is broken.
    #[error("the PEM section `{label}` is damaged: {reason}")]
    Pem {
        /// Its label.
        label: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// No private key in it.
    #[error("the file holds no private key, only {found}")]
    NoKey {
        /// What it holds.
        found: String,
    },
    /// More than one private key in it.
    #[error("the file holds more than one private key")]
    SeveralKeys,
    /// OpenSSH's own format.
    #[error("the file is a private key in OpenSSH's format")]
    OpenSsh,
    /// Encrypted as OpenSSL did it before PKCS#8.
    #[error(
        "the key is encrypted in the old OpenSSL way (Proc-Type, DEK-Info), whose key derivation is one MD5"
    )]
    OldEncryption,
    /// A scheme that is not implemented.
    #[error("the key is encrypted in a way that is not supported here")]
    Encryption,
    /// A key derivation that would take too long or too much memory.
    #[error("the password's key derivation asks for more work than is done here ({what})")]
    TooExpensive {
        /// Which parameter.
        what: &'static str,
    },
    /// A password is needed and none was given.
    #[error("the key is encrypted and needs a password")]
    PasswordNeeded,
    /// It did not decrypt.
    #[error("the password is wrong, or the file is damaged")]
    WrongPassword,
    /// A structure that is broken inside.
    #[error("the {format} structure is damaged: {reason}")]
    Structure {
        /// Which structure.
        format: &'static str,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Another kind of key.
    #[error("{name} keys are not supported")]
    Algorithm {
        /// Its name or object identifier.
        name: String,
    },
    /// A curve by its parameters, not by its name.
    #[error("the key describes its curve by parameters instead of naming it")]
    ExplicitCurve,
    /// RSA outside 2048 to 4096 bits.
    #[error("the RSA key has {bits} bits; 2048 to 4096 are allowed")]
    RsaSize {
        /// Its size.
        bits: u16,
    },
    /// RSA with an exponent that is not odd, or less than 3.
    #[error("the RSA public exponent must be odd and at least 3")]
    RsaExponent,
    /// RSA with more than two primes.
    #[error("RSA keys with more than two primes are not supported")]
    RsaMultiPrime,
    /// Numbers that contradict each other.
    #[error("the {what} do not fit together: the key is damaged or was tampered with")]
    Inconsistent {
        /// Which parts.
        what: &'static str,
    },
}

impl KeyFileError {
    /// What to try.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::TooLarge | Self::Unknown | Self::NoKey { .. } => {
                "give a PEM or DER file with a private key: PKCS#8, PKCS#1, SEC1 or PKCS#12"
            }
            Self::Truncated | Self::Pem { .. } | Self::Structure { .. } => {
                "copy the file again from where it came from; `openssl pkey -in FILE -noout -text` says whether it is whole"
            }
            Self::SeveralKeys => "split the file, so that each part holds one key",
            Self::OpenSsh => {
                "TLS keys are not kept in this format; `ssh-keygen -p -m PKCS8 -f COPY` converts a copy of it in place"
            }
            Self::OldEncryption | Self::Encryption => {
                "convert it: `openssl pkcs8 -topk8 -v2 aes-256-cbc -in FILE -out NEW`, then import NEW"
            }
            Self::TooExpensive { .. } => {
                "encrypt it anew with usual parameters: `openssl pkcs8 -topk8 -in FILE -out NEW`"
            }
            Self::PasswordNeeded => {
                "run it on a terminal, or give --password-source file:/PATH or cred:NAME"
            }
            Self::WrongPassword => {
                "try the password with `openssl pkey -in FILE -noout` or `openssl pkcs12 -in FILE -noout`"
            }
            Self::Algorithm { .. } | Self::ExplicitCurve | Self::RsaMultiPrime => {
                "use RSA with 2048 to 4096 bits, ECDSA on P-256 or P-384 (named curve), or Ed25519"
            }
            Self::RsaSize { .. } | Self::RsaExponent => {
                "make a new key in the token: signer-admin key generate"
            }
            Self::Inconsistent { .. } => {
                "do not use this key; take it from a backup, or make a new one: signer-admin key generate"
            }
        }
    }
}
