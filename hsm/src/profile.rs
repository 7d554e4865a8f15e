//! What a token was proven to do, as the self-tests found it.
//!
//! Values only; the tests themselves are in `selftest`. Invariant: a level is never rounded up.

use keyhaven_types::{CustodyLevel, HashAlgorithm, NamedGroup};
use serde::Serialize;

/// The outcome of [`crate::Token::prove`].
#[derive(Clone, Debug, Serialize)]
pub struct Profile {
    /// The highest level for TLS 1.2.
    pub tls12: CustodyLevel,
    /// The highest level for TLS 1.3.
    pub tls13: CustodyLevel,
    /// Groups whose exchange is proven in the token, cheapest first.
    pub groups: Vec<NamedGroup>,
    /// TLS 1.2: extended master secret and PRF keyed by the group's shared secret.
    pub prf: Vec<(NamedGroup, HashAlgorithm)>,
    /// TLS 1.3: HKDF-Extract of the group's shared secret.
    pub extract: Vec<(NamedGroup, HashAlgorithm)>,
    /// Every check that was made, in order.
    pub checks: Vec<Check>,
}

/// One self-test.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// What was asked of the token.
    pub name: String,
    /// Whether it did so, and rightly.
    pub passed: bool,
    /// What happened, in words.
    pub detail: String,
}
