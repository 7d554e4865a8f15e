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
    /// TLS 1.3: every secret down to the traffic secrets as handles; level `master`.
    pub master13: Vec<(NamedGroup, HashAlgorithm)>,
    /// TLS 1.3: the traffic secrets, too; keys, IVs and MACs come out; level `schedule`.
    pub schedule13: Vec<(NamedGroup, HashAlgorithm)>,
    /// TLS 1.2: the master secret as a handle; key block and MACs come out; level `schedule`.
    pub schedule12: Vec<(NamedGroup, HashAlgorithm)>,
    /// Wrapping and sealing of secrets on the road; see [`crate::Vault`].
    pub vault: bool,
    /// A secret can get a known prefix; see [`crate::Worker::prepend`].
    pub prepends: bool,
    /// ML-KEM-768 encapsulation and the joining of two secrets.
    pub ml_kem: bool,
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

impl Profile {
    /// The level of a TLS 1.3 handshake with this group and hash.
    pub fn level13(&self, group: NamedGroup, hash: HashAlgorithm) -> CustodyLevel {
        let pair = (group, hash);
        if self.schedule13.contains(&pair) {
            CustodyLevel::Schedule
        } else if self.master13.contains(&pair) {
            CustodyLevel::Master
        } else if self.extract.contains(&pair) {
            CustodyLevel::Premaster
        } else {
            CustodyLevel::Signature
        }
    }

    /// The level of a TLS 1.2 handshake with this group and hash. There is no `master` in between: with the master
    /// secret as a handle only keys and MACs come out.
    pub fn level12(&self, group: NamedGroup, hash: HashAlgorithm) -> CustodyLevel {
        let pair = (group, hash);
        if self.schedule12.contains(&pair) {
            CustodyLevel::Schedule
        } else if self.prf.contains(&pair) {
            CustodyLevel::Premaster
        } else {
            CustodyLevel::Signature
        }
    }
}
