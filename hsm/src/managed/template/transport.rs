//! Transport pairs, and the keys that come under them: a class's at a site, and one that carries an import.
//!
//! Invariant: what a transport pair unwraps is a key that unwraps and does nothing else.

use cryptoki::{
    mechanism::{
        Mechanism, MechanismType,
        rsa::{PkcsMgfType, PkcsOaepParams, PkcsOaepSource},
    },
    object::{Attribute, KeyType, ObjectClass},
};
use cryptoki_sys::{CK_MECHANISM_TYPE, CKA_UNWRAP_TEMPLATE, CKM_RSA_PKCS_OAEP};
use keyhaven_types::{KekId, Purpose};

use super::{Home, LOCKED, managed, plain};
use crate::{quirks::Quirks, raw::Item};

/// The private part of a transport pair: it unwraps keys of the purposes' keys, at a site, for the time of one
/// enrolment.
pub(crate) fn transport_private() -> Vec<Item> {
    let mut template = plain([
        Attribute::Token(false),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Unwrap(true),
        Attribute::Sign(false),
        Attribute::SignRecover(false),
        Attribute::Decrypt(false),
        Attribute::Derive(false),
    ]);
    template.push(Item::Allowed(vec![CKM_RSA_PKCS_OAEP]));
    template.push(Item::Template(CKA_UNWRAP_TEMPLATE, carried()));
    template.extend(plain(LOCKED));
    template
}

/// The public part of a transport pair where it is made: to be read and given away.
pub(crate) fn transport_public() -> Vec<Item> {
    plain([
        Attribute::Token(false),
        Attribute::Private(false),
        Attribute::ModulusBits(TRANSPORT_BITS.into()),
        Attribute::PublicExponent(vec![1, 0, 1]),
        Attribute::Wrap(false),
        Attribute::Encrypt(false),
        Attribute::Verify(false),
        Attribute::VerifyRecover(false),
    ])
}

/// The public part of a site's transport pair, as the security officer brings it to central's token: an object of one
/// session.
pub(crate) fn trusted_public(modulus: &[u8], exponent: &[u8]) -> Vec<Item> {
    let mut template = plain([
        Attribute::Class(ObjectClass::PUBLIC_KEY),
        Attribute::KeyType(KeyType::RSA),
        Attribute::Token(false),
        Attribute::Private(false),
        Attribute::Trusted(true),
        Attribute::Label(TRANSPORT_LABEL.as_bytes().to_vec()),
        Attribute::Modulus(modulus.to_vec()),
        Attribute::PublicExponent(exponent.to_vec()),
        Attribute::Wrap(true),
        Attribute::Encrypt(false),
        Attribute::Verify(false),
        Attribute::VerifyRecover(false),
    ]);
    template.push(Item::Allowed(vec![CKM_RSA_PKCS_OAEP]));
    template.extend(plain(LOCKED));
    template
}

/// A class's key at a site, unwrapped from what central has sent: a token object.
pub(crate) fn site_kek(
    quirks: &Quirks,
    purpose: Purpose,
    kwp: CK_MECHANISM_TYPE,
    label: &str,
    id: KekId,
) -> Vec<Item> {
    let mut template = plain(carried());
    template.extend(plain([
        Attribute::Sign(false),
        Attribute::Verify(false),
        Attribute::Token(true),
        Attribute::Label(label.as_bytes().to_vec()),
        Attribute::Id(id.0.to_vec()),
    ]));
    template.push(Item::Allowed(vec![kwp]));
    let inner = managed(quirks, purpose, Home::Site);
    template.push(Item::Template(CKA_UNWRAP_TEMPLATE, inner));
    template.extend(plain(LOCKED));
    template
}

/// A key that carries one that is imported, unwrapped under a transport pair: a session object.
pub(crate) fn carrier(quirks: &Quirks, purpose: Purpose, kwp: CK_MECHANISM_TYPE) -> Vec<Item> {
    let mut template = plain(carried());
    template.extend(plain([
        Attribute::Sign(false),
        Attribute::Verify(false),
        Attribute::Token(false),
    ]));
    template.push(Item::Allowed(vec![kwp]));
    let inner = managed(quirks, purpose, Home::Central);
    template.push(Item::Template(CKA_UNWRAP_TEMPLATE, inner));
    template.extend(plain(LOCKED));
    template
}

/// How a key travels under a transport key: RSA-OAEP with SHA-1 and MGF1 over it, the one form that SoftHSM2 has. What
/// is asked of the hash here is not collision resistance.
pub(crate) fn oaep() -> Mechanism<'static> {
    Mechanism::RsaPkcsOaep(PkcsOaepParams::new(
        MechanismType::SHA1,
        PkcsMgfType::MGF1_SHA1,
        PkcsOaepSource::empty(),
    ))
}

/// What a class's key is at a site, as far as a transport key can say it.
fn carried() -> Vec<Attribute> {
    vec![
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::AES),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Unwrap(true),
        Attribute::Wrap(false),
        Attribute::Encrypt(false),
        Attribute::Decrypt(false),
        Attribute::Derive(false),
    ]
}

/// The label of a transport key while central's token has it.
const TRANSPORT_LABEL: &str = "keyhaven-transport";

/// Bits of a transport pair.
const TRANSPORT_BITS: std::ffi::c_ulong = 3072;
