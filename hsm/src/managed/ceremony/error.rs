//! What can go wrong in a ceremony.
//!
//! Invariant: no variant carries a PIN or key material.

use keyhaven_types::KekId;

use crate::Error;

/// Why a ceremony did not happen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CeremonyError {
    /// The token said no to the security officer's PIN. It was tried once.
    #[error(
        "token `{token}` refused the security officer's PIN; it was tried once and will not be tried again"
    )]
    SoPinRefused {
        /// The token's label.
        token: String,
    },
    /// This process has another login at the token.
    #[error(
        "token `{token}` is in use by this process; a ceremony is a process of its own with the token to itself"
    )]
    Occupied {
        /// The token's label.
        token: String,
    },
    /// Too many keys at once, or none.
    #[error("a pool is made of 1 to {max} keys at once")]
    PoolSize {
        /// The most.
        max: usize,
    },
    /// The token does not sign yet.
    #[error("the token has no key that signs records; make central's keys first")]
    NoSigningKey,
    /// No key of the pool has this id.
    #[error("the token's pool has no key {0}")]
    NoSuchKek(KekId),
    /// What a site has sent cannot be the public part of a transport pair.
    #[error("the site's public key cannot be used: {reason}")]
    SitePublic {
        /// Why.
        reason: String,
    },
    /// A call failed, or a key is not what it should be.
    #[error(transparent)]
    Token(#[from] Error),
}
