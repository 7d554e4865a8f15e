//! What a handshake says of its own custody, for the log, the audit line and the metrics.

use keyhaven_types::CustodyLevel;

use crate::context::{Facts, Place};

/// What stayed where in one handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Custody {
    /// What the tokens kept to themselves.
    pub level: CustodyLevel,
    /// The label of the token that kept exchange and schedule; none at `signature`.
    pub exchange: Option<String>,
    /// What was in the signer's memory, in words.
    pub left: &'static str,
}

impl Custody {
    pub(crate) fn new(facts: &Facts, is_half_outside: bool) -> Self {
        let (exchange, runs_at) = match &facts.place {
            Place::Software => (None, CustodyLevel::Signature),
            Place::Token { token, level, .. } => (Some(token.info().label.clone()), *level),
        };
        Self {
            level: facts.level,
            exchange,
            left: left(runs_at, facts.is_tls13, is_half_outside),
        }
    }
}

/// What leaves a token at each level, as the custody page has it.
fn left(runs_at: CustodyLevel, is_tls13: bool, is_half_outside: bool) -> &'static str {
    match (runs_at, is_tls13, is_half_outside) {
        (CustodyLevel::Signature, ..) => "shared secret and whole schedule",
        (CustodyLevel::Premaster, false, _) => "master secret",
        (CustodyLevel::Premaster, true, false) => "handshake secret",
        (CustodyLevel::Premaster, true, true) => "ML-KEM secret, handshake secret",
        (_, false, _) => "key block, Finished",
        (CustodyLevel::Master, true, false) => "traffic secrets",
        (CustodyLevel::Master, true, true) => "ML-KEM secret, traffic secrets",
        (CustodyLevel::Schedule, true, false) => "keys, IVs, MACs",
        (CustodyLevel::Schedule, true, true) => "ML-KEM secret, keys, IVs, MACs",
    }
}
