//! The same derivations in software, for comparison, and software at the other end of an exchange.
//!
//! Everything here is of throw-away keys. Invariant: nothing of it is used for a handshake.

use aws_lc_rs::{
    agreement::{self, ECDH_P256, ECDH_P384, PrivateKey, UnparsedPublicKey, X25519},
    hmac,
};
use keyhaven_types::{HashAlgorithm, NamedGroup};
use zeroize::Zeroizing;

pub(super) type Bytes = Zeroizing<Vec<u8>>;

/// A peer's public value and the secret with it, chosen so that the secret starts with a zero byte: a token that
/// drops leading zeros would fail one handshake in 256, and must fail here.
pub(super) fn peer(group: NamedGroup, token: &[u8]) -> Result<(Vec<u8>, Bytes), String> {
    let algorithm = match group {
        NamedGroup::Secp256r1 => &ECDH_P256,
        NamedGroup::Secp384r1 => &ECDH_P384,
        NamedGroup::X25519 => &X25519,
    };
    let failed = || "software cannot agree with the token's public value".to_owned();
    let mut found = None;
    for _ in 0..TRIES_MAX {
        let key = PrivateKey::generate(algorithm).map_err(|_| failed())?;
        let token = UnparsedPublicKey::new(algorithm, token);
        let secret = agreement::agree(&key, token, (), |z| Ok(Zeroizing::new(z.to_vec())))
            .map_err(|()| failed())?;
        let public = key.compute_public_key().map_err(|_| failed())?;
        let leading_zero = secret.first() == Some(&0);
        found = Some((public.as_ref().to_vec(), secret));
        if leading_zero {
            break;
        }
    }
    found.ok_or_else(failed)
}

pub(super) fn hmac(hash: HashAlgorithm, key: &[u8], data: &[u8]) -> Bytes {
    let algorithm = match hash {
        HashAlgorithm::Sha256 => hmac::HMAC_SHA256,
        HashAlgorithm::Sha384 => hmac::HMAC_SHA384,
    };
    let tag = hmac::sign(&hmac::Key::new(algorithm, key), data);
    Zeroizing::new(tag.as_ref().to_vec())
}

/// The PRF of RFC 5246, section 5.
pub(super) fn prf(
    hash: HashAlgorithm,
    secret: &[u8],
    label: &[u8],
    seed: &[u8],
    len: usize,
) -> Bytes {
    let label_and_seed = [label, seed].concat();
    let mut out = Zeroizing::new(Vec::with_capacity(len + hash.output_len()));
    let mut a = hmac(hash, secret, &label_and_seed);
    while out.len() < len {
        let block = hmac(hash, secret, &[&a[..], &label_and_seed[..]].concat());
        out.extend_from_slice(&block);
        a = hmac(hash, secret, &a);
    }
    out.truncate(len);
    out
}

/// HKDF-Expand (RFC 5869, section 2.3) of one block at most.
pub(super) fn expand(hash: HashAlgorithm, secret: &[u8], info: &[u8], len: usize) -> Bytes {
    let mut block = hmac(hash, secret, &[info, &[1]].concat());
    block.truncate(len);
    block
}

/// An HkdfLabel (RFC 8446, section 7.1).
pub(super) fn label(label: &str, context: &[u8], len: usize) -> Vec<u8> {
    let label = [b"tls13 ", label.as_bytes()].concat();
    // Labels and contexts of TLS are far shorter than 255 bytes.
    let mut info = (len as u16).to_be_bytes().to_vec();
    info.push(label.len() as u8);
    info.extend_from_slice(&label);
    info.push(context.len() as u8);
    info.extend_from_slice(context);
    info
}

pub(super) fn same(got: &[u8], expected: &[u8]) -> Result<(), String> {
    if got == expected {
        Ok(())
    } else {
        Err("the value is not the one that software gets".to_owned())
    }
}

/// A leading zero is missed with a chance of 1 in e^8.
const TRIES_MAX: usize = 2048;
