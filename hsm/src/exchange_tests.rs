//! What the objects of a key exchange let nobody do, not even whoever holds the login.

use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use keyhaven_types::NamedGroup;

use super::{agree, generate};
use crate::{
    Module, Pin, Uri,
    generation::Generation,
    quirks::{Quirks, Ways},
};

/// Every attribute that says what a key may be used for, as the token has it; those that it does not know for this class
/// are left out. CKA_SIGN_RECOVER is not asked for: it stays as the token likes it, and no mechanism of these keys uses it.
fn snapshot(session: &cryptoki::session::Session, object: ObjectHandle) -> Vec<Attribute> {
    let asked = [
        AttributeType::Class,
        AttributeType::KeyType,
        AttributeType::Token,
        AttributeType::Sensitive,
        AttributeType::Extractable,
        AttributeType::AlwaysSensitive,
        AttributeType::NeverExtractable,
        AttributeType::Derive,
        AttributeType::Sign,
        AttributeType::Verify,
        AttributeType::Encrypt,
        AttributeType::Decrypt,
        AttributeType::Wrap,
        AttributeType::Unwrap,
    ];
    asked
        .iter()
        .flat_map(|asked| {
            session
                .get_attributes(object, &[*asked])
                .unwrap_or_default()
        })
        .collect()
}

#[test]
fn ephemerals_can_do_what_they_are_for_alone() {
    let token = keyhaven_softhsm_test::fresh_token!();
    let module = Module::load(Some(token.module())).unwrap();
    let uri: Uri = token.uri().parse().unwrap();
    let pin = Pin::new(token.pin().to_owned());
    let (generation, info) = Generation::open(&module, &uri, &pin, 1).unwrap();
    let session = generation.anchor();
    let mut ways = Ways::first_of(Quirks::of(&info));
    for group in NamedGroup::ALL {
        // As the self-tests say of this module.
        ways.set_derives(group, false);
        let (private, point) = generate(&session, &ways, group).unwrap();
        let seen = snapshot(&session, private);
        let key_type = match group {
            NamedGroup::X25519 => KeyType::EC_EDWARDS,
            _ => KeyType::EC,
        };
        assert_eq!(
            seen,
            [
                Attribute::Class(ObjectClass::PRIVATE_KEY),
                Attribute::KeyType(key_type),
                Attribute::Token(false),
                Attribute::Sensitive(true),
                Attribute::Extractable(false),
                Attribute::AlwaysSensitive(true),
                Attribute::NeverExtractable(true),
                Attribute::Derive(true),
                Attribute::Sign(false),
                Attribute::Decrypt(false),
                Attribute::Unwrap(false),
            ],
            "{group:?}"
        );
        // With itself, which any other peer would do for as well.
        let secret = agree(&session, &ways, group, private, &point).unwrap();
        let seen = snapshot(&session, secret);
        assert_eq!(
            seen,
            [
                Attribute::Class(ObjectClass::SECRET_KEY),
                Attribute::KeyType(KeyType::GENERIC_SECRET),
                Attribute::Token(false),
                Attribute::Sensitive(true),
                Attribute::Extractable(false),
                Attribute::AlwaysSensitive(true),
                Attribute::NeverExtractable(true),
                Attribute::Derive(false),
                Attribute::Sign(true),
                Attribute::Verify(false),
                Attribute::Encrypt(false),
                Attribute::Decrypt(false),
                Attribute::Wrap(false),
                Attribute::Unwrap(false),
            ],
            "{group:?}"
        );
    }
}
