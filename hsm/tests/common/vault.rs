//! What the tests of vaults share: a token that has proven one, a secret to send away, and a look at the token's keys.
//!
//! Nothing here asserts the behaviour under test.

use std::path::Path;

use cryptoki::{
    context::Pkcs11,
    mechanism::Mechanism,
    object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle},
    session::Session,
};
use keyhaven_hsm::{Kept, Salt, Token, TokenSecret, Vault, Worker};
use keyhaven_softhsm_test::TestToken;
use keyhaven_types::{HashAlgorithm, NamedGroup};

use super::{hkdf_label, software_expand, software_hmac};

pub const HASH: HashAlgorithm = HashAlgorithm::Sha256;
pub const DAY: u64 = 20_780;
pub const AAD: &[u8] = b"site, key, version";
pub const ENVELOPE: &[u8] = b"when and by whom";

pub fn proven(test: &TestToken) -> Token {
    let token = super::open(test);
    let profile = token.prove().unwrap();
    assert!(profile.vault, "{:#?}", profile.checks);
    token
}

/// A resumption secret in the token, and the same in software.
pub fn wrappable(worker: &Worker, token: &Token) -> (TokenSecret, Vec<u8>) {
    let (secret, z) = super::agreed(worker, token, NamedGroup::X25519);
    let salt = [5; 32];
    let base = worker
        .extract_secret(HASH, Salt::Bytes(&salt), &secret)
        .unwrap();
    let info = hkdf_label("resumption", b"nonce", 32);
    let made = worker
        .expand_secret(HASH, &base, &info, 32, Kept::Wrappable)
        .unwrap();
    let software = software_expand(HASH, &software_hmac(HASH, &salt, &z), &info, 32);
    (made, software)
}

/// Whether a secret is the one that software has, seen by a key that comes out of it.
pub fn is_same(worker: &Worker, secret: &TokenSecret, software: &[u8]) -> bool {
    let info = hkdf_label("key", b"", 16);
    let mut key = [0; 16];
    worker.expand_bytes(HASH, secret, &info, &mut key).unwrap();
    key == software_expand(HASH, software, &info, 16)[..]
}

/// A session beside the token's own, as another program has it that knows the login.
pub fn beside(module: &Path, token: &Token) -> Session {
    let module = Pkcs11::new(module).unwrap();
    let slots = module.get_slots_with_token().unwrap();
    let slot = slots
        .into_iter()
        .find(|slot| slot.id() == token.info().slot_id);
    module.open_rw_session(slot.unwrap()).unwrap()
}

/// The token's secret keys.
fn secret_keys(session: &Session) -> Vec<ObjectHandle> {
    let template = [
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::Token(true),
    ];
    session.find_objects(&template).unwrap()
}

/// The labels of the token's secret keys.
pub fn labels(test: &TestToken, token: &Token) -> Vec<String> {
    let session = beside(test.module(), token);
    let mut labels: Vec<_> = secret_keys(&session)
        .into_iter()
        .flat_map(|key| {
            session
                .get_attributes(key, &[AttributeType::Label])
                .unwrap()
        })
        .map(|label| match label {
            Attribute::Label(label) => String::from_utf8(label).unwrap(),
            other => panic!("{other:?}"),
        })
        .collect();
    labels.sort();
    labels
}

/// Destroys the token's secret keys whose label starts so; says how many.
pub fn destroy_keys(module: &Path, token: &Token, start: &str) -> usize {
    let session = beside(module, token);
    let mut destroyed = 0;
    for key in secret_keys(&session) {
        let label = session.get_attributes(key, &[AttributeType::Label]);
        if let [Attribute::Label(label)] = &label.unwrap()[..]
            && label.starts_with(start.as_bytes())
        {
            session.destroy_object(key).unwrap();
            destroyed += 1;
        }
    }
    destroyed
}

/// Puts so many keys of somebody else into the token.
pub fn strangers_keys(module: &Path, token: &Token, count: usize) {
    let session = beside(module, token);
    for number in 0..count {
        let template = [
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(KeyType::AES),
            Attribute::ValueLen(32.into()),
            Attribute::Token(true),
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Encrypt(true),
            Attribute::Label(format!("somebody's {number}").into_bytes()),
            Attribute::Id(format!("{number}").into_bytes()),
        ];
        session
            .generate_key(&Mechanism::AesKeyGen, &template)
            .unwrap();
    }
}

/// Seals something on this day.
pub fn seal(worker: &Worker, vault: &Vault, day: u64) -> (Vec<u8>, Vec<u8>) {
    let (secret, software) = wrappable(worker, vault.token());
    let blob = worker.vault_seal(vault, day, AAD, ENVELOPE, &secret);
    (blob.unwrap(), software)
}

/// Opens on this day what was sealed; whether it was there, and the same.
pub fn opens(
    worker: &Worker,
    vault: &Vault,
    day: u64,
    (blob, software): &(Vec<u8>, Vec<u8>),
) -> bool {
    let opened = worker.vault_open(vault, day, AAD, blob, 32, Kept::Never);
    opened
        .unwrap()
        .is_some_and(|opened| is_same(worker, &opened.secret, software))
}
