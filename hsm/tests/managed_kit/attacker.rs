//! Somebody with the user's PIN of central's token who knows every template.

use cryptoki::{
    mechanism::{
        Mechanism, MechanismType,
        rsa::{PkcsMgfType, PkcsOaepParams, PkcsOaepSource},
    },
    object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle},
    session::Session,
};
use keyhaven_hsm::{Workers, managed::Made};
use keyhaven_softhsm_test::TestToken;
use keyhaven_types::{KeyKind, Purpose};

use super::{kek_for, only, open, session, set_up, spec};
use crate::common;

/// Managed keys of each purpose, central's own keys, and a session with the login.
pub struct Attacker {
    pub session: Session,
    pub managed: Vec<(KeyKind, Purpose, Made)>,
    // Keeps the login.
    pub central: keyhaven_hsm::managed::CentralToken,
}

impl Attacker {
    pub fn new(test: &TestToken) -> Self {
        let keks = set_up(test, 1);
        let central = open(test);
        let workers = Workers::start(1, 8).unwrap();
        let asked = central.clone();
        let managed = common::on_worker(&workers, move |worker| {
            KINDS
                .into_iter()
                .map(|(kind, purpose)| {
                    let kek = kek_for(&keks, purpose).id;
                    let made = asked.generate(worker, &spec(kind, purpose), kek);
                    (kind, purpose, made.unwrap())
                })
                .collect()
        });
        Self {
            session: session(test),
            managed,
            central,
        }
    }

    pub fn root(&self, purpose: Purpose) -> ObjectHandle {
        self.own(&format!("keyhaven-root-{purpose}"))
    }

    pub fn class(&self, purpose: Purpose) -> ObjectHandle {
        self.own(&format!("keyhaven-class-{purpose}"))
    }

    pub fn own(&self, label: &str) -> ObjectHandle {
        let label = Attribute::Label(label.as_bytes().to_vec());
        only(&self.session, &[label, Attribute::Token(true)])
    }

    /// Every managed key, unwrapped as it should be.
    pub fn objects(&self) -> Vec<(Purpose, ObjectHandle)> {
        self.managed
            .iter()
            .map(|(kind, purpose, made)| {
                let key = self.unwrap(*purpose, made, &honest(*kind, *purpose));
                (*purpose, key.unwrap())
            })
            .collect()
    }

    pub fn unwrap(
        &self,
        purpose: Purpose,
        made: &Made,
        template: &[Attribute],
    ) -> Result<ObjectHandle, cryptoki::error::Error> {
        let root = self.root(purpose);
        self.session
            .unwrap_key(&Mechanism::AesKeyWrapPad, root, &made.root_wrap, template)
    }

    /// A key of the attacker's own that wraps.
    pub fn aes(&self, more: &[Attribute]) -> Result<ObjectHandle, cryptoki::error::Error> {
        let template = [&aes_template()[..], more].concat();
        self.session.generate_key(&Mechanism::AesKeyGen, &template)
    }

    /// What the attacker can wrap with: a key of the session, one of the token, and one whose value is known.
    pub fn wrapping(&self) -> Vec<ObjectHandle> {
        let known = [
            &aes_template()[1..],
            &[
                Attribute::Class(ObjectClass::SECRET_KEY),
                Attribute::KeyType(KeyType::AES),
                Attribute::Value(vec![0x77; 32]),
            ],
        ];
        vec![
            self.aes(&[]).unwrap(),
            self.aes(&[Attribute::Token(true)]).unwrap(),
            self.session.create_object(&known.concat()).unwrap(),
        ]
    }

    /// The public part of a pair of the attacker's own.
    pub fn public(&self) -> ObjectHandle {
        let public = [
            Attribute::Token(false),
            Attribute::ModulusBits(2048.into()),
            Attribute::PublicExponent(vec![1, 0, 1]),
            Attribute::Wrap(true),
        ];
        let private = [Attribute::Token(false), Attribute::Unwrap(true)];
        self.session
            .generate_key_pair(&Mechanism::RsaPkcsKeyPairGen, &public, &private)
            .unwrap()
            .0
    }

    /// Whether a key goes out under anything that the attacker has.
    pub fn takes_out(&self, key: ObjectHandle) -> bool {
        let by_aes = self.wrapping().into_iter().any(|own| {
            [Mechanism::AesKeyWrapPad, Mechanism::AesKeyWrap]
                .iter()
                .any(|way| self.session.wrap_key(way, own, key).is_ok())
        });
        let public = self.public();
        let by_rsa = [oaep(), Mechanism::RsaPkcs]
            .iter()
            .any(|way| self.session.wrap_key(way, public, key).is_ok());
        by_aes || by_rsa
    }

    /// Whether a change is made to the key or to a copy of it.
    pub fn sheds(&self, key: ObjectHandle, to: &Attribute) -> bool {
        let one = std::slice::from_ref(to);
        let set = self.session.update_attributes(key, one).is_ok();
        // What cannot be read back counts as done.
        let is_done = |key| {
            let kind = to.attribute_type();
            match self.session.get_attributes(key, &[kind]) {
                Ok(found) if found.len() == 1 => found.contains(to),
                _ => true,
            }
        };
        let copied = self.session.copy_object(key, one);
        (set && is_done(key)) || copied.is_ok_and(is_done)
    }
}

pub const KINDS: [(KeyKind, Purpose); 8] = [
    (KeyKind::Rsa2048, Purpose::Handshake),
    (KeyKind::EcP256, Purpose::Handshake),
    (KeyKind::EcP384, Purpose::Sign),
    (KeyKind::Rsa2048, Purpose::Decrypt),
    (KeyKind::Aes256, Purpose::Data),
    (KeyKind::Aes256, Purpose::Wrap),
    (KeyKind::Hmac, Purpose::Mac),
    (KeyKind::Hmac, Purpose::Tickets),
];

pub fn aes_template() -> [Attribute; 5] {
    [
        Attribute::ValueLen(32.into()),
        Attribute::Sensitive(false),
        Attribute::Extractable(true),
        Attribute::Wrap(true),
        Attribute::Unwrap(true),
    ]
}

pub fn oaep() -> Mechanism<'static> {
    Mechanism::RsaPkcsOaep(PkcsOaepParams::new(
        MechanismType::SHA1,
        PkcsMgfType::MGF1_SHA1,
        PkcsOaepSource::empty(),
    ))
}

/// The template of a managed key at central, written down once more.
pub fn honest(kind: KeyKind, purpose: Purpose) -> Vec<Attribute> {
    let key_type = match kind {
        KeyKind::Rsa2048 | KeyKind::Rsa3072 | KeyKind::Rsa4096 => KeyType::RSA,
        KeyKind::EcP256 | KeyKind::EcP384 => KeyType::EC,
        KeyKind::Ed25519 => KeyType::EC_EDWARDS,
        KeyKind::Aes256 => KeyType::AES,
        KeyKind::Hmac => KeyType::GENERIC_SECRET,
    };
    let class = if kind.is_pair() {
        ObjectClass::PRIVATE_KEY
    } else {
        ObjectClass::SECRET_KEY
    };
    let mut template = vec![
        Attribute::Class(class),
        Attribute::KeyType(key_type),
        Attribute::Token(false),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(true),
        Attribute::WrapWithTrusted(true),
        Attribute::Sign(matches!(
            purpose,
            Purpose::Handshake | Purpose::Sign | Purpose::Mac | Purpose::Tickets
        )),
        Attribute::Decrypt(matches!(purpose, Purpose::Decrypt | Purpose::Data)),
        Attribute::Unwrap(purpose == Purpose::Wrap),
        Attribute::Derive(false),
    ];
    if kind.is_pair() {
        template.push(Attribute::SignRecover(false));
    } else {
        template.extend([
            Attribute::Encrypt(purpose == Purpose::Data),
            Attribute::Wrap(purpose == Purpose::Wrap),
            Attribute::Verify(false),
        ]);
    }
    template.extend([Attribute::Copyable(false), Attribute::Modifiable(false)]);
    template
}

/// The same with other attributes in the place of those of their kind.
pub fn changed(honest: &[Attribute], other: &[Attribute]) -> Vec<Attribute> {
    let kinds: Vec<_> = other.iter().map(Attribute::attribute_type).collect();
    let mut template = other.to_vec();
    let kept = honest
        .iter()
        .filter(|one| !kinds.contains(&one.attribute_type()));
    template.extend(kept.cloned());
    template
}

pub fn template_attribute(kind: u64) -> Attribute {
    Attribute::VendorDefined((AttributeType::VendorDefined(kind), Vec::new()))
}
