//! Secrets on the road: wrapped and sealed by two keys that never leave the token, one pair a day.
//!
//! What a ticket or a rekey state means is its maker's business. Invariant: the key that wraps cannot decrypt, the
//! key that seals cannot unwrap, and no key serves two purposes (security rule S4).

use crate::{Error, Kept, Token, TokenSecret, Worker};

/// What a vault's keys are for. Keys of one purpose open nothing of the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VaultPurpose {
    /// Tickets: resumption secrets of TLS 1.3, master secrets of TLS 1.2.
    Ticket,
    /// Rekey states: traffic secrets.
    Rekey,
}

/// The daily pairs of keys of one purpose in one token. Clones are the same vault.
#[derive(Clone, Debug)]
pub struct Vault {
    token: Token,
    #[expect(dead_code, reason = "used as soon as keys are made")]
    purpose: VaultPurpose,
    #[expect(dead_code, reason = "used as soon as keys are made")]
    persistent: bool,
}

/// What was in a sealed blob.
#[derive(Debug)]
pub struct Opened {
    /// The envelope, as it was given.
    pub envelope: Vec<u8>,
    /// The secret, in the token again.
    pub secret: TokenSecret,
}

impl Vault {
    /// Keys in `token`. With `persistent` they are token objects, found by label and shared by every signer that
    /// uses the token; otherwise session objects of this process.
    pub fn new(token: &Token, purpose: VaultPurpose, persistent: bool) -> Self {
        Self {
            token: token.clone(),
            purpose,
            persistent,
        }
    }

    /// The token.
    pub fn token(&self) -> &Token {
        &self.token
    }
}

impl Worker {
    /// Wraps `secret` (which must be [`Kept::Wrappable`]) under the day's wrapping key and seals it with `envelope`
    /// under the day's sealing key, bound to `aad`. `day` is days since 1970 (UTC).
    ///
    /// # Errors
    /// Failures of the token.
    pub fn vault_seal(
        &self,
        vault: &Vault,
        day: u64,
        aad: &[u8],
        envelope: &[u8],
        secret: &TokenSecret,
    ) -> Result<Vec<u8>, Error> {
        let _ = (day, aad, envelope, secret);
        Err(vault.token.unavailable("it has no vault"))
    }

    /// Opens a blob of today or yesterday. `None`: altered, of an unknown or older key, or bound to something else;
    /// an unknown key costs no call of the token.
    ///
    /// # Errors
    /// Failures of the token.
    pub fn vault_open(
        &self,
        vault: &Vault,
        day: u64,
        aad: &[u8],
        sealed: &[u8],
        secret_len: usize,
        kept: Kept,
    ) -> Result<Option<Opened>, Error> {
        let _ = (day, aad, sealed, secret_len, kept);
        Err(vault.token.unavailable("it has no vault"))
    }
}
