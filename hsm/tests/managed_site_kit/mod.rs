//! What the tests of sites share: central in software, whose keys for classes are known, and keys that it made.
//!
//! Nothing here asserts the behaviour under test.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "each test file uses its part of this module, and a helper of a test fails by panicking"
)]

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der},
    hmac,
    rsa::{KeyPair as RsaKeyPair, KeySize},
    signature::{
        ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair,
        EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair as _,
    },
};
use keyhaven_hsm::{
    Error, Token, Worker, Workers,
    managed::{Enrolment, KekName, ManagedKey, PublicPart, SiteToken, Spec},
};
use keyhaven_softhsm_test::TestToken;
use keyhaven_types::{KekId, KeyId, KeyKind, Purpose};

use crate::{common, managed_kit};

/// The key of a class, as central has it.
#[derive(Clone)]
pub struct Class {
    pub name: KekName,
    pub value: [u8; 32],
}

/// One for each purpose.
pub fn classes() -> Vec<Class> {
    (1..)
        .zip(Purpose::ALL)
        .map(|(n, &purpose)| class("web", purpose, 1, n))
        .collect()
}

pub fn class(class: &str, purpose: Purpose, epoch: u32, id: u8) -> Class {
    Class {
        name: KekName {
            class: class.parse().unwrap(),
            purpose,
            epoch,
            id: KekId([id; 16]),
        },
        value: [id.wrapping_mul(37); 32],
    }
}

/// Brings classes' keys into a token.
pub fn deliver(token: &Token, classes: &[Class]) -> Result<(), Error> {
    let enrolment = Enrolment::begin(token).unwrap();
    let delivery: Vec<_> = classes
        .iter()
        .map(|class| {
            let wrapped = managed_kit::oaep(enrolment.spki(), &class.value);
            (class.name.clone(), wrapped)
        })
        .collect();
    enrolment.receive(&delivery)
}

/// A site with a class's key for each purpose.
pub fn site(test: &TestToken) -> (SiteToken, Vec<Class>) {
    site_of(&common::open(test))
}

pub fn site_of(token: &Token) -> (SiteToken, Vec<Class>) {
    let classes = classes();
    deliver(token, &classes).unwrap();
    (SiteToken::open(token).unwrap(), classes)
}

/// A key that central has made, and the same in software.
#[derive(Clone)]
pub struct Known {
    pub spec: Spec,
    pub public: PublicPart,
    pub bytes: Vec<u8>,
    pub kek: KekId,
    pub blob: Vec<u8>,
}

impl Known {
    pub fn spki(&self) -> &[u8] {
        match &self.public {
            PublicPart::Spki(spki) => spki,
            PublicPart::Kcv(_) => panic!("{:?} has no SPKI", self.spec),
        }
    }

    pub fn unwrap(&self, worker: &Worker, site: &SiteToken) -> Result<ManagedKey, Error> {
        site.unwrap(worker, &self.spec, &self.public, self.kek, &self.blob)
    }
}

pub fn known(classes: &[Class], kind: KeyKind, purpose: Purpose) -> Known {
    let class = classes.iter().find(|class| class.name.purpose == purpose);
    let class = class.unwrap();
    let (bytes, public) = material(kind, purpose);
    Known {
        spec: Spec {
            id: KeyId([9; 16]),
            version: 3,
            kind,
            purpose,
        },
        public,
        blob: managed_kit::wrap(&class.value, &bytes),
        bytes,
        kek: class.name.id,
    }
}

fn material(kind: KeyKind, purpose: Purpose) -> (Vec<u8>, PublicPart) {
    let rsa = |size| {
        let pair = RsaKeyPair::generate(size).unwrap();
        let bytes = AsDer::<Pkcs8V1Der<'_>>::as_der(&pair).unwrap();
        (bytes.as_ref().to_vec(), pair.public_key().as_der().unwrap())
    };
    let ec = |algorithm: &'static EcdsaSigningAlgorithm| {
        let pair = EcdsaKeyPair::generate(algorithm).unwrap();
        let spki: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
        (pair.to_pkcs8v1().unwrap().as_ref().to_vec(), spki)
    };
    let (bytes, spki) = match kind {
        KeyKind::Rsa2048 => rsa(KeySize::Rsa2048),
        KeyKind::Rsa3072 => rsa(KeySize::Rsa3072),
        KeyKind::Rsa4096 => rsa(KeySize::Rsa4096),
        KeyKind::EcP256 => ec(&ECDSA_P256_SHA256_ASN1_SIGNING),
        KeyKind::EcP384 => ec(&ECDSA_P384_SHA384_ASN1_SIGNING),
        KeyKind::Ed25519 => {
            let pair = Ed25519KeyPair::generate().unwrap();
            let spki = pair.public_key().as_der().unwrap();
            (pair.to_pkcs8v1().unwrap().as_ref().to_vec(), spki)
        }
        KeyKind::Aes256 | KeyKind::Hmac => {
            let mut bytes = vec![0; 32];
            aws_lc_rs::rand::fill(&mut bytes).unwrap();
            let kcv = kcv(&bytes, purpose);
            return (bytes, PublicPart::Kcv(kcv));
        }
    };
    (bytes, PublicPart::Spki(spki.as_ref().to_vec()))
}

/// A key check value, written down once more.
pub fn kcv(key: &[u8], purpose: Purpose) -> [u8; 8] {
    let made = match purpose {
        Purpose::Data => gcm_seal(key, b"keyhaven kcv", &[0; 8], b""),
        Purpose::Wrap => managed_kit::wrap(key, b"keyhaven: a probe that all know."),
        _ => mac(key, b"keyhaven kcv"),
    };
    made[..8].try_into().unwrap()
}

pub fn mac(key: &[u8], message: &[u8]) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    hmac::sign(&key, message).as_ref().to_vec()
}

pub fn gcm_seal(key: &[u8], iv: &[u8; 12], plain: &[u8], aad: &[u8]) -> Vec<u8> {
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).unwrap());
    let mut text = plain.to_vec();
    let nonce = Nonce::assume_unique_for_key(*iv);
    key.seal_in_place_append_tag(nonce, Aad::from(aad), &mut text)
        .unwrap();
    text
}

/// Opens IV, ciphertext and tag.
pub fn gcm_open(key: &[u8], sealed: &[u8], aad: &[u8]) -> Option<Vec<u8>> {
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).unwrap());
    let (iv, sealed) = sealed.split_first_chunk::<12>()?;
    let mut text = sealed.to_vec();
    let nonce = Nonce::assume_unique_for_key(*iv);
    let opened = key.open_in_place(nonce, Aad::from(aad), &mut text);
    opened.ok().map(|opened| opened.to_vec())
}

/// Runs a job with a site on a worker, after which nothing of it is left in the token.
pub fn at_site(test: &TestToken, job: impl FnOnce(&Worker, &SiteToken, &[Class]) + Send + 'static) {
    let (site, classes) = site(test);
    let workers = Workers::start(1, 8).unwrap();
    let asked = site.clone();
    common::on_worker(&workers, move |worker| job(worker, &asked, &classes));
    let token = site.token();
    assert_eq!((token.key_copies(), token.live_ephemerals()), (0, 0));
    assert_eq!(managed_kit::session_objects(test), 0, "an object was left");
    assert!(token.is_alive());
}
