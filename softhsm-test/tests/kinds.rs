//! A token of each kind: its keys, a signature, and nothing left of it.
//!
//! Knows a signature by OpenSSL's word, not ours. Leaves what the modules do in TLS to other rooms.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use std::{fs, thread};

use keyhaven_softhsm_test::{ModuleKind, TestToken, fresh_token};

/// A fresh token of this kind; nothing when the module is one that need not be there.
fn token_of(kind: ModuleKind) -> Option<TestToken> {
    (!left_out(kind)).then(|| TestToken::of(kind, "kinds").unwrap())
}

fn left_out(kind: ModuleKind) -> bool {
    let left_out = kind == ModuleKind::KryopticModern && !kind.is_there();
    if left_out {
        eprintln!("left out: {}", kind.module().unwrap_err());
    }
    left_out
}

/// Makes a key of each type, and has each sign where a tool can.
fn makes_keys_that_sign(kind: ModuleKind) {
    let Some(token) = token_of(kind) else { return };
    assert_eq!(token.kind(), kind);
    for (index, key_type) in token.key_types().iter().enumerate() {
        let label = format!("key {index}");
        token
            .generate_key(key_type, &label, &format!("0{index}"))
            .unwrap();
        let spki = token.public_key(&label).unwrap();
        let length = match *key_type {
            "EC:prime256v1" => 91,
            "EC:secp384r1" => 120,
            "EC:edwards25519" => 44,
            "rsa:2048" => 294,
            other => panic!("no test knows {other}"),
        };
        assert_eq!(spki.len(), length, "{key_type}");
        // What NSS signs with a new key is its certificate signing request, and `public_key` has checked it.
        if kind != ModuleKind::Nss {
            signs(&token, key_type, &label, &format!("0{index}"), &spki);
        }
    }
    assert!(token.generate_key("EC:no-such-curve", "k", "09").is_err());
}

fn signs(token: &TestToken, key_type: &str, label: &str, id: &str, spki: &[u8]) {
    let file = |name: &str| token.dir().join(name);
    fs::write(file("message"), "a message").unwrap();
    fs::write(file("spki"), spki).unwrap();
    let (mechanism, input) = match key_type {
        "rsa:2048" => ("SHA256-RSA-PKCS", "message"),
        "EC:edwards25519" => ("EDDSA", "message"),
        _ => ("ECDSA", "digest"),
    };
    succeeds(
        Command::new("openssl")
            .args(["dgst", "-sha256", "-binary", "-out"])
            .args([file("digest"), file("message")]),
    );
    let mut sign = token.pkcs11_tool();
    sign.args(["--sign", "--mechanism", mechanism, "--id", id]);
    sign.args(["--signature-format", "openssl"]);
    sign.arg("--input-file").arg(file(input));
    sign.arg("--output-file").arg(file("signature"));
    succeeds(&mut sign);
    let mut verify = Command::new("openssl");
    verify.args(["pkeyutl", "-verify", "-pubin", "-keyform", "DER", "-inkey"]);
    verify.arg(file("spki"));
    verify.arg("-sigfile").arg(file("signature"));
    match key_type {
        "EC:edwards25519" => verify.arg("-rawin").arg("-in").arg(file("message")),
        "rsa:2048" => verify
            .args(["-pkeyopt", "digest:sha256", "-in"])
            .arg(file("digest")),
        _ => verify.arg("-in").arg(file("digest")),
    };
    succeeds(&mut verify);
    fs::write(file("digest"), [0; 32]).unwrap();
    fs::write(file("message"), "another message").unwrap();
    assert!(
        !verify.output().unwrap().status.success(),
        "{label}: the signature fits anything"
    );
}

fn succeeds(command: &mut Command) {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
}

/// Drops the token; its folder and all processes that name it must be gone.
fn leaves_nothing(kind: ModuleKind) {
    let Some(token) = token_of(kind) else { return };
    let dir = token.dir().to_path_buf();
    let attached = TestToken::attach(&dir).unwrap();
    assert_eq!(
        (attached.kind(), attached.module(), attached.pin()),
        (kind, token.module(), token.pin())
    );
    let running = processes_of(&dir);
    drop(attached);
    assert!(dir.exists());
    assert_eq!(processes_of(&dir), running, "somebody else's process ended");
    assert_eq!(has_processes(kind), !running.is_empty());
    drop(token);
    assert!(!dir.exists());
    assert!(end(&dir), "{:?}", processes_of(&dir));
}

/// Runs the test once more in a process that makes a token and is killed; only its folder may be left.
fn leaves_no_process_when_killed(kind: ModuleKind, test: &str) {
    if let Some(note) = std::env::var_os("KEYHAVEN_KILLED_TEST") {
        let token = TestToken::of(kind, "kinds").unwrap();
        fs::write(note, token.dir().to_str().unwrap()).unwrap();
        succeeds(Command::new("kill").args(["-KILL", &std::process::id().to_string()]));
    }
    let own = tempfile::tempdir().unwrap();
    let note = own.path().join("note");
    let ended = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test])
        .env("KEYHAVEN_KILLED_TEST", &note)
        // What is left behind is left in a folder that goes with this process.
        .env("TMPDIR", own.path())
        .output()
        .unwrap();
    assert!(!ended.status.success());
    let dir = fs::read_to_string(note).unwrap();
    let dir = Path::new(&dir);
    assert!(dir.exists());
    assert!(end(dir), "{:?}", processes_of(dir));
}

fn has_processes(kind: ModuleKind) -> bool {
    matches!(kind, ModuleKind::Tpm2 | ModuleKind::P11Kit)
}

/// Waits until no process names this folder. Those that were killed need a moment to be gone.
fn end(dir: &Path) -> bool {
    let deadline = Instant::now() + Duration::from_secs(10);
    while Instant::now() < deadline {
        if processes_of(dir).is_empty() {
            return true;
        }
        thread::sleep(Duration::from_millis(5));
    }
    false
}

/// The command lines that name this folder.
fn processes_of(dir: &Path) -> BTreeSet<String> {
    let dir = dir.to_str().unwrap();
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| fs::read_to_string(entry.ok()?.path().join("cmdline")).ok())
        .filter(|line| line.contains(dir))
        .collect()
}

/// The child sees the token by what it has been given alone, also through the counting module.
fn is_seen_by_the_child(token: &TestToken, kind: ModuleKind) {
    assert_eq!(token.kind(), kind);
    let shim = token.shim();
    for module in [token.module(), &shim.module()] {
        let mut list = Command::new("pkcs11-tool");
        list.arg("--module").arg(module);
        list.args(["--token-label", token.label(), "--login"]);
        list.args(["--pin", token.pin(), "--list-objects"]);
        succeeds(&mut list);
    }
    assert_eq!(shim.report().calls("C_Login"), 1);
}

macro_rules! for_each_kind {
    ($($name:ident: $kind:expr,)*) => {
        $(mod $name {
            use super::*;

            #[test]
            fn makes_keys_that_sign() {
                super::makes_keys_that_sign($kind);
            }

            #[test]
            fn leaves_nothing() {
                super::leaves_nothing($kind);
            }

            #[test]
            fn runs_in_a_child() {
                // NSS starts only with arguments, and has a test of its own.
                if $kind == ModuleKind::Nss || left_out($kind) {
                    return;
                }
                let token = fresh_token!(kind: $kind);
                is_seen_by_the_child(&token, $kind);
            }
        })*
    };
}

for_each_kind! {
    softhsm2: ModuleKind::SoftHsm2,
    kryoptic: ModuleKind::Kryoptic,
    kryoptic_modern: ModuleKind::KryopticModern,
    nss: ModuleKind::Nss,
    tpm2: ModuleKind::Tpm2,
    p11kit: ModuleKind::P11Kit,
    craton: ModuleKind::Craton,
}

#[test]
fn leaves_no_tpm_when_killed() {
    leaves_no_process_when_killed(ModuleKind::Tpm2, "leaves_no_tpm_when_killed");
}

#[test]
fn leaves_no_server_when_killed() {
    leaves_no_process_when_killed(ModuleKind::P11Kit, "leaves_no_server_when_killed");
}
