//! How much of a handshake a token keeps to itself.
//!
//! A level is proven by self-tests and never rounded up; this file only names and orders the levels.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// What stays in the token during a handshake, from the least to the most.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum CustodyLevel {
    /// The long-term key.
    #[default]
    Signature,
    /// And the ephemeral key pair, the shared secret, and the first derivation from it.
    Premaster,
    /// And the handshake and master secrets.
    Master,
    /// And the traffic secrets and Finished keys: only AEAD keys and IVs come out.
    Schedule,
}

impl CustodyLevel {
    /// The level's name, as in configuration files, logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Signature => "signature",
            Self::Premaster => "premaster",
            Self::Master => "master",
            Self::Schedule => "schedule",
        }
    }
}

impl fmt::Display for CustodyLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for CustodyLevel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [
            Self::Signature,
            Self::Premaster,
            Self::Master,
            Self::Schedule,
        ]
        .into_iter()
        .find(|level| level.as_str() == text)
        .ok_or_else(|| {
            format!("`{text}` is not a custody level: signature, premaster, master or schedule")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_ordered_by_what_the_token_keeps() {
        assert!(CustodyLevel::Signature < CustodyLevel::Premaster);
        assert!(CustodyLevel::Master < CustodyLevel::Schedule);
        assert_eq!("premaster".parse(), Ok(CustodyLevel::Premaster));
        assert!("Premaster".parse::<CustodyLevel>().is_err());
    }
}
