//! AES-256-GCM with a key in the token: a random IV of 12 bytes, the ciphertext, and a tag of 16 bytes.
//!
//! Which key, and who may use it, is decided elsewhere. A random IV bounds a key to about 2^32 messages (NIST SP 800-38D,
//! section 8.3). Invariant: an IV is made here for each message and never taken from a caller.

use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use cryptoki::{
    mechanism::{Mechanism, aead::GcmParams},
    object::ObjectHandle,
};
use zeroize::Zeroizing;

use crate::{Error, managed::part, session::OpenSession};

/// Encrypts. Two PKCS#11 calls.
pub(super) fn seal(
    session: &OpenSession,
    key: ObjectHandle,
    plaintext: &[u8],
    aad: &[u8],
) -> Result<Vec<u8>, Error> {
    let mut iv = [0; IV_LEN];
    SystemRandom::new()
        .fill(&mut iv)
        .map_err(|_| Error::answer(SEAL, "no random number"))?;
    // NSS counts the tag twice when it looks whether there is room.
    let mut out = vec![0; IV_LEN + plaintext.len() + 2 * TAG_LEN];
    out[..IV_LEN].copy_from_slice(&iv);
    let sealed = gcm(&mut iv, aad).and_then(|mechanism| {
        let raw = session.raw()?;
        raw.encrypt(session, &mechanism, key, plaintext, &mut out[IV_LEN..])
    });
    let len = sealed.map_err(|source| Error::token(SEAL, source))?;
    if len != plaintext.len() + TAG_LEN {
        return Err(Error::answer(SEAL, "a ciphertext of the wrong length"));
    }
    out.truncate(IV_LEN + len);
    Ok(out)
}

/// Decrypts. Two PKCS#11 calls.
///
/// # Errors
/// [`Error::Blob`] for what the key has not made, or with other `aad`.
pub(super) fn open(
    session: &OpenSession,
    key: ObjectHandle,
    sealed: &[u8],
    aad: &[u8],
) -> Result<Zeroizing<Vec<u8>>, Error> {
    let Some((iv, sealed)) = sealed.split_first_chunk::<IV_LEN>() else {
        return Err(Error::Blob { operation: OPEN });
    };
    if sealed.len() < TAG_LEN {
        return Err(Error::Blob { operation: OPEN });
    }
    let mut iv = *iv;
    let mut out = Zeroizing::new(vec![0; sealed.len() + TAG_LEN]);
    let opened = gcm(&mut iv, aad).and_then(|mechanism| {
        let raw = session.raw()?;
        raw.decrypt(session, &mechanism, key, sealed, &mut out)
    });
    let len = opened.map_err(|source| part::blame(session, OPEN, source))?;
    if len + TAG_LEN != sealed.len() {
        return Err(Error::answer(OPEN, "a plaintext of the wrong length"));
    }
    out.truncate(len);
    Ok(out)
}

fn gcm<'a>(
    iv: &'a mut [u8; IV_LEN],
    aad: &'a [u8],
) -> Result<Mechanism<'a>, cryptoki::error::Error> {
    GcmParams::new(iv, aad, TAG_BITS.into()).map(Mechanism::AesGcm)
}

const SEAL: &str = "encrypting";
const OPEN: &str = "decrypting";
const IV_LEN: usize = 12;
const TAG_LEN: usize = 16;
const TAG_BITS: std::ffi::c_ulong = 128;
