//! What the module hears, and what it notes of new objects.
//!
//! Leaves lies to `lies`. A value that only the module itself has read is never heard.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{Caller, NO, SECRET, Template, YES};
use cryptoki_sys::*;
use keyhaven_pkcs11_shim::seen::ObjectSeen;
use keyhaven_pkcs11_shim::tapped::Direction;
use keyhaven_softhsm_test::{ModuleKind, Shim, TestToken, fresh_token};

fn listening(token: &TestToken) -> (Shim, Caller) {
    let shim = Shim::of(token.dir(), token.module());
    shim.tap();
    let caller = Caller::new(token, &shim);
    (shim, caller)
}

/// Function, detail and direction of what was heard since the last call.
fn heard(shim: &Shim) -> Vec<(String, String, Direction, Vec<u8>)> {
    let heard = shim.tapped().into_iter();
    let heard = heard
        .map(|record| {
            (
                record.function,
                record.detail,
                record.direction,
                record.bytes,
            )
        })
        .collect();
    shim.tap();
    heard
}

#[track_caller]
fn assert_heard(shim: &Shim, function: &str, detail: &str, direction: Direction, bytes: &[u8]) {
    let expected = (
        function.to_owned(),
        detail.to_owned(),
        direction,
        bytes.to_vec(),
    );
    assert_eq!(heard(shim), [expected]);
}

#[test]
fn what_the_token_gives_is_heard_as_the_caller_gets_it() {
    let token = fresh_token!();
    let (shim, caller) = listening(&token);
    let (public, private) = caller.pair().unwrap();
    assert_eq!(heard(&shim), [], "the module's own reading is not heard");

    let signature = caller.sign(CKM_ECDSA, private, &[7; 32]).unwrap();
    assert_heard(&shim, "C_Sign", "CKM_ECDSA", Direction::Out, &signature);
    let digest = caller.digest(b"data").unwrap();
    assert_heard(
        &shim,
        "C_DigestFinal",
        "CKM_SHA256",
        Direction::Out,
        &digest,
    );
    let random = caller.random(16);
    assert_heard(&shim, "C_GenerateRandom", "", Direction::Out, &random);
    let point = caller.attribute(public, CKA_EC_POINT).unwrap();
    let detail = "CKA_EC_POINT of CKO_PUBLIC_KEY";
    assert_heard(&shim, "C_GetAttributeValue", detail, Direction::Out, &point);
    assert!(caller.attribute(private, CKA_VALUE).is_err());
    assert_eq!(heard(&shim), [], "what is refused was not given");
    assert_eq!(shim.report().value_asked(), 1);
}

#[test]
fn what_goes_in_as_key_material_is_heard() {
    let token = fresh_token!();
    let (shim, caller) = listening(&token);
    let key = caller.secret(&[5; 32]);
    assert_heard(
        &shim,
        "C_CreateObject",
        "CKA_VALUE",
        Direction::In,
        &[5; 32],
    );
    let aes: &[(CK_ATTRIBUTE_TYPE, &[u8])] = &[
        (CKA_CLASS, &CKO_SECRET_KEY.to_ne_bytes()),
        (CKA_KEY_TYPE, &CKK_AES.to_ne_bytes()),
        (CKA_TOKEN, NO),
        (CKA_WRAP, YES),
        (CKA_UNWRAP, YES),
        (CKA_EXTRACTABLE, YES),
        (CKA_VALUE, &[6; 32]),
    ];
    let kek = caller.create(aes).unwrap();
    assert!(caller.wrap(kek, key).is_err(), "it may not leave");
    heard(&shim);
    let wrapped = caller.wrap(kek, kek).unwrap();
    assert_heard(
        &shim,
        "C_WrapKey",
        "CKM_AES_KEY_WRAP",
        Direction::Out,
        &wrapped,
    );
    let template = &SECRET[..SECRET.len() - 1];
    caller.unwrap(kek, &wrapped, template).unwrap();
    assert_heard(
        &shim,
        "C_UnwrapKey",
        "CKM_AES_KEY_WRAP",
        Direction::In,
        &wrapped,
    );
}

#[test]
fn what_a_derivation_mixes_in_is_heard() {
    let token = fresh_token!();
    let (shim, caller) = listening(&token);
    let base = caller.secret(&[5; 32]);
    heard(&shim);
    let mut mixed = [8; 16];
    let mut data = CK_KEY_DERIVATION_STRING_DATA {
        pData: mixed.as_mut_ptr(),
        ulLen: 16,
    };
    // SoftHSM2 knows neither mechanism; what was refused has passed all the same.
    let kind = CKM_CONCATENATE_BASE_AND_DATA;
    assert!(caller.derive(kind, &mut data, base, SECRET).is_err());
    let detail = "CKM_CONCATENATE_BASE_AND_DATA data";
    assert_heard(&shim, "C_DeriveKey", detail, Direction::In, &mixed);
    let mut salted = CK_HKDF_PARAMS {
        bExtract: CK_TRUE,
        prfHashMechanism: CKM_SHA256,
        ulSaltType: CKF_HKDF_SALT_DATA,
        pSalt: mixed.as_mut_ptr(),
        ulSaltLen: 16,
        ..CK_HKDF_PARAMS::default()
    };
    let kind = CKM_HKDF_DERIVE;
    assert!(caller.derive(kind, &mut salted, base, SECRET).is_err());
    let detail = "CKM_HKDF_DERIVE salt";
    assert_heard(&shim, "C_DeriveKey", detail, Direction::In, &mixed);
}

#[test]
fn a_value_that_is_given_is_heard_with_its_class_and_counts_for_keys_alone() {
    let token = fresh_token!();
    let (shim, caller) = listening(&token);
    let data = caller
        .create(&[
            (CKA_CLASS, &CKO_DATA.to_ne_bytes()),
            (CKA_TOKEN, NO),
            (CKA_VALUE, b"a secret"),
        ])
        .unwrap();
    heard(&shim);
    assert_eq!(caller.attribute(data, CKA_VALUE).unwrap(), b"a secret");
    let detail = "CKA_VALUE of CKO_DATA";
    assert_heard(
        &shim,
        "C_GetAttributeValue",
        detail,
        Direction::Out,
        b"a secret",
    );
    let report = shim.report();
    assert_eq!((report.examined(), report.value_asked()), (0, 0));
}

#[test]
fn objects_are_noted_as_they_were_created() {
    let token = fresh_token!();
    let (shim, caller) = listening(&token);
    let (public, private) = caller.pair().unwrap();
    let point = caller.attribute(public, CKA_EC_POINT).unwrap();
    let secret = caller.agree(private, &point[2..], SECRET).unwrap();
    let data = caller
        .create(&[
            (CKA_CLASS, &CKO_DATA.to_ne_bytes()),
            (CKA_TOKEN, NO),
            (CKA_VALUE, b"x"),
        ])
        .unwrap();
    let seen = shim.objects();
    let by = |handle| -> &ObjectSeen { seen.iter().find(|seen| seen.handle == handle).unwrap() };
    assert_eq!(seen.len(), 4, "{seen:?}");
    assert_eq!(by(public).class, "CKO_PUBLIC_KEY");
    assert_eq!(by(private).class, "CKO_PRIVATE_KEY");
    assert_eq!(
        by(private).mechanism.as_deref(),
        Some("CKM_EC_KEY_PAIR_GEN")
    );
    assert_eq!(by(private).sign, Some(true));
    let secret = by(secret);
    assert_eq!(secret.function, "C_DeriveKey");
    assert_eq!(secret.mechanism.as_deref(), Some("CKM_ECDH1_DERIVE"));
    assert_eq!(secret.key_type.as_deref(), Some("CKK_GENERIC_SECRET"));
    assert_eq!(
        (secret.sensitive, secret.extractable),
        (Some(true), Some(false))
    );
    assert_eq!((secret.token, secret.derive), (Some(false), Some(true)));
    assert!(!secret.readable);
    let data = by(data);
    assert_eq!((data.class.as_str(), data.sensitive), ("CKO_DATA", None));
    assert!(data.readable, "data objects are");
    assert_eq!(shim.report().readable(), 0, "and do not count");
}

#[test]
fn without_a_tap_nothing_is_written() {
    let token = fresh_token!();
    let shim = Shim::of(token.dir(), token.module());
    let caller = Caller::new(&token, &shim);
    caller.secret(&[5; 32]);
    assert!(!token.dir().join("tap").exists() && !token.dir().join("objects").exists());
    assert_eq!(shim.report().examined(), 1);
}

#[test]
fn a_key_block_of_nss_is_noted_and_its_ivs_heard() {
    // Two keys, and two MAC keys that are empty.
    hears_a_key_block(&fresh_token!(kind: ModuleKind::Nss), 4);
}

#[test]
fn a_key_block_of_kryoptic_is_noted_and_its_ivs_heard() {
    if ModuleKind::Kryoptic.is_there() {
        hears_a_key_block(&fresh_token!(kind: ModuleKind::Kryoptic), 2);
    }
}

#[test]
fn an_encapsulated_secret_is_noted_and_its_carrier_heard() {
    if !ModuleKind::KryopticModern.is_there() {
        return;
    }
    let token = fresh_token!(kind: ModuleKind::KryopticModern);
    let (shim, caller) = listening(&token);
    let set = CKP_ML_KEM_768.to_ne_bytes();
    let public: Template<'_> = &[
        (CKA_TOKEN, NO),
        (CKA_PARAMETER_SET, &set),
        (CKA_ENCAPSULATE, YES),
    ];
    let private: Template<'_> = &[
        (CKA_TOKEN, NO),
        (CKA_SENSITIVE, YES),
        (CKA_EXTRACTABLE, NO),
        (CKA_DECAPSULATE, YES),
    ];
    let pair = caller.pair_of(CKM_ML_KEM_KEY_PAIR_GEN, public, private);
    let (public, private) = pair.unwrap();
    heard(&shim);
    let (sent, sealed) = caller.encapsulate(public, SECRET).unwrap();
    let seen = shim.objects();
    assert_heard(
        &shim,
        "C_EncapsulateKey",
        "CKM_ML_KEM",
        Direction::Out,
        &sealed,
    );
    let got = caller.decapsulate(private, &sealed, SECRET).unwrap();
    assert_eq!((seen[0].handle, seen[0].readable), (sent, false));
    assert_eq!(shim.objects()[0].handle, got);
    assert_heard(
        &shim,
        "C_DecapsulateKey",
        "CKM_ML_KEM",
        Direction::In,
        &sealed,
    );
    let report = shim.report();
    assert_eq!(report.calls("C_EncapsulateKey"), 1);
    assert_eq!((report.live(), report.readable()), (4, 0));

    shim.set_faults("C_DecapsulateKey readable\nC_EncapsulateKey corrupt");
    let liar = caller.decapsulate(private, &sealed, SECRET).unwrap();
    assert_eq!(caller.attribute(liar, CKA_SENSITIVE).unwrap(), YES);
    assert_eq!(caller.attribute(liar, CKA_VALUE).unwrap().len(), 32);
    let mark = |key| caller.sign(CKM_SHA256_HMAC, key, b"m").unwrap();
    let (sent, sealed) = caller.encapsulate(public, SECRET).unwrap();
    let got = caller.decapsulate(private, &sealed, SECRET).unwrap();
    assert_ne!(mark(sent), mark(got), "another secret than was sent");
}

fn hears_a_key_block(token: &TestToken, objects: u64) {
    let (shim, caller) = listening(token);
    let master = caller.secret(&[9; 48]);
    shim.tap();
    let before = shim.report();
    let (mut client_iv, mut server_iv) = ([0; 4], [0; 4]);
    let mut returned = CK_SSL3_KEY_MAT_OUT {
        pIVClient: client_iv.as_mut_ptr(),
        pIVServer: server_iv.as_mut_ptr(),
        ..CK_SSL3_KEY_MAT_OUT::default()
    };
    let (mut client, mut server) = ([1; 32], [2; 32]);
    let mut parameters = CK_TLS12_KEY_MAT_PARAMS {
        ulKeySizeInBits: 128,
        ulIVSizeInBits: 32,
        RandomInfo: CK_SSL3_RANDOM_DATA {
            pClientRandom: client.as_mut_ptr(),
            ulClientRandomLen: 32,
            pServerRandom: server.as_mut_ptr(),
            ulServerRandomLen: 32,
        },
        pReturnedKeyMaterial: &mut returned,
        prfHashMechanism: CKM_SHA256,
        ..CK_TLS12_KEY_MAT_PARAMS::default()
    };
    let template: &[(CK_ATTRIBUTE_TYPE, &[u8])] = &[
        (CKA_CLASS, &CKO_SECRET_KEY.to_ne_bytes()),
        (CKA_KEY_TYPE, &CKK_AES.to_ne_bytes()),
        (CKA_TOKEN, NO),
        (CKA_ENCRYPT, YES),
        (CKA_VALUE_LEN, &(16 as CK_ULONG).to_ne_bytes()),
    ];
    let kind = CKM_TLS12_KEY_AND_MAC_DERIVE;
    let derived = caller.derive(kind, &mut parameters, master, template);
    derived.unwrap();
    let keys = [returned.hClientKey, returned.hServerKey];
    let seen = shim.objects();
    for key in keys {
        assert!(key != 0 && seen.iter().any(|seen| seen.handle == key));
    }
    let report = shim.report();
    assert_eq!(report.live() - before.live(), objects);
    assert_eq!(seen.len() as u64, objects);
    let ivs: Vec<_> = heard(&shim)
        .into_iter()
        .map(|(_, detail, _, bytes)| (detail, bytes))
        .collect();
    let named = |whose: &str| format!("CKM_TLS12_KEY_AND_MAC_DERIVE {whose} IV");
    assert_eq!(
        ivs,
        [
            (named("client"), client_iv.to_vec()),
            (named("server"), server_iv.to_vec())
        ]
    );
    assert_ne!(client_iv, server_iv);

    shim.set_faults("C_DeriveKey corrupt of CKM_TLS12_KEY_AND_MAC_DERIVE");
    let right = client_iv;
    caller
        .derive(kind, &mut parameters, master, template)
        .unwrap();
    assert_ne!(client_iv, right, "another block");
}
