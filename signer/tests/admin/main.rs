//! `signer-admin` as operators run it: the real program, a real SoftHSM2 token, keys made by the real openssl.
//!
//! Every test has a token of its own; whether a key does what it should is asked of openssl and pkcs11-tool, not
//! of the code under test. Golden files are written anew with KEYHAVEN_BLESS=1.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

mod cert;
mod custody;
mod doctor;
mod doctor_site;
mod golden;
mod hostile_files;
mod import;
mod import_refused;
mod key;
mod kms;
mod kms_client;
mod probe;
mod support;
mod terminal;
mod token;
