//! The life of a managed key: made, imported, rotated, disabled, revoked, destroyed; and everything it can be asked for.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use keyhaven_tests::daemon::field;
use keyhaven_tests::kms::{Class, Kms, World, done, named, spiffe, world};
use keyhaven_types::{Secret, SignatureScheme};
use keyhaven_wire::kms::{DataUse, Done, Task, TaskError};
use rcgen::KeyPair;
use serde_json::Value;

fn one_site() -> World {
    world()
        .class(Class::new("all", &["eu"]))
        .site("fra", "eu")
        .start()
}

/// Creates a key for everything that its purpose allows.
fn make(world: &World, name: &str, kind: &str, purpose: &str, operations: &[&str]) {
    world.create_key(name, kind, purpose, "all");
    world.grant(&spiffe("client", "shop"), name, operations);
}

fn verify(key: &str, version: Option<u32>, message: &[u8], signature: &[u8]) -> Task {
    Task::Verify {
        key: named(key),
        version,
        scheme: Some(SignatureScheme::EcdsaSecp256r1Sha256),
        message: message.to_vec(),
        signature: signature.to_vec(),
    }
}

fn encrypt(key: &str, plaintext: &[u8], aad: &[u8]) -> Task {
    Task::Encrypt {
        key: named(key),
        plaintext: Secret::copy_from(plaintext),
        aad: aad.to_vec(),
    }
}

fn decrypt(key: &str, version: Option<u32>, ciphertext: &[u8], aad: &[u8]) -> Task {
    Task::Decrypt {
        key: named(key),
        version,
        ciphertext: ciphertext.to_vec(),
        aad: aad.to_vec(),
    }
}

fn ciphertext(done: &Done) -> (u32, Vec<u8>) {
    match done {
        Done::Ciphertext {
            version,
            ciphertext,
        } => (*version, ciphertext.clone()),
        other => panic!("no ciphertext: {other:?}"),
    }
}

fn plaintext(done: &Done) -> Vec<u8> {
    match done {
        Done::Plaintext { plaintext, .. } => plaintext.expose_secret().to_vec(),
        other => panic!("no plaintext: {other:?}"),
    }
}

/// Asks until the answer is this one: a change travels.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        thread::sleep(Duration::from_millis(30));
    }
}

#[test]
fn m8_every_operation_is_done_with_the_key_that_is_for_it() {
    let world = one_site();
    for (name, kind) in [
        ("ec", "ec-p256"),
        ("ec384", "ec-p384"),
        ("rsa", "rsa-2048"),
        ("rsa4096", "rsa-4096"),
    ] {
        make(&world, name, kind, "sign", &["sign", "verify"]);
    }
    make(&world, "data", "aes-256", "data", &["encrypt", "decrypt"]);
    make(
        &world,
        "oaep",
        "rsa-3072",
        "decrypt",
        &["encrypt", "decrypt"],
    );
    make(&world, "mac", "hmac", "mac", &["mac", "verify"]);
    make(&world, "wrap", "aes-256", "wrap", &["wrap", "unwrap"]);
    world.admin(&[
        "kms",
        "grant",
        "set",
        &spiffe("client", "shop"),
        "--op",
        "random",
    ]);
    world.settle();
    let mut shop = world.client("shop", "fra");
    for (key, schemes) in [
        ("ec", &[SignatureScheme::EcdsaSecp256r1Sha256][..]),
        ("ec384", &[SignatureScheme::EcdsaSecp384r1Sha384]),
        (
            "rsa",
            &[
                SignatureScheme::RsaPssRsaeSha256,
                SignatureScheme::RsaPssRsaeSha512,
                SignatureScheme::RsaPkcs1Sha256,
            ],
        ),
        ("rsa4096", &[SignatureScheme::RsaPssRsaeSha384]),
    ] {
        for &scheme in schemes {
            let signed = shop.one(Task::Sign {
                key: named(key),
                scheme,
                message: b"message".to_vec(),
            });
            let Ok(Done::Signature { signature, .. }) = signed else {
                panic!("{key} {scheme:?}: {signed:?}");
            };
            let mut check = |message: &[u8]| {
                shop.one(Task::Verify {
                    key: named(key),
                    version: None,
                    scheme: Some(scheme),
                    message: message.to_vec(),
                    signature: signature.clone(),
                })
            };
            assert!(matches!(
                check(b"message"),
                Ok(Done::Verified { valid: true, .. })
            ));
            assert!(matches!(
                check(b"massage"),
                Ok(Done::Verified { valid: false, .. })
            ));
        }
    }
    for (key, aad) in [("data", &b"context"[..]), ("oaep", b"")] {
        let sealed = ciphertext(&shop.one(encrypt(key, b"secret text", aad)).unwrap()).1;
        let opened = shop.one(decrypt(key, None, &sealed, aad)).unwrap();
        assert_eq!(plaintext(&opened), b"secret text", "{key}");
        let mut altered = sealed.clone();
        altered[0] ^= 1;
        let refused = shop.one(decrypt(key, None, &altered, aad));
        assert!(
            matches!(refused, Err(TaskError::Input)),
            "{key}: {refused:?}"
        );
    }
    let other_context = {
        let sealed = ciphertext(&shop.one(encrypt("data", b"x", b"a")).unwrap()).1;
        shop.one(decrypt("data", None, &sealed, b"b"))
    };
    assert!(matches!(other_context, Err(TaskError::Input)));
    let mac = shop.mac("mac", b"message").unwrap();
    assert_eq!(mac.len(), 32);
    let good = shop.one(Task::Verify {
        key: named("mac"),
        version: None,
        scheme: None,
        message: b"message".to_vec(),
        signature: mac,
    });
    assert!(
        matches!(good, Ok(Done::Verified { valid: true, .. })),
        "{good:?}"
    );
    let wrapped = match shop.one(Task::Wrap { key: named("wrap") }).unwrap() {
        Done::Wrapped { wrapped, .. } => wrapped,
        other => panic!("{other:?}"),
    };
    let mut unwrap = |use_for| {
        shop.one(Task::Unwrap {
            key: named("wrap"),
            version: None,
            wrapped: wrapped.clone(),
            use_for,
        })
    };
    let sealed = unwrap(DataUse::Encrypt {
        plaintext: Secret::copy_from(b"under a data key"),
        aad: Vec::new(),
    });
    let sealed = ciphertext(&sealed.unwrap()).1;
    let opened = unwrap(DataUse::Decrypt {
        ciphertext: sealed,
        aad: Vec::new(),
    });
    assert_eq!(plaintext(&opened.unwrap()), b"under a data key");
    let random = shop.one(Task::Random { bytes: 64 });
    assert!(matches!(random, Ok(Done::Random { bytes }) if bytes.len() == 64));
}

#[test]
fn m8_results_come_in_the_order_of_the_operations() {
    let world = one_site();
    make(&world, "mac", "hmac", "mac", &["mac"]);
    make(&world, "ec", "ec-p256", "sign", &["sign"]);
    world.settle();
    let mut tasks = Vec::new();
    for number in 0..20_u8 {
        tasks.push(Task::Mac {
            key: named("mac"),
            message: vec![number % 3],
        });
        tasks.push(Task::Sign {
            key: named(if number % 2 == 0 { "ec" } else { "absent" }),
            scheme: SignatureScheme::EcdsaSecp256r1Sha256,
            message: vec![number],
        });
    }
    let results = world.client("shop", "fra").operate(tasks);
    let macs: Vec<Vec<u8>> = results
        .iter()
        .step_by(2)
        .map(|result| match done(result) {
            Done::Mac { mac, .. } => mac.clone(),
            other => panic!("{other:?}"),
        })
        .collect();
    for (number, mac) in macs.iter().enumerate() {
        assert_eq!(*mac, macs[number % 3]);
    }
    assert_ne!(macs[0], macs[1]);
    for (number, result) in results.iter().skip(1).step_by(2).enumerate() {
        assert_eq!(result.outcome.is_ok(), number % 2 == 0, "{number}");
    }
}

#[test]
fn m8_a_key_is_imported_from_a_file_with_a_warning_and_a_record_of_it() {
    let world = one_site();
    let pair = KeyPair::generate().unwrap();
    let path = world.dir().join("imported.pem");
    fs::write(&path, pair.serialize_pem()).unwrap();
    let path = path.display().to_string();
    let arguments = [
        "kms",
        "key",
        "import",
        "old",
        "--file",
        &path,
        "--purpose",
        "sign",
        "--class",
        "all",
    ];
    let output = world.try_admin(&arguments);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("cop"), "no word of copies: {said}");
    let shown = world.admin(&["kms", "key", "show", "old"]).to_string();
    assert!(shown.contains("imported-file"), "{shown}");
    world.grant(&spiffe("client", "shop"), "old", &["sign"]);
    world.settle();
    let signature = world.client("shop", "fra").sign("old", b"message").unwrap();
    let public = aws_lc_rs::signature::UnparsedPublicKey::new(
        &aws_lc_rs::signature::ECDSA_P256_SHA256_ASN1,
        pair.public_key_raw(),
    );
    public
        .verify(b"message", &signature)
        .expect("it is that key");
}

#[test]
fn m8_a_class_that_wants_generated_keys_takes_no_import() {
    let world = world()
        .class(Class::new("strict", &["eu"]).flag("--generated-only"))
        .site("fra", "eu")
        .start();
    let path = world.dir().join("imported.pem");
    fs::write(&path, KeyPair::generate().unwrap().serialize_pem()).unwrap();
    let path = path.display().to_string();
    let output = world.try_admin(&[
        "kms",
        "key",
        "import",
        "old",
        "--file",
        &path,
        "--purpose",
        "sign",
        "--class",
        "strict",
    ]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("generated"), "{said}");
}

#[test]
fn m8_an_ed25519_key_is_refused_in_clear_words_where_the_module_cannot_wrap_it() {
    let world = one_site();
    let file = world.dir().join("ed.pem");
    let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    fs::write(&file, key.serialize_pem()).unwrap();
    let file = file.display().to_string();
    for verb in [
        ["create", "ed", "--kind", "ed25519"],
        ["import", "ed", "--file", &file],
    ] {
        let place = ["--purpose", "sign", "--class", "all"];
        let output = world.try_admin(&[&["kms", "key"], &verb[..], &place].concat());
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8_lossy(&output.stderr).to_lowercase();
        assert!(
            said.contains("does not wrap keys of kind ed25519"),
            "{said}"
        );
    }
}

#[test]
fn m11_new_things_are_made_by_the_current_version_and_old_ones_open_what_they_made() {
    let world = one_site();
    make(&world, "ec", "ec-p256", "sign", &["sign", "verify"]);
    make(&world, "data", "aes-256", "data", &["encrypt", "decrypt"]);
    world.settle();
    let mut shop = world.client("shop", "fra");
    let old_signature = shop.sign("ec", b"m").unwrap();
    let (first, old_sealed) = ciphertext(&shop.one(encrypt("data", b"old", b"")).unwrap());
    assert_eq!(first, 1);
    world.admin(&["kms", "key", "rotate", "ec"]);
    world.admin(&["kms", "key", "rotate", "data"]);
    world.settle();
    let (second, sealed) = ciphertext(&shop.one(encrypt("data", b"new", b"")).unwrap());
    assert_eq!(second, 2);
    assert_eq!(
        plaintext(&shop.one(decrypt("data", None, &sealed, b"")).unwrap()),
        b"new"
    );
    assert_eq!(
        plaintext(
            &shop
                .one(decrypt("data", Some(1), &old_sealed, b""))
                .unwrap()
        ),
        b"old"
    );
    let by = |shop: &mut Kms, version| match shop.one(verify("ec", version, b"m", &old_signature)) {
        Ok(Done::Verified { valid, .. }) => Ok(valid),
        Ok(other) => panic!("{other:?}"),
        Err(error) => Err(error),
    };
    assert_eq!(by(&mut shop, Some(1)), Ok(true));
    assert_eq!(by(&mut shop, None), Ok(false));
    assert_eq!(by(&mut shop, Some(7)), Err(TaskError::Version));
    // A revoked version does nothing any more.
    world.admin(&["kms", "version", "revoke", "data", "1", "--yes"]);
    world.settle();
    let refused = shop.one(decrypt("data", Some(1), &old_sealed, b""));
    assert!(matches!(refused, Err(TaskError::State)), "{refused:?}");
    assert!(shop.one(decrypt("data", Some(2), &sealed, b"")).is_ok());
}

#[test]
fn m11_states_go_one_way() {
    let world = one_site();
    make(&world, "ec", "ec-p256", "sign", &["sign", "verify"]);
    world.settle();
    let mut shop = world.client("shop", "fra");
    let signature = shop.sign("ec", b"m").unwrap();
    world.admin(&["kms", "key", "disable", "ec"]);
    world.settle();
    assert_eq!(shop.sign("ec", b"m"), Err(TaskError::State));
    assert!(shop.one(verify("ec", Some(1), b"m", &signature)).is_ok());
    world.admin(&["kms", "key", "revoke", "ec", "--yes"]);
    world.settle();
    let refused = shop.one(verify("ec", Some(1), b"m", &signature));
    assert!(matches!(refused, Err(TaskError::State)), "{refused:?}");
    let back = world.try_admin(&["kms", "key", "disable", "ec"]);
    assert_eq!(back.status.code(), Some(1), "a revoked key was taken back");
    world.admin(&["kms", "key", "destroy", "ec", "--yes"]);
    world.settle();
    assert_eq!(shop.sign("ec", b"m"), Err(TaskError::State));
    let shown = world.admin(&["kms", "key", "show", "ec"]).to_string();
    assert!(shown.contains("destroyed"), "{shown}");
    until("the destroyed key's wrap leaves nothing to use", || {
        shop.sign("ec", b"m").is_err()
    });
}

#[test]
fn m8_a_withdrawn_grant_ends_what_it_allowed() {
    let world = one_site();
    make(&world, "ec", "ec-p256", "sign", &["sign"]);
    world.settle();
    let mut shop = world.client("shop", "fra");
    assert!(shop.sign("ec", b"m").is_ok());
    world.admin(&[
        "kms",
        "grant",
        "withdraw",
        &spiffe("client", "shop"),
        "--key",
        "ec",
    ]);
    world.settle();
    assert_eq!(shop.sign("ec", b"m"), Err(TaskError::Denied));
}

#[test]
fn m8_every_change_by_an_operator_is_in_the_audit_log() {
    let world = one_site();
    make(&world, "ec", "ec-p256", "sign", &["sign"]);
    world.admin(&["kms", "key", "rotate", "ec"]);
    world.admin(&["kms", "key", "revoke", "ec", "--yes"]);
    let lines = world.central().running().log();
    let audit: Vec<Value> = lines
        .iter()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|line| field(line, "event").as_deref() == Some("admin"))
        .collect();
    for line in &audit {
        assert_eq!(
            field(line, "caller").as_deref(),
            Some(keyhaven_tests::kms::ADMIN),
            "{line}"
        );
    }
    // Class, site, key, grant, rotation, revocation at least.
    assert!(audit.len() >= 6, "{audit:?}");
    let refused = world.try_admin(&["kms", "key", "rotate", "nothing"]);
    assert_eq!(refused.status.code(), Some(1));
}
