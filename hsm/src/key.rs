//! A private key in a token, bound to its public part.

use std::sync::Arc;

use keyhaven_types::KeyAlgorithm;

use crate::Token;

/// A private key. Clones are the same key.
#[derive(Clone, Debug)]
pub struct PrivateKey(Arc<(Token, String, Vec<u8>, KeyAlgorithm, Vec<String>)>);

impl PrivateKey {
    /// Its kind.
    pub fn algorithm(&self) -> KeyAlgorithm {
        self.0.3
    }
    /// Its public part, as SubjectPublicKeyInfo in DER.
    pub fn spki(&self) -> &[u8] {
        &self.0.2
    }
    /// Its token.
    pub fn token(&self) -> &Token {
        &self.0.0
    }
    /// Its label.
    pub fn label(&self) -> &str {
        &self.0.1
    }
    /// What is unwise about it, one sentence each.
    pub fn warnings(&self) -> &[String] {
        &self.0.4
    }
}
