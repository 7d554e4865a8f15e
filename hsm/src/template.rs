//! Templates of the objects that live as long as a handshake.
//!
//! Invariant: whatever is made here is a session object and sensitive, and has the usages it needs and no other.

use std::ffi::c_ulong;

use cryptoki::object::{Attribute, KeyType, ObjectClass};

use crate::{Kept, quirks::Ways};

/// What a secret is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Usage {
    /// The key of an HMAC.
    Sign,
    /// The base of derivations.
    Derive,
    /// Both, which a secret of TLS 1.2 is.
    SignAndDerive,
}

/// A generic secret; without a length the mechanism knows its own.
pub(crate) fn secret(ways: &Ways, len: Option<usize>, usage: Usage, kept: Kept) -> Vec<Attribute> {
    let mut template = vec![
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::GENERIC_SECRET),
        Attribute::Token(false),
        Attribute::Private(ways.ephemeral_private),
        Attribute::Sensitive(true),
        Attribute::Extractable(kept == Kept::Wrappable && ways.wrappable.is_extractable()),
        Attribute::Sign(usage != Usage::Derive),
        Attribute::Verify(false),
        Attribute::Derive(usage != Usage::Sign),
        Attribute::Encrypt(false),
        Attribute::Decrypt(false),
        Attribute::Wrap(false),
        Attribute::Unwrap(false),
    ];
    if let Some(len) = len {
        template.push(value_len(len));
    }
    template
}

/// A data object for bytes that are to be read.
pub(crate) fn data(len: usize) -> Vec<Attribute> {
    // CKA_PRIVATE is not said: NSS has no private data objects that are derived.
    vec![
        Attribute::Class(ObjectClass::DATA),
        Attribute::Token(false),
        value_len(len),
    ]
}

/// CKA_VALUE_LEN.
pub(crate) fn value_len(len: usize) -> Attribute {
    // Every length here is one of a key or a hash.
    let len = c_ulong::try_from(len).unwrap_or(c_ulong::MAX);
    Attribute::ValueLen(len.into())
}
