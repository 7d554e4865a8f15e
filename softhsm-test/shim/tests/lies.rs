//! A token that lies: about mechanisms, about results, about its objects.
//!
//! Leaves the forms of a fault to the unit tests. Each lie is told to a caller that had the truth before.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::{Duration, Instant};

use common::{Caller, NO, SECRET, YES};
use cryptoki_sys::*;
use keyhaven_pkcs11_shim::names::CKM_NSS_TLS_EXTENDED_MASTER_KEY_DERIVE_DH as NSS_EXTENDED_DH;
use keyhaven_softhsm_test::{ModuleKind, Shim, TestToken, fresh_token};

fn before(token: &TestToken) -> (Shim, Caller) {
    let shim = Shim::of(token.dir(), token.module());
    let caller = Caller::new(token, &shim);
    (shim, caller)
}

/// A shared secret's mark: two secrets are the same when these are.
fn mark(caller: &Caller, secret: u64) -> Vec<u8> {
    caller.sign(CKM_SHA256_HMAC, secret, b"mark").unwrap()
}

#[test]
fn lists_a_mechanism_and_fails_at_it() {
    let token = fresh_token!();
    let (shim, caller) = before(&token);
    let honest = caller.mechanisms();
    assert!(!honest.contains(&CKM_HKDF_DERIVE) && honest.contains(&CKM_AES_GCM));
    assert!(caller.mechanism_info(CKM_HKDF_DERIVE).is_err());
    shim.set_faults(
        "C_GetMechanismList extra CKM_HKDF_DERIVE\nC_GetMechanismList extra 0x402b\n\
         C_GetMechanismList without CKM_AES_GCM\nC_GetMechanismInfo ok of CKM_HKDF_DERIVE\n\
         C_DeriveKey error 0x70 of CKM_HKDF_DERIVE",
    );
    let lied = caller.mechanisms();
    assert_eq!(lied.len(), honest.len() + 1);
    assert!(lied.contains(&CKM_HKDF_DERIVE) && lied.contains(&CKM_HKDF_DATA));
    assert!(!lied.contains(&CKM_AES_GCM));
    let flags = caller.mechanism_info(CKM_HKDF_DERIVE).unwrap();
    assert_eq!(flags & CKF_DERIVE, CKF_DERIVE);
    assert!(caller.mechanism_info(CKM_HKDF_DATA).is_err(), "not claimed");
    let base = caller.secret(&[1; 32]);
    let failed = caller.derive(
        CKM_HKDF_DERIVE,
        &mut CK_HKDF_PARAMS::default(),
        base,
        SECRET,
    );
    assert_eq!(failed, Err(CKR_MECHANISM_INVALID));
    let (public, private) = caller.pair().unwrap();
    let point = caller.attribute(public, CKA_EC_POINT).unwrap();
    caller.agree(private, &point[2..], SECRET).unwrap();
}

#[test]
fn computes_wrongly_after_so_many_calls() {
    let token = fresh_token!();
    let (shim, caller) = before(&token);
    let (public, private) = caller.pair().unwrap();
    let point = caller.attribute(public, CKA_EC_POINT).unwrap();
    let agree = || mark(&caller, caller.agree(private, &point[2..], SECRET).unwrap());
    let right = agree();
    shim.set_faults("C_DeriveKey corrupt of CKM_ECDH1_DERIVE after 2 times 1");
    assert_eq!([agree(), agree()], [right.clone(), right.clone()]);
    assert_ne!(agree(), right);
    assert_eq!(agree(), right);

    let key = caller.secret(&[5; 32]);
    let (signed, digest) = (mark(&caller, key), caller.digest(b"data").unwrap());
    shim.set_faults(
        "C_Sign corrupt of CKM_SHA256_HMAC times 1\nC_DigestFinal corrupt of CKM_SHA256\n\
         C_GetAttributeValue corrupt of CKA_EC_POINT",
    );
    let differ = |one: &[u8], other: &[u8]| {
        let bits = one.iter().zip(other).map(|(a, b)| (a ^ b).count_ones());
        (one.len() == other.len()).then(|| bits.sum::<u32>())
    };
    assert_eq!(differ(&mark(&caller, key), &signed), Some(1));
    assert_eq!(mark(&caller, key), signed);
    assert_eq!(differ(&caller.digest(b"data").unwrap(), &digest), Some(1));
    let lied = caller.attribute(public, CKA_EC_POINT).unwrap();
    assert_eq!(differ(&lied, &point), Some(1));
    assert_eq!(caller.attribute(public, CKA_CLASS).unwrap()[0], 2);
}

#[test]
fn a_derivation_that_cannot_be_altered_fails() {
    let token = fresh_token!();
    let (shim, caller) = before(&token);
    let base = caller.secret(&[1; 32]);
    shim.set_faults("C_DeriveKey corrupt");
    let failed = caller.derive(CKM_AES_ECB_ENCRYPT_DATA, &mut [0_u8; 16], base, SECRET);
    assert_eq!(failed, Err(CKR_FUNCTION_FAILED));
}

#[test]
fn nss_expands_wrongly_and_gives_wrong_data() {
    expands_wrongly(&fresh_token!(kind: ModuleKind::Nss));
}

#[test]
fn kryoptic_expands_wrongly_and_gives_wrong_data() {
    if ModuleKind::Kryoptic.is_there() {
        expands_wrongly(&fresh_token!(kind: ModuleKind::Kryoptic));
    }
}

fn expands_wrongly(token: &TestToken) {
    let (shim, caller) = before(token);
    let base = caller.secret(&[1; 32]);
    let mut info = *b"info";
    let mut expand = CK_HKDF_PARAMS {
        bExpand: CK_TRUE,
        prfHashMechanism: CKM_SHA256,
        pInfo: info.as_mut_ptr(),
        ulInfoLen: 4,
        ..CK_HKDF_PARAMS::default()
    };
    let template: &[(CK_ATTRIBUTE_TYPE, &[u8])] = &[
        (CKA_CLASS, &CKO_DATA.to_ne_bytes()),
        (CKA_TOKEN, NO),
        (CKA_VALUE_LEN, &(16 as CK_ULONG).to_ne_bytes()),
    ];
    let mut data = || {
        let object = caller.derive(CKM_HKDF_DATA, &mut expand, base, template);
        caller.attribute(object.unwrap(), CKA_VALUE).unwrap()
    };
    let right = data();
    shim.set_faults("C_DeriveKey corrupt of CKM_HKDF_DATA");
    assert_ne!(data(), right);
    shim.set_faults("C_GetAttributeValue corrupt");
    let wrong = data();
    assert!(
        wrong != right && wrong[1..8] == right[1..8],
        "one bit of it"
    );
    shim.clear_faults();
    assert_eq!(data(), right);

    let mut salt = [3; 8];
    let mut extract = CK_HKDF_PARAMS {
        bExtract: CK_TRUE,
        prfHashMechanism: CKM_SHA256,
        ulSaltType: CKF_HKDF_SALT_DATA,
        pSalt: salt.as_mut_ptr(),
        ulSaltLen: 8,
        ..CK_HKDF_PARAMS::default()
    };
    let mut extract = || {
        let secret = caller.derive(CKM_HKDF_DERIVE, &mut extract, base, SECRET);
        mark(&caller, secret.unwrap())
    };
    let right = extract();
    shim.set_faults("C_DeriveKey corrupt of CKM_HKDF_DERIVE times 1");
    assert_ne!(extract(), right);
    assert_eq!(extract(), right);
}

#[test]
fn every_derivation_of_a_key_schedule_can_be_wrong() {
    let token = fresh_token!(kind: ModuleKind::Nss);
    let (shim, caller) = before(&token);
    let different: Vec<u8> = (0..48).collect();
    let (base, second) = (caller.secret(&different), caller.secret(&[2; 32]));
    let mut bytes = [4; 48];
    let mut string = CK_KEY_DERIVATION_STRING_DATA {
        pData: bytes.as_mut_ptr(),
        ulLen: 48,
    };
    let mut extended = CK_TLS12_EXTENDED_MASTER_KEY_DERIVE_PARAMS {
        prfHashMechanism: CKM_SHA256,
        pSessionHash: bytes.as_mut_ptr(),
        ulSessionHashLen: 32,
        pVersion: std::ptr::null_mut(),
    };
    let mut master = CK_TLS12_MASTER_KEY_DERIVE_PARAMS {
        RandomInfo: CK_SSL3_RANDOM_DATA {
            pClientRandom: bytes.as_mut_ptr(),
            ulClientRandomLen: 32,
            pServerRandom: bytes.as_mut_ptr(),
            ulServerRandomLen: 32,
        },
        pVersion: std::ptr::null_mut(),
        prfHashMechanism: CKM_SHA256,
    };
    let mut no_salt = CK_HKDF_PARAMS {
        bExtract: CK_TRUE,
        prfHashMechanism: CKM_SHA256,
        ulSaltType: CKF_HKDF_SALT_NULL,
        ..CK_HKDF_PARAMS::default()
    };
    let mut key = second;
    let mut bit: CK_EXTRACT_PARAMS = 64;
    let template = &SECRET[..SECRET.len() - 1];
    let mut derive = |kind| {
        let derived = match kind {
            CKM_CONCATENATE_BASE_AND_KEY => caller.derive(kind, &mut key, base, template),
            CKM_EXTRACT_KEY_FROM_KEY => caller.derive(kind, &mut bit, base, SECRET),
            CKM_TLS12_MASTER_KEY_DERIVE_DH => caller.derive(kind, &mut master, base, template),
            NSS_EXTENDED_DH => caller.derive(kind, &mut extended, base, template),
            CKM_HKDF_DERIVE => caller.derive(kind, &mut no_salt, base, SECRET),
            _ => caller.derive(kind, &mut string, base, template),
        };
        let secret = derived.unwrap_or_else(|rv| panic!("{kind:#x}: {rv:#x}"));
        mark(&caller, secret)
    };
    for kind in [
        CKM_CONCATENATE_BASE_AND_KEY,
        CKM_CONCATENATE_BASE_AND_DATA,
        CKM_CONCATENATE_DATA_AND_BASE,
        CKM_XOR_BASE_AND_DATA,
        CKM_EXTRACT_KEY_FROM_KEY,
        CKM_TLS12_MASTER_KEY_DERIVE_DH,
        NSS_EXTENDED_DH,
        CKM_HKDF_DERIVE,
    ] {
        shim.clear_faults();
        let right = derive(kind);
        assert_eq!(derive(kind), right, "{kind:#x}");
        shim.set_faults(&format!("C_DeriveKey corrupt of {kind:#x}"));
        assert_ne!(derive(kind), right, "{kind:#x}");
    }
}

#[test]
fn a_readable_secret_that_says_it_is_not() {
    let token = fresh_token!();
    let (shim, caller) = before(&token);
    let (public, private) = caller.pair().unwrap();
    let point = caller.attribute(public, CKA_EC_POINT).unwrap();
    let flags = |object| {
        [CKA_SENSITIVE, CKA_EXTRACTABLE, CKA_NEVER_EXTRACTABLE]
            .map(|kind| caller.attribute(object, kind).unwrap()[0])
    };
    let honest = caller.agree(private, &point[2..], SECRET).unwrap();
    assert!(caller.attribute(honest, CKA_VALUE).is_err());
    let said = flags(honest);
    assert_eq!(said[..2], [1, 0]);
    assert_eq!(shim.report().readable(), 0);

    shim.set_faults("C_DeriveKey readable of CKM_ECDH1_DERIVE");
    let liar = caller.agree(private, &point[2..], SECRET).unwrap();
    assert_eq!(flags(liar), [1, 0, 1], "as it was asked for");
    assert_eq!(caller.attribute(liar, CKA_VALUE).unwrap().len(), 32);
    assert_eq!(mark(&caller, liar), mark(&caller, honest), "a good secret");
    assert_eq!(
        shim.report().readable(),
        1,
        "the module itself is not deceived"
    );
    caller.destroy(liar);

    shim.set_faults("C_DeriveKey readable-shown");
    let open = caller.agree(private, &point[2..], SECRET).unwrap();
    assert_eq!(flags(open)[..2], [0, 1]);

    shim.set_faults("C_GenerateKeyPair readable");
    let (_, private) = caller.pair().unwrap();
    assert_eq!(flags(private), [1, 0, 1]);
    assert!(caller.attribute(private, CKA_VALUE).is_ok());
}

#[test]
fn a_data_object_cannot_be_made_more_readable() {
    let token = fresh_token!();
    let (shim, caller) = before(&token);
    shim.set_faults("C_CreateObject readable");
    let made = caller.create(&[
        (CKA_CLASS, &CKO_DATA.to_ne_bytes()),
        (CKA_TOKEN, NO),
        (CKA_PRIVATE, YES),
        (CKA_VALUE, b"x"),
    ]);
    assert!(made.is_ok(), "{made:?}");
}

#[test]
fn is_slow_with_one_mechanism() {
    let token = fresh_token!();
    let (shim, caller) = before(&token);
    let key = caller.secret(&[5; 48]);
    shim.set_faults("C_Sign hang 300 of CKM_SHA384_HMAC");
    caller.sign(CKM_SHA256_HMAC, key, b"m").unwrap();
    assert_eq!(shim.report().faults(), 0);
    let start = Instant::now();
    caller.sign(CKM_SHA384_HMAC, key, b"m").unwrap();
    assert!(start.elapsed() >= Duration::from_millis(300));
    assert_eq!(shim.report().faults(), 1);
}
