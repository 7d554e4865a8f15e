//! What the tests of vaults share: a token that has proven one, a secret to send away, and a look at the token's keys.
//!
//! Nothing here asserts the behaviour under test.

use keyhaven_hsm::{Kept, Salt, Token, TokenSecret, Worker};
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

/// The labels of the token's secret keys.
pub fn labels(test: &TestToken, token: &Token) -> Vec<String> {
    use cryptoki::object::{Attribute, AttributeType, ObjectClass};
    let module = cryptoki::context::Pkcs11::new(test.module()).unwrap();
    let slots = module.get_slots_with_token().unwrap();
    let slot = slots
        .into_iter()
        .find(|slot| slot.id() == token.info().slot_id);
    let session = module.open_ro_session(slot.unwrap()).unwrap();
    let template = [
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::Token(true),
    ];
    let found = session.find_objects(&template).unwrap();
    let mut labels: Vec<_> = found
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
