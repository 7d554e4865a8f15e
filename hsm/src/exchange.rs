//! Ephemeral key exchange in the token.

use keyhaven_types::NamedGroup;

/// An ephemeral key pair; the private half is an object of the token.
#[derive(Debug)]
pub struct ExchangeKey(NamedGroup, Vec<u8>);

impl ExchangeKey {
    /// The public value as it stands on the wire.
    pub fn public_value(&self) -> &[u8] {
        &self.1
    }
    /// The group.
    pub fn group(&self) -> NamedGroup {
        self.0
    }
}

/// A shared secret; an object of the token.
#[derive(Debug)]
pub struct TokenSecret(NamedGroup);

impl TokenSecret {
    /// The group of the exchange that made it.
    pub fn group(&self) -> NamedGroup {
        self.0
    }
}
