//! What somebody can do who has the login of a site's token and knows every template: nothing that brings a key out or
//! gives it a second purpose. Each attack stands beside the act that is allowed.

use aws_lc_rs::{
    key_wrap::{AES_256, AesKek, KeyWrapPadded as _},
    rsa::{OAEP_SHA1_MGF1SHA1, OaepPublicEncryptingKey, PublicEncryptingKey},
};
use cryptoki::{
    error::Error as CryptokiError,
    mechanism::{
        Mechanism,
        elliptic_curve::{EcKdf, Ecdh1DeriveParams},
    },
    object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle},
};
use cryptoki_sys::{CK_MECHANISM_TYPE, CKA_UNWRAP_TEMPLATE, CKM_AES_KEY_WRAP};
use keyhaven_softhsm_test::{ModuleKind, TestToken, fresh_token};
use keyhaven_types::{KekId, KeyKind, Purpose};

use super::{
    Enrolment, KekName, SiteToken,
    keks::{sample, with},
    proof::Sample,
};
use crate::{
    Error, Module, Pin, Token,
    admin::public::P256_PARAMS,
    managed::{
        Spec,
        central::find,
        template::{self, AES_LEN, Home, LOCKED, plain},
    },
    quirks::Quirks,
    raw::{Item, Way},
    session::OpenSession,
    template::value_len,
};

/// A token with a class's key for each purpose, and a session of the attacker.
struct Attacker {
    session: OpenSession,
    quirks: &'static Quirks,
    kwp: CK_MECHANISM_TYPE,
    site: SiteToken,
    /// What was delivered, and the private part that opened it.
    deliveries: Vec<Vec<u8>>,
    transport: ObjectHandle,
}

impl Attacker {
    fn new(test: &TestToken) -> Self {
        let token = open(test);
        let enrolment = Enrolment::begin(&token).unwrap();
        let transport = enrolment.private;
        let delivery: Vec<_> = Purpose::ALL
            .iter()
            .map(|&purpose| {
                let wrapped = oaep(enrolment.spki(), &value(purpose));
                (name(purpose), wrapped)
            })
            .collect();
        enrolment.receive(&delivery).unwrap();
        let site = SiteToken::open(&token).unwrap();
        assert_eq!(site.holds().len(), Purpose::ALL.len());
        Self {
            session: token.open_session(&token.generation().unwrap()).unwrap(),
            quirks: token.quirks(),
            kwp: find::kwp(token.quirks()),
            site,
            deliveries: delivery.into_iter().map(|(_, wrapped)| wrapped).collect(),
            transport,
        }
    }

    fn kek(&self, purpose: Purpose) -> ObjectHandle {
        let generation = self.site.token().generation().unwrap();
        let (spec, id) = (sample(purpose), name(purpose).id);
        let kek = self.site.kek(&generation, &self.session, &spec, id);
        kek.unwrap()
    }

    fn honest(&self, spec: &Spec) -> Vec<Item> {
        template::unwrapped(self.quirks, spec, Home::Site)
    }

    fn unwrap(
        &self,
        with: ObjectHandle,
        blob: &[u8],
        template: &[Item],
    ) -> Result<ObjectHandle, CryptokiError> {
        let way = Way::Bare(self.kwp);
        let raw = self.session.raw()?;
        raw.unwrap_to(&self.session, way, with, blob, template)
    }

    /// Whether the object has it; a refusal has not.
    fn came_with(&self, made: Result<ObjectHandle, CryptokiError>, flag: &Attribute) -> bool {
        made.is_ok_and(|object| self.has(object, flag))
    }

    fn has(&self, object: ObjectHandle, flag: &Attribute) -> bool {
        let kind = flag.attribute_type();
        let found = self.session.get_attributes(object, &[kind]);
        found.unwrap_or_default().contains(flag)
    }

    fn changes(&self, object: ObjectHandle, to: &Attribute) -> bool {
        let to = std::slice::from_ref(to);
        self.session.update_attributes(object, to).is_ok() && self.has(object, &to[0])
    }

    fn copies(&self, object: ObjectHandle, to: &Attribute) -> bool {
        let copy = self.session.copy_object(object, std::slice::from_ref(to));
        self.came_with(copy, to)
    }

    /// A secret key of his own that he knows.
    fn known(&self, granted: &[Attribute]) -> ObjectHandle {
        let mut template = vec![
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(KeyType::AES),
            Attribute::Token(false),
            Attribute::Private(true),
            Attribute::Value(vec![1; AES_LEN]),
        ];
        template.extend_from_slice(granted);
        self.session.create_object(&template).unwrap()
    }
}

fn open(test: &TestToken) -> Token {
    let module = Module::load_with(Some(test.module()), test.init_args().as_deref()).unwrap();
    let pin = Pin::new(test.pin().to_owned());
    Token::open(&module, &test.uri().parse().unwrap(), pin).unwrap()
}

fn name(purpose: Purpose) -> KekName {
    KekName {
        class: "web".parse().unwrap(),
        purpose,
        epoch: 1,
        id: KekId([value(purpose)[0]; 16]),
    }
}

fn value(purpose: Purpose) -> [u8; AES_LEN] {
    let place = Purpose::ALL.iter().position(|&other| other == purpose);
    [u8::try_from(place.unwrap()).unwrap() + 1; AES_LEN]
}

fn oaep(spki: &[u8], secret: &[u8]) -> Vec<u8> {
    let public = PublicEncryptingKey::from_der(spki).unwrap();
    let key = OaepPublicEncryptingKey::new(public).unwrap();
    let mut out = vec![0; key.ciphertext_size()];
    let done = key.encrypt(&OAEP_SHA1_MGF1SHA1, secret, &mut out, None);
    done.unwrap().to_vec()
}

fn wrap(kek: &[u8], key: &[u8]) -> Vec<u8> {
    let mut out = vec![0; key.len().next_multiple_of(8) + 8];
    let kek = AesKek::new(&AES_256, kek).unwrap();
    kek.wrap_with_padding(key, &mut out).unwrap().to_vec()
}

/// A key for the purpose, wrapped as central does.
fn blob(purpose: Purpose) -> Vec<u8> {
    wrap(
        &value(purpose),
        &Sample::new(sample(purpose).kind).unwrap().bytes,
    )
}

fn readable(kind: KeyType) -> Vec<Item> {
    plain([
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(kind),
        Attribute::Token(false),
        Attribute::Sensitive(false),
        Attribute::Extractable(true),
    ])
}

fn on_both(attack: fn(&Attacker), test: &TestToken) {
    let attacker = Attacker::new(test);
    attack(&attacker);
    assert!(attacker.site.token().is_alive());
}

macro_rules! attacks {
    ($($softhsm2:ident, $kryoptic:ident: $attack:ident;)*) => {$(
        #[test]
        fn $softhsm2() {
            on_both($attack, &fresh_token!());
        }

        #[test]
        fn $kryoptic() {
            on_both($attack, &fresh_token!(kind: ModuleKind::Kryoptic));
        }
    )*};
}

attacks! {
    managed_site_unwraps_nothing_weaker_on_softhsm2,
    managed_site_unwraps_nothing_weaker_on_kryoptic: unwrap_weaker;
    managed_site_unwraps_nothing_for_another_purpose_on_softhsm2,
    managed_site_unwraps_nothing_for_another_purpose_on_kryoptic: unwrap_for_another_purpose;
    managed_site_decrypts_no_blob_on_softhsm2,
    managed_site_decrypts_no_blob_on_kryoptic: decrypt_a_blob;
    managed_site_changes_no_class_key_on_softhsm2,
    managed_site_changes_no_class_key_on_kryoptic: change_a_class_key;
    managed_site_forgets_the_transport_key_on_softhsm2,
    managed_site_forgets_the_transport_key_on_kryoptic: use_the_transport_key_again;
    managed_site_lets_no_managed_key_out_on_softhsm2,
    managed_site_lets_no_managed_key_out_on_kryoptic: take_a_managed_key;
    managed_site_uses_no_planted_key_on_softhsm2,
    managed_site_uses_no_planted_key_on_kryoptic: plant_a_class_key;
}

fn unwrap_weaker(attacker: &Attacker) {
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

fn unwrap_for_another_purpose(attacker: &Attacker) {
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

fn decrypt_a_blob(attacker: &Attacker) {
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

fn change_a_class_key(attacker: &Attacker) {
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
fn use_the_transport_key_again(attacker: &Attacker) {
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

fn take_a_managed_key(attacker: &Attacker) {
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

/// Keys of the attacker's own, by names as enrolments give them.
fn plant_a_class_key(attacker: &Attacker) {
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
