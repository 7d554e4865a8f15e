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
    /// The box opened and holds something else than a TLS 1.3 connection.
    #[error("the box holds no connection")]
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
    if established.version != TlsVersion::Tls13 {
        return Err(LockError::Contents);
    }
    established.validate()?;
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
    if !rest.is_empty() || established.version != TlsVersion::Tls13 {
        return Err(LockError::Contents);
    }
    established.validate()?;
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
mod tests {
    use keyhaven_types::{AeadAlgorithm, CustodyLevel, Secret};

    use super::*;
    use crate::message::{ConnectionId, TrafficKey};

    /// 0, 1, 2 … 31.
    fn handshake() -> HandshakeId {
        HandshakeId(std::array::from_fn(|index| u8::try_from(index).unwrap()))
    }

    fn proxy(name: &str) -> Identity {
        format!("spiffe://keyhaven.test/proxy/{name}")
            .parse()
            .unwrap()
    }

    fn key(byte: u8) -> TrafficKey {
        TrafficKey {
            aead: AeadAlgorithm::Aes128Gcm,
            key: Secret::new(vec![byte; 16]),
            iv: Secret::new(vec![byte; 12]),
            seq: 0,
        }
    }

    fn established() -> Established {
        Established {
            connection: ConnectionId([9; 32]),
            version: TlsVersion::Tls13,
            suite: 0x1301,
            write: key(1),
            read: key(2),
            rekey_write: vec![3; 200],
            rekey_read: vec![4; 200],
            lifetime_s: 86_400,
            server_name: "demo.keyhaven.test".to_owned(),
            alpn: Some(b"http/1.1".to_vec()),
            level: CustodyLevel::Premaster,
            tickets: Vec::new(),
            resumed: false,
            client: None,
        }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Computed with Python's hmac and hashlib from RFC 5869 and RFC 2104.
    #[test]
    fn keys_and_proofs_have_known_answers() {
        for (verify_data, key, proof) in [
            (
                vec![0x42; 32],
                "6d61e11a2acc3d39a09e6a8b824a534cc39ff4d42a68b1e486e04786c6ac2910",
                "47ee5297a1744cb47625c8a8407719822f2897cc96d119c8a57ece34031774d9",
            ),
            (
                vec![0x43; 48],
                "440ac745f68157df27a29b6226ff1be117a4e15501e095e6c53decb605f315d8",
                "f3dd1f8fa3332540da8a86f6625b0b4b16f911ce87a2cdcf483446812cd36a54",
            ),
        ] {
            let derived = derive(&handshake(), &verify_data, BOX_INFO).unwrap();
            assert_eq!(hex(&*derived), key);
            assert_eq!(
                hex(&outcome_proof(&handshake(), &verify_data).unwrap()),
                proof
            );
        }
    }

    /// The box as `PROTOCOL.md` describes it, taken apart without this file's functions.
    #[test]
    fn the_box_is_what_the_protocol_says() {
        let sealed = seal(
            &handshake(),
            &[0x42; 32],
            b"flight",
            &proxy("a"),
            &established(),
        )
        .unwrap();
        let key = derive(&handshake(), &[0x42; 32], BOX_INFO).unwrap();
        let mut aad = digest::digest(&digest::SHA256, b"flight").as_ref().to_vec();
        aad.extend_from_slice(b"spiffe://keyhaven.test/proxy/a");
        let mut buffer = sealed;
        let plaintext = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &*key).unwrap())
            .open_in_place(
                Nonce::assume_unique_for_key([0; 12]),
                Aad::from(aad),
                &mut buffer,
            )
            .unwrap();
        assert_eq!(plaintext, postcard::to_allocvec(&established()).unwrap());
    }

    #[test]
    fn only_the_right_finished_opens_the_box() {
        let (id, data, flight, who) = (handshake(), [0x42; 32], b"flight", proxy("a"));
        let sealed = seal(&id, &data, flight, &who, &established()).unwrap();
        let opened = open(&id, &data, flight, &who, &sealed).unwrap();
        assert_eq!(opened.write.key.expose_secret(), [1; 16]);
        assert_eq!(opened.server_name, "demo.keyhaven.test");

        let mut other_id = id;
        other_id.0[31] ^= 1;
        let mut other_data = data;
        other_data[0] ^= 1;
        let shut = |result| matches!(result, Err(LockError::Shut));
        assert!(shut(open(&other_id, &data, flight, &who, &sealed)));
        assert!(shut(open(&id, &other_data, flight, &who, &sealed)));
        assert!(shut(open(&id, &data, b"flighT", &who, &sealed)));
        assert!(shut(open(&id, &data, flight, &proxy("b"), &sealed)));
        for index in 0..sealed.len() {
            let mut altered = sealed.clone();
            altered[index] ^= 0x80;
            assert!(shut(open(&id, &data, flight, &who, &altered)));
            assert!(shut(open(&id, &data, flight, &who, &sealed[..index])));
        }
        assert!(shut(open(
            &id,
            &data,
            flight,
            &who,
            &vec![0; SEALED_BOX_BYTES_MAX + 1]
        )));
    }

    #[test]
    fn verify_data_of_another_length_is_refused() {
        for bytes in [0, 12, 31, 33, 47, 49, 64] {
            let data = vec![0; bytes];
            let refused =
                |error| matches!(error, LockError::VerifyData { bytes: found } if found == bytes);
            assert!(refused(outcome_proof(&handshake(), &data).unwrap_err()));
            assert!(refused(
                open(&handshake(), &data, b"", &proxy("a"), &[0; 64]).unwrap_err()
            ));
        }
    }

    #[test]
    fn only_tls_1_3_connections_are_locked_up() {
        let tls12 = Established {
            version: TlsVersion::Tls12,
            rekey_read: Vec::new(),
            rekey_write: Vec::new(),
            ..established()
        };
        let sealed = seal(&handshake(), &[0; 32], b"", &proxy("a"), &tls12);
        assert!(matches!(sealed, Err(LockError::Contents)));
    }

    #[test]
    fn a_proof_is_of_one_handshake_and_one_finished() {
        let proof = outcome_proof(&handshake(), &[1; 32]).unwrap();
        assert!(proof_matches(&proof, &proof));
        assert!(!proof_matches(
            &proof,
            &outcome_proof(&handshake(), &[2; 32]).unwrap()
        ));
        assert!(!proof_matches(
            &proof,
            &outcome_proof(&HandshakeId([0; 32]), &[1; 32]).unwrap()
        ));
    }
}
