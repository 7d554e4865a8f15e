//! Central at work, and what is in the blobs that it gives.

use aws_lc_rs::hmac;
use keyhaven_hsm::{
    Worker, Workers,
    managed::{CentralToken, PublicPart, Spec},
};
use keyhaven_softhsm_test::TestToken;
use keyhaven_types::Purpose;

use super::{open, session_objects, wrap};
use crate::common::on_worker;

/// Runs a job with central's token on a worker, after which nothing of it is left in the token.
pub fn at_central(test: &TestToken, job: impl FnOnce(&Worker, &CentralToken) + Send + 'static) {
    let central = open(test);
    let workers = Workers::start(1, 8).unwrap();
    let asked = central.clone();
    on_worker(&workers, move |worker| job(worker, &asked));
    assert_eq!(session_objects(test), 0, "an object was left");
    assert_eq!(central.token().live_ephemerals(), 0);
    assert!(central.token().is_alive());
}

/// Whether the bytes are the key with this public part.
pub fn is_key(spec: &Spec, bytes: &[u8], public: &PublicPart) -> bool {
    match public {
        PublicPart::Spki(spki) => has_public_part(bytes, spki),
        PublicPart::Kcv(value) => {
            let computed = match spec.purpose {
                Purpose::Data => {
                    let mut text = vec![0; 8];
                    gcm(bytes, &mut text);
                    text
                }
                Purpose::Wrap => wrap(bytes, b"keyhaven: a probe that all know."),
                _ => hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, bytes), b"keyhaven kcv")
                    .as_ref()
                    .to_vec(),
            };
            bytes.len() == 32 && computed[..8] == value[..]
        }
    }
}

fn gcm(key: &[u8], text: &mut Vec<u8>) {
    use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).unwrap());
    let nonce = Nonce::assume_unique_for_key(*b"keyhaven kcv");
    key.seal_in_place_append_tag(nonce, Aad::empty(), text)
        .unwrap();
}

/// By openssl, which reads every PKCS#8.
fn has_public_part(pkcs8: &[u8], spki: &[u8]) -> bool {
    use std::{
        io::Write as _,
        process::{Command, Stdio},
    };
    let mut child = Command::new("openssl")
        .args(["pkey", "-inform", "DER", "-pubout", "-outform", "DER"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(pkcs8).unwrap();
    child.wait_with_output().unwrap().stdout == spki
}
