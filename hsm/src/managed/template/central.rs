//! Central's own keys: those that wrap managed keys, and the pair that signs.
//!
//! How the officer's keys become the user's is the ceremony's business. Invariant: no key that wraps does anything
//! else, and what leaves the token under it is a managed key of its purpose.

use cryptoki::object::{Attribute, KeyType, ObjectClass};
use cryptoki_sys::{CK_MECHANISM_TYPE, CKA_UNWRAP_TEMPLATE, CKA_WRAP_TEMPLATE};
use keyhaven_types::{KekId, Purpose};

use super::{AES_LEN, Home, LOCKED, kind_of, managed, plain, usages};
use crate::{admin::public, quirks::Quirks, raw::Item, template::value_len};

/// The root key of a purpose, as the security officer makes it: an object of one session. It is public and may be
/// changed until it has been copied to what it is to be: see [`settled`].
pub(crate) fn root_kek(quirks: &Quirks, purpose: Purpose, kwp: CK_MECHANISM_TYPE) -> Vec<Item> {
    let mut template = plain(kek(true, false, &root_label(purpose)));
    template.push(Item::Allowed(vec![kwp]));
    let inner = managed(quirks, purpose, Home::Central);
    template.push(Item::Template(CKA_UNWRAP_TEMPLATE, inner));
    template.push(Item::Template(CKA_WRAP_TEMPLATE, wrappable(purpose)));
    template
}

/// A key of the pool, one for one epoch of one class: it wraps, and is itself wrapped for sites.
pub(crate) fn class_kek(purpose: Purpose, kwp: CK_MECHANISM_TYPE, id: KekId) -> Vec<Item> {
    let mut template = plain(kek(false, true, &pool_label(purpose)));
    template.push(Item::Plain(Attribute::Id(id.0.to_vec())));
    template.push(Item::Allowed(vec![kwp]));
    template.push(Item::Template(CKA_WRAP_TEMPLATE, wrappable(purpose)));
    template
}

/// What the user makes of an officer's key by a copy. SoftHSM2 refuses CKA_COPYABLE here, and copies nothing that may
/// not be modified.
pub(crate) fn settled() -> Vec<Item> {
    plain(SETTLED)
}

/// What differs between an officer's key and what the user has made of it.
pub(crate) const SETTLED: [Attribute; 3] = [
    Attribute::Token(true),
    Attribute::Private(true),
    Attribute::Modifiable(false),
];

/// The pair that signs central's records: the public part, which stays to be read, and the private one.
pub(crate) fn signing(label: &str) -> (Vec<Item>, Vec<Item>) {
    let named = [
        Attribute::Label(label.as_bytes().to_vec()),
        Attribute::Id(label.as_bytes().to_vec()),
    ];
    let public = [
        Attribute::Token(true),
        Attribute::Private(false),
        Attribute::EcParams(public::P256_PARAMS.to_vec()),
        Attribute::Verify(true),
        Attribute::VerifyRecover(false),
        Attribute::Encrypt(false),
        Attribute::Wrap(false),
        Attribute::Derive(false),
    ];
    let private = [
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Sign(true),
        Attribute::SignRecover(false),
        Attribute::Decrypt(false),
        Attribute::Unwrap(false),
        Attribute::Derive(false),
    ];
    let mut public = plain(named.clone().into_iter().chain(public));
    public.push(Item::Plain(Attribute::Modifiable(false)));
    let mut private = plain(named.into_iter().chain(private));
    private.extend(plain(LOCKED));
    (public, private)
}

/// The label of the root key of a purpose.
pub(crate) fn root_label(purpose: Purpose) -> String {
    format!("keyhaven-root-{purpose}")
}

/// The label of the pool's keys of a purpose.
pub(crate) fn pool_label(purpose: Purpose) -> String {
    format!("keyhaven-class-{purpose}")
}

/// A root or class key in central's token.
fn kek(unwraps: bool, leaves: bool, label: &str) -> Vec<Attribute> {
    let mut template = vec![
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::AES),
        value_len(AES_LEN),
        // A public object of the token would lie in its files in clear, and everybody could change it; the officer
        // cannot make private ones.
        Attribute::Token(false),
        Attribute::Private(false),
        Attribute::Trusted(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(leaves),
        Attribute::WrapWithTrusted(leaves),
        Attribute::Label(label.as_bytes().to_vec()),
    ];
    template.push(Attribute::Wrap(true));
    template.push(Attribute::Unwrap(unwraps));
    for usage in [
        Attribute::Encrypt,
        Attribute::Decrypt,
        Attribute::Sign,
        Attribute::Verify,
        Attribute::Derive,
    ] {
        template.push(usage(false));
    }
    template
}

/// What must be true of a key that leaves central wrapped: it is a managed one of the purpose, for no second one, and
/// no key that wraps others (a key of a class wrapped as if it were data could be brought back as data and then decrypt
/// what it wraps).
fn wrappable(purpose: Purpose) -> Vec<Attribute> {
    let mut template = kind_of(purpose);
    template.push(Attribute::WrapWithTrusted(true));
    template.extend(usages(purpose));
    template
}
