//! NSS as a program finds it: started with its arguments, the token by its label, the key by its id.
//!
//! Calls the module from Python, because no tool for it gives arguments. Leaves everything that is not NSS's own to
//! `kinds.rs`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::process::Command;

use keyhaven_softhsm_test::{ModuleKind, TestToken};

#[test]
fn starts_with_its_arguments_and_signs_with_the_key_of_the_uri() {
    let token = TestToken::of(ModuleKind::Nss, "not its label").unwrap();
    assert_eq!(token.uri(), "pkcs11:token=NSS%20Certificate%20DB");
    token.generate_key("EC:secp384r1", "other", "01").unwrap();
    token.generate_key("EC:prime256v1", "k", "02").unwrap();
    let uri = token.key_uri("k");
    let id = uri
        .strip_prefix("pkcs11:id=")
        .and_then(|rest| rest.strip_suffix(";type=private"));
    let id = id.unwrap().replace('%', "");

    let digest = [7; 32];
    let signed = Command::new("python3")
        .args(["-c", include_str!("nss.py")])
        .arg(token.module())
        .args([&token.init_args().unwrap(), token.label(), token.pin()])
        .args([id, "07".repeat(digest.len())])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&signed.stderr);
    assert!(signed.status.success(), "{said}");
    assert_eq!(signed.stdout[0], 0x30, "no DER signature");

    let file = |name: &str| token.dir().join(name);
    fs::write(file("digest"), digest).unwrap();
    fs::write(file("signature"), signed.stdout).unwrap();
    fs::write(file("spki"), token.public_key("k").unwrap()).unwrap();
    let verified = Command::new("openssl")
        .args(["pkeyutl", "-verify", "-pubin", "-keyform", "DER", "-inkey"])
        .arg(file("spki"))
        .arg("-in")
        .arg(file("digest"))
        .arg("-sigfile")
        .arg(file("signature"))
        .output()
        .unwrap();
    assert!(verified.status.success(), "{verified:?}");
}

#[test]
fn forgets_a_deleted_key() {
    let token = TestToken::of(ModuleKind::Nss, "t").unwrap();
    token.generate_key("EC:prime256v1", "k", "01").unwrap();
    token.delete_key("k").unwrap();
    assert!(token.delete_key("k").is_err());
}
