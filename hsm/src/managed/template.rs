//! The attributes of managed keys, of the keys that wrap them and of those that carry these to a site.
//!
//! Each template was run against SoftHSM2 and kryoptic. Where modules differ, `quirks` says how. Templates in templates
//! do not nest (both modules refuse that), so a key that unwraps keys that unwrap cannot bind these: that is why the
//! private part of a transport pair lives as long as its session and no longer. Invariant: nothing else under `managed`
//! writes a usage attribute, and CKA_MODIFIABLE comes last, since SoftHSM2 takes nothing after it.

use cryptoki::{
    mechanism::{
        Mechanism, MechanismType,
        rsa::{PkcsMgfType, PkcsOaepParams, PkcsOaepSource},
    },
    object::{Attribute, KeyType, ObjectClass},
};
use cryptoki_sys::{CK_MECHANISM_TYPE, CKA_UNWRAP_TEMPLATE, CKA_WRAP_TEMPLATE, CKM_RSA_PKCS_OAEP};
use keyhaven_types::{KekId, KeyKind, Purpose};

use super::Spec;
use crate::{admin::public, quirks::Quirks, raw::Item, template::value_len};

/// Where a managed key is an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Home {
    /// In central's token, from which it goes wrapped under trusted keys alone.
    Central,
    /// In a site's token, which it does not leave.
    #[allow(dead_code, reason = "the sites follow")]
    Site,
}

/// What a managed key of the purpose must be, as the UNWRAP_TEMPLATE of the key that unwraps it says it. SoftHSM2 wants
/// every entry repeated in C_UnwrapKey, kryoptic merges them: [`unwrapped`] repeats them.
pub(crate) fn managed(quirks: &Quirks, purpose: Purpose, home: Home) -> Vec<Attribute> {
    let mut template = kind_of(purpose);
    template.extend([
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(home == Home::Central),
    ]);
    if home == Home::Central {
        template.push(Attribute::WrapWithTrusted(true));
    }
    template.extend(usages(purpose));
    if is_aes(purpose) && quirks.unwraps_cut {
        template.push(value_len(AES_LEN));
    }
    template
}

/// A managed key that is unwrapped: a session object.
pub(crate) fn unwrapped(quirks: &Quirks, spec: &Spec, home: Home) -> Vec<Item> {
    let mut template = managed(quirks, spec.purpose, home);
    if !template
        .iter()
        .any(|attribute| matches!(attribute, Attribute::KeyType(_)))
    {
        template.push(Attribute::KeyType(key_type(spec.kind)));
    }
    template.push(Attribute::Token(false));
    template.push(Attribute::Id(spec.id.0.to_vec()));
    template.extend(LOCKED);
    template.into_iter().map(Item::Plain).collect()
}

/// A managed secret key, or the private part of a pair, that is made in central's token: a session object.
pub(crate) fn made(quirks: &Quirks, spec: &Spec) -> Vec<Item> {
    let mut template = unwrapped(quirks, spec, Home::Central);
    // The mechanism that makes a key knows its class and type; a second length is one too many.
    template.retain(|item| {
        !matches!(
            item,
            Item::Plain(Attribute::Class(_) | Attribute::KeyType(_) | Attribute::ValueLen(_))
        )
    });
    if !spec.kind.is_pair() {
        template.insert(0, Item::Plain(value_len(AES_LEN)));
    }
    template
}

/// The public part of a pair that is made in central's token: to be read and thrown away.
pub(crate) fn made_public(parameters: Vec<Attribute>) -> Vec<Item> {
    let mut template = vec![
        Attribute::Token(false),
        Attribute::Private(false),
        Attribute::Verify(true),
        Attribute::VerifyRecover(false),
        Attribute::Encrypt(false),
        Attribute::Wrap(false),
        Attribute::Derive(false),
    ];
    template.extend(parameters);
    template.into_iter().map(Item::Plain).collect()
}

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

/// A class's key at a site, unwrapped from what central has sent: a token object.
#[allow(dead_code, reason = "the sites follow")]
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

/// What must be true of a key that leaves central wrapped: it is a managed one of the purpose, for no second one, and
/// no key that wraps others (a key of a class wrapped as if it were data could be brought back as data and then decrypt
/// what it wraps).
fn wrappable(purpose: Purpose) -> Vec<Attribute> {
    let mut template = kind_of(purpose);
    template.push(Attribute::WrapWithTrusted(true));
    template.extend(usages(purpose));
    template
}

/// The root key of a purpose, as the security officer makes it: an object of one session. It is public and may be changed
/// until it has been copied to what it is to be: see [`settled`].
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

/// What the user makes of an officer's key by a copy. SoftHSM2 refuses CKA_COPYABLE here; a copy of the copy is its
/// equal.
pub(crate) fn settled() -> Vec<Item> {
    plain(SETTLED)
}

/// What differs between an officer's key and what the user has made of it.
pub(crate) const SETTLED: [Attribute; 3] = [
    Attribute::Token(true),
    Attribute::Private(true),
    Attribute::Modifiable(false),
];

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

/// How a key travels under a transport key: RSA-OAEP with SHA-1 and MGF1 over it, the one form that SoftHSM2 has. What is
/// asked of the hash here is not collision resistance.
pub(crate) fn oaep() -> Mechanism<'static> {
    Mechanism::RsaPkcsOaep(PkcsOaepParams::new(
        MechanismType::SHA1,
        PkcsMgfType::MGF1_SHA1,
        PkcsOaepSource::empty(),
    ))
}

/// The label of the root key of a purpose.
pub(crate) fn root_label(purpose: Purpose) -> String {
    format!("keyhaven-root-{purpose}")
}

/// The label of the pool's keys of a purpose.
pub(crate) fn pool_label(purpose: Purpose) -> String {
    format!("keyhaven-class-{purpose}")
}

/// CKA_KEY_TYPE of a kind.
pub(crate) fn key_type(kind: KeyKind) -> KeyType {
    match kind {
        KeyKind::Rsa2048 | KeyKind::Rsa3072 | KeyKind::Rsa4096 => KeyType::RSA,
        KeyKind::EcP256 | KeyKind::EcP384 => KeyType::EC,
        KeyKind::Ed25519 => KeyType::EC_EDWARDS,
        KeyKind::Aes256 => KeyType::AES,
        KeyKind::Hmac => KeyType::GENERIC_SECRET,
    }
}

pub(crate) fn plain(attributes: impl IntoIterator<Item = Attribute>) -> Vec<Item> {
    attributes.into_iter().map(Item::Plain).collect()
}

/// A root or class key in central's token.
fn kek(unwraps: bool, leaves: bool, label: &str) -> Vec<Attribute> {
    let mut template = vec![
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::AES),
        value_len(AES_LEN),
        // A public object of the token would lie in its files in clear, and everybody could change it; the officer cannot
        // make private ones.
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

/// Class and type of the purpose's keys; a signing key may be of any type that signs.
fn kind_of(purpose: Purpose) -> Vec<Attribute> {
    match purpose {
        Purpose::Handshake | Purpose::Sign => vec![Attribute::Class(ObjectClass::PRIVATE_KEY)],
        Purpose::Decrypt => vec![
            Attribute::Class(ObjectClass::PRIVATE_KEY),
            Attribute::KeyType(KeyType::RSA),
        ],
        Purpose::Data | Purpose::Wrap => vec![
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(KeyType::AES),
        ],
        Purpose::Mac | Purpose::Tickets => vec![
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(KeyType::GENERIC_SECRET),
        ],
    }
}

/// Every usage that such a key could have: those of the purpose are granted and all others denied.
fn usages(purpose: Purpose) -> Vec<Attribute> {
    let granted: &[fn(bool) -> Attribute] = match purpose {
        Purpose::Handshake | Purpose::Sign => &[Attribute::Sign],
        Purpose::Decrypt => &[Attribute::Decrypt],
        Purpose::Data => &[Attribute::Encrypt, Attribute::Decrypt],
        Purpose::Wrap => &[Attribute::Wrap, Attribute::Unwrap],
        Purpose::Mac | Purpose::Tickets => &[Attribute::Sign],
    };
    let possible: &[fn(bool) -> Attribute] = match purpose {
        Purpose::Handshake | Purpose::Sign | Purpose::Decrypt => &[
            Attribute::Sign,
            Attribute::SignRecover,
            Attribute::Decrypt,
            Attribute::Unwrap,
            Attribute::Derive,
        ],
        _ => &[
            Attribute::Encrypt,
            Attribute::Decrypt,
            Attribute::Wrap,
            Attribute::Unwrap,
            Attribute::Sign,
            Attribute::Verify,
            Attribute::Derive,
        ],
    };
    let granted: Vec<Attribute> = granted.iter().map(|usage| usage(true)).collect();
    possible
        .iter()
        .map(|usage| usage(granted.contains(&usage(true))))
        .collect()
}

fn is_aes(purpose: Purpose) -> bool {
    matches!(purpose, Purpose::Data | Purpose::Wrap)
}

/// Nobody copies or changes it.
pub(crate) const LOCKED: [Attribute; 2] =
    [Attribute::Copyable(false), Attribute::Modifiable(false)];

/// The label of a transport key while central's token has it.
pub(crate) const TRANSPORT_LABEL: &str = "keyhaven-transport";
/// Bits of a transport pair.
const TRANSPORT_BITS: std::ffi::c_ulong = 3072;
/// Bytes of AES-256, and of a secret for HMAC.
pub(crate) const AES_LEN: usize = 32;
