//! The attributes of managed keys, of the keys that wrap them and of those that carry these to a site.
//!
//! Each template was run against SoftHSM2 and kryoptic. Where modules differ, `quirks` says how. Templates in templates
//! do not nest (both modules refuse that), so a key that unwraps keys that unwrap cannot bind these: that is why the
//! private part of a transport pair lives as long as its session and no longer. Invariant: what wraps or is wrapped
//! gets its usages here, and CKA_MODIFIABLE comes last, since SoftHSM2 takes nothing after it.

mod central;
mod transport;

use cryptoki::object::{Attribute, KeyType, ObjectClass};
use keyhaven_types::{KeyKind, Purpose};

pub(crate) use self::{
    central::{SETTLED, class_kek, pool_label, root_kek, root_label, settled, signing},
    transport::{carrier, oaep, site_kek, transport_private, transport_public, trusted_public},
};

use super::Spec;
use crate::{quirks::Quirks, raw::Item, template::value_len};

/// Where a managed key is an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Home {
    /// In central's token, from which it goes wrapped under trusted keys alone.
    Central,
    /// In a site's token, which it does not leave.
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

/// Bytes of AES-256, and of a secret for HMAC.
pub(crate) const AES_LEN: usize = 32;

#[cfg(test)]
mod tests;
