//! Data keys: AES-256 keys that are born in the token, leave it wrapped under a managed key, and come back for one use.
//!
//! Who keeps the wrapped key, and what for, is the caller's business. Invariant: a data key is an object for the time of
//! one operation, and once it has left it is never extractable again.

use cryptoki::{
    mechanism::Mechanism,
    object::{Attribute, KeyType, ObjectClass, ObjectHandle},
};
use cryptoki_sys::CK_MECHANISM_TYPE;

use crate::{
    Error,
    managed::{
        part,
        scoped::Scoped,
        template::{AES_LEN, LOCKED, plain},
    },
    quirks::Quirks,
    raw::{Item, Way},
    session::OpenSession,
    template::value_len,
};

/// A new data key, wrapped (RFC 5649, 40 bytes). Three PKCS#11 calls.
pub(super) fn make(
    session: &OpenSession,
    kwp: CK_MECHANISM_TYPE,
    with: ObjectHandle,
) -> Result<Vec<u8>, Error> {
    let mut template = vec![value_len(AES_LEN), Attribute::Extractable(true)];
    // It does nothing here: it leaves.
    template.extend(usages(false));
    let mut template = plain(template);
    template.extend(plain(LOCKED));
    let raw = session.raw().map_err(|source| Error::token(MAKE, source))?;
    let key = raw
        .generate_key(session, &Mechanism::AesKeyGen, &template)
        .map_err(|source| Error::token(MAKE, source))?;
    let key = Scoped::new(session, key);
    let mut out = vec![0; 2 * WRAPPED_LEN];
    let len = raw
        .wrap_key(session, kwp, with, key.handle(), &mut out)
        .map_err(|source| Error::token("wrapping a data key", source))?;
    if len != WRAPPED_LEN {
        return Err(Error::answer(
            "wrapping a data key",
            "a blob of the wrong length",
        ));
    }
    out.truncate(len);
    Ok(out)
}

/// A data key that comes back, to encrypt or decrypt until it is dropped. One PKCS#11 call, and one at the end.
///
/// # Errors
/// [`Error::Blob`] for what the key has not wrapped.
pub(super) fn bring<'a>(
    session: &'a OpenSession,
    quirks: &Quirks,
    kwp: CK_MECHANISM_TYPE,
    with: ObjectHandle,
    wrapped: &[u8],
) -> Result<Scoped<'a>, Error> {
    // The length of the blob tells that of the key.
    if wrapped.len() != WRAPPED_LEN {
        return Err(Error::Blob { operation: BRING });
    }
    session
        .raw()
        .and_then(|raw| raw.unwrap_to(session, Way::Bare(kwp), with, wrapped, &at_work(quirks)))
        .map(|key| Scoped::new(session, key))
        .map_err(|source| part::blame(session, BRING, source))
}

fn at_work(quirks: &Quirks) -> Vec<Item> {
    let mut template = vec![
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::AES),
        Attribute::Extractable(false),
    ];
    template.extend(usages(true));
    if quirks.unwraps_cut {
        template.push(value_len(AES_LEN));
    }
    let mut template = plain(template);
    template.extend(plain(LOCKED));
    template
}

fn usages(encrypts: bool) -> [Attribute; 10] {
    [
        Attribute::Token(false),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Encrypt(encrypts),
        Attribute::Decrypt(encrypts),
        Attribute::Wrap(false),
        Attribute::Unwrap(false),
        Attribute::Sign(false),
        Attribute::Verify(false),
        Attribute::Derive(false),
    ]
}

const MAKE: &str = "making a data key";
const BRING: &str = "unwrapping a data key";
/// RFC 5649: the key and eight bytes.
const WRAPPED_LEN: usize = AES_LEN + 8;
