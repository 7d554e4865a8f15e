//! What can go wrong while a token is administered.
//!
//! Failures of the token itself stay [`crate::Error`]; the variants here are refusals and findings of this module.
//! Invariant: no variant carries a PIN or key material.

use keyhaven_types::KeyAlgorithm;

/// Why an act of administration did not happen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdminError {
    /// The token or module failed.
    #[error(transparent)]
    Token(#[from] crate::Error),
    /// A label that a token cannot hold.
    #[error("a token label has 1 to 32 bytes and no control characters; `{label}` does not fit")]
    TokenLabel {
        /// The label.
        label: String,
    },
    /// A PIN whose length the token does not take.
    #[error("the {whose} PIN must have {min} to {max} bytes")]
    PinLength {
        /// "user" or "security officer".
        whose: &'static str,
        /// The least.
        min: usize,
        /// The most.
        max: usize,
    },
    /// No slot holds a token that is still to be initialised.
    #[error("no slot of the module holds an uninitialised token; it has {}", .found.join(", "))]
    NoFreeSlot {
        /// Labels of the tokens there are.
        found: Vec<String>,
    },
    /// The security officer's PIN of an initialised token was refused.
    #[error("the token refused the security officer's PIN; it was tried once")]
    SoPinRefused,
    /// Another key has the label.
    #[error("token `{token}` has a key with label `{label}` already (id {id})")]
    LabelTaken {
        /// The token's label.
        token: String,
        /// The key's label.
        label: String,
        /// Its id in hexadecimal.
        id: String,
    },
    /// Another key has the id.
    #[error("token `{token}` has a key with id {id} already (label `{label}`)")]
    IdTaken {
        /// The token's label.
        token: String,
        /// The id in hexadecimal.
        id: String,
        /// The other key's label.
        label: String,
    },
    /// The very same key is in the token under another name.
    #[error("this key is in token `{token}` already, as `{label}` (id {id})")]
    KeyPresent {
        /// The token's label.
        token: String,
        /// The label it has.
        label: String,
        /// Its id in hexadecimal.
        id: String,
    },
    /// No key fits.
    #[error("token `{token}` has no private key with {wanted}; it has {}", list_or_none(.found))]
    KeyNotFound {
        /// The token's label.
        token: String,
        /// What was asked for.
        wanted: String,
        /// Labels and ids of the keys there are, at most 20.
        found: Vec<String>,
    },
    /// More than one key fits.
    #[error("token `{token}` has more than one private key with {wanted}: {}", .found.join(", "))]
    KeyAmbiguous {
        /// The token's label.
        token: String,
        /// What was asked for.
        wanted: String,
        /// Labels and ids of the keys that fit, at most 20.
        found: Vec<String>,
    },
    /// The token shows neither a public key nor a certificate for the private key.
    #[error(
        "token `{token}` has no public part for key `{label}`, so nothing can be proven about it"
    )]
    PublicPartMissing {
        /// The token's label.
        token: String,
        /// The key's label.
        label: String,
    },
    /// The signature that the token made does not verify.
    #[error("key `{label}` in token `{token}` does not sign as its public part says")]
    ProofFailed {
        /// The token's label.
        token: String,
        /// The key's label.
        label: String,
    },
    /// The token made an object otherwise than it was asked to.
    #[error("token `{token}` did not keep to the template of key `{label}`: {what}")]
    TemplateIgnored {
        /// The token's label.
        token: String,
        /// The key's label.
        label: String,
        /// Which attribute differs.
        what: String,
    },
    /// An algorithm that is not served.
    #[error("keys of kind {algorithm} cannot be made here")]
    Unsupported {
        /// The kind.
        algorithm: KeyAlgorithm,
    },
    /// The certificate speaks of another key.
    #[error("the certificate does not belong to key `{label}`: their public keys differ")]
    CertificateMismatch {
        /// The key's label.
        label: String,
    },
    /// Bytes that are not one DER certificate.
    #[error("not an X.509 certificate in DER")]
    CertificateEncoding,
    /// What was created could not be removed after a failure.
    #[error(
        "{reason}; what was created could not be removed again ({removal}): delete key `{label}` by hand"
    )]
    LeftBehind {
        /// The first failure.
        reason: Box<AdminError>,
        /// Why the removal failed.
        removal: crate::Error,
        /// The key's label.
        label: String,
    },
}

fn list_or_none(found: &[String]) -> String {
    if found.is_empty() {
        "none".to_owned()
    } else {
        found.join(", ")
    }
}
