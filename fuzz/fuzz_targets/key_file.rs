//! Arbitrary bytes as a key file, with and without a password: no panic, and a key that comes out has a public part
//! of its own kind.

#![no_main]

use keyhaven_signer::admin::keyfile;
use keyhaven_types::KeyAlgorithm;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for password in [None, Some("password")] {
        match keyfile::parse(bytes, password) {
            Ok(file) => {
                let spki = file.key.spki();
                match file.key.algorithm() {
                    KeyAlgorithm::Rsa(bits) => assert!((2048..=4096).contains(&bits)),
                    KeyAlgorithm::EcdsaP256 => assert_eq!(spki.len(), 91),
                    KeyAlgorithm::EcdsaP384 => assert_eq!(spki.len(), 120),
                    KeyAlgorithm::Ed25519 => assert_eq!(spki.len(), 44),
                }
                let _ = keyfile::order_chain(&spki, &file.certificates);
            }
            Err(error) => {
                let _ = (error.to_string(), error.remedy());
            }
        }
    }
    let _ = keyfile::certificates_of_pem(bytes);
});
