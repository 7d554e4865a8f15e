//! What somebody can do who has the login of a site's token and knows every template: nothing that brings a key out or
//! gives it a second purpose. Each attack stands beside the act that is allowed.

mod classes;
mod managed;

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
    ($($softhsm2:ident, $kryoptic:ident: $attack:path;)*) => {$(
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
    managed_site_unwraps_nothing_weaker_on_kryoptic: managed::unwrap_weaker;
    managed_site_unwraps_nothing_for_another_purpose_on_softhsm2,
    managed_site_unwraps_nothing_for_another_purpose_on_kryoptic: managed::unwrap_for_another_purpose;
    managed_site_decrypts_no_blob_on_softhsm2,
    managed_site_decrypts_no_blob_on_kryoptic: classes::decrypt_a_blob;
    managed_site_changes_no_class_key_on_softhsm2,
    managed_site_changes_no_class_key_on_kryoptic: classes::change_a_class_key;
    managed_site_forgets_the_transport_key_on_softhsm2,
    managed_site_forgets_the_transport_key_on_kryoptic: classes::use_the_transport_key_again;
    managed_site_lets_no_managed_key_out_on_softhsm2,
    managed_site_lets_no_managed_key_out_on_kryoptic: managed::take_a_managed_key;
    managed_site_uses_no_planted_key_on_softhsm2,
    managed_site_uses_no_planted_key_on_kryoptic: classes::plant_a_class_key;
}
