//! What the tests over a real token share: opening it, making keys, and software at the other end.
//!
//! Every test has a fresh token in its own process. Nothing here asserts the behaviour under test.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "each test file uses its part of this module, and a helper of a test fails by panicking"
)]

pub mod vault;

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use aws_lc_rs::{
    agreement::{self, ECDH_P256, ECDH_P384, PrivateKey as SoftwareKey, UnparsedPublicKey, X25519},
    hmac,
};
use keyhaven_hsm::{Error, Module, Pin, Token, Uri, Worker, Workers};
use keyhaven_softhsm_test::TestToken;
use keyhaven_types::{HashAlgorithm, NamedGroup};

/// Opens the token with its PIN.
pub fn open(test: &TestToken) -> Token {
    open_with(test, &test.uri(), test.pin()).unwrap()
}

pub fn open_with(test: &TestToken, uri: &str, pin: &str) -> Result<Token, Error> {
    let module = Module::load_with(Some(test.module()), test.init_args().as_deref()).unwrap();
    Token::open(&module, &uri.parse().unwrap(), Pin::new(pin.to_owned()))
}

/// Opens the token by way of this module: one that stands before the token's own.
pub fn open_module(test: &TestToken, module: &Path) -> Token {
    let module = Module::load_with(Some(module), test.init_args().as_deref()).unwrap();
    let pin = Pin::new(test.pin().to_owned());
    Token::open(&module, &test.uri().parse().unwrap(), pin).unwrap()
}

/// Makes a key of this kind (`ec256`, `ec384`, `rsa2048`, `rsa3072`, `ed25519`) outside and imports it; gives its
/// public part.
pub fn import(test: &TestToken, kind: &str, label: &str, id: &str) -> Vec<u8> {
    let args: &[&str] = match kind {
        "ec256" => &["EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
        "ec384" => &["EC", "-pkeyopt", "ec_paramgen_curve:P-384"],
        "rsa2048" => &["RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
        "rsa3072" => &["RSA", "-pkeyopt", "rsa_keygen_bits:3072"],
        "ed25519" => &["ED25519"],
        other => panic!("no kind {other}"),
    };
    let pem = scratch(test, &format!("{label}-{id}.pem"));
    openssl(&["genpkey", "-algorithm"], args, &["-out", path(&pem)]);
    test.import_pem(&pem, label, id).unwrap();
    let der = pem.with_extension("der");
    openssl(
        &["pkey", "-in", path(&pem)],
        &["-pubout", "-outform", "DER"],
        &["-out", path(&der)],
    );
    std::fs::read(der).unwrap()
}

fn openssl(a: &[&str], b: &[&str], c: &[&str]) {
    let done = Command::new("openssl")
        .args(a)
        .args(b)
        .args(c)
        .output()
        .unwrap();
    assert!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
}

fn scratch(test: &TestToken, name: &str) -> PathBuf {
    test.dir().join(name)
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

pub fn uri(text: &str) -> Uri {
    text.parse().unwrap()
}

pub fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

/// Runs a job on a worker and gives its result.
pub fn on_worker<T: Send + 'static>(
    workers: &Workers,
    job: impl FnOnce(&Worker) -> T + Send + 'static,
) -> T {
    runtime().block_on(workers.run(soon(), job)).unwrap()
}

pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// Waits for a state that is reached for sure.
pub fn wait_for(what: &str, state: impl Fn() -> bool) {
    let until = soon();
    while !state() {
        assert!(Instant::now() < until, "{what} never came");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub fn software_key(group: NamedGroup) -> (SoftwareKey, Vec<u8>) {
    let key = SoftwareKey::generate(algorithm(group)).unwrap();
    let public = key.compute_public_key().unwrap().as_ref().to_vec();
    (key, public)
}

pub fn software_agree(key: &SoftwareKey, group: NamedGroup, peer: &[u8]) -> Vec<u8> {
    let peer = UnparsedPublicKey::new(algorithm(group), peer);
    agreement::agree(key, peer, (), |secret| Ok(secret.to_vec())).unwrap()
}

fn algorithm(group: NamedGroup) -> &'static agreement::Algorithm {
    match group {
        NamedGroup::Secp256r1 => &ECDH_P256,
        NamedGroup::Secp384r1 => &ECDH_P384,
        NamedGroup::X25519 => &X25519,
    }
}

pub fn software_hmac(hash: HashAlgorithm, key: &[u8], data: &[u8]) -> Vec<u8> {
    let algorithm = match hash {
        HashAlgorithm::Sha256 => hmac::HMAC_SHA256,
        HashAlgorithm::Sha384 => hmac::HMAC_SHA384,
    };
    hmac::sign(&hmac::Key::new(algorithm, key), data)
        .as_ref()
        .to_vec()
}

/// P_hash of RFC 5246, section 5, written down once more.
pub fn software_prf(
    hash: HashAlgorithm,
    secret: &[u8],
    label: &[u8],
    seed: &[u8],
    len: usize,
) -> Vec<u8> {
    let seed = [label, seed].concat();
    let (mut a, mut out) = (seed.clone(), Vec::new());
    while out.len() < len {
        a = software_hmac(hash, secret, &a);
        out.extend(software_hmac(
            hash,
            secret,
            &[a.clone(), seed.clone()].concat(),
        ));
    }
    out.truncate(len);
    out
}

/// HKDF-Expand of RFC 5869, section 2.3, of one block at most.
pub fn software_expand(hash: HashAlgorithm, secret: &[u8], info: &[u8], len: usize) -> Vec<u8> {
    let mut block = software_hmac(hash, secret, &[info, &[1]].concat());
    block.truncate(len);
    block
}

/// An HkdfLabel of RFC 8446, section 7.1.
pub fn hkdf_label(label: &str, context: &[u8], len: usize) -> Vec<u8> {
    let label = format!("tls13 {label}");
    let mut info = u16::try_from(len).unwrap().to_be_bytes().to_vec();
    info.push(u8::try_from(label.len()).unwrap());
    info.extend(label.bytes());
    info.push(u8::try_from(context.len()).unwrap());
    info.extend(context);
    info
}

/// An exchange with software: the token's secret, and the same bytes.
pub fn agreed(
    worker: &Worker,
    token: &Token,
    group: NamedGroup,
) -> (keyhaven_hsm::TokenSecret, Vec<u8>) {
    let exchange = worker.generate_exchange(token, group).unwrap();
    let (software, public) = software_key(group);
    let secret = worker.agree(&exchange, &public).unwrap();
    let z = software_agree(&software, group, exchange.public_value());
    (secret, z)
}
