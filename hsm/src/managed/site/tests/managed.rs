//! Attacks on managed keys: how they are unwrapped, and what they are then.
//!
//! Invariant: each attack stands beside the act that is allowed.

use super::*;

pub(super) fn unwrap_weaker(attacker: &Attacker) {
    for &purpose in Purpose::ALL {
        let (kek, blob) = (attacker.kek(purpose), blob(purpose));
        let honest = attacker.honest(&sample(purpose));
        let unwrapped = attacker.unwrap(kek, &blob, &honest).unwrap();
        attacker.session.destroy_object(unwrapped).unwrap();
        for weaker in [
            Attribute::Sensitive(false),
            Attribute::Extractable(true),
            Attribute::Derive(true),
            Attribute::Private(false),
        ] {
            let made = attacker.unwrap(kek, &blob, &with(&honest, weaker.clone()));
            assert!(!attacker.came_with(made, &weaker), "{purpose} {weaker:?}");
        }
        for kind in [KeyType::GENERIC_SECRET, KeyType::AES] {
            for template in [readable(kind), {
                // Obeying in all but what it wants.
                with(
                    &with(&honest, Attribute::KeyType(kind)),
                    Attribute::Class(ObjectClass::SECRET_KEY),
                )
            }] {
                if let Ok(made) = attacker.unwrap(kek, &blob, &template) {
                    assert!(attacker.session.value(made).is_err(), "{purpose} {kind}");
                    let is_of_purpose = sample(purpose).kind == KeyKind::Hmac
                        && kind == KeyType::GENERIC_SECRET
                        || sample(purpose).kind == KeyKind::Aes256 && kind == KeyType::AES;
                    assert!(is_of_purpose, "{purpose} came as {kind}");
                }
            }
        }
        if sample(purpose).kind == KeyKind::Aes256 {
            // A key of 128 bits would tell half of a key of 256.
            let cut = with(&honest, value_len(AES_LEN / 2));
            let made = attacker.unwrap(kek, &blob, &cut);
            assert!(made.is_err(), "{purpose} was cut short");
        }
    }
}

pub(super) fn unwrap_for_another_purpose(attacker: &Attacker) {
    for &purpose in Purpose::ALL {
        for &other in Purpose::ALL {
            let template = |purpose| template::managed(attacker.quirks, purpose, Home::Site);
            if format!("{:?}", template(purpose)) == format!("{:?}", template(other)) {
                continue;
            }
            // A key that both can be: only the usages are in the way.
            let kind = KeyKind::ALL
                .iter()
                .find(|kind| kind.serves(purpose) && kind.serves(other));
            let Some(&kind) = kind else { continue };
            let spec = |purpose| Spec {
                kind,
                ..sample(purpose)
            };
            let blob = wrap(&value(purpose), &Sample::new(kind).unwrap().bytes);
            let kek = attacker.kek(purpose);
            let right = attacker.honest(&spec(purpose));
            attacker.unwrap(kek, &blob, &right).unwrap();
            let wrong = attacker.honest(&spec(other));
            let made = attacker.unwrap(kek, &blob, &wrong);
            assert!(made.is_err(), "a key for {purpose} came out for {other}");
        }
    }
}

pub(super) fn take_a_managed_key(attacker: &Attacker) {
    let (session, raw) = (&attacker.session, attacker.session.raw().unwrap());
    for &purpose in Purpose::ALL {
        let honest = attacker.honest(&sample(purpose));
        let key = attacker.unwrap(attacker.kek(purpose), &blob(purpose), &honest);
        let key = key.unwrap();
        for secret in [AttributeType::Value, AttributeType::PrivateExponent] {
            assert!(session.bytes(key, secret).is_err(), "{purpose} {secret:?}");
        }
        let own = attacker.known(&[Attribute::Wrap(true)]);
        let mut out = [0; 4096];
        for id in [attacker.kwp, CKM_AES_KEY_WRAP] {
            let wrapped = raw.wrap_by(session, Way::Bare(id), own, key, &mut out);
            assert!(wrapped.is_err(), "{purpose} {id:x}");
        }
        for more in [
            Attribute::Sensitive(false),
            Attribute::Extractable(true),
            Attribute::Derive(true),
            Attribute::Private(false),
            Attribute::Modifiable(true),
            Attribute::Token(true),
        ] {
            assert!(!attacker.changes(key, &more), "{purpose} {more:?}");
            assert!(!attacker.copies(key, &more), "{purpose} {more:?}");
        }
        let decrypts = !matches!(purpose, Purpose::Decrypt | Purpose::Data);
        if decrypts {
            assert!(
                !attacker.changes(key, &Attribute::Decrypt(true)),
                "{purpose}"
            );
        }
        if purpose == Purpose::Handshake {
            derive_from(attacker, key);
        }
    }
}

fn derive_from(attacker: &Attacker, key: ObjectHandle) {
    let pair = attacker.session.generate_key_pair(
        &Mechanism::EccKeyPairGen,
        &[
            Attribute::Token(false),
            Attribute::EcParams(P256_PARAMS.to_vec()),
        ],
        &[Attribute::Token(false), Attribute::Derive(true)],
    );
    let (public, own) = pair.unwrap();
    let point = attacker.session.bytes(public, AttributeType::EcPoint);
    let point = point.unwrap()[2..].to_vec();
    let template = [
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::GENERIC_SECRET),
        Attribute::Token(false),
        value_len(32),
    ];
    let derive = |with| {
        let params = Ecdh1DeriveParams::new(EcKdf::null(), &point);
        let mechanism = Mechanism::Ecdh1Derive(params);
        attacker.session.derive_key(&mechanism, with, &template)
    };
    derive(own).unwrap();
    assert!(derive(key).is_err());
}
