//! A sealed blob, and one pair of keys at work on it.
//!
//! Which pair that is, and whose fault a failure is, is decided in the parent. Invariant: nothing is unwrapped that
//! the sealing key has not vouched for.

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use cryptoki::{object::ObjectHandle, session::SessionState};
use zeroize::Zeroizing;

use super::{
    keys::{self, Keys, NONCE_LEN, TAG_LEN},
    search::{Role, key_id},
    store::{KEY_ID_LEN, KeyId},
};
use crate::{Error, Kept, quirks::Ways, session::OpenSession, template::Usage};

/// A sealed blob, taken apart: version, key id, nonce, ciphertext and tag.
pub(super) struct Blob<'a> {
    pub(super) id: KeyId,
    nonce: &'a [u8; NONCE_LEN],
    ciphertext: &'a [u8],
}

/// A pair of keys in a session.
pub(super) struct AtWork<'a> {
    pub(super) session: &'a OpenSession,
    pub(super) ways: &'a Ways,
    pub(super) id: KeyId,
    pub(super) keys: Keys,
}

/// Why a blob was not opened.
#[derive(Debug)]
pub(super) enum Unopened {
    /// The sealing key did not open it, as it does not open what somebody has altered.
    Sealed(Error),
    /// It is one of ours, and the secret in it was not unwrapped.
    Wrapped(Error),
}

impl<'a> Blob<'a> {
    pub(super) fn read(bytes: &'a [u8]) -> Option<Self> {
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

impl AtWork<'_> {
    /// Wraps a secret and seals it with the envelope, whose length is to fit 16 bits. Three PKCS#11 calls.
    pub(super) fn seal(
        &self,
        secret: ObjectHandle,
        aad: &[u8],
        envelope: &[u8],
    ) -> Result<Vec<u8>, Error> {
        let too_long = |_| Error::answer(SEAL, "an envelope that is too long");
        let envelope_len = u16::try_from(envelope.len()).map_err(too_long)?;
        let wrapped = keys::wrap(self.session, self.ways, self.keys.wrap, secret)?;
        let mut plain = Zeroizing::new(envelope_len.to_be_bytes().to_vec());
        plain.extend_from_slice(envelope);
        plain.extend_from_slice(&wrapped);
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new()
            .fill(&mut nonce)
            .map_err(|_| Error::answer(SEAL, "no random number"))?;
        let header = header(self.id);
        let aad = [&header[..], aad].concat();
        let sealed = keys::seal(self.session, self.keys.seal, &nonce, &aad, &plain)?;
        Ok([&header[..], &nonce, &sealed].concat())
    }

    /// The envelope and the secret. `None` when what was sealed has not the wanted length. Three PKCS#11 calls.
    pub(super) fn open(
        &self,
        blob: &Blob<'_>,
        aad: &[u8],
        secret_len: usize,
        usage: Usage,
        kept: Kept,
    ) -> Result<Option<(Vec<u8>, ObjectHandle)>, Unopened> {
        let (session, keys) = (self.session, self.keys);
        let aad = [&header(self.id)[..], aad].concat();
        let plain = keys::unseal(session, keys.seal, blob.nonce, &aad, blob.ciphertext)
            .map_err(Unopened::Sealed)?;
        let Some((envelope, wrapped)) = split(&plain, secret_len) else {
            return Ok(None);
        };
        let secret = keys::unwrap(session, self.ways, keys.wrap, wrapped, usage, kept)
            .map_err(Unopened::Wrapped)?;
        Ok(Some((envelope.to_vec(), secret)))
    }

    /// Whether the session still has the login, by whose keys everything is done. One PKCS#11 call.
    pub(super) fn is_logged_in(&self) -> bool {
        let state = self
            .session
            .get_session_info()
            .map(|info| info.session_state());
        matches!(state, Ok(SessionState::RwUser | SessionState::RoUser))
    }

    /// Whether both keys are still those that they were. Two PKCS#11 calls.
    pub(super) fn is_there(&self) -> bool {
        keys::is_there(self.session, self.keys.wrap, &key_id(self.id, Role::Wrap))
            && keys::is_there(self.session, self.keys.seal, &key_id(self.id, Role::Seal))
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
