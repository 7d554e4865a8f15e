//! Attacks on the keys of classes: what they are, and how they come in.
//!
//! Invariant: each attack stands beside the act that is allowed.

use super::*;

pub(super) fn decrypt_a_blob(attacker: &Attacker) {
    let (session, raw) = (&attacker.session, attacker.session.raw().unwrap());
    for purpose in [Purpose::Data, Purpose::Handshake] {
        let (kek, blob) = (attacker.kek(purpose), blob(purpose));
        let blocks = &blob[..blob.len() / 16 * 16];
        let mut out = [0; 512];
        let known = attacker.known(&[Attribute::Decrypt(true)]);
        raw.decrypt(session, &Mechanism::AesEcb, known, blocks, &mut out)
            .unwrap();
        for mechanism in [Mechanism::AesEcb, Mechanism::AesCbc([0; 16])] {
            let decrypted = raw.decrypt(session, &mechanism, kek, blocks, &mut out);
            assert!(decrypted.is_err(), "{mechanism:?}");
            let encrypted = raw.encrypt(session, &mechanism, kek, blocks, &mut out);
            assert!(encrypted.is_err(), "{mechanism:?}");
        }
        for id in [attacker.kwp, CKM_AES_KEY_WRAP] {
            let decrypted = raw.decrypt_bare(session, id, kek, &blob, &mut out);
            assert!(decrypted.is_err(), "{id:x}");
        }
        let honest = attacker.honest(&sample(purpose));
        for way in [
            Way::Bare(CKM_AES_KEY_WRAP),
            Way::Known(&Mechanism::AesCbcPad([0; 16])),
            Way::Known(&Mechanism::AesEcb),
        ] {
            let made = raw.unwrap_to(session, way, kek, &blob, &honest);
            assert!(made.is_err(), "{way:?}");
        }
        let free = attacker.known(&[Attribute::Extractable(true)]);
        let wrapped = raw.wrap_by(session, Way::Bare(attacker.kwp), kek, free, &mut out);
        assert!(wrapped.is_err(), "a site's key wraps");
    }
}

pub(super) fn change_a_class_key(attacker: &Attacker) {
    let raw = attacker.session.raw().unwrap();
    let free = attacker.known(&[Attribute::Decrypt(false)]);
    assert!(attacker.changes(free, &Attribute::Decrypt(true)));
    for &purpose in Purpose::ALL {
        let kek = attacker.kek(purpose);
        for more in [
            Attribute::Decrypt(true),
            Attribute::Encrypt(true),
            Attribute::Wrap(true),
            Attribute::Derive(true),
            Attribute::Sensitive(false),
            Attribute::Extractable(true),
            Attribute::Private(false),
            Attribute::Modifiable(true),
            Attribute::Copyable(true),
        ] {
            assert!(!attacker.changes(kek, &more), "{purpose} {more:?}");
            assert!(!attacker.copies(kek, &more), "{purpose} {more:?}");
        }
        let honest = attacker.honest(&sample(purpose));
        let weaker = with(&honest, Attribute::Extractable(true));
        let emptied = [Item::Template(CKA_UNWRAP_TEMPLATE, Vec::new())];
        let set = raw.set_attributes(&attacker.session, kek, &emptied);
        assert!(set.is_err(), "{purpose}");
        for more in [emptied.to_vec(), plain([Attribute::Token(false)])] {
            if let Ok(copy) = raw.copy_object(&attacker.session, kek, &more) {
                let made = attacker.unwrap(copy, &blob(purpose), &weaker);
                assert!(made.is_err(), "a copy for {purpose} unwraps what it likes");
            }
        }
    }
}

/// Nothing binds what a delivery becomes, so that nothing may be left that opens it.
pub(super) fn use_the_transport_key_again(attacker: &Attacker) {
    let private = [Attribute::Class(ObjectClass::PRIVATE_KEY)];
    assert_eq!(attacker.session.find_objects(&private).unwrap(), []);
    let (raw, oaep) = (attacker.session.raw().unwrap(), template::oaep());
    for template in [readable(KeyType::AES), readable(KeyType::GENERIC_SECRET)] {
        for delivery in &attacker.deliveries {
            let (way, key) = (Way::Known(&oaep), attacker.transport);
            let made = raw.unwrap_to(&attacker.session, way, key, delivery, &template);
            assert!(made.is_err());
        }
    }
    // Nor is there one of an enrolment that was given up, and another's does not open it.
    let enrolment = Enrolment::begin(attacker.site.token()).unwrap();
    let other = KekName {
        epoch: 2,
        id: KekId([99; 16]),
        ..name(Purpose::Data)
    };
    let refused = enrolment.receive(&[(other, attacker.deliveries[0].clone())]);
    assert!(matches!(refused, Err(Error::Blob { .. })), "{refused:?}");
    drop(Enrolment::begin(attacker.site.token()).unwrap());
    assert_eq!(attacker.session.find_objects(&private).unwrap(), []);
    assert_eq!(attacker.site.holds().len(), Purpose::ALL.len());
}

/// Keys of the attacker's own, by names as enrolments give them.
pub(super) fn plant_a_class_key(attacker: &Attacker) {
    let raw = attacker.session.raw().unwrap();
    let planted = KekName {
        epoch: 9,
        id: KekId([77; 16]),
        ..name(Purpose::Data)
    };
    let template = |name: &KekName, purpose| {
        let label = name.label();
        template::site_kek(attacker.quirks, purpose, attacker.kwp, &label, name.id)
    };
    let plant = |template: Vec<Item>| {
        let value = Attribute::Value(vec![3; AES_LEN]);
        let template = with(&template, value);
        raw.create_object(&attacker.session, &template).unwrap()
    };
    let look = || {
        let generation = attacker.site.token().generation().unwrap();
        let found = attacker.site.find_again(&generation, &attacker.session);
        found.unwrap();
        attacker.site.holds()
    };
    let before = look();
    let whole = template(&planted, Purpose::Data);
    let without_template: Vec<Item> = whole
        .iter()
        .filter(|item| !matches!(item, Item::Template(..)))
        .cloned()
        .collect();
    let unlocked: Vec<Item> = whole
        .iter()
        .filter(|item| !matches!(item, Item::Plain(lock) if LOCKED.contains(lock)))
        .cloned()
        .collect();
    for weaker in [
        without_template,
        template(&planted, Purpose::Handshake),
        unlocked,
        with(&whole, Attribute::Decrypt(true)),
        with(&whole, Attribute::Wrap(true)),
        with(&whole, Attribute::Extractable(true)),
    ] {
        let key = plant(weaker);
        assert_eq!(look(), before);
        attacker.session.destroy_object(key).unwrap();
    }
    // One that is as it should be is taken for one: what its blobs are is told by the records.
    let key = plant(whole);
    assert_eq!(look().len(), before.len() + 1);
    attacker.session.destroy_object(key).unwrap();
    // Of two by one name or id neither is used.
    for twin in [
        KekName {
            id: KekId([78; 16]),
            ..name(Purpose::Data)
        },
        KekName {
            epoch: 3,
            ..name(Purpose::Data)
        },
    ] {
        let key = plant(template(&twin, Purpose::Data));
        assert_eq!(look().len(), before.len() - 1);
        attacker.session.destroy_object(key).unwrap();
        assert_eq!(look(), before);
    }
}
