//! Key schedules for rustls: the first derivation from the shared secret in the token, the rest in software.
//!
//! At `premaster` rustls passes a handle where it believes to pass the shared secret; the token extracts
//! (TLS 1.3, RFC 8446 section 7.1) or runs the PRF (TLS 1.2, RFC 5246 section 5). What follows is in this
//! process's memory, as the level says. These traits are infallible: a failure is noted, random bytes stand
//! in for the value, and the engine throws the step away.

use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use keyhaven_hsm::Worker;
use keyhaven_types::{HashAlgorithm, Secret};
use rustls::{
    Error,
    crypto::{
        ActiveKeyExchange,
        hmac::Tag,
        tls12::Prf,
        tls13::{Hkdf, HkdfExpander, OkmBlock, OutputLengthError},
    },
    version::TLS12,
};

use crate::{
    context::{self, Context},
    error::Failure,
};

/// HKDF of one hash function.
pub(crate) struct Schedule13 {
    pub(crate) hash: HashAlgorithm,
    pub(crate) software: &'static dyn Hkdf,
}

impl Schedule13 {
    fn watched(expander: Box<dyn HkdfExpander>) -> Box<dyn HkdfExpander> {
        Box::new(Watched(expander))
    }

    /// HKDF-Extract with the shared secret behind a handle.
    fn extract_in_token(&self, salt: Option<&[u8]>, handle: &[u8]) -> Result<Secret, Failure> {
        let zeros = [0; 48];
        let salt = salt.unwrap_or(&zeros[..self.hash.output_len()]);
        with_secret(handle, |worker, secret| {
            worker.hkdf_extract(self.hash, salt, &[], secret)
        })
    }
}

impl Hkdf for Schedule13 {
    fn extract_from_zero_ikm(&self, salt: Option<&[u8]>) -> Box<dyn HkdfExpander> {
        Self::watched(self.software.extract_from_zero_ikm(salt))
    }

    fn extract_from_secret(&self, salt: Option<&[u8]>, secret: &[u8]) -> Box<dyn HkdfExpander> {
        if !runs_in_token() {
            return Self::watched(self.software.extract_from_secret(salt, secret));
        }
        let block = match self.extract_in_token(salt, secret) {
            Ok(extracted) => OkmBlock::new(extracted.expose_secret()),
            Err(failure) => {
                context::fail(failure);
                OkmBlock::new(&stand_in::<48>()[..self.hash.output_len()])
            }
        };
        Self::watched(self.software.expander_for_okm(&block))
    }

    fn expander_for_okm(&self, okm: &OkmBlock) -> Box<dyn HkdfExpander> {
        self.software.expander_for_okm(okm)
    }

    fn hmac_sign(&self, key: &OkmBlock, message: &[u8]) -> Tag {
        self.software.hmac_sign(key, message)
    }
}

/// An expander that shows the traffic secrets to the context as they are derived.
struct Watched(Box<dyn HkdfExpander>);

impl HkdfExpander for Watched {
    fn expand_slice(&self, info: &[&[u8]], output: &mut [u8]) -> Result<(), OutputLengthError> {
        self.0.expand_slice(info, output)
    }

    fn expand_block(&self, info: &[&[u8]]) -> OkmBlock {
        let block = self.0.expand_block(info);
        // rustls passes HkdfLabel in six parts: length, label length, "tls13 ", label, hash length, hash.
        if let &[_, _, _, label, _, transcript_hash] = info {
            context::with(|context| capture(context, label, transcript_hash, &block));
        }
        block
    }

    fn hash_len(&self) -> usize {
        self.0.hash_len()
    }
}

fn capture(context: &mut Context, label: &[u8], transcript_hash: &[u8], block: &OkmBlock) {
    let captured = &mut context.captured;
    let secret = || Some(Secret::copy_from(block.as_ref()));
    match label {
        b"c hs traffic" => captured.client_handshake = secret(),
        b"s ap traffic" => captured.server_application = secret(),
        b"c ap traffic" => {
            captured.client_application = secret();
            // Its context is the hash of everything up to the server's Finished.
            captured.transcript_hash = transcript_hash.to_vec();
        }
        _ => {}
    }
}

/// The TLS 1.2 PRF of one hash function.
pub(crate) struct Schedule12 {
    pub(crate) hash: HashAlgorithm,
    pub(crate) software: &'static dyn Prf,
}

impl Prf for Schedule12 {
    fn for_key_exchange(
        &self,
        output: &mut [u8; 48],
        exchange: Box<dyn ActiveKeyExchange>,
        peer: &[u8],
        label: &[u8],
        seed: &[u8],
    ) -> Result<(), Error> {
        if !runs_in_token() {
            return self
                .software
                .for_key_exchange(output, exchange, peer, label, seed);
        }
        let handle = exchange.complete_for_tls_version(peer, &TLS12)?;
        with_secret(handle.secret_bytes(), |worker, secret| {
            worker.tls12_prf(self.hash, secret, label, seed, output)
        })
        .map_err(|failure| {
            context::fail(failure);
            Error::General("the token failed".into())
        })
    }

    fn for_secret(&self, output: &mut [u8], secret: &[u8], label: &[u8], seed: &[u8]) {
        self.software.for_secret(output, secret, label, seed);
    }
}

fn runs_in_token() -> bool {
    context::with(|context| context.exchange.is_some()).unwrap_or(false)
}

/// Resolves a handle and does one thing with it on this thread's token session.
fn with_secret<T>(
    handle: &[u8],
    f: impl FnOnce(&Worker, &keyhaven_hsm::TokenSecret) -> Result<T, keyhaven_hsm::Error>,
) -> Result<T, Failure> {
    context::with(|context| {
        let secret = context
            .secret(handle)
            .ok_or(Failure::Engine("a secret that is not a handle"))?;
        Worker::with_current(|worker| f(worker, secret))
            .and_then(|done| done)
            .map_err(Failure::Token)
    })
    .unwrap_or(Err(Failure::Engine("a derivation outside a step")))
}

/// Bytes in place of a value that could not be derived; nothing that is made with them is ever sent.
fn stand_in<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    let _ = SystemRandom::new().fill(&mut bytes);
    bytes
}
