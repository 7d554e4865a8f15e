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
    /// The vault's keys are held to templates: what they unwrap cannot be made readable, whoever has the login.
    pub vault_guarded: bool,
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
    /// What this profile proves and `now` does not, in words; nothing when `now` proves as much.
    pub(crate) fn lost_in(&self, now: &Self) -> Vec<String> {
        let mut lost = Vec::new();
        for group in &self.groups {
            if !now.groups.contains(group) {
                lost.push(format!("exchanges with {}", group.as_str()));
            }
        }
        for (what, before, after) in [
            ("HKDF-Extract", &self.extract, &now.extract),
            ("the TLS 1.2 PRF", &self.prf, &now.prf),
            ("TLS 1.3 master secrets", &self.master13, &now.master13),
            ("TLS 1.3 schedules", &self.schedule13, &now.schedule13),
            ("TLS 1.2 schedules", &self.schedule12, &now.schedule12),
        ] {
            for (group, hash) in before.iter().filter(|pair| !after.contains(pair)) {
                lost.push(format!("{what} with {} and {hash:?}", group.as_str()));
            }
        }
        for (what, before, after) in [
            ("the vault", self.vault, now.vault),
            (
                "templates of the vault's keys",
                self.vault_guarded,
                now.vault_guarded,
            ),
            ("bytes before a secret", self.prepends, now.prepends),
            ("ML-KEM", self.ml_kem, now.ml_kem),
        ] {
            if before && !after {
                lost.push(what.to_owned());
            }
        }
        lost
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    fn profile() -> Profile {
        let pairs = vec![(NamedGroup::X25519, HashAlgorithm::Sha256)];
        Profile {
            tls12: CustodyLevel::Schedule,
            tls13: CustodyLevel::Schedule,
            groups: vec![NamedGroup::X25519],
            prf: pairs.clone(),
            extract: pairs.clone(),
            master13: pairs.clone(),
            schedule13: pairs.clone(),
            schedule12: pairs,
            vault: true,
            vault_guarded: true,
            prepends: true,
            ml_kem: true,
            checks: Vec::new(),
        }
    }

    #[test]
    fn whatever_is_no_longer_proven_is_named() {
        assert!(profile().lost_in(&profile()).is_empty());
        let takes: [fn(&mut Profile); 10] = [
            |now| now.groups.clear(),
            |now| now.prf.clear(),
            |now| now.extract.clear(),
            |now| now.master13.clear(),
            |now| now.schedule13.clear(),
            |now| now.schedule12.clear(),
            |now| now.vault = false,
            |now| now.vault_guarded = false,
            |now| now.prepends = false,
            |now| now.ml_kem = false,
        ];
        for take in takes {
            let mut now = profile();
            take(&mut now);
            assert_eq!(profile().lost_in(&now).len(), 1);
            assert!(now.lost_in(&profile()).is_empty(), "more is no loss");
        }
    }
}
