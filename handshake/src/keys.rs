//! Session keys on their way out, and the record or two that the engine itself must protect.
//!
//! Holds TLS 1.3 label derivation (RFC 8446, section 7.1) for what rustls does not show: the client's
//! handshake key, its expected Finished, and the next generation of a traffic secret.

use aws_lc_rs::{
    aead::{self, LessSafeKey, Nonce, UnboundKey},
    hkdf, hmac,
};
use keyhaven_types::{AeadAlgorithm, HashAlgorithm, Secret};
use rustls::ConnectionTrafficSecrets;
use zeroize::Zeroize as _;

use crate::error::Failure;

/// A record protection key with its IV and the sequence number of its next record.
#[derive(Debug)]
pub struct SessionKey {
    /// The AEAD.
    pub aead: AeadAlgorithm,
    /// The key.
    pub key: Secret,
    /// 12 bytes.
    pub iv: Secret,
    /// Sequence number of the next record.
    pub seq: u64,
}

impl SessionKey {
    pub(crate) fn from_rustls(
        (seq, secrets): (u64, ConnectionTrafficSecrets),
    ) -> Result<Self, Failure> {
        let (aead, key, iv) = match &secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (AeadAlgorithm::Aes128Gcm, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (AeadAlgorithm::Aes256Gcm, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => {
                (AeadAlgorithm::Chacha20Poly1305, key, iv)
            }
            _ => return Err(Failure::Engine("an AEAD that was not offered")),
        };
        let key = Secret::copy_from(&key.as_ref()[..aead.key_len()]);
        Ok(Self {
            aead,
            key,
            iv: Secret::copy_from(iv.as_ref()),
            seq,
        })
    }

    /// The key of a TLS 1.3 traffic secret (RFC 8446, section 7.3).
    pub(crate) fn from_traffic_secret(
        aead: AeadAlgorithm,
        hash: HashAlgorithm,
        secret: &Secret,
    ) -> Self {
        Self {
            aead,
            key: expand_label(hash, secret, b"key", aead.key_len()),
            iv: expand_label(hash, secret, b"iv", 12),
            seq: 0,
        }
    }

    /// Another copy of the key for the one alert that may be sent under it, in the place of everything else.
    pub(crate) fn for_refusal(&self) -> Self {
        Self {
            aead: self.aead,
            key: Secret::copy_from(self.key.expose_secret()),
            iv: Secret::copy_from(self.iv.expose_secret()),
            seq: 0,
        }
    }
}

/// One TLS 1.3 record that holds a fatal alert, under the key's next sequence number. Uses the key up.
pub fn alert_record(key: SessionKey, alert: u8) -> Vec<u8> {
    protect(&key, CONTENT_ALERT, &[2, alert])
}

/// One TLS 1.3 record (RFC 8446, section 5.2) under the key's next sequence number.
pub(crate) fn protect(key: &SessionKey, content_type: u8, content: &[u8]) -> Vec<u8> {
    let algorithm = match key.aead {
        AeadAlgorithm::Aes128Gcm => &aead::AES_128_GCM,
        AeadAlgorithm::Aes256Gcm => &aead::AES_256_GCM,
        AeadAlgorithm::Chacha20Poly1305 => &aead::CHACHA20_POLY1305,
    };
    let mut nonce: [u8; 12] = key
        .iv
        .expose_secret()
        .try_into()
        .expect("every SessionKey is made with an IV of 12 bytes");
    for (byte, seq) in nonce[4..].iter_mut().zip(key.seq.to_be_bytes()) {
        *byte ^= seq;
    }
    let sealing = LessSafeKey::new(
        UnboundKey::new(algorithm, key.key.expose_secret())
            .expect("every SessionKey is made with a key of its AEAD's length"),
    );
    let mut body = [content, &[content_type]].concat();
    let length = (body.len() + algorithm.tag_len()) as u16;
    let [high, low] = length.to_be_bytes();
    let header = [23, 3, 3, high, low];
    sealing
        .seal_in_place_append_tag(
            Nonce::assume_unique_for_key(nonce),
            aead::Aad::from(header),
            &mut body,
        )
        .expect("a record of a few bytes is within every AEAD's bounds");
    [&header[..], &body].concat()
}

/// HKDF-Expand-Label with an empty context.
pub(crate) fn expand_label(
    hash: HashAlgorithm,
    secret: &Secret,
    label: &[u8],
    length: usize,
) -> Secret {
    struct Length(usize);
    impl hkdf::KeyType for Length {
        fn len(&self) -> usize {
            self.0
        }
    }

    let algorithm = match hash {
        HashAlgorithm::Sha256 => hkdf::HKDF_SHA256,
        HashAlgorithm::Sha384 => hkdf::HKDF_SHA384,
    };
    let prk = hkdf::Prk::new_less_safe(algorithm, secret.expose_secret());
    let info = label_info(label, length);
    let info = [&info[..]];
    let mut output = vec![0; length];
    prk.expand(&info, Length(length))
        .and_then(|okm| okm.fill(&mut output))
        .expect("lengths here are far below 255 hashes");
    Secret::new(output)
}

/// HkdfLabel with an empty context (RFC 8446, section 7.1).
pub(crate) fn label_info(label: &[u8], length: usize) -> Vec<u8> {
    let length = (length as u16).to_be_bytes();
    let label_length = [6 + label.len() as u8];
    [&length[..], &label_length, b"tls13 ", label, &[0]].concat()
}

/// The verify_data of a Finished (RFC 8446, section 4.4.4).
pub(crate) fn verify_data(
    hash: HashAlgorithm,
    traffic_secret: &Secret,
    transcript_hash: &[u8],
) -> Secret {
    let finished_key = expand_label(hash, traffic_secret, b"finished", hash.output_len());
    let algorithm = match hash {
        HashAlgorithm::Sha256 => hmac::HMAC_SHA256,
        HashAlgorithm::Sha384 => hmac::HMAC_SHA384,
    };
    let key = hmac::Key::new(algorithm, finished_key.expose_secret());
    Secret::copy_from(hmac::sign(&key, transcript_hash).as_ref())
}

/// A record's plaintext alert, as it is sent before any key is in use.
pub(crate) fn plaintext_alert(alert: u8) -> Vec<u8> {
    vec![CONTENT_ALERT, 3, 3, 0, 2, 2, alert]
}

/// The description in a plaintext alert record.
pub(crate) fn read_plaintext_alert(record: &[u8]) -> Option<u8> {
    match record {
        [CONTENT_ALERT, 3, _, 0, 2, _, alert] => Some(*alert),
        _ => None,
    }
}

/// A Finished message under the client's handshake key.
pub(crate) fn finished_record(key: &SessionKey, verify_data: &Secret) -> Vec<u8> {
    let mut message = vec![HANDSHAKE_FINISHED, 0, 0, verify_data.len() as u8];
    message.extend_from_slice(verify_data.expose_secret());
    let record = protect(key, CONTENT_HANDSHAKE, &message);
    message.zeroize();
    record
}

const CONTENT_ALERT: u8 = 21;
const CONTENT_HANDSHAKE: u8 = 22;
const HANDSHAKE_FINISHED: u8 = 20;
