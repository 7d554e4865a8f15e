//! Several copies of the module in one process, and the interfaces that each offers.
//!
//! Leaves what a copy hears and tells to the other tests.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::thread;

use common::{Caller, SECRET, interface};
use cryptoki_sys::*;
use keyhaven_softhsm_test::{ModuleKind, Shim, TestToken, fresh_token};

fn shim_of(token: &TestToken) -> Shim {
    Shim::of(token.dir(), token.module())
}

#[test]
fn two_copies_in_one_process_are_two_modules() {
    let signer = fresh_token!();
    let keeper = TestToken::of(ModuleKind::Nss, "keeper").unwrap();
    let (signs, keeps) = (shim_of(&signer), shim_of(&keeper));
    assert!(signs.env().is_empty(), "no variable is needed");
    signs.tap();
    let (one, other) = (Caller::new(&signer, &signs), Caller::new(&keeper, &keeps));

    let (_, private) = one.pair().unwrap();
    one.sign(CKM_ECDSA, private, &[7; 32]).unwrap();
    let base = other.secret(&[1; 32]);
    let mut parameters = CK_HKDF_PARAMS {
        bExtract: CK_TRUE,
        prfHashMechanism: CKM_SHA256,
        ulSaltType: CKF_HKDF_SALT_NULL,
        ..CK_HKDF_PARAMS::default()
    };
    let mut extract = || other.derive(CKM_HKDF_DERIVE, &mut parameters, base, SECRET);
    extract().unwrap();
    let (signed, kept) = (signs.report(), keeps.report());
    assert_eq!((signed.calls("C_Sign"), kept.calls("C_Sign")), (1, 0));
    assert_eq!(
        (signed.calls("C_DeriveKey"), kept.calls("C_DeriveKey")),
        (0, 1)
    );
    assert_eq!((signed.live(), kept.live()), (2, 2));
    assert!(!signs.tapped().is_empty() && keeps.tapped().is_empty());

    keeps.set_faults("* error 0x30");
    assert_eq!(extract(), Err(CKR_DEVICE_ERROR));
    one.sign(CKM_ECDSA, private, &[7; 32]).unwrap();
}

#[test]
fn a_copy_that_is_there_stays_as_it_is() {
    use std::os::unix::fs::MetadataExt;
    let token = TestToken::new("t").unwrap();
    let inode = |shim: &Shim| shim.module().metadata().unwrap().ino();
    let first = inode(&shim_of(&token));
    assert_eq!(inode(&shim_of(&token)), first);
    let left = std::fs::read_dir(token.dir()).unwrap().flatten();
    let shims = left.filter(|file| file.file_name().to_string_lossy().starts_with("shim."));
    assert_eq!(shims.count(), 2, "the copy and its line");
}

#[test]
fn a_module_without_interfaces_gets_the_one_of_its_list() {
    let token = fresh_token!();
    let shim = shim_of(&token);
    // SAFETY: the module is the one under test.
    let module = unsafe { Pkcs11::new(shim.module()) }.unwrap();
    let mut list = std::ptr::null_mut();
    // SAFETY: the pointer may be written.
    assert_eq!(unsafe { module.C_GetFunctionList(&mut list) }, CKR_OK);
    for (name, version) in [
        (None, None),
        (Some("PKCS 11"), None),
        (Some("PKCS 11"), Some((2, 40))),
    ] {
        assert_eq!(interface(&module, name, version), Ok(list.cast()));
    }
    for (name, version) in [(Some("PKCS 11"), Some((3, 0))), (Some("other"), None)] {
        assert_eq!(interface(&module, name, version), Err(CKR_FUNCTION_FAILED));
    }
    let mut count = 0;
    // SAFETY: without a list the count alone is written.
    let rv = unsafe { module.C_GetInterfaceList(std::ptr::null_mut(), &mut count) };
    assert_eq!((rv, count), (CKR_OK, 1));
}

#[test]
fn each_interface_of_a_module_is_counted() {
    let token = fresh_token!(kind: ModuleKind::Nss);
    let shim = shim_of(&token);
    let caller = Caller::new(&token, &shim);
    let module = &caller.module;
    let newest = interface(module, None, None).unwrap();
    let oldest = interface(module, Some("PKCS 11"), Some((2, 40))).unwrap();
    // SAFETY: a list begins with its version.
    let version = |list: *mut std::ffi::c_void| unsafe { (*list.cast::<CK_VERSION>()).major };
    assert_eq!((version(newest), version(oldest)), (3, 2));
    // SAFETY: both lists begin alike.
    let random = |list: *mut std::ffi::c_void| unsafe {
        (*list.cast::<CK_FUNCTION_LIST>()).C_GenerateRandom.unwrap()
    };
    for (before, list) in [newest, oldest].into_iter().enumerate() {
        assert_eq!(shim.report().calls("C_GenerateRandom"), before as u64);
        let mut byte = 0;
        // SAFETY: one byte may be written.
        let rv = unsafe { random(list)(caller.session, &mut byte, 1) };
        assert_eq!(rv, CKR_OK);
    }
    assert_eq!(shim.report().calls("C_GenerateRandom"), 2);
    let mut count = 0;
    // SAFETY: without a list the count alone is written, with one there is room for as many.
    let listed = unsafe {
        module.C_GetInterfaceList(std::ptr::null_mut(), &mut count);
        let mut all = vec![CK_INTERFACE::default(); count as usize];
        assert_eq!(
            module.C_GetInterfaceList(all.as_mut_ptr(), &mut count),
            CKR_OK
        );
        all
    };
    assert!(
        listed
            .iter()
            .any(|interface| interface.pFunctionList == newest)
    );
}

#[test]
fn threads_do_not_mix_their_records() {
    let token = fresh_token!();
    let shim = shim_of(&token);
    shim.tap();
    let caller = Caller::new(&token, &shim);
    let key = caller.secret(&[5; 32]);
    let sessions: Vec<_> = (0..8).map(|_| caller.open()).collect();
    let caller = &caller;
    thread::scope(|scope| {
        for (index, session) in sessions.into_iter().enumerate() {
            scope.spawn(move || {
                for round in 0..50_u8 {
                    let data = [index as u8, round];
                    caller
                        .sign_in(session, CKM_SHA256_HMAC, key, &data)
                        .unwrap();
                }
            });
        }
    });
    let tapped = shim.tapped();
    let signed: std::collections::HashSet<_> = tapped
        .iter()
        .filter(|record| record.function == "C_Sign" && record.bytes.len() == 32)
        .map(|record| record.bytes.clone())
        .collect();
    assert_eq!(signed.len(), 400, "each once, each whole");
    assert_eq!(shim.report().calls("C_Sign"), 400);
}
