//! Finding, opening, losing and getting back a real token.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{import, on_worker, open, open_with, software_key, uri, wait_for};
use keyhaven_hsm::{Error, Module, Workers};
use keyhaven_softhsm_test::fresh_token;
use keyhaven_types::{NamedGroup, SignatureScheme};

#[test]
fn a_token_is_found_by_label_serial_manufacturer_model_and_slot() {
    let test = fresh_token!("here");
    test.init("there").unwrap();
    let module = Module::load(Some(test.module())).unwrap();
    let tokens = module.tokens().unwrap();
    let here = tokens.iter().find(|token| token.label == "here").unwrap();
    assert!(here.initialized && here.user_pin_set);
    for text in [
        "pkcs11:token=here".to_owned(),
        format!("pkcs11:serial={}", here.serial),
        format!("pkcs11:slot-id={}", here.slot_id),
        "pkcs11:token=here;manufacturer=SoftHSM%20project;model=SoftHSM%20v2".to_owned(),
    ] {
        let token = open_with(&test, &text, test.pin()).unwrap();
        assert_eq!(token.info().label, "here", "{text}");
    }
    let error = open_with(&test, "pkcs11:model=SoftHSM%20v2", test.pin()).unwrap_err();
    assert!(
        matches!(&error, Error::TokenAmbiguous { found, .. } if found.len() == 2),
        "{error}"
    );
    let error = open_with(&test, "pkcs11:token=nowhere", test.pin()).unwrap_err();
    assert!(
        matches!(&error, Error::TokenNotFound { found, .. } if found.len() == 2),
        "{error}"
    );
    assert!(
        error.to_string().contains("`here`") && error.to_string().contains("`there`"),
        "{error}"
    );
}

#[test]
fn two_tokens_with_one_label_are_ambiguous() {
    let test = fresh_token!("twin");
    test.init("twin").unwrap();
    let error = open_with(&test, "pkcs11:token=twin", test.pin()).unwrap_err();
    assert!(matches!(error, Error::TokenAmbiguous { .. }), "{error}");
}

#[test]
fn a_wrong_pin_is_tried_once() {
    let test = fresh_token!();
    let error = open_with(&test, &test.uri(), "not-the-pin").unwrap_err();
    assert!(matches!(error, Error::PinRefused { .. }), "{error}");
    let text = error.to_string();
    assert!(
        text.contains("tried once") && !text.contains("not-the-pin"),
        "{text}"
    );
    // The same wrong PIN is not sent again: with the token gone from under it, the answer is still the same.
    let again = open_with(&test, &test.uri(), "not-the-pin").unwrap_err();
    assert!(matches!(again, Error::PinRefused { .. }), "{again}");
    // The right one is another matter.
    open_with(&test, &test.uri(), test.pin()).unwrap();
}

/// SoftHSM2 processes that start at once disturb each other: without the lock one in seven cannot log in.
#[test]
fn many_processes_may_start_at_once() {
    let test = fresh_token!();
    if std::env::var_os(STARTER).is_some() {
        let spki = std::fs::read(test.dir().join("k-01.der")).unwrap();
        for _ in 0..3 {
            let token = open(&test);
            token.load_key(&uri("pkcs11:object=k"), &spki).unwrap();
            token.health().unwrap();
        }
        return;
    }
    import(&test, "ec256", "k", "01");
    let children: Vec<_> = (0..12)
        .map(|_| {
            std::process::Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "many_processes_may_start_at_once"])
                .env(STARTER, "1")
                .spawn()
                .unwrap()
        })
        .collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
}

/// Tells a process of that test that it is one of the many.
const STARTER: &str = "KEYHAVEN_TEST_STARTER";

#[test]
fn a_module_is_loaded_once() {
    let test = fresh_token!();
    let (a, b) = (
        Module::load(Some(test.module())).unwrap(),
        Module::load(None).unwrap(),
    );
    assert_eq!(a.tokens().unwrap(), b.tokens().unwrap());
    assert_eq!(a.path(), b.path());
    import(&test, "ec256", "k", "01");
    let other = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "many_processes_may_start_at_once"])
        .env(STARTER, "1")
        .status();
    assert!(other.unwrap().success());
}

#[test]
fn a_token_whose_folder_is_gone_fails_clearly_and_comes_back() {
    let test = fresh_token!();
    let spki = import(&test, "ec256", "k", "01");
    let token = open(&test);
    let key = token.load_key(&uri("pkcs11:object=k"), &spki).unwrap();
    let workers = Workers::start(1, 8).unwrap();
    let sign = {
        let workers = workers.clone();
        move || {
            let key = key.clone();
            on_worker(&workers, move |worker| {
                worker.sign(&key, SignatureScheme::EcdsaSecp256r1Sha256, b"m")
            })
        }
    };
    sign().unwrap();
    token.health().unwrap();
    test.remove_dir().unwrap();
    // Session copies live in memory: only the check notices that the token itself is gone.
    let error = token.health().unwrap_err();
    assert!(error.is_unavailable(), "{error:?}");
    let error = sign().unwrap_err();
    assert!(
        error.is_unavailable() && !error.is_peer_fault(),
        "{error:?}"
    );
    test.restore_dir().unwrap();
    wait_for("the token", || token.is_alive());
    sign().unwrap();
    let (_, public) = software_key(NamedGroup::Secp256r1);
    on_worker(&workers, move |worker| {
        let exchange = worker
            .generate_exchange(&token, NamedGroup::Secp256r1)
            .unwrap();
        worker.agree(&exchange, &public).unwrap();
    });
}

/// NSS starts with arguments alone; a module has one set of them.
#[test]
fn a_module_is_started_with_one_text() {
    let test = fresh_token!(kind: keyhaven_softhsm_test::ModuleKind::Nss);
    let args = test.init_args().unwrap();
    let load = |args: Option<&str>| Module::load_with(Some(test.module()), args);
    assert!(matches!(
        load(Some("configdir='x'\0")),
        Err(Error::InitArguments { .. })
    ));
    let module = load(Some(&args)).unwrap();
    let labels = module.tokens().unwrap();
    assert!(labels.iter().any(|token| token.label == test.label()));
    load(Some(&args)).unwrap();
    for other in [Some("configdir='elsewhere'"), None] {
        let error = load(other).unwrap_err();
        assert!(matches!(error, Error::InitArguments { .. }), "{error}");
        assert!(!error.to_string().contains("configdir"), "{error}");
    }
}
