//! What somebody can do who has the user's PIN of central's token and knows every template: nothing that brings a key
//! out. Each attack stands beside the act that is allowed, so that a module that does nothing does not pass.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
mod managed_kit;

use cryptoki::{
    mechanism::{
        Mechanism,
        elliptic_curve::{EcKdf, Ecdh1DeriveParams},
    },
    object::{Attribute, AttributeType, KeyType, ObjectClass},
    session::Session,
};
use cryptoki_sys::{CKA_ALLOWED_MECHANISMS, CKA_UNWRAP_TEMPLATE, CKA_WRAP_TEMPLATE};
use keyhaven_hsm::Workers;
use keyhaven_softhsm_test::fresh_token;
use keyhaven_types::Purpose;
use managed_kit::{
    attacker::{Attacker, changed, honest, oaep, template_attribute},
    has, only,
};

#[test]
fn managed_no_managed_key_goes_out_under_a_key_of_the_attackers() {
    let test = fresh_token!();
    let attacker = Attacker::new(&test);
    for (purpose, key) in attacker.objects() {
        assert!(!attacker.takes_out(key), "{purpose}");
    }
    assert!(attacker.takes_out(attacker.aes(&[]).unwrap()));
}

#[test]
fn managed_no_class_or_root_key_goes_out_under_a_key_of_the_attackers_or_another_of_centrals() {
    let test = fresh_token!();
    let attacker = Attacker::new(&test);
    for &purpose in Purpose::ALL {
        for key in [attacker.class(purpose), attacker.root(purpose)] {
            assert!(!attacker.takes_out(key), "{purpose}");
            for &other in Purpose::ALL {
                for trusted in [attacker.class(other), attacker.root(other)] {
                    for way in [Mechanism::AesKeyWrapPad, Mechanism::AesKeyWrap] {
                        let taken = attacker.session.wrap_key(&way, trusted, key);
                        assert!(taken.is_err(), "{purpose} under {other}");
                    }
                }
            }
        }
    }
}

#[test]
fn managed_no_managed_key_goes_out_under_a_managed_key_that_wraps() {
    let test = fresh_token!();
    let attacker = Attacker::new(&test);
    let objects = attacker.objects();
    let (_, wrapping) = objects
        .iter()
        .find(|(purpose, _)| *purpose == Purpose::Wrap)
        .unwrap();
    let way = Mechanism::AesKeyWrapPad;
    for (purpose, key) in &objects {
        let taken = attacker.session.wrap_key(&way, *wrapping, *key);
        assert!(taken.is_err(), "{purpose}");
    }
    let own = attacker.aes(&[]).unwrap();
    attacker.session.wrap_key(&way, *wrapping, own).unwrap();
}

#[test]
fn managed_a_key_goes_out_under_the_keys_of_its_purpose_alone() {
    let test = fresh_token!();
    let attacker = Attacker::new(&test);
    let way = Mechanism::AesKeyWrapPad;
    // The token cannot tell these apart: they have the same usages. Records do.
    let alike = |purpose| match purpose {
        Purpose::Sign => Purpose::Handshake,
        Purpose::Tickets => Purpose::Mac,
        other => other,
    };
    for (purpose, key) in attacker.objects() {
        for &other in Purpose::ALL {
            for with in [attacker.class(other), attacker.root(other)] {
                let taken = attacker.session.wrap_key(&way, with, key).is_ok();
                assert_eq!(taken, alike(purpose) == alike(other), "{purpose}, {other}");
                // In the one way alone: another wrapping would be undone in another way, too.
                for way in [
                    Mechanism::AesKeyWrap,
                    Mechanism::AesEcb,
                    Mechanism::AesCbc([0; 16]),
                ] {
                    let taken = attacker.session.wrap_key(&way, with, key);
                    assert!(taken.is_err(), "{purpose}, {other}: {way:?}");
                }
            }
        }
    }
}

#[test]
fn managed_a_user_trusts_no_key() {
    let test = fresh_token!();
    let attacker = Attacker::new(&test);
    let session = &attacker.session;
    let trusted = Attribute::Trusted(true);
    assert!(attacker.aes(std::slice::from_ref(&trusted)).is_err());
    for key in attacker.wrapping().into_iter().chain([attacker.public()]) {
        assert!(!attacker.sheds(key, &trusted));
        assert!(!has(session, key, &trusted));
    }
    let (modulus, exponent) = managed_kit::numbers(&managed_kit::Site::new());
    let public = [
        Attribute::Class(ObjectClass::PUBLIC_KEY),
        Attribute::KeyType(KeyType::RSA),
        Attribute::Modulus(modulus),
        Attribute::PublicExponent(exponent),
        Attribute::Wrap(true),
    ];
    session.create_object(&public).unwrap();
    let marked = [&public[..], std::slice::from_ref(&trusted)].concat();
    assert!(session.create_object(&marked).is_err());
    // By way of unwrapping.
    let own = attacker.aes(&[]).unwrap();
    let way = Mechanism::AesKeyWrapPad;
    let blob = session.wrap_key(&way, own, own).unwrap();
    let secret = [
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::AES),
        Attribute::Wrap(true),
    ];
    session.unwrap_key(&way, own, &blob, &secret).unwrap();
    let marked = [&secret[..], std::slice::from_ref(&trusted)].concat();
    assert!(session.unwrap_key(&way, own, &blob, &marked).is_err());
}

#[test]
fn managed_a_root_key_unwraps_nothing_weaker_than_its_template() {
    let test = fresh_token!();
    let attacker = Attacker::new(&test);
    let weaker = [
        vec![Attribute::Sensitive(false)],
        vec![Attribute::WrapWithTrusted(false)],
        vec![Attribute::Derive(true)],
        vec![Attribute::Private(false)],
        vec![
            Attribute::Sensitive(false),
            Attribute::WrapWithTrusted(false),
        ],
        vec![
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(KeyType::GENERIC_SECRET),
            Attribute::Sensitive(false),
        ],
        vec![Attribute::Trusted(true)],
    ];
    for (kind, purpose, made) in &attacker.managed {
        let honest = honest(*kind, *purpose);
        attacker.unwrap(*purpose, made, &honest).unwrap();
        for other in &weaker {
            let out = attacker.unwrap(*purpose, made, &changed(&honest, other));
            assert!(out.is_err(), "{purpose}: {other:?}");
        }
        // A second usage.
        for usage in [
            Attribute::Sign as fn(bool) -> Attribute,
            Attribute::Decrypt,
            Attribute::Unwrap,
        ] {
            if honest.contains(&usage(false)) {
                let out = attacker.unwrap(*purpose, made, &changed(&honest, &[usage(true)]));
                assert!(out.is_err(), "{purpose}: {:?}", usage(true));
            }
        }
        // Not said at all: what a module would do of itself.
        for left_out in [
            AttributeType::Sensitive,
            AttributeType::WrapWithTrusted,
            AttributeType::Extractable,
            AttributeType::Derive,
        ] {
            let mut short = honest.clone();
            short.retain(|one| one.attribute_type() != left_out);
            let out = attacker.unwrap(*purpose, made, &short);
            assert!(out.is_err(), "{purpose} without {left_out}");
        }
        // Under the root of another purpose.
        for &other in Purpose::ALL {
            if usages_of(other) != usages_of(*purpose) {
                let out = attacker.unwrap(other, made, &honest);
                assert!(out.is_err(), "{purpose} under {other}");
            }
        }
    }
}

/// Purposes with the same templates.
fn usages_of(purpose: Purpose) -> u8 {
    match purpose {
        Purpose::Handshake | Purpose::Sign => 0,
        Purpose::Decrypt => 1,
        Purpose::Data => 2,
        Purpose::Wrap => 3,
        Purpose::Mac | Purpose::Tickets => 4,
    }
}

#[test]
fn managed_a_root_key_does_not_decrypt_and_a_class_key_does_not_unwrap() {
    let test = fresh_token!();
    let attacker = Attacker::new(&test);
    let session = &attacker.session;
    for (kind, purpose, made) in &attacker.managed {
        let (root, class) = (attacker.root(*purpose), attacker.class(*purpose));
        for (key, blob) in [(root, &made.root_wrap), (class, &made.site_wrap)] {
            let blocks = &blob[..blob.len() - blob.len() % 16];
            for way in [
                Mechanism::AesEcb,
                Mechanism::AesCbc([0; 16]),
                Mechanism::AesKeyWrapPad,
                Mechanism::AesKeyWrap,
            ] {
                assert!(session.decrypt(&way, key, blocks).is_err(), "{purpose}");
                assert!(session.encrypt(&way, key, blocks).is_err(), "{purpose}");
            }
        }
        let honest = honest(*kind, *purpose);
        let way = Mechanism::AesKeyWrapPad;
        let out = session.unwrap_key(&way, class, &made.site_wrap, &honest);
        assert!(out.is_err(), "{purpose}");
        let out = session.unwrap_key(&Mechanism::AesKeyWrap, root, &made.root_wrap, &honest);
        assert!(out.is_err(), "{purpose}");
    }
}

#[test]
fn managed_nothing_is_shed_by_a_change_or_a_copy() {
    let test = fresh_token!();
    let attacker = Attacker::new(&test);
    let mut keys = attacker.objects();
    for &purpose in Purpose::ALL {
        keys.push((purpose, attacker.class(purpose)));
        keys.push((purpose, attacker.root(purpose)));
    }
    let session = &attacker.session;
    for (purpose, key) in keys {
        for to in [
            Attribute::Sensitive(false),
            Attribute::Private(false),
            Attribute::Modifiable(true),
            Attribute::Trusted(false),
            Attribute::WrapWithTrusted(false),
            Attribute::Extractable(true),
            Attribute::Encrypt(true),
            Attribute::Decrypt(true),
            Attribute::Unwrap(true),
            Attribute::Derive(true),
            Attribute::Sign(true),
            Attribute::Value(vec![1; 32]),
        ] {
            if !has(session, key, &to) {
                assert!(!attacker.sheds(key, &to), "{purpose}: {to:?}");
            }
        }
        for kind in [
            CKA_UNWRAP_TEMPLATE,
            CKA_WRAP_TEMPLATE,
            CKA_ALLOWED_MECHANISMS,
        ] {
            let emptied = template_attribute(kind);
            let one = std::slice::from_ref(&emptied);
            assert!(session.update_attributes(key, one).is_err(), "{purpose}");
            assert!(session.copy_object(key, one).is_err(), "{purpose}");
        }
    }
}

#[test]
fn managed_centrals_keys_are_neither_copied_nor_given_other_names() {
    let test = fresh_token!();
    let attacker = Attacker::new(&test);
    let session = &attacker.session;
    for &purpose in Purpose::ALL {
        for key in [attacker.class(purpose), attacker.root(purpose)] {
            for with in [
                Attribute::Token(true),
                Attribute::Token(false),
                // By which one class's key would pass for another's.
                Attribute::Id(vec![9; 16]),
                Attribute::Label(b"keyhaven-class-data".to_vec()),
            ] {
                let one = std::slice::from_ref(&with);
                assert!(session.copy_object(key, one).is_err(), "{with:?}");
                assert!(session.update_attributes(key, one).is_err() || has(session, key, &with));
            }
        }
    }
    let own = attacker.aes(&[]).unwrap();
    let named = [Attribute::Id(vec![9; 16])];
    session.copy_object(own, &named).unwrap();
}

#[test]
fn managed_a_managed_key_is_neither_read_nor_derived_from() {
    let test = fresh_token!();
    let attacker = Attacker::new(&test);
    let session = &attacker.session;
    for (purpose, key) in attacker.objects() {
        for part in [
            AttributeType::Value,
            AttributeType::PrivateExponent,
            AttributeType::Prime1,
            AttributeType::Coefficient,
        ] {
            let found = session.get_attributes(key, &[part]).unwrap_or_default();
            assert_eq!(found, [], "{purpose}: {part}");
        }
        let point = [4; 65];
        let ecdh = Mechanism::Ecdh1Derive(Ecdh1DeriveParams::new(EcKdf::null(), &point));
        let readable = [
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(KeyType::GENERIC_SECRET),
            Attribute::Sensitive(false),
            Attribute::Extractable(true),
            Attribute::ValueLen(32.into()),
        ];
        assert!(session.derive_key(&ecdh, key, &readable).is_err());
    }
}

/// A transport pair of central's, and what came for it.
fn transport(attacker: &Attacker, act: impl FnOnce(&Session, &[u8], &[u8])) {
    let workers = Workers::start(1, 8).unwrap();
    let central = attacker.central.clone();
    let transport = common::on_worker(&workers, move |worker| central.transport(worker)).unwrap();
    let blob = managed_kit::oaep(transport.spki(), &[0x5a; 32]);
    act(&attacker.session, transport.spki(), &blob);
    drop(transport);
    common::wait_for("the end of the transport pair", || {
        attacker
            .session
            .find_objects(&TRANSPORT)
            .unwrap()
            .is_empty()
    });
}

/// Unlike the attacker's own pairs it is locked.
const TRANSPORT: [Attribute; 4] = [
    Attribute::Class(ObjectClass::PRIVATE_KEY),
    Attribute::Token(false),
    Attribute::Unwrap(true),
    Attribute::Modifiable(false),
];

#[test]
fn managed_what_comes_under_a_transport_pair_comes_as_a_key_that_unwraps() {
    let test = fresh_token!();
    let attacker = Attacker::new(&test);
    transport(&attacker, |session, spki, blob| {
        let private = only(session, &TRANSPORT);
        let honest = [
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(KeyType::AES),
            Attribute::Token(false),
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Unwrap(true),
            Attribute::Wrap(false),
            Attribute::Encrypt(false),
            Attribute::Decrypt(false),
            Attribute::Derive(false),
        ];
        let unwrap = |way: &Mechanism<'_>, template: &[Attribute]| {
            session.unwrap_key(way, private, blob, template)
        };
        unwrap(&oaep(), &honest).unwrap();
        let by_pkcs1 = managed_kit::pkcs1(spki, &[0x5a; 32]);
        let out = session.unwrap_key(&Mechanism::RsaPkcs, private, &by_pkcs1, &honest);
        assert!(out.is_err());
        for weaker in [
            vec![Attribute::Sensitive(false)],
            vec![Attribute::Extractable(true)],
            vec![Attribute::Decrypt(true)],
            vec![Attribute::Wrap(true)],
            vec![
                Attribute::KeyType(KeyType::GENERIC_SECRET),
                Attribute::Sensitive(false),
            ],
        ] {
            let out = unwrap(&oaep(), &changed(&honest, &weaker));
            assert!(out.is_err(), "{weaker:?}");
        }
        for way in [oaep(), Mechanism::RsaPkcs, Mechanism::RsaX509] {
            assert!(session.decrypt(&way, private, blob).is_err());
        }
        assert!(!attacker.takes_out(private));
        for to in [
            Attribute::Decrypt(true),
            Attribute::Extractable(true),
            Attribute::Sensitive(false),
            Attribute::Modifiable(true),
            Attribute::Token(true),
        ] {
            assert!(!attacker.sheds(private, &to), "{to:?}");
        }
    });
}
