//! What the keys of a vault refuse, module by module, and that the same attacks succeed on keys without restraint.

use cryptoki::{session::UserType, types::AuthPin};
use keyhaven_softhsm_test::{ModuleKind, TestToken, fresh_token};

use super::*;
use crate::{Module, quirks::Quirks, slot};

const NAME: Name<'_> = Name {
    label: "test",
    id: b"test",
    persistent: false,
};

fn open(test: &TestToken) -> (OpenSession, Ways) {
    let module = Module::load_with(Some(test.module()), test.init_args().as_deref()).unwrap();
    let (slot, info) = slot::find_slot(&module, &test.uri().parse().unwrap()).unwrap();
    let session = OpenSession::open(&module, slot).unwrap();
    let pin = AuthPin::new(test.pin().into());
    session.login(UserType::User, Some(&pin)).unwrap();
    (session, Ways::first_of(Quirks::of(&info)))
}

/// A secret that may be wrapped.
fn secret(session: &OpenSession, ways: &Ways) -> ObjectHandle {
    let template = template::secret(ways, Some(32), Usage::Derive, Kept::Wrappable);
    session
        .generate_key(&Mechanism::GenericSecretKeyGen, &template)
        .unwrap()
}

/// An AES key with both of a vault's powers and none of its restraints.
fn unrestrained(session: &OpenSession) -> ObjectHandle {
    let template = [
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::AES),
        template::value_len(32),
        Attribute::Token(false),
        Attribute::Sensitive(true),
        Attribute::Encrypt(true),
        Attribute::Decrypt(true),
        Attribute::Wrap(true),
        Attribute::Unwrap(true),
    ];
    session
        .generate_key(&Mechanism::AesKeyGen, &template)
        .unwrap()
}

/// Security rule S4. `unwraps`: whether the module has C_UnwrapKey with AES-GCM at all.
fn no_key_does_the_others_work(test: &TestToken, unwraps: bool) {
    let (session, ways) = open(test);
    let wrapping = make_wrapping(&session, &ways, NAME).unwrap();
    let sealing = make_sealing(&session, &ways, NAME).unwrap();
    let free = unrestrained(&session);
    let secret = secret(&session, &ways);

    let wrapped = wrap(&session, &ways, wrapping, secret).unwrap();
    assert!(!decrypts(&session, wrapping, &wrapped));
    let by_free = wrap(&session, &ways, free, secret).unwrap();
    assert!(decrypts(&session, free, &by_free), "it can be done");

    assert!(wrap(&session, &ways, sealing, secret).is_err());
    let nonce = [3; NONCE_LEN];
    assert!(seal(&session, wrapping, &nonce, b"", &[1; 32]).is_err());
    let sealed = seal(&session, sealing, &nonce, b"", &[1; 32]).unwrap();
    assert!(unwrap_sealed(&session, &ways, sealing, &nonce, &sealed).is_err());
    let by_free = seal(&session, free, &nonce, b"", &[1; 32]).unwrap();
    let unwrapped = unwrap_sealed(&session, &ways, free, &nonce, &by_free);
    assert_eq!(unwrapped.is_ok(), unwraps, "{unwrapped:?}");

    let readable = unwrap_readable(&session, &ways, wrapping, &wrapped);
    assert_eq!(readable.is_err(), ways.guards == Guards::Full);
}

#[test]
fn no_key_does_the_others_work_on_softhsm2() {
    no_key_does_the_others_work(&fresh_token!(), false);
}

#[test]
fn no_key_does_the_others_work_on_nss() {
    no_key_does_the_others_work(&fresh_token!(kind: ModuleKind::Nss), false);
}

#[test]
fn no_key_does_the_others_work_on_kryoptic() {
    no_key_does_the_others_work(&fresh_token!(kind: ModuleKind::Kryoptic), true);
}

#[test]
fn no_key_does_the_others_work_on_kryoptic_with_a_modern_openssl() {
    if !ModuleKind::KryopticModern.is_there() {
        eprintln!("not run: cargo xtask modules --modern builds the module");
        return;
    }
    no_key_does_the_others_work(&fresh_token!(kind: ModuleKind::KryopticModern), true);
}
