//! What the tests of managed keys at central share: a ceremony, a site in software, and an attacker with the user's
//! PIN.
//!
//! Nothing here asserts the behaviour under test.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "each test file uses its part of this module, and a helper of a test fails by panicking"
)]

pub mod attacker;
pub mod central;

use std::path::Path;

use aws_lc_rs::{
    encoding::AsDer,
    key_wrap::{AES_256, AesKek, KeyWrapPadded as _},
    rsa::{
        KeySize, OAEP_SHA1_MGF1SHA1, OaepPrivateDecryptingKey, OaepPublicEncryptingKey,
        Pkcs1PublicEncryptingKey, PrivateDecryptingKey, PublicEncryptingKey,
    },
};
use cryptoki::{
    context::Pkcs11,
    object::{Attribute, AttributeType, ObjectHandle},
    session::Session,
};
use keyhaven_hsm::{
    Module, Pin, Token,
    managed::{CentralToken, Ceremony, CeremonyError, KekInfo, Spec},
};
use keyhaven_softhsm_test::TestToken;
use keyhaven_types::{KeyId, KeyKind, Purpose};
use x509_parser::{prelude::FromDer, x509::SubjectPublicKeyInfo};

pub fn spec(kind: KeyKind, purpose: Purpose) -> Spec {
    Spec {
        id: KeyId([7; 16]),
        version: 1,
        kind,
        purpose,
    }
}

pub fn begin(test: &TestToken) -> Result<Ceremony, CeremonyError> {
    begin_with(test, test.so_pin())
}

pub fn begin_with(test: &TestToken, so_pin: &str) -> Result<Ceremony, CeremonyError> {
    let module = Module::load_with(Some(test.module()), test.init_args().as_deref()).unwrap();
    let so_pin = Pin::new(so_pin.to_owned());
    let user_pin = Pin::new(test.pin().to_owned());
    Ceremony::begin(&module, &test.uri().parse().unwrap(), &so_pin, &user_pin)
}

/// Central's keys, and so many for classes of each purpose.
pub fn set_up(test: &TestToken, count: usize) -> Vec<KekInfo> {
    let mut ceremony = begin(test).unwrap();
    ceremony.make_central().unwrap();
    let mut keks = Vec::new();
    for &purpose in Purpose::ALL {
        keks.extend(ceremony.make_pool(purpose, count).unwrap());
    }
    keks
}

pub fn kek_for(keks: &[KekInfo], purpose: Purpose) -> KekInfo {
    let kek = keks.iter().find(|kek| kek.purpose == purpose);
    kek.unwrap().clone()
}

/// Opens the token as central has it.
pub fn open(test: &TestToken) -> CentralToken {
    CentralToken::open(&open_token(test)).unwrap()
}

pub fn open_token(test: &TestToken) -> Token {
    let module = Module::load_with(Some(test.module()), test.init_args().as_deref()).unwrap();
    let pin = Pin::new(test.pin().to_owned());
    Token::open(&module, &test.uri().parse().unwrap(), pin).unwrap()
}

/// A site whose token is software.
pub struct Site(PrivateDecryptingKey);

impl Site {
    pub fn new() -> Self {
        Self(PrivateDecryptingKey::generate(KeySize::Rsa3072).unwrap())
    }

    pub fn spki(&self) -> Vec<u8> {
        self.0.public_key().as_der().unwrap().as_ref().to_vec()
    }

    /// The key that central has wrapped for it.
    pub fn receive(&self, wrapped: &[u8]) -> Vec<u8> {
        let key = OaepPrivateDecryptingKey::new(self.0.clone()).unwrap();
        let mut out = vec![0; key.min_output_size()];
        let opened = key.decrypt(&OAEP_SHA1_MGF1SHA1, wrapped, &mut out, None);
        opened.unwrap().to_vec()
    }
}

/// Encrypts to the public part of a transport pair.
pub fn oaep(spki: &[u8], secret: &[u8]) -> Vec<u8> {
    let public = PublicEncryptingKey::from_der(spki).unwrap();
    let key = OaepPublicEncryptingKey::new(public).unwrap();
    let mut out = vec![0; key.ciphertext_size()];
    let done = key.encrypt(&OAEP_SHA1_MGF1SHA1, secret, &mut out, None);
    done.unwrap().to_vec()
}

/// The same by PKCS#1 v1.5, which no transport pair is to open.
pub fn pkcs1(spki: &[u8], secret: &[u8]) -> Vec<u8> {
    let public = PublicEncryptingKey::from_der(spki).unwrap();
    let key = Pkcs1PublicEncryptingKey::new(public).unwrap();
    let mut out = vec![0; key.ciphertext_size()];
    key.encrypt(secret, &mut out).unwrap().to_vec()
}

/// RFC 5649.
pub fn wrap(kek: &[u8], key: &[u8]) -> Vec<u8> {
    let mut out = vec![0; key.len().next_multiple_of(8) + 8];
    let kek = AesKek::new(&AES_256, kek).unwrap();
    kek.wrap_with_padding(key, &mut out).unwrap().to_vec()
}

/// The opposite.
pub fn unwrap(kek: &[u8], wrapped: &[u8]) -> Option<Vec<u8>> {
    let mut out = vec![0; wrapped.len()];
    let kek = AesKek::new(&AES_256, kek).unwrap();
    let opened = kek.unwrap_with_padding(wrapped, &mut out);
    opened.ok().map(|key| key.to_vec())
}

/// A session in this process, beside whatever login there is.
pub fn session(test: &TestToken) -> Session {
    let module = pkcs11(test.module());
    let slots = module.get_slots_with_initialized_token().unwrap();
    let slot = slots
        .into_iter()
        .find(|&slot| module.get_token_info(slot).unwrap().label() == test.label());
    module.open_rw_session(slot.unwrap()).unwrap()
}

fn pkcs11(module: &Path) -> Pkcs11 {
    // The code under test has started the module.
    Pkcs11::new(module).unwrap()
}

/// Session objects that the process has at the token.
pub fn session_objects(test: &TestToken) -> usize {
    let found = session(test).find_objects(&[Attribute::Token(false)]);
    found.unwrap().len()
}

/// The one object with these attributes.
pub fn only(session: &Session, template: &[Attribute]) -> ObjectHandle {
    let found = session.find_objects(template).unwrap();
    assert_eq!(found.len(), 1, "{template:?}");
    found[0]
}

pub fn has(session: &Session, object: ObjectHandle, flag: &Attribute) -> bool {
    let kind: AttributeType = flag.attribute_type();
    let found = session.get_attributes(object, &[kind]).unwrap_or_default();
    found.contains(flag)
}

/// Whether these bytes stand in a file of the token.
pub fn is_in_files(dir: &Path, bytes: &[u8]) -> bool {
    std::fs::read_dir(dir).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() {
            return is_in_files(&path, bytes);
        }
        let content = std::fs::read(&path).unwrap_or_default();
        content.windows(bytes.len()).any(|window| window == bytes)
    })
}

/// Modulus and exponent of a transport key, for whoever brings it into a token by hand.
pub fn numbers(site: &Site) -> (Vec<u8>, Vec<u8>) {
    let spki = site.spki();
    let (_, info) = SubjectPublicKeyInfo::from_der(&spki).unwrap();
    let Ok(x509_parser::public_key::PublicKey::RSA(key)) = info.parsed() else {
        panic!("not RSA");
    };
    // Without the zero that keeps a number positive.
    (key.modulus[1..].to_vec(), key.exponent.to_vec())
}
