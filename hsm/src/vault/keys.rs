//! The two keys of a vault: how they are made, what they may do, and wrapping and sealing with them.
//!
//! Which pair is used on which day is `store`'s business. Invariant: the key that wraps can neither encrypt nor
//! decrypt, the key that seals can neither wrap nor unwrap, and neither can be read, copied or changed.

use cryptoki::{
    mechanism::{Mechanism, aead::GcmParams},
    object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle},
};
use cryptoki_sys::{
    CKA_UNWRAP_TEMPLATE, CKA_WRAP_TEMPLATE, CKM_AES_GCM, CKM_AES_KEY_WRAP, CKM_AES_KEY_WRAP_KWP,
    CKM_AES_KEY_WRAP_PAD,
};
use zeroize::Zeroizing;

use crate::{
    Error, Kept,
    quirks::{Guards, Ways},
    raw::Item,
    session::OpenSession,
    template::{self, Usage},
};

/// A pair as handles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Keys {
    pub(crate) wrap: ObjectHandle,
    pub(crate) seal: ObjectHandle,
}

/// Where a key is and how it is found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Name<'a> {
    pub(crate) label: &'a str,
    pub(crate) id: &'a [u8],
    /// A token object, which outlives the session and other processes see.
    pub(crate) persistent: bool,
}

/// Makes the key that wraps. One PKCS#11 call.
pub(crate) fn make_wrapping(
    session: &OpenSession,
    ways: &Ways,
    name: Name<'_>,
) -> Result<ObjectHandle, Error> {
    let mut template = base(name);
    template.extend(usages([Attribute::Wrap, Attribute::Unwrap]));
    if ways.guards == Guards::Full {
        let secret = [
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(KeyType::GENERIC_SECRET),
        ];
        // Whether a secret may be wrapped again is left open: with the login, whoever can unwrap it can derive
        // everything from it anyway.
        let unwrapped = [
            &secret[..],
            &[
                Attribute::Sensitive(true),
                Attribute::Encrypt(false),
                Attribute::Decrypt(false),
                Attribute::Wrap(false),
                Attribute::Unwrap(false),
            ],
        ];
        template.push(Item::Allowed(vec![ways.wrap.mechanism()]));
        template.push(Item::Template(CKA_WRAP_TEMPLATE, secret.to_vec()));
        template.push(Item::Template(CKA_UNWRAP_TEMPLATE, unwrapped.concat()));
    }
    template.extend(ending(ways));
    generate(session, &template)
}

/// Makes the key that seals. One PKCS#11 call.
pub(crate) fn make_sealing(
    session: &OpenSession,
    ways: &Ways,
    name: Name<'_>,
) -> Result<ObjectHandle, Error> {
    let mut template = base(name);
    template.extend(usages([Attribute::Encrypt, Attribute::Decrypt]));
    if ways.guards == Guards::Full {
        template.push(Item::Allowed(vec![CKM_AES_GCM]));
    }
    template.extend(ending(ways));
    generate(session, &template)
}

/// Whether a handle is still that of the key with this CKA_ID. One PKCS#11 call.
pub(crate) fn is_there(session: &OpenSession, key: ObjectHandle, id: &[u8]) -> bool {
    session
        .bytes(key, AttributeType::Id)
        .is_ok_and(|found| found[..] == *id)
}

/// Wraps a secret: RFC 5649, eight bytes more than the secret. One PKCS#11 call.
pub(crate) fn wrap(
    session: &OpenSession,
    ways: &Ways,
    key: ObjectHandle,
    secret: ObjectHandle,
) -> Result<Vec<u8>, Error> {
    let mut out = vec![0; WRAPPED_MAX];
    let id = ways.wrap.mechanism();
    let wrapped = session
        .raw()
        .and_then(|raw| raw.wrap_key(session, id, key, secret, &mut out));
    let len = wrapped.map_err(|source| Error::token("wrapping a secret", source))?;
    out.truncate(len);
    Ok(out)
}

/// Unwraps a secret, with what a schedule may need of it. One PKCS#11 call.
pub(crate) fn unwrap(
    session: &OpenSession,
    ways: &Ways,
    key: ObjectHandle,
    wrapped: &[u8],
    usage: Usage,
    kept: Kept,
) -> Result<ObjectHandle, Error> {
    // A module that has a template for what is unwrapped wants it repeated (SoftHSM2) or merges it (kryoptic).
    let template = template::secret(ways, None, usage, kept);
    let id = ways.wrap.mechanism();
    session
        .raw()
        .and_then(|raw| raw.unwrap_key(session, id, key, wrapped, &template))
        .map_err(|source| Error::token("unwrapping a secret", source))
}

/// AES-256-GCM. Two PKCS#11 calls.
pub(crate) fn seal(
    session: &OpenSession,
    key: ObjectHandle,
    nonce: &[u8; NONCE_LEN],
    aad: &[u8],
    plain: &[u8],
) -> Result<Vec<u8>, Error> {
    // NSS counts the tag twice when it looks whether there is room.
    let mut out = vec![0; plain.len() + 2 * TAG_LEN];
    let mut nonce = *nonce;
    let sealed = gcm(&mut nonce, aad).and_then(|mechanism| {
        let raw = session.raw()?;
        raw.encrypt(session, &mechanism, key, plain, &mut out)
    });
    let len = sealed.map_err(|source| Error::token(SEAL, source))?;
    if len != plain.len() + TAG_LEN {
        return Err(Error::answer(SEAL, "a ciphertext of the wrong length"));
    }
    out.truncate(len);
    Ok(out)
}

/// The opposite. Two PKCS#11 calls. Failures are not told apart here: an altered ciphertext is an error of the
/// module's choice.
pub(crate) fn unseal(
    session: &OpenSession,
    key: ObjectHandle,
    nonce: &[u8; NONCE_LEN],
    aad: &[u8],
    sealed: &[u8],
) -> Result<Zeroizing<Vec<u8>>, Error> {
    let mut out = Zeroizing::new(vec![0; sealed.len() + TAG_LEN]);
    let mut nonce = *nonce;
    let opened = gcm(&mut nonce, aad).and_then(|mechanism| {
        let raw = session.raw()?;
        raw.decrypt(session, &mechanism, key, sealed, &mut out)
    });
    let len = opened.map_err(|source| Error::token(UNSEAL, source))?;
    if len + TAG_LEN != sealed.len() {
        return Err(Error::answer(UNSEAL, "a plaintext of the wrong length"));
    }
    out.truncate(len);
    Ok(out)
}

/// Whether a wrapping key decrypts what it has wrapped: by a mechanism of wrapping, or by the blocks of the cipher,
/// from which the wrapping is undone. At most eight PKCS#11 calls.
pub(crate) fn decrypts(session: &OpenSession, key: ObjectHandle, wrapped: &[u8]) -> bool {
    let Ok(raw) = session.raw() else {
        return true;
    };
    let mut out = Zeroizing::new([0; WRAPPED_MAX]);
    let by_wrapping = [CKM_AES_KEY_WRAP_KWP, CKM_AES_KEY_WRAP_PAD, CKM_AES_KEY_WRAP]
        .into_iter()
        .any(|id| {
            raw.decrypt_bare(session, id, key, wrapped, &mut out[..])
                .is_ok()
        });
    let blocks = &wrapped[..wrapped.len() - wrapped.len() % 16];
    let by_blocks = raw.decrypt(session, &Mechanism::AesEcb, key, blocks, &mut out[..]);
    by_wrapping || by_blocks.is_ok()
}

/// C_UnwrapKey with a key that seals, of what it has sealed. One PKCS#11 call, which is to be refused.
pub(crate) fn unwrap_sealed(
    session: &OpenSession,
    ways: &Ways,
    key: ObjectHandle,
    nonce: &[u8; NONCE_LEN],
    sealed: &[u8],
) -> Result<ObjectHandle, Error> {
    let template = template::secret(ways, None, Usage::Derive, Kept::Never);
    let mut nonce = *nonce;
    gcm(&mut nonce, b"")
        .and_then(|mechanism| {
            let raw = session.raw()?;
            raw.unwrap_key_by(session, &mechanism, key, sealed, &template)
        })
        .map_err(|source| Error::token("unwrapping with a key that seals", source))
}

/// C_UnwrapKey to a secret that can be read. One PKCS#11 call, which is to be refused where the key has a template.
pub(crate) fn unwrap_readable(
    session: &OpenSession,
    ways: &Ways,
    key: ObjectHandle,
    wrapped: &[u8],
) -> Result<ObjectHandle, Error> {
    // All else is as the key's template has it.
    let mut template = template::secret(ways, None, Usage::Derive, Kept::Never);
    template.retain(|attribute| {
        !matches!(
            attribute,
            Attribute::Sensitive(_) | Attribute::Extractable(_)
        )
    });
    template.extend([Attribute::Sensitive(false), Attribute::Extractable(true)]);
    let id = ways.wrap.mechanism();
    session
        .raw()
        .and_then(|raw| raw.unwrap_key(session, id, key, wrapped, &template))
        .map_err(|source| Error::token("unwrapping a readable secret", source))
}

fn gcm<'a>(
    nonce: &'a mut [u8; NONCE_LEN],
    aad: &'a [u8],
) -> Result<Mechanism<'a>, cryptoki::error::Error> {
    GcmParams::new(nonce, aad, TAG_BITS.into()).map(Mechanism::AesGcm)
}

fn generate(session: &OpenSession, template: &[Item]) -> Result<ObjectHandle, Error> {
    session
        .raw()
        .and_then(|raw| raw.generate_key(session, &Mechanism::AesKeyGen, template))
        .map_err(|source| Error::token("making a vault's key", source))
}

fn base(name: Name<'_>) -> Vec<Item> {
    [
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::AES),
        template::value_len(32),
        Attribute::Token(name.persistent),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Label(name.label.as_bytes().to_vec()),
        Attribute::Id(name.id.to_vec()),
    ]
    .map(Item::Plain)
    .into()
}

/// Every usage, of which two are granted.
fn usages(granted: [fn(bool) -> Attribute; 2]) -> Vec<Item> {
    let granted = granted.map(|usage| usage(true));
    [
        Attribute::Encrypt as fn(bool) -> Attribute,
        Attribute::Decrypt,
        Attribute::Wrap,
        Attribute::Unwrap,
        Attribute::Sign,
        Attribute::Verify,
        Attribute::Derive,
    ]
    .map(|usage| Item::Plain(usage(granted.contains(&usage(true)))))
    .into()
}

/// CKA_MODIFIABLE comes last: SoftHSM2 takes nothing after it.
fn ending(ways: &Ways) -> Vec<Item> {
    let mut ending = Vec::new();
    if ways.guards == Guards::Full {
        ending.push(Item::Plain(Attribute::Copyable(false)));
    }
    ending.push(Item::Plain(Attribute::Modifiable(false)));
    ending
}

const SEAL: &str = "sealing with a vault's key";
const UNSEAL: &str = "opening what a vault has sealed";

pub(crate) const NONCE_LEN: usize = 12;
pub(crate) const TAG_LEN: usize = 16;
const TAG_BITS: std::ffi::c_ulong = 128;
/// A secret of 48 bytes, wrapped, with room to spare for modules that count generously.
const WRAPPED_MAX: usize = 128;

#[cfg(test)]
#[path = "keys_tests.rs"]
mod tests;
