//! What can go wrong with a token, and whose fault it is.
//!
//! A peer's bad value, a token that is away and a token that answers wrongly are different things: the peer gets
//! an alert, the caller may ask another signer, the operator gets the chain. Which alert is said is left to the
//! caller. Invariant: no variant carries a PIN or key material.

use std::path::PathBuf;

use cryptoki::error::Error as CryptokiError;
use keyhaven_types::{HashAlgorithm, KeyAlgorithm, KeyKind, NamedGroup, SignatureScheme};

use crate::{FaultClass, TokenFault};

/// Why an operation on a module, token, key or worker did not happen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No module was named and SoftHSM2 is in none of the usual places.
    #[error(
        "no PKCS#11 module: SoftHSM2 is not in {}; install it (Debian, Ubuntu: apt install softhsm2; Fedora: dnf install softhsm; Alpine: apk add softhsm; macOS: brew install softhsm) or give the module's path",
        list_paths(.tried)
    )]
    ModuleNotFound {
        /// Every path that was looked at.
        tried: Vec<PathBuf>,
    },
    /// The shared library cannot be loaded or initialised.
    #[error("cannot load the PKCS#11 module {}; check that it is a PKCS#11 library for this machine and that its own configuration can be read", .path.display())]
    LoadModule {
        /// The library.
        path: PathBuf,
        /// What the loader or C_Initialize said.
        source: TokenFault,
    },
    /// The text for C_Initialize cannot be used.
    #[error("the init_args of the PKCS#11 module {} cannot be used: {reason}", .path.display())]
    InitArguments {
        /// The library.
        path: PathBuf,
        /// Why.
        reason: &'static str,
    },
    /// No token fits the URI.
    #[error(
        "no token fits `{wanted}`; the module has {}; for SoftHSM2, see that $SOFTHSM2_CONF is the one that the token was made with",
        list_or_none(.found)
    )]
    TokenNotFound {
        /// The URI without its query.
        wanted: String,
        /// Labels and serials of the tokens there are.
        found: Vec<String>,
    },
    /// More than one token fits the URI.
    #[error("`{wanted}` fits more than one token: {}; add `serial=` to the URI", .found.join(", "))]
    TokenAmbiguous {
        /// The URI without its query.
        wanted: String,
        /// Labels and serials of the tokens that fit.
        found: Vec<String>,
    },
    /// The token has no user PIN yet.
    #[error("token `{token}` has no user PIN; initialise it with `signer-admin token init`")]
    UserPinNotSet {
        /// The token's label.
        token: String,
    },
    /// The token said no to the PIN. It was tried once and is not tried again by this process.
    #[error(
        "token `{token}` refused the PIN; it was tried once and will not be tried again{hint}; correct the pin-source and restart"
    )]
    PinRefused {
        /// The token's label.
        token: String,
        /// What the token says about the tries that are left, or nothing.
        hint: &'static str,
    },
    /// Too many wrong PINs, from whomever.
    #[error("the user PIN of token `{token}` is locked; the security officer must set a new one")]
    PinLocked {
        /// The token's label.
        token: String,
    },
    /// No private key fits the URI.
    #[error("no private key fits `{wanted}` in token `{token}`; it has {}", list_or_none(.found))]
    KeyNotFound {
        /// The URI without its query.
        wanted: String,
        /// The token's label.
        token: String,
        /// Labels and ids of the private keys there are, at most 20.
        found: Vec<String>,
    },
    /// More than one private key fits the URI.
    #[error("`{wanted}` fits more than one private key in token `{token}`: {}; add `id=` to the URI", .found.join(", "))]
    KeyAmbiguous {
        /// The URI without its query.
        wanted: String,
        /// The token's label.
        token: String,
        /// Labels and ids of the keys that fit, at most 20.
        found: Vec<String>,
    },
    /// The URI speaks of something that is not a private key.
    #[error("`{wanted}` does not speak of a private key; use `type=private` or leave `type` out")]
    NotAPrivateKey {
        /// The URI without its query.
        wanted: String,
    },
    /// The private key is not the one that the certificate speaks of.
    #[error("private key `{key}` does not belong to the certificate: {reason}")]
    KeyMismatch {
        /// The key's label.
        key: String,
        /// How it shows.
        reason: String,
    },
    /// A key that cannot be used here.
    #[error("key `{key}` cannot be used: {reason}")]
    UnsupportedKey {
        /// The key's label, or what else names it.
        key: String,
        /// Why.
        reason: String,
    },
    /// A key was asked for a signature that its kind cannot make.
    #[error("a key of kind {algorithm} cannot sign with {scheme:?}")]
    Scheme {
        /// The key's kind.
        algorithm: KeyAlgorithm,
        /// What was asked.
        scheme: SignatureScheme,
    },
    /// The token returned a signature that does not verify. It was thrown away.
    #[error(
        "token `{token}` made a wrong signature with key `{key}`; it was discarded: check the token's hardware and software at once"
    )]
    WrongSignature {
        /// The token's label.
        token: String,
        /// The key's label.
        key: String,
    },
    /// The peer's public value is not a point of the group, or one of small order. The peer's fault.
    #[error("the peer's {} value is not valid", .group.as_str())]
    PeerPoint {
        /// The group of the exchange.
        group: NamedGroup,
    },
    /// The peer's ML-KEM-768 encapsulation key is not one. The peer's fault.
    #[error("the peer's ML-KEM key is not valid")]
    PeerKey,
    /// The secret is too short for the HMAC of this token, or another limit of its mechanisms.
    #[error("token `{token}` cannot derive with {hash:?}")]
    Derivation {
        /// The token's label.
        token: String,
        /// The hash of the derivation.
        hash: HashAlgorithm,
        /// The return value.
        source: TokenFault,
    },
    /// A module does not enforce what its role among the holders of managed keys rests on.
    #[error(
        "module `{module}` cannot be {role}: it does not {}; use another module for this role",
        .failed.join(", does not ")
    )]
    RoleRefused {
        /// `central` or `a site`.
        role: &'static str,
        /// The module's family.
        module: String,
        /// What it was seen not to do, each a verb phrase.
        failed: Vec<String>,
    },
    /// The module makes such keys but gives none of them wrapped.
    #[error(
        "module `{module}` does not wrap keys of kind {kind}, so that no site could get one; choose another kind"
    )]
    Unwrappable {
        /// The kind.
        kind: KeyKind,
        /// The module's family.
        module: String,
    },
    /// The token has no such key-encryption key.
    #[error("token `{token}` has no {kek}")]
    KekNotFound {
        /// The token's label.
        token: String,
        /// What is missing.
        kek: String,
    },
    /// An enrolment was to bring a key-encryption key that the token has.
    #[error("token `{token}` already has {kek}; nothing of this delivery was brought in")]
    KekPresent {
        /// The token's label.
        token: String,
        /// Its name and id.
        kek: String,
    },
    /// What a caller gave is not fit for the operation. The caller is to blame.
    #[error("{operation} is not possible: {reason}")]
    Input {
        /// What was asked.
        operation: &'static str,
        /// Why.
        reason: &'static str,
    },
    /// A wrapped key or a ciphertext does not open: altered, or made with another key. Whoever gave it is to blame; the
    /// token was seen to be well.
    #[error("{operation} failed: what was given is altered, or made with another key")]
    Blob {
        /// What was being done.
        operation: &'static str,
    },
    /// A wrapped key opened and is another one than its record says. It was destroyed.
    #[error("the wrapped key given for {key} is another key: {reason}")]
    Substituted {
        /// The key's id.
        key: String,
        /// How it shows.
        reason: &'static str,
    },
    /// A PKCS#11 call failed.
    #[error("{operation} failed in token `{token}`")]
    Token {
        /// What was being done.
        operation: &'static str,
        /// The token's label, or the module's name.
        token: String,
        /// The return value.
        source: TokenFault,
    },
    /// The token answered with something that cannot be right.
    #[error("{operation} in token `{token}` gave {reason}")]
    Answer {
        /// What was being done.
        operation: &'static str,
        /// The token's label.
        token: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The token was lost and is not back yet; nothing was sent to it.
    #[error("token `{token}` is not available: {reason}")]
    TokenUnavailable {
        /// The token's label.
        token: String,
        /// The last thing known about it.
        reason: String,
    },
    /// The queue of the workers is full.
    #[error("all token sessions are busy and the queue is full")]
    Busy,
    /// The deadline passed before the token was done.
    #[error("the token did not answer in time")]
    Deadline,
    /// The workers are shutting down or gone.
    #[error("the token sessions are closed")]
    Stopped,
    /// The job ended without a result; its panic is in the log.
    #[error("the job on the token session died")]
    JobDied,
    /// Called from a thread that owns no session.
    #[error("this thread is not a token worker")]
    NotAWorker,
    /// The operating system gave no thread.
    #[error("cannot start a thread for a token session")]
    StartThread(#[source] std::io::Error),
}

impl Error {
    /// Whether the other end of the TLS connection is to blame, and the token is well.
    pub fn is_peer_fault(&self) -> bool {
        matches!(self, Self::PeerPoint { .. } | Self::PeerKey)
    }

    /// Whether the token or its sessions are away or busy, so that another signer may help.
    pub fn is_unavailable(&self) -> bool {
        match self {
            Self::TokenUnavailable { .. }
            | Self::TokenNotFound { .. }
            | Self::Busy
            | Self::Deadline
            | Self::Stopped => true,
            Self::Token { source, .. } => source.class() != FaultClass::Operation,
            _ => false,
        }
    }

    /// What kind of token failure this is, if it is one.
    pub fn fault_class(&self) -> Option<FaultClass> {
        match self {
            Self::Token { source, .. } => Some(source.class()),
            _ => None,
        }
    }

    /// Whether a token speaks of the key that wraps or unwraps as of one that is not there.
    pub(crate) fn is_of_wrapping_key(&self) -> bool {
        matches!(self, Self::Token { source, .. } if source.is_of_wrapping_key())
    }

    /// Wraps a failed call; the token's label is added by whoever knows it, with [`Error::of`].
    pub(crate) fn token(operation: &'static str, source: CryptokiError) -> Self {
        Self::Token {
            operation,
            token: String::new(),
            source: TokenFault::new(source),
        }
    }

    /// Wraps an answer that cannot be right.
    pub(crate) fn answer(operation: &'static str, reason: &'static str) -> Self {
        Self::Answer {
            operation,
            token: String::new(),
            reason,
        }
    }

    /// For whoever still works in a login that was lost.
    pub(crate) fn lost_login() -> Self {
        Self::TokenUnavailable {
            token: String::new(),
            reason: "it was lost".to_owned(),
        }
    }

    /// On one line with what lies beneath.
    pub(crate) fn in_full(&self) -> String {
        use std::error::Error as _;
        match self.source() {
            Some(source) => format!("{self}: {source}"),
            None => self.to_string(),
        }
    }

    /// The same error with the token's label, where it has none yet.
    pub(crate) fn of(mut self, label: &str) -> Self {
        if let Self::Token { token, .. }
        | Self::TokenUnavailable { token, .. }
        | Self::Answer { token, .. }
        | Self::KekNotFound { token, .. }
        | Self::Derivation { token, .. } = &mut self
            && token.is_empty()
        {
            label.clone_into(token);
        }
        self
    }
}

fn list_paths(paths: &[PathBuf]) -> String {
    paths
        .iter()
        .map(|path| path.display().to_string())
        .collect::<Vec<_>>()
        .join(", ")
}

fn list_or_none(found: &[String]) -> String {
    if found.is_empty() {
        "none".to_owned()
    } else {
        found.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use cryptoki::{context::Function, error::RvError};

    use super::*;

    fn fault(rv: RvError) -> Error {
        Error::token(
            "derive a secret",
            CryptokiError::Pkcs11(rv, Function::DeriveKey),
        )
        .of("A")
    }

    #[test]
    fn only_a_bad_point_is_the_peers_fault() {
        let point = Error::PeerPoint {
            group: NamedGroup::X25519,
        };
        assert!(point.is_peer_fault() && !point.is_unavailable());
        assert!(!fault(RvError::GeneralError).is_peer_fault());
    }

    #[test]
    fn a_lost_session_is_unavailable_and_a_bad_key_size_is_not() {
        assert!(fault(RvError::UserNotLoggedIn).is_unavailable());
        assert!(fault(RvError::DeviceRemoved).is_unavailable());
        assert!(!fault(RvError::KeySizeRange).is_unavailable());
    }

    #[test]
    fn a_token_that_is_not_found_may_be_in_another_folder_of_softhsm2() {
        let error = Error::TokenNotFound {
            wanted: "pkcs11:token=central".to_owned(),
            found: Vec::new(),
        };
        assert!(error.to_string().contains("$SOFTHSM2_CONF"), "{error}");
    }

    #[test]
    fn return_values_print_in_the_standards_spelling() {
        use std::error::Error as _;
        let error = fault(RvError::KeySizeRange);
        assert_eq!(error.to_string(), "derive a secret failed in token `A`");
        assert_eq!(
            error.source().unwrap().to_string(),
            "C_DeriveKey: CKR_KEY_SIZE_RANGE"
        );
        assert_eq!(
            error.in_full(),
            "derive a secret failed in token `A`: C_DeriveKey: CKR_KEY_SIZE_RANGE"
        );
    }
}
