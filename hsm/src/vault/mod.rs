//! Secrets on the road: wrapped and sealed by two keys that never leave the token, one pair a day.
//!
//! What a ticket or a rekey state means is its maker's business. Invariant: the key that wraps cannot decrypt, the
//! key that seals cannot unwrap, and no key serves two purposes (security rule S4).

pub(crate) mod keys;
pub(crate) mod store;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use cryptoki::session::SessionState;
use zeroize::Zeroizing;

use self::{
    keys::{NONCE_LEN, TAG_LEN},
    store::{KEY_ID_LEN, KeyId, Store},
};
use crate::{
    Error, FaultClass, Kept, Token, TokenSecret, Worker, exchange::Ephemeral, generation::Counted,
    session::OpenSession, template::Usage,
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
    /// blob has 47 bytes more than envelope and secret. Three PKCS#11 calls, and those that make the day's keys.
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
        let Ok(envelope_len) = u16::try_from(envelope.len()) else {
            return Err(Error::answer(SEAL, "an envelope that is too long").of(vault.label()));
        };
        self.on_object(secret.object(), |own, counted| {
            let ways = vault.token.ways();
            let generation = &own.owner.generation;
            let (id, pair) = vault.store().for_sealing(generation, &ways, day)?;
            let wrapped = keys::wrap(&own.session, &ways, pair.wrap, counted.handle)?;
            let mut plain = Zeroizing::new(envelope_len.to_be_bytes().to_vec());
            plain.extend_from_slice(envelope);
            plain.extend_from_slice(&wrapped);
            let mut nonce = [0; NONCE_LEN];
            SystemRandom::new()
                .fill(&mut nonce)
                .map_err(|_| Error::answer(SEAL, "no random number"))?;
            let header = header(id);
            let aad = [&header[..], aad].concat();
            let sealed = keys::seal(&own.session, pair.seal, &nonce, &aad, &plain)?;
            Ok([&header[..], &nonce, &sealed].concat())
        })
    }

    /// Opens a blob of today or a day next to it. `None`: altered, of an unknown or older key, or bound to something else;
    /// an unknown key costs no call of the token, and where keys are shared a search once in five seconds. Three
    /// PKCS#11 calls.
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
            let generation = &own.owner.generation;
            let known = vault.store().for_opening(generation, day, blob.id)?;
            let Some(pair) = known else {
                return Ok(None);
            };
            let aad = [&header(blob.id)[..], aad].concat();
            let plain =
                match keys::unseal(&own.session, pair.seal, blob.nonce, &aad, blob.ciphertext) {
                    Ok(plain) => plain,
                    Err(error) => return vault.refused(&own.session, blob.id, error),
                };
            let Some((envelope, wrapped)) = split(&plain, secret_len) else {
                return Ok(None);
            };
            // Sealed by us: from here on a failure is the token's.
            let usage = vault.purpose.usage(secret_len);
            let ways = token.ways();
            let handle = keys::unwrap(&own.session, &ways, pair.wrap, wrapped, usage, kept)?;
            let object = Ephemeral::new(token, Counted::new(handle, &own.owner));
            Ok(Some(Opened {
                envelope: envelope.to_vec(),
                secret: TokenSecret::new(object),
            }))
        })
    }
}

impl Vault {
    fn label(&self) -> &str {
        &self.token.info().label
    }

    /// What a module answers to an altered ciphertext is its own choice, up to CKR_DEVICE_ERROR; the peer has sent
    /// it, so that the token is looked at before it is blamed.
    fn refused(
        &self,
        session: &OpenSession,
        id: KeyId,
        error: Error,
    ) -> Result<Option<Opened>, Error> {
        let state = session.get_session_info().map(|info| info.session_state());
        if !matches!(state, Ok(SessionState::RwUser | SessionState::RoUser)) {
            return Err(error);
        }
        if error.fault_class() == Some(FaultClass::SessionLost) {
            self.store().forget(id);
        }
        Ok(None)
    }
}

impl VaultPurpose {
    /// A secret of 48 bytes in a ticket may be a master secret of TLS 1.2; all others are derived from alone.
    fn usage(self, secret_len: usize) -> Usage {
        match self {
            Self::Ticket if secret_len == 48 => Usage::SignAndDerive,
            _ => Usage::Derive,
        }
    }
}

/// A sealed blob, taken apart: version, key id, nonce, ciphertext and tag.
struct Blob<'a> {
    id: KeyId,
    nonce: &'a [u8; NONCE_LEN],
    ciphertext: &'a [u8],
}

impl<'a> Blob<'a> {
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let (&[version], rest) = bytes.split_first_chunk()?;
        let (id, rest) = rest.split_first_chunk::<KEY_ID_LEN>()?;
        let (nonce, ciphertext) = rest.split_first_chunk()?;
        (version == VERSION && ciphertext.len() > TAG_LEN).then_some(Self {
            id: *id,
            nonce,
            ciphertext,
        })
    }
}

fn header(id: KeyId) -> [u8; 1 + KEY_ID_LEN] {
    let mut header = [VERSION; 1 + KEY_ID_LEN];
    header[1..].copy_from_slice(&id);
    header
}

/// Envelope and wrapped secret of the wanted length.
fn split(plain: &[u8], secret_len: usize) -> Option<(&[u8], &[u8])> {
    let (len, rest) = plain.split_first_chunk()?;
    let (envelope, wrapped) = rest.split_at_checked(u16::from_be_bytes(*len).into())?;
    (wrapped.len() == secret_len.next_multiple_of(8) + WRAPPING_LEN).then_some((envelope, wrapped))
}

const VERSION: u8 = 1;
const SEAL: &str = "sealing a secret";
/// RFC 5649: the wrapping's own eight bytes.
const WRAPPING_LEN: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_is_taken_apart_or_is_none() {
        let mut bytes = vec![VERSION];
        bytes.extend([7; KEY_ID_LEN]);
        bytes.extend([8; NONCE_LEN]);
        bytes.extend([9; TAG_LEN + 1]);
        let blob = Blob::read(&bytes).unwrap();
        assert_eq!((blob.id, blob.nonce), ([7; KEY_ID_LEN], &[8; NONCE_LEN]));
        assert_eq!(blob.ciphertext, [9; TAG_LEN + 1]);
        for len in 0..bytes.len() {
            assert!(Blob::read(&bytes[..len]).is_none(), "{len}");
        }
        bytes[0] = 2;
        assert!(Blob::read(&bytes).is_none());
    }

    #[test]
    fn the_wrapped_secret_has_the_length_that_is_asked_for() {
        let plain = [&[0, 2][..], b"ab", &[1; 40]].concat();
        assert_eq!(split(&plain, 32), Some((&b"ab"[..], &[1; 40][..])));
        assert_eq!(split(&plain, 48), None);
        assert_eq!(split(&[0, 200, 1], 32), None);
        assert_eq!(split(&[0], 32), None);
    }
}
