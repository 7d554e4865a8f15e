//! The Finished-lock: keys that only the client's real Finished can open.
//!
//! The signer knows what verify_data the client must send and does not tell. It encrypts the session's keys
//! under a key that comes from it; the proxy learns verify_data by decrypting the client's Finished, so opening
//! the box is the check, and a proxy that forgot to check could not go on. The same secret proves the outcome
//! to the signer afterwards. This file leaves to others when a box is made, sent or opened. One invariant:
//! verify_data and what is derived from it never leave in any type; only the sealed box and the proof do.

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    digest, hkdf, hmac,
};
use keyhaven_types::{Identity, TlsVersion};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

use crate::{
    bounds::{Invalid, SEALED_BOX_BYTES_MAX},
    message::{Established, HandshakeId},
};

/// Why a box was not made or did not open.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// verify_data has a length that no cipher suite of TLS 1.3 gives.
    #[error("verify_data of {bytes} bytes: TLS 1.3 gives 32 or 48")]
    VerifyData {
        /// The length.
        bytes: usize,
    },
    /// Other verify_data, another flight, proxy or handshake, or an altered box. Which one cannot be told.
    #[error("the box does not open: the Finished is not the one that the signer expects")]
    Shut,
    /// The box opened and holds something else than a TLS 1.3 connection without a client's certificate: one that
    /// has a certificate is proven in the client's flight, and by the signer.
    #[error("the box holds no connection that may be locked up")]
    Contents,
    /// A field of the connection is out of its bounds.
    #[error("the connection in the box breaks a bound")]
    Invalid(#[from] Invalid),
    /// The cryptographic library refused; it has no reason to.
    #[error("the cryptographic library failed")]
    Library,
}

const BOX_INFO: &[u8] = b"kh1 box";
const OUTCOME_INFO: &[u8] = b"kh1 outcome";
const TAG_BYTES: usize = 16;

/// Encrypts `established` for whoever has the client's Finished.
///
/// `flight` is the `to_client` of the reply that carries the box, `proxy` the identity that the reply goes to.
pub fn seal(
    handshake: &HandshakeId,
    verify_data: &[u8],
    flight: &[u8],
    proxy: &Identity,
    established: &Established,
) -> Result<Vec<u8>, LockError> {
    may_be_locked(established)?;
    let key = box_key(handshake, verify_data)?;
    let size =
        postcard::experimental::serialized_size(established).map_err(|_| LockError::Contents)?;
    if size + TAG_BYTES > SEALED_BOX_BYTES_MAX {
        return Err(LockError::Contents);
    }
    // The tag's room is there from the start, so that the plaintext is never moved and then left unwiped.
    let mut plaintext = Zeroizing::new(Vec::with_capacity(size + TAG_BYTES));
    plaintext.resize(size, 0);
    let written =
        postcard::to_slice(established, &mut plaintext).map_err(|_| LockError::Contents)?;
    if written.len() != size {
        return Err(LockError::Contents);
    }
    key.seal_in_place_append_tag(only_nonce(), bound_to(flight, proxy), &mut *plaintext)
        .map_err(|_| LockError::Library)?;
    Ok(std::mem::take(&mut *plaintext))
}

/// Opens a box with the verify_data of the Finished that the client sent.
pub fn open(
    handshake: &HandshakeId,
    verify_data: &[u8],
    flight: &[u8],
    proxy: &Identity,
    sealed_box: &[u8],
) -> Result<Established, LockError> {
    if sealed_box.len() > SEALED_BOX_BYTES_MAX {
        return Err(LockError::Shut);
    }
    let key = box_key(handshake, verify_data)?;
    let mut buffer = Zeroizing::new(sealed_box.to_vec());
    let plaintext = key
        .open_in_place(only_nonce(), bound_to(flight, proxy), &mut buffer)
        .map_err(|_| LockError::Shut)?;
    let (established, rest) =
        postcard::take_from_bytes::<Established>(plaintext).map_err(|_| LockError::Contents)?;
    if !rest.is_empty() {
        return Err(LockError::Contents);
    }
    may_be_locked(&established)?;
    Ok(established)
}

/// What the proxy sends in `Outcome` to prove that it saw the client's Finished.
pub fn outcome_proof(handshake: &HandshakeId, verify_data: &[u8]) -> Result<[u8; 32], LockError> {
    let key = derive(handshake, verify_data, OUTCOME_INFO)?;
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &*key), &handshake.0);
    let mut proof = [0; 32];
    proof.copy_from_slice(tag.as_ref());
    Ok(proof)
}

/// Whether two proofs are equal, in time that does not tell where they differ.
pub fn proof_matches(expected: &[u8; 32], given: &[u8; 32]) -> bool {
    expected.ct_eq(given).into()
}

fn may_be_locked(established: &Established) -> Result<(), LockError> {
    if established.version != TlsVersion::Tls13 || established.client.is_some() {
        return Err(LockError::Contents);
    }
    Ok(established.validate()?)
}

fn box_key(handshake: &HandshakeId, verify_data: &[u8]) -> Result<LessSafeKey, LockError> {
    let key = derive(handshake, verify_data, BOX_INFO)?;
    let key = UnboundKey::new(&AES_256_GCM, &*key).map_err(|_| LockError::Library)?;
    Ok(LessSafeKey::new(key))
}

/// The all-zero nonce. Each key encrypts once: it comes from a handshake id that the proxy draws at random and
/// from a MAC over a transcript that holds the signer's own random, and the signer seals one box a handshake.
fn only_nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; NONCE_LEN])
}

/// The box opens only beside the flight that it came with, and only at the proxy that it was made for.
fn bound_to(flight: &[u8], proxy: &Identity) -> Aad<Vec<u8>> {
    let mut bytes = digest::digest(&digest::SHA256, flight).as_ref().to_vec();
    bytes.extend_from_slice(proxy.as_str().as_bytes());
    Aad::from(bytes)
}

fn derive(
    handshake: &HandshakeId,
    verify_data: &[u8],
    info: &[u8],
) -> Result<Zeroizing<[u8; 32]>, LockError> {
    if !matches!(verify_data.len(), 32 | 48) {
        return Err(LockError::VerifyData {
            bytes: verify_data.len(),
        });
    }
    let info = [info];
    let mut key = Zeroizing::new([0; 32]);
    let filled = hkdf::Salt::new(hkdf::HKDF_SHA256, &handshake.0)
        .extract(verify_data)
        .expand(&info, hkdf::HKDF_SHA256)
        .and_then(|okm| okm.fill(key.as_mut_slice()));
    if filled.is_err() {
        key.zeroize();
        return Err(LockError::Library);
    }
    Ok(key)
}

#[cfg(test)]
#[path = "lock_tests.rs"]
mod tests;
