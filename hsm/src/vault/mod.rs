//! Secrets on the road: wrapped and sealed by two keys that never leave the token, one pair a day.
//!
//! What a ticket or a rekey state means is its maker's business. Invariant: the key that wraps cannot decrypt, the
//! key that seals cannot unwrap, and no key serves two purposes (security rule S4).

mod blob;
pub(crate) mod keys;
mod search;
pub(crate) mod store;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use self::{
    blob::{AtWork, Blob, Unopened},
    store::Store,
};
use crate::{
    Error, FaultClass, Kept, Token, TokenSecret, Worker, exchange::Ephemeral, generation::Counted,
    template::Usage,
};

/// What a vault's keys are for. Keys of one purpose open nothing of the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VaultPurpose {
    /// Tickets: resumption secrets of TLS 1.3, master secrets of TLS 1.2.
    Ticket,
    /// Rekey states: traffic secrets.
    Rekey,
}

/// The daily pairs of keys of one purpose in one token. Clones are the same vault, and so is every later vault of the
/// same token, purpose and kind.
#[derive(Clone, Debug)]
pub struct Vault {
    token: Token,
    purpose: VaultPurpose,
    /// Whether other processes have the keys, too.
    is_shared: bool,
    store: Arc<Mutex<Store>>,
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
    /// uses the token; otherwise session objects of this process. They are made when first needed.
    pub fn new(token: &Token, purpose: VaultPurpose, persistent: bool) -> Self {
        Self {
            token: token.clone(),
            purpose,
            is_shared: persistent,
            store: token.inner().stores.of(purpose, persistent),
        }
    }

    /// The token.
    pub fn token(&self) -> &Token {
        &self.token
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Worker {
    /// Wraps `secret` (which must be [`Kept::Wrappable`]) under the day's wrapping key and seals it with `envelope`
    /// (at most 65,535 bytes) under the day's sealing key, bound to `aad`. `day` is days since 1970 (UTC); callers
    /// need not agree on it to the day. The
    /// blob has 47 bytes more than envelope and secret. Three PKCS#11 calls, and those that make the day's keys. When
    /// the day's keys are gone, others are made, once.
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
        if secret.object().token().id() != vault.token.id() {
            return Err(vault.token.unavailable("the secret is another token's"));
        }
        self.on_object(secret.object(), |own, counted| {
            let ways = vault.token.ways();
            let mut is_first = true;
            loop {
                let (id, keys) =
                    vault
                        .store()
                        .for_sealing(&own.session, &own.owner.generation, &ways, day)?;
                let pair = AtWork {
                    session: &own.session,
                    ways: &ways,
                    id,
                    keys,
                };
                match pair.seal(counted.handle, aad, envelope) {
                    Err(error) if is_first && has_lost(&pair, &error, true) => {
                        vault.store().forget(&pair);
                        is_first = false;
                    }
                    sealed => return sealed,
                }
            }
        })
    }

    /// Opens a blob of today or a day next to it. `None`: altered, of an unknown or older key, or bound to something else;
    /// an unknown key costs no call of the token, and where keys are shared a search once in five seconds. So does a
    /// key that is gone. Three PKCS#11 calls.
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
        let Some(blob) = Blob::read(sealed) else {
            return Ok(None);
        };
        let token = &vault.token;
        self.once(token, |own| {
            let ways = token.ways();
            let usage = vault.purpose.usage(secret_len);
            let mut is_first = true;
            loop {
                let known =
                    vault
                        .store()
                        .for_opening(&own.session, &own.owner.generation, day, blob.id)?;
                let Some(keys) = known else {
                    return Ok(None);
                };
                let pair = AtWork {
                    session: &own.session,
                    ways: &ways,
                    id: blob.id,
                    keys,
                };
                let unopened = match pair.open(&blob, aad, secret_len, usage, kept) {
                    Ok(opened) => {
                        return Ok(opened.map(|(envelope, handle)| {
                            let object = Ephemeral::new(token, Counted::new(handle, &own.owner));
                            let secret = TokenSecret::new(object);
                            Opened { envelope, secret }
                        }));
                    }
                    Err(unopened) => unopened,
                };
                if is_first && has_lost(&pair, unopened.error(), vault.is_shared) {
                    vault.store().forget(&pair);
                    is_first = false;
                } else {
                    return unopened.judge(&pair).map(|()| None);
                }
            }
        })
    }
}

impl Unopened {
    fn error(&self) -> &Error {
        match self {
            Self::Sealed(error) | Self::Wrapped(error) => error,
        }
    }

    /// Whose fault it is: an error when it is the token's. What a module answers to an altered ciphertext is its own
    /// choice, up to CKR_DEVICE_ERROR; the peer has sent it, so that the token is looked at before it is blamed.
    fn judge(self, pair: &AtWork<'_>) -> Result<(), Error> {
        match self {
            Self::Sealed(error) if error.fault_class() == Some(FaultClass::Busy) => Err(error),
            Self::Sealed(_) if pair.is_logged_in() => Ok(()),
            Self::Sealed(error) | Self::Wrapped(error) => Err(error),
        }
    }
}

/// Whether an operation failed because a key of the pair is gone while the login is well: another process has
/// destroyed it, or the module has lost it. With `by_word` the module's word for the key that wraps is enough, too.
fn has_lost(pair: &AtWork<'_>, error: &Error, by_word: bool) -> bool {
    let is_said = || by_word && error.is_of_wrapping_key();
    pair.is_logged_in() && (is_said() || !pair.is_there())
}

impl VaultPurpose {
    /// A secret of 48 bytes in a ticket may be a master secret of TLS 1.2; all others are derived from alone.
    pub(crate) fn usage(self, secret_len: usize) -> Usage {
        match self {
            Self::Ticket if secret_len == 48 => Usage::SignAndDerive,
            _ => Usage::Derive,
        }
    }
}
