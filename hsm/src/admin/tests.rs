//! What a key made here lets nobody do, not even whoever holds the login (K5).

use cryptoki::{
    error::{Error as CryptokiError, RvError},
    mechanism::Mechanism,
    object::{Attribute, AttributeType, ObjectHandle},
};
use keyhaven_types::KeyAlgorithm;

use super::{AdminSession, KeyEntry, KeyFlags, KeyName, object};
use crate::{Module, Pin, Uri};

fn open(token: &keyhaven_softhsm_test::TestToken) -> AdminSession {
    let module = Module::load(Some(token.module())).unwrap();
    let uri: Uri = token.uri().parse().unwrap();
    AdminSession::open(&module, &uri, &Pin::new(token.pin().to_owned())).unwrap()
}

fn make(session: &AdminSession, algorithm: KeyAlgorithm) -> KeyEntry {
    let name = KeyName {
        label: format!("{algorithm}"),
        id: format!("{algorithm}").into_bytes(),
    };
    session.generate_key(algorithm, &name).unwrap()
}

const KINDS: [KeyAlgorithm; 4] = [
    KeyAlgorithm::Rsa(2048),
    KeyAlgorithm::EcdsaP256,
    KeyAlgorithm::EcdsaP384,
    KeyAlgorithm::Ed25519,
];

/// Attributes that would make a key weaker than it was made.
fn weaker() -> Vec<Attribute> {
    vec![
        Attribute::Sensitive(false),
        Attribute::Extractable(true),
        Attribute::Private(false),
        Attribute::Decrypt(true),
        Attribute::Unwrap(true),
        Attribute::Derive(true),
        Attribute::SignRecover(true),
    ]
}

#[test]
fn its_attributes_cannot_be_changed() {
    let token = keyhaven_softhsm_test::fresh_token!();
    let session = open(&token);
    for algorithm in KINDS {
        let key = make(&session, algorithm);
        for attribute in weaker() {
            let changed = session
                .session()
                .update_attributes(key.handle, std::slice::from_ref(&attribute));
            assert!(changed.is_err(), "{algorithm}: {attribute:?}");
        }
        assert_eq!(flags(&session, key.handle), key.flags);
    }
}

/// SoftHSM2 copies no unmodifiable key at all, whatever is asked of the copy.
#[test]
fn no_copy_is_made() {
    let token = keyhaven_softhsm_test::fresh_token!();
    let session = open(&token);
    for algorithm in KINDS {
        let key = make(&session, algorithm);
        for attribute in weaker().into_iter().chain([Attribute::Sign(true)]) {
            let template = [Attribute::Token(false), attribute.clone()];
            let copied = session.session().copy_object(key.handle, &template);
            assert!(copied.is_err(), "{algorithm}: {attribute:?}");
        }
    }
}

#[test]
fn its_private_value_cannot_be_read_or_wrapped() {
    let token = keyhaven_softhsm_test::fresh_token!();
    let session = open(&token);
    let wrapping = session
        .session()
        .generate_key(
            &Mechanism::AesKeyGen,
            &[
                Attribute::Token(false),
                Attribute::ValueLen(32.into()),
                Attribute::Wrap(true),
            ],
        )
        .unwrap();
    for algorithm in KINDS {
        let key = make(&session, algorithm);
        let private = [
            AttributeType::Value,
            AttributeType::PrivateExponent,
            AttributeType::Prime1,
            AttributeType::Prime2,
            AttributeType::Exponent1,
            AttributeType::Exponent2,
            AttributeType::Coefficient,
        ];
        for attribute in private {
            let read = session.session().get_attributes(key.handle, &[attribute]);
            let empty = read.is_ok_and(|found| found.is_empty());
            assert!(empty, "{algorithm}: {attribute:?} came out");
        }
        let wrapped = session
            .session()
            .wrap_key(&Mechanism::AesKeyWrapPad, wrapping, key.handle);
        assert!(
            matches!(
                wrapped,
                Err(CryptokiError::Pkcs11(RvError::KeyUnextractable, _))
            ),
            "{algorithm}: {wrapped:?}"
        );
    }
}

fn flags(session: &AdminSession, handle: ObjectHandle) -> KeyFlags {
    let key = object::read_key(&session.session(), handle, "test").unwrap();
    key.flags
}

#[test]
fn a_survey_repeats_what_the_module_says_without_a_login() {
    let token = keyhaven_softhsm_test::fresh_token!();
    let module = Module::load(Some(token.module())).unwrap();
    let mut tokens = module.tokens().unwrap();
    tokens.retain(|found| found.label == token.label());
    let survey = super::survey(&module, &tokens[0]).unwrap();
    assert!(!survey.slot.hardware && !survey.token.write_protected);
    assert_eq!(survey.token.manufacturer, "SoftHSM project");
    assert_eq!(survey.token.sessions_max, super::Bound::Word("unlimited"));
    assert!(survey.token.flags.contains(&"CKF_LOGIN_REQUIRED"));
    let ecdsa = survey.mechanisms.list.iter().find(|m| m.id == 0x1041);
    let ecdsa = ecdsa.unwrap();
    assert_eq!(ecdsa.name, "CKM_ECDSA");
    assert!(ecdsa.flags.contains(&"CKF_SIGN") && ecdsa.key_size_max >= Some(384));
    assert!(survey.mechanisms.list.is_sorted_by_key(|m| m.id));
}

#[test]
fn a_survey_of_a_module_lists_what_the_binding_does_not_know() {
    let kind = keyhaven_softhsm_test::ModuleKind::Kryoptic;
    let token = keyhaven_softhsm_test::fresh_token!(kind: kind);
    let module = Module::load(Some(token.module())).unwrap();
    let tokens = module.tokens().unwrap();
    let survey = super::survey(&module, &tokens[0]).unwrap();
    assert!(survey.mechanisms.complete);
    let name = |id| {
        let list = &survey.mechanisms.list;
        let found = list.iter().find(|mechanism| mechanism.id == id);
        found.map(|mechanism| mechanism.name.as_str())
    };
    assert_eq!(name(0x57), Some("CKM_TLS12_EXTENDED_MASTER_KEY_DERIVE_DH"));
    assert_eq!(name(0x210b), Some("CKM_AES_KEY_WRAP_KWP"));
    let own = survey.mechanisms.list.last().unwrap();
    assert!(own.name.starts_with("vendor's own 0x8"), "{own:?}");
}
