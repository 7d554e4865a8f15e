//! The key schedule of TLS 1.2 on a master secret that stays in the token (RFC 5246, RFC 7627).
//!
//! Modules differ in how keys and MACs come out of a master secret; the way of each is in `quirks`. Invariant: the
//! master secret itself never comes out.

use cryptoki::object::{Attribute, KeyType, ObjectClass, ObjectHandle};
use cryptoki_sys::{CK_MECHANISM_TYPE, CKM_SHA256, CKM_SHA384};
use keyhaven_types::HashAlgorithm;

use crate::{
    Error, Finished12, Kept, kdf,
    quirks::{Finished, KeyBlock, Ways},
    raw::Randoms,
    session::OpenSession,
    template::{self, Usage},
};

const EMS: &str = "the extended master secret";
const KEY_BLOCK: &str = "the key block";
const FINISHED: &str = "a Finished of TLS 1.2";

/// The extended master secret. One PKCS#11 call.
pub(crate) fn extended_master(
    session: &OpenSession,
    ways: &Ways,
    hash: HashAlgorithm,
    premaster: ObjectHandle,
    session_hash: &[u8],
    kept: Kept,
) -> Result<ObjectHandle, Error> {
    let len = ways.ems.says_length().then_some(MASTER_LEN);
    let template = template::secret(ways, len, master_usage(ways), kept);
    let derived = session.raw().and_then(|raw| {
        let id = ways.ems.mechanism();
        raw.tls12_extended_master(session, id, prf(hash), session_hash, premaster, &template)
    });
    derived.map_err(|source| kdf::failure(EMS, hash, source))
}

/// The key block. Three PKCS#11 calls, or four for each block of the hash.
pub(crate) fn key_block(
    session: &OpenSession,
    ways: &Ways,
    hash: HashAlgorithm,
    master: ObjectHandle,
    randoms: Randoms<'_>,
    out: &mut [u8],
) -> Result<(), Error> {
    match ways.key_block {
        KeyBlock::HmacPrf => {
            let seed = [&randoms.server[..], &randoms.client[..]].concat();
            kdf::prf(session, hash, master, KEY_EXPANSION, &seed, out)
        }
        KeyBlock::TlsKdf => {
            // The mechanism puts the client's random first; in a key block the server's is first.
            let swapped = Randoms {
                client: randoms.server,
                server: randoms.client,
            };
            let template = block_template(out.len());
            let derived = session.raw().and_then(|raw| {
                raw.tls_kdf(
                    session,
                    prf(hash),
                    KEY_EXPANSION,
                    swapped,
                    master,
                    &template,
                )
            });
            let object = derived.map_err(|source| kdf::failure(KEY_BLOCK, hash, source))?;
            kdf::take_value(session, KEY_BLOCK, object, out)
        }
    }
}

/// A Finished. Two PKCS#11 calls, or four.
pub(crate) fn finished(
    session: &OpenSession,
    ways: &Ways,
    hash: HashAlgorithm,
    master: ObjectHandle,
    whose: Finished12,
    handshake_hash: &[u8],
    out: &mut [u8; 12],
) -> Result<(), Error> {
    match ways.finished12 {
        Finished::HmacPrf => {
            let label: &[u8] = match whose {
                Finished12::Client => b"client finished",
                Finished12::Server => b"server finished",
            };
            kdf::prf(session, hash, master, label, handshake_hash, out)
        }
        Finished::TlsMac => {
            // Room for modules that write the whole block; the Finished is its beginning.
            let mut mac = zeroize::Zeroizing::new([0; 64]);
            let is_server = whose == Finished12::Server;
            let written = session.raw().and_then(|raw| {
                let prf = prf(hash);
                raw.tls_mac(
                    session,
                    prf,
                    is_server,
                    master,
                    handshake_hash,
                    &mut mac[..],
                )
            });
            let written = written.map_err(|source| kdf::failure(FINISHED, hash, source))?;
            if written < out.len() {
                return Err(Error::answer(FINISHED, "a MAC that is too short"));
            }
            let len = out.len();
            out.copy_from_slice(&mac[..len]);
            Ok(())
        }
    }
}

/// What a master secret is used for, as keys and MACs come out of it.
pub(crate) fn master_usage(ways: &Ways) -> Usage {
    match ways.key_block {
        KeyBlock::TlsKdf => Usage::SignAndDerive,
        KeyBlock::HmacPrf if ways.finished12 == Finished::TlsMac => Usage::SignAndDerive,
        KeyBlock::HmacPrf => Usage::Sign,
    }
}

/// A key block is what leaves, so that it can be read; it can be used for nothing.
fn block_template(len: usize) -> Vec<Attribute> {
    let mut template = vec![
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::GENERIC_SECRET),
        Attribute::Token(false),
        Attribute::Private(false),
        Attribute::Sensitive(false),
        Attribute::Extractable(true),
    ];
    for unused in [
        Attribute::Sign,
        Attribute::Verify,
        Attribute::Derive,
        Attribute::Encrypt,
        Attribute::Decrypt,
        Attribute::Wrap,
        Attribute::Unwrap,
    ] {
        template.push(unused(false));
    }
    template.push(template::value_len(len));
    template
}

fn prf(hash: HashAlgorithm) -> CK_MECHANISM_TYPE {
    match hash {
        HashAlgorithm::Sha256 => CKM_SHA256,
        HashAlgorithm::Sha384 => CKM_SHA384,
    }
}

/// RFC 5246, section 8.1.
const MASTER_LEN: usize = 48;
/// RFC 5246, section 6.3.
const KEY_EXPANSION: &[u8] = b"key expansion";
