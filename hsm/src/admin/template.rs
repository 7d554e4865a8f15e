//! The one table of attributes of every object that administration makes.
//!
//! A private key has one purpose, to sign, for as long as it exists: it cannot decrypt, unwrap, derive or
//! sign with recovery, is not readable, and its attributes cannot be changed. Where a token copies such a key at
//! all (SoftHSM2 does not), the copy is no weaker, which a test asserts. Invariant: nothing else in this module
//! writes a usage attribute.

use cryptoki::object::{Attribute, CertificateType, KeyType, ObjectClass};
use zeroize::Zeroize;

use super::{
    material::{Curve, KeyMaterial},
    object::KeyName,
    public,
};

/// Attributes whose private values are wiped on drop.
pub(super) struct Template(pub(super) Vec<Attribute>);

/// A handshake key's private part: what it may do, and what nobody may do with it.
const PRIVATE: &[Attribute] = &[
    Attribute::Token(true),
    Attribute::Private(true),
    Attribute::Sensitive(true),
    Attribute::Extractable(false),
    Attribute::Modifiable(false),
    Attribute::Sign(true),
    Attribute::SignRecover(false),
    Attribute::Decrypt(false),
    Attribute::Unwrap(false),
    Attribute::Derive(false),
];

/// Its public part: to verify with.
const PUBLIC: &[Attribute] = &[
    Attribute::Token(true),
    Attribute::Private(false),
    Attribute::Modifiable(false),
    Attribute::Verify(true),
    Attribute::VerifyRecover(false),
    Attribute::Encrypt(false),
    Attribute::Wrap(false),
    Attribute::Derive(false),
];

/// The private part of a key to be generated.
pub(super) fn generated_private(name: &KeyName) -> Vec<Attribute> {
    [PRIVATE.to_vec(), named(name)].concat()
}

/// The public part of a key to be generated, with what the mechanism wants to know.
pub(super) fn generated_public(name: &KeyName, parameters: Vec<Attribute>) -> Vec<Attribute> {
    [PUBLIC.to_vec(), named(name), parameters].concat()
}

/// The private part of an imported key.
pub(super) fn imported_private(name: &KeyName, key: &KeyMaterial) -> Template {
    let mut attributes = vec![Attribute::Class(ObjectClass::PRIVATE_KEY)];
    attributes.extend_from_slice(PRIVATE);
    attributes.extend(named(name));
    attributes.extend(match key {
        KeyMaterial::Rsa(rsa) => vec![
            Attribute::KeyType(KeyType::RSA),
            Attribute::Modulus(rsa.modulus.clone()),
            Attribute::PublicExponent(rsa.public_exponent.clone()),
            Attribute::PrivateExponent(rsa.private_exponent.to_vec()),
            Attribute::Prime1(rsa.prime1.to_vec()),
            Attribute::Prime2(rsa.prime2.to_vec()),
            Attribute::Exponent1(rsa.exponent1.to_vec()),
            Attribute::Exponent2(rsa.exponent2.to_vec()),
            Attribute::Coefficient(rsa.coefficient.to_vec()),
        ],
        KeyMaterial::Ec(ec) => vec![
            Attribute::KeyType(KeyType::EC),
            Attribute::EcParams(ec_params(ec.curve)),
            Attribute::Value(ec.scalar.to_vec()),
        ],
        KeyMaterial::Ed25519(ed) => vec![
            Attribute::KeyType(KeyType::EC_EDWARDS),
            Attribute::EcParams(public::ED25519_PARAMS.to_vec()),
            Attribute::Value(ed.seed.to_vec()),
        ],
    });
    Template(attributes)
}

/// The public part of an imported key.
pub(super) fn imported_public(name: &KeyName, key: &KeyMaterial) -> Vec<Attribute> {
    let mut attributes = vec![Attribute::Class(ObjectClass::PUBLIC_KEY)];
    attributes.extend_from_slice(PUBLIC);
    attributes.extend(named(name));
    attributes.extend(match key {
        KeyMaterial::Rsa(rsa) => vec![
            Attribute::KeyType(KeyType::RSA),
            Attribute::Modulus(rsa.modulus.clone()),
            Attribute::PublicExponent(rsa.public_exponent.clone()),
        ],
        KeyMaterial::Ec(ec) => vec![
            Attribute::KeyType(KeyType::EC),
            Attribute::EcParams(ec_params(ec.curve)),
            Attribute::EcPoint(public::ec_point(&ec.point)),
        ],
        KeyMaterial::Ed25519(ed) => vec![
            Attribute::KeyType(KeyType::EC_EDWARDS),
            Attribute::EcParams(public::ED25519_PARAMS.to_vec()),
            Attribute::EcPoint(public::ec_point(&ed.public)),
        ],
    });
    attributes
}

/// A certificate beside its key. It is public, and may be replaced when it is renewed.
pub(super) fn certificate(
    name: &KeyName,
    subject: &[u8],
    issuer: &[u8],
    serial: &[u8],
    der: &[u8],
) -> Vec<Attribute> {
    vec![
        Attribute::Class(ObjectClass::CERTIFICATE),
        Attribute::CertificateType(CertificateType::X_509),
        Attribute::Token(true),
        Attribute::Private(false),
        Attribute::Label(name.label.clone().into_bytes()),
        Attribute::Id(name.id.clone()),
        Attribute::Subject(subject.to_vec()),
        Attribute::Issuer(issuer.to_vec()),
        Attribute::SerialNumber(serial.to_vec()),
        Attribute::Value(der.to_vec()),
    ]
}

/// CKA_EC_PARAMS of a curve.
pub(super) fn ec_params(curve: Curve) -> Vec<u8> {
    match curve {
        Curve::P256 => public::P256_PARAMS.to_vec(),
        Curve::P384 => public::P384_PARAMS.to_vec(),
    }
}

fn named(name: &KeyName) -> Vec<Attribute> {
    vec![
        Attribute::Label(name.label.clone().into_bytes()),
        Attribute::Id(name.id.clone()),
    ]
}

impl Drop for Template {
    fn drop(&mut self) {
        for attribute in &mut self.0 {
            match attribute {
                Attribute::PrivateExponent(value)
                | Attribute::Prime1(value)
                | Attribute::Prime2(value)
                | Attribute::Exponent1(value)
                | Attribute::Exponent2(value)
                | Attribute::Coefficient(value)
                | Attribute::Value(value) => value.zeroize(),
                _ => {}
            }
        }
    }
}
