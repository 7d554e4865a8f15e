//! What could be done in the middle of an act by whoever is in the ceremony's process, and what stays of it.

use cryptoki::{
    mechanism::Mechanism,
    object::{Attribute, AttributeType, KeyType, ObjectClass},
};
use keyhaven_softhsm_test::{TestToken, fresh_token};
use keyhaven_types::Purpose;

use super::*;
use crate::{
    managed::{scoped::Scoped, template::plain},
    raw::{Item, Way},
};

fn begin(test: &TestToken) -> Ceremony {
    let module = Module::load(Some(test.module())).unwrap();
    let so_pin = Pin::new(test.so_pin().to_owned());
    let user_pin = Pin::new(test.pin().to_owned());
    Ceremony::begin(&module, &test.uri().parse().unwrap(), &so_pin, &user_pin).unwrap()
}

/// A number of 3,072 bits that is odd; nobody has to decrypt.
fn modulus() -> Vec<u8> {
    vec![0xc5; 384]
}

#[test]
fn a_trusted_transport_key_wraps_by_oaep_alone_and_cannot_be_changed() {
    let test = fresh_token!();
    let mut ceremony = begin(&test);
    ceremony.make_central().unwrap();
    ceremony.make_pool(Purpose::Data, 1).unwrap();
    let login = &ceremony.login;
    let public = login
        .as_officer(|session| {
            let template = template::trusted_public(&modulus(), &[1, 0, 1]);
            let raw = session.raw().map_err(|source| Error::token("", source))?;
            let public = raw.create_object(session, &template);
            let public = public.map_err(|source| Error::token("", source))?;
            Ok(Scoped::new(session, public))
        })
        .unwrap();
    login
        .as_user(|session| {
            let pool = find::pool(session, login.quirks())?;
            let [(_, class)] = pool[..] else {
                panic!("{} keys", pool.len());
            };
            let root = find::root(session, login.quirks(), Purpose::Data)?.unwrap();
            let raw = session.raw().unwrap();
            let wrap = |way: &Mechanism<'_>, with, key| {
                raw.wrap_by(session, Way::Known(way), with, key, &mut [0; 512])
            };
            let oaep = template::oaep();
            wrap(&oaep, public.handle(), class).unwrap();
            for way in [Mechanism::RsaPkcs, Mechanism::RsaX509] {
                wrap(&way, public.handle(), class).unwrap_err();
            }
            wrap(&oaep, public.handle(), root).unwrap_err();
            // The copy that a user may make is no way around.
            for weaker in [
                vec![Item::Allowed(Vec::new())],
                plain([Attribute::Token(true)]),
                plain([Attribute::Encrypt(true)]),
            ] {
                raw.set_attributes(session, public.handle(), &weaker)
                    .unwrap_err();
                if let Ok(copy) = raw.copy_object(session, public.handle(), &weaker) {
                    let copy = Scoped::new(session, copy);
                    for way in [Mechanism::RsaPkcs, Mechanism::RsaX509] {
                        wrap(&way, copy.handle(), class).unwrap_err();
                    }
                }
            }
            Ok(())
        })
        .unwrap();
    drop(public);
    assert!(ceremony.leftovers().unwrap().is_empty());
}

#[test]
fn an_act_that_fails_in_the_middle_leaves_no_key() {
    let test = fresh_token!();
    let mut ceremony = begin(&test);
    ceremony.make_central().unwrap();
    let count = |ceremony: &Ceremony| {
        ceremony
            .login
            .as_user(|session| Ok(session.find_objects(&[]).unwrap().len()))
            .unwrap()
    };
    let before = count(&ceremony);
    // The officer's part is done and the user's fails.
    let pin = std::mem::replace(&mut ceremony.login.user_pin, Pin::new("not it".to_owned()));
    ceremony.make_pool(Purpose::Mac, 2).unwrap_err();
    ceremony.login.user_pin = pin;
    assert!(ceremony.leftovers().unwrap().is_empty());
    assert_eq!(count(&ceremony), before);
}

#[test]
fn a_key_that_is_not_what_was_asked_for_is_not_kept() {
    let test = fresh_token!();
    let mut ceremony = begin(&test);
    ceremony.make_central().unwrap();
    let login = &ceremony.login;
    login
        .as_user(|session| {
            let root = find::root(session, login.quirks(), Purpose::Data)?.unwrap();
            let quirks = login.quirks();
            let made = template::root_kek(quirks, Purpose::Data, find::kwp(quirks));
            find::check(session, root, "k", &made)?;
            // Each attribute is compared, and each template.
            for left_out in 0..made.len() {
                let mut other = made.clone();
                match &mut other[left_out] {
                    Item::Plain(Attribute::Token(_) | Attribute::Private(_)) => continue,
                    Item::Plain(attribute) => *attribute = opposite(attribute),
                    Item::Allowed(mechanisms) => mechanisms.clear(),
                    Item::Template(_, inner) => drop(inner.pop()),
                }
                find::check(session, root, "k", &other).unwrap_err();
            }
            Ok(())
        })
        .unwrap();
}

fn opposite(attribute: &Attribute) -> Attribute {
    match attribute.attribute_type() {
        AttributeType::Class => Attribute::Class(ObjectClass::DATA),
        AttributeType::KeyType => Attribute::KeyType(KeyType::DES3),
        AttributeType::ValueLen => Attribute::ValueLen(16.into()),
        AttributeType::Label => Attribute::Label(b"another".to_vec()),
        AttributeType::Trusted => Attribute::Trusted(false),
        AttributeType::Sensitive => Attribute::Sensitive(false),
        AttributeType::Wrap => Attribute::Wrap(false),
        AttributeType::Unwrap => Attribute::Unwrap(false),
        AttributeType::Extractable => Attribute::Extractable(true),
        AttributeType::WrapWithTrusted => Attribute::WrapWithTrusted(true),
        AttributeType::Encrypt => Attribute::Encrypt(true),
        AttributeType::Decrypt => Attribute::Decrypt(true),
        AttributeType::Sign => Attribute::Sign(true),
        AttributeType::Verify => Attribute::Verify(true),
        AttributeType::Derive => Attribute::Derive(true),
        other => panic!("{other} is not expected"),
    }
}
