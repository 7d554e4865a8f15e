//! The key schedule of TLS 1.3 for rustls (RFC 8446, section 7.1): in the token as far as the level says.
//!
//! At `signature` and below an extraction at `premaster` everything is software. Above, rustls holds handles, and
//! only traffic keys, IVs and MACs come out, at `master` also the four traffic secrets. These traits are infallible:
//! a failure is noted, random bytes stand in for the value, and the engine throws the step away.

use keyhaven_types::{CustodyLevel, HashAlgorithm, Secret};
use rustls::crypto::{
    hmac::Tag,
    tls13::{Hkdf, HkdfExpander, OkmBlock, OutputLengthError},
};
use zeroize::Zeroizing;

use crate::{
    context::{self, Context, Shown},
    error::Failure,
    random::stand_in,
    secrets::{Index, Mixed, from_handle, to_handle},
};

/// HKDF of one hash function.
#[derive(Clone, Copy)]
pub(crate) struct Schedule13 {
    pub(crate) hash: HashAlgorithm,
    pub(crate) software: &'static dyn Hkdf,
}

impl Schedule13 {
    /// An expander of bytes, which shows the traffic secrets as they are derived.
    fn watched(expander: Box<dyn HkdfExpander>) -> Box<dyn HkdfExpander> {
        Box::new(Watched(expander))
    }

    fn software_expander(self, secret: &[u8]) -> Box<dyn HkdfExpander> {
        self.software.expander_for_okm(&OkmBlock::new(secret))
    }

    fn token_expander(self, secret: Result<Index, Failure>) -> Box<dyn HkdfExpander> {
        match secret {
            Ok(secret) => Box::new(TokenExpander {
                secret,
                hash: self.hash,
            }),
            Err(failure) => {
                context::fail(failure);
                self.software_expander(&self.stand_in())
            }
        }
    }

    /// HKDF-Extract where the input key material is a handle.
    fn extract_in_token(self, salt: Option<&[u8]>, secret: Index) -> Box<dyn HkdfExpander> {
        let zeros = [0; 48];
        let salt = salt.unwrap_or(&zeros[..self.hash.output_len()]);
        if context::runs_at() < CustodyLevel::Master {
            let extracted = context::with_worker(|context, worker| {
                context
                    .secrets
                    .extract_bytes(worker, self.hash, salt, secret)
            });
            return match extracted {
                Ok(bytes) => Self::watched(self.software_expander(bytes.expose_secret())),
                Err(failure) => self.token_expander(Err(failure)),
            };
        }
        let salt = from_handle(salt).map_or(Mixed::Bytes(salt), Mixed::Secret);
        self.token_expander(context::with_worker(|context, worker| {
            context.secrets.extract(worker, self.hash, salt, secret)
        }))
    }

    fn stand_in(self) -> Zeroizing<Vec<u8>> {
        stand_in(self.hash.output_len())
    }
}

impl Hkdf for Schedule13 {
    fn extract_from_zero_ikm(&self, salt: Option<&[u8]>) -> Box<dyn HkdfExpander> {
        match salt.and_then(from_handle) {
            None => Self::watched(self.software.extract_from_zero_ikm(salt)),
            Some(salt) => self.token_expander(context::with_worker(|context, worker| {
                context.secrets.extract_zeros(worker, self.hash, salt)
            })),
        }
    }

    fn extract_from_secret(&self, salt: Option<&[u8]>, secret: &[u8]) -> Box<dyn HkdfExpander> {
        if let Some(index) = from_handle(secret) {
            return self.extract_in_token(salt, index);
        }
        if salt.is_some_and(|salt| from_handle(salt).is_some()) {
            let failure = Failure::Engine("a secret outside the token under a salt inside");
            return self.token_expander(Err(failure));
        }
        Self::watched(self.software.extract_from_secret(salt, secret))
    }

    fn expander_for_okm(&self, okm: &OkmBlock) -> Box<dyn HkdfExpander> {
        match from_handle(okm.as_ref()) {
            Some(secret) => self.token_expander(Ok(secret)),
            None => self.software.expander_for_okm(okm),
        }
    }

    fn hmac_sign(&self, key: &OkmBlock, message: &[u8]) -> Tag {
        let Some(key_index) = from_handle(key.as_ref()) else {
            return self.software.hmac_sign(key, message);
        };
        match hmac(self.hash, key_index, message) {
            Ok(tag) => Tag::new(tag.expose_secret()),
            Err(failure) => {
                context::fail(failure);
                Tag::new(&self.stand_in())
            }
        }
    }
}

/// HMAC under a secret of the table.
pub(crate) fn hmac(hash: HashAlgorithm, key: Index, message: &[u8]) -> Result<Secret, Failure> {
    context::with_worker(|context, worker| {
        let mut tag = Zeroizing::new(vec![0; hash.output_len()]);
        context
            .secrets
            .leave(worker, key, message, &mut tag, |key, out| {
                worker.hmac(hash, key, message, out)
            })?;
        Ok(Secret::copy_from(&tag))
    })
}

/// HKDF-Expand of a secret of the table into bytes that leave the token: a traffic key or an IV.
pub(crate) fn expand_bytes(
    hash: HashAlgorithm,
    from: Index,
    info: &[u8],
    out: &mut [u8],
) -> Result<(), Failure> {
    context::with_worker(|context, worker| {
        context
            .secrets
            .leave(worker, from, info, out, |secret, out| {
                worker.expand_bytes(hash, secret, info, out)
            })
    })
}

/// An expander of a secret in the token.
struct TokenExpander {
    secret: Index,
    hash: HashAlgorithm,
}

impl HkdfExpander for TokenExpander {
    fn expand_slice(&self, info: &[&[u8]], output: &mut [u8]) -> Result<(), OutputLengthError> {
        // rustls asks 32 bytes for a key of 16 and says 16 in the label (RFC 8446, section 7.1): no more than the key
        // comes out, and what rustls does not use stays zero.
        let used = match info {
            [length, ..] if length.len() == 2 => {
                usize::from(u16::from_be_bytes([length[0], length[1]]))
            }
            _ => output.len(),
        };
        let used = used.min(output.len());
        output.fill(0);
        let comes_out = matches!(info.get(3).copied(), Some(b"key" | b"iv"));
        let expanded = if comes_out {
            expand_bytes(self.hash, self.secret, &info.concat(), &mut output[..used])
        } else {
            Err(Failure::Engine("bytes that are neither a key nor an IV"))
        };
        if let Err(failure) = expanded {
            context::fail(failure);
            output.copy_from_slice(&stand_in(output.len()));
        }
        Ok(())
    }

    fn expand_block(&self, info: &[&[u8]]) -> OkmBlock {
        let label = info.get(3).copied().unwrap_or_default();
        if label == EARLY_TRAFFIC {
            // rustls asks for it at each resumption, and early data is never accepted: nothing of it leaves the token.
            return OkmBlock::new(&stand_in(self.hash.output_len()));
        }
        let shown = context::expand(self.secret, self.hash, label, info.concat());
        match shown {
            Ok(shown) => {
                let block = match &shown {
                    Shown::Bytes(bytes) => OkmBlock::new(bytes.expose_secret()),
                    Shown::Handle(index) => OkmBlock::new(&to_handle(*index)),
                };
                context::with(|context| capture(context, info, shown));
                block
            }
            Err(failure) => {
                context::fail(failure);
                OkmBlock::new(&stand_in(self.hash.output_len()))
            }
        }
    }

    fn hash_len(&self) -> usize {
        self.hash.output_len()
    }
}

/// An expander of bytes that shows the traffic secrets to the context as they are derived.
struct Watched(Box<dyn HkdfExpander>);

impl HkdfExpander for Watched {
    fn expand_slice(&self, info: &[&[u8]], output: &mut [u8]) -> Result<(), OutputLengthError> {
        self.0.expand_slice(info, output)
    }

    fn expand_block(&self, info: &[&[u8]]) -> OkmBlock {
        let block = self.0.expand_block(info);
        let shown = Shown::Bytes(Secret::copy_from(block.as_ref()));
        context::with(|context| capture(context, info, shown));
        block
    }

    fn hash_len(&self) -> usize {
        self.0.hash_len()
    }
}

/// Notes a traffic secret. rustls passes HkdfLabel in six parts: length, label length, "tls13 ", label, hash length,
/// hash.
fn capture(context: &mut Context, info: &[&[u8]], shown: Shown) {
    let &[_, _, _, label, _, transcript_hash] = info else {
        return;
    };
    let captured = &mut context.captured;
    match label {
        b"c hs traffic" => captured.client_handshake = Some(shown),
        b"s ap traffic" => captured.server_application = Some(shown),
        b"c ap traffic" => {
            captured.client_application = Some(shown);
            // Its context is the hash of everything up to the server's Finished.
            captured.transcript_hash = transcript_hash.to_vec();
        }
        _ => {}
    }
}

/// client_early_traffic_secret.
const EARLY_TRAFFIC: &[u8] = b"c e traffic";
