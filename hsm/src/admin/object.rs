//! What a token says about its private keys: names, kind, public part, and what may be done with them.
//!
//! Read by `key list`, `key show`, `custody` and `doctor`. Judging the flags is left to them. Invariant: no
//! attribute that holds a private value is ever asked for.

use cryptoki::{
    object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle},
    session::Session,
};
use keyhaven_types::KeyAlgorithm;
use serde::Serialize;

use super::{error::AdminError, public};
use crate::Error;

/// How an object is named: CKA_LABEL and CKA_ID.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyName {
    /// The label.
    pub label: String,
    /// The id, as bytes.
    pub id: Vec<u8>,
}

/// One private key in a token.
#[derive(Clone, Debug)]
pub struct KeyEntry {
    /// Its label and id.
    pub name: KeyName,
    /// Its kind, when it is one that is served.
    pub algorithm: Option<KeyAlgorithm>,
    /// What the token calls its kind, for keys that are not served.
    pub kind: String,
    /// Its public part as SubjectPublicKeyInfo, when the token has a public key or a certificate for it.
    pub spki: Option<Vec<u8>>,
    /// What may be done with it.
    pub flags: KeyFlags,
    pub(super) handle: ObjectHandle,
}

/// The attributes that say how a private key is kept and used. `None`: the token does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[allow(
    missing_docs,
    reason = "the names are those of PKCS#11, with CKA_ left out"
)]
pub struct KeyFlags {
    pub private: Option<bool>,
    pub sensitive: Option<bool>,
    pub extractable: Option<bool>,
    pub always_sensitive: Option<bool>,
    pub never_extractable: Option<bool>,
    pub local: Option<bool>,
    pub modifiable: Option<bool>,
    pub copyable: Option<bool>,
    pub sign: Option<bool>,
    pub sign_recover: Option<bool>,
    pub decrypt: Option<bool>,
    pub unwrap: Option<bool>,
    pub derive: Option<bool>,
}

impl KeyName {
    /// The id in hexadecimal.
    pub fn id_hex(&self) -> String {
        self.id.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl KeyEntry {
    /// Label and id for a message.
    pub fn to_text(&self) -> String {
        format!("`{}` (id {})", self.name.label, self.name.id_hex())
    }
}

/// Every private key of the token, by label and id: tokens list them in any order.
pub(super) fn list_keys(session: &Session, token: &str) -> Result<Vec<KeyEntry>, AdminError> {
    let template = [Attribute::Class(ObjectClass::PRIVATE_KEY)];
    let mut keys = find(session, &template, token)?
        .into_iter()
        .map(|handle| read_key(session, handle, token))
        .collect::<Result<Vec<_>, _>>()?;
    keys.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(keys)
}

/// Token objects that fit a template.
pub(super) fn find(
    session: &Session,
    template: &[Attribute],
    token: &str,
) -> Result<Vec<ObjectHandle>, AdminError> {
    let mut template = template.to_vec();
    template.push(Attribute::Token(true));
    session
        .find_objects(&template)
        .map_err(|error| Error::token("find objects", error).of(token).into())
}

/// Reads attributes; those that the token does not have are left out.
pub(super) fn read(
    session: &Session,
    handle: ObjectHandle,
    types: &[AttributeType],
    token: &str,
) -> Result<Vec<Attribute>, AdminError> {
    session
        .get_attributes(handle, types)
        .map_err(|error| Error::token("read attributes", error).of(token).into())
}

/// Label and id of any object.
pub(super) fn read_name(
    session: &Session,
    handle: ObjectHandle,
    token: &str,
) -> Result<KeyName, AdminError> {
    let mut name = KeyName {
        label: String::new(),
        id: Vec::new(),
    };
    for attribute in read(
        session,
        handle,
        &[AttributeType::Label, AttributeType::Id],
        token,
    )? {
        match attribute {
            Attribute::Label(label) => name.label = String::from_utf8_lossy(&label).into_owned(),
            Attribute::Id(id) => name.id = id,
            _ => {}
        }
    }
    Ok(name)
}

pub(super) fn read_key(
    session: &Session,
    handle: ObjectHandle,
    token: &str,
) -> Result<KeyEntry, AdminError> {
    let name = read_name(session, handle, token)?;
    let flags = read_flags(session, handle, token)?;
    let mut kind = String::from("unknown");
    let mut numbers = Numbers::default();
    // Asked in two steps: CKA_MODULUS of an EC key is an error to some tokens.
    for attribute in read(session, handle, &[AttributeType::KeyType], token)? {
        if let Attribute::KeyType(key_type) = attribute {
            kind = key_type.to_string();
            numbers = Numbers::read(session, handle, key_type, token)?;
        }
    }
    let spki = match numbers.spki() {
        Some(spki) => Some(spki),
        None => find_public(session, &name, token)?,
    };
    Ok(KeyEntry {
        algorithm: numbers.algorithm(),
        name,
        kind,
        spki,
        flags,
        handle,
    })
}

/// The public numbers that stand in a key object.
#[derive(Default)]
struct Numbers {
    modulus: Vec<u8>,
    exponent: Vec<u8>,
    params: Vec<u8>,
    point: Vec<u8>,
}

impl Numbers {
    fn read(
        session: &Session,
        handle: ObjectHandle,
        key_type: KeyType,
        token: &str,
    ) -> Result<Self, AdminError> {
        let types: &[AttributeType] = match key_type {
            KeyType::RSA => &[AttributeType::Modulus, AttributeType::PublicExponent],
            KeyType::EC | KeyType::EC_EDWARDS => &[AttributeType::EcParams, AttributeType::EcPoint],
            _ => &[],
        };
        let mut numbers = Self::default();
        for attribute in read(session, handle, types, token)? {
            match attribute {
                Attribute::Modulus(value) => numbers.modulus = value,
                Attribute::PublicExponent(value) => numbers.exponent = value,
                Attribute::EcParams(value) => numbers.params = value,
                Attribute::EcPoint(value) => numbers.point = value,
                _ => {}
            }
        }
        Ok(numbers)
    }

    fn algorithm(&self) -> Option<KeyAlgorithm> {
        if self.modulus.is_empty() {
            public::algorithm_of_params(&self.params)
        } else {
            Some(KeyAlgorithm::Rsa(public::bit_length(&self.modulus)))
        }
    }

    fn spki(&self) -> Option<Vec<u8>> {
        if self.modulus.is_empty() || self.exponent.is_empty() {
            public::spki_of_point(&self.params, &self.point)
        } else {
            Some(public::rsa_spki(&self.modulus, &self.exponent))
        }
    }
}

/// The public part from the public key object, or else from the certificate, that has the same id.
fn find_public(
    session: &Session,
    name: &KeyName,
    token: &str,
) -> Result<Option<Vec<u8>>, AdminError> {
    let with_id = |class| vec![Attribute::Class(class), Attribute::Id(name.id.clone())];
    for handle in find(session, &with_id(ObjectClass::PUBLIC_KEY), token)? {
        for attribute in read(session, handle, &[AttributeType::KeyType], token)? {
            if let Attribute::KeyType(key_type) = attribute
                && let Some(spki) = Numbers::read(session, handle, key_type, token)?.spki()
            {
                return Ok(Some(spki));
            }
        }
    }
    for handle in find(session, &with_id(ObjectClass::CERTIFICATE), token)? {
        for attribute in read(session, handle, &[AttributeType::Value], token)? {
            if let Attribute::Value(der) = attribute
                && let Ok((_, certificate)) = x509_parser::parse_x509_certificate(&der)
            {
                return Ok(Some(certificate.public_key().raw.to_vec()));
            }
        }
    }
    Ok(None)
}

fn read_flags(
    session: &Session,
    handle: ObjectHandle,
    token: &str,
) -> Result<KeyFlags, AdminError> {
    let types = [
        AttributeType::Private,
        AttributeType::Sensitive,
        AttributeType::Extractable,
        AttributeType::AlwaysSensitive,
        AttributeType::NeverExtractable,
        AttributeType::Local,
        AttributeType::Modifiable,
        AttributeType::Copyable,
        AttributeType::Sign,
        AttributeType::SignRecover,
        AttributeType::Decrypt,
        AttributeType::Unwrap,
        AttributeType::Derive,
    ];
    let mut flags = KeyFlags::default();
    for attribute in read(session, handle, &types, token)? {
        match attribute {
            Attribute::Private(value) => flags.private = Some(value),
            Attribute::Sensitive(value) => flags.sensitive = Some(value),
            Attribute::Extractable(value) => flags.extractable = Some(value),
            Attribute::AlwaysSensitive(value) => flags.always_sensitive = Some(value),
            Attribute::NeverExtractable(value) => flags.never_extractable = Some(value),
            Attribute::Local(value) => flags.local = Some(value),
            Attribute::Modifiable(value) => flags.modifiable = Some(value),
            Attribute::Copyable(value) => flags.copyable = Some(value),
            Attribute::Sign(value) => flags.sign = Some(value),
            Attribute::SignRecover(value) => flags.sign_recover = Some(value),
            Attribute::Decrypt(value) => flags.decrypt = Some(value),
            Attribute::Unwrap(value) => flags.unwrap = Some(value),
            Attribute::Derive(value) => flags.derive = Some(value),
            _ => {}
        }
    }
    Ok(flags)
}
