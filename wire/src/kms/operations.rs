//! Operations with managed keys: several in one request, results in their order.
//!
//! A request goes as it is, or signed by its caller so that the server may pass it on (security rule M1).

use keyhaven_types::{Identity, Name, Secret, SignatureScheme};
use serde::{Deserialize, Serialize};

use super::replication::KeyRef;

/// One operation.
#[derive(Debug, Serialize, Deserialize)]
pub enum Task {
    /// Signs a message with the current version.
    Sign {
        /// With which key.
        key: KeyRef,
        /// How.
        scheme: SignatureScheme,
        /// What; it is hashed at the server.
        message: Vec<u8>,
    },
    /// Verifies a signature, or an HMAC.
    Verify {
        /// With which key.
        key: KeyRef,
        /// With which version; none: the current one.
        version: Option<u32>,
        /// How it was signed; none for an HMAC.
        scheme: Option<SignatureScheme>,
        /// What was signed.
        message: Vec<u8>,
        /// The signature or HMAC.
        signature: Vec<u8>,
    },
    /// Encrypts with the current version.
    Encrypt {
        /// With which key.
        key: KeyRef,
        /// What.
        plaintext: Secret,
        /// Bound to the ciphertext; empty for RSA-OAEP.
        aad: Vec<u8>,
    },
    /// Decrypts.
    Decrypt {
        /// With which key.
        key: KeyRef,
        /// With which version; none: the current one.
        version: Option<u32>,
        /// What [`Task::Encrypt`] gave.
        ciphertext: Vec<u8>,
        /// As given to [`Task::Encrypt`].
        aad: Vec<u8>,
    },
    /// HMAC-SHA-256 of a message with the current version.
    Mac {
        /// With which key.
        key: KeyRef,
        /// Of what.
        message: Vec<u8>,
    },
    /// Makes a data key (AES-256) in the token and gives it wrapped with the current version.
    Wrap {
        /// With which key.
        key: KeyRef,
    },
    /// Uses a wrapped data key once, inside the token.
    Unwrap {
        /// With which key it was wrapped.
        key: KeyRef,
        /// With which version; none: the current one.
        version: Option<u32>,
        /// What [`Task::Wrap`] gave.
        wrapped: Vec<u8>,
        /// What to do with the data key.
        use_for: DataUse,
    },
    /// Random bytes of the server's token.
    Random {
        /// How many, 1 to 1,024.
        bytes: u16,
    },
}

/// What to do with a data key, AES-256-GCM.
#[derive(Debug, Serialize, Deserialize)]
pub enum DataUse {
    /// Encrypt.
    Encrypt {
        /// What.
        plaintext: Secret,
        /// Bound to the ciphertext.
        aad: Vec<u8>,
    },
    /// Decrypt.
    Decrypt {
        /// What.
        ciphertext: Vec<u8>,
        /// As given when it was encrypted.
        aad: Vec<u8>,
    },
}

/// What became of one operation.
#[derive(Debug, Serialize, Deserialize)]
pub struct TaskResult {
    /// The site where it ran, or was refused.
    pub server: Name,
    /// The result.
    pub outcome: Result<Done, TaskError>,
}

/// What an operation gave.
#[derive(Debug, Serialize, Deserialize)]
pub enum Done {
    /// A signature as TLS has it: RSA and Ed25519 as they are, ECDSA as DER.
    Signature {
        /// By this version.
        version: u32,
        /// The signature.
        signature: Vec<u8>,
    },
    /// Whether a signature or HMAC is good.
    Verified {
        /// By this version.
        version: u32,
        /// Whether it is.
        valid: bool,
    },
    /// AES-GCM: 12 bytes of IV, the ciphertext, 16 bytes of tag; or RSA-OAEP.
    Ciphertext {
        /// By this version.
        version: u32,
        /// The ciphertext.
        ciphertext: Vec<u8>,
    },
    /// What was encrypted.
    Plaintext {
        /// By this version.
        version: u32,
        /// The plaintext.
        plaintext: Secret,
    },
    /// An HMAC-SHA-256.
    Mac {
        /// By this version.
        version: u32,
        /// 32 bytes.
        mac: Vec<u8>,
    },
    /// A wrapped data key (RFC 5649).
    Wrapped {
        /// By this version.
        version: u32,
        /// The blob.
        wrapped: Vec<u8>,
    },
    /// Random bytes.
    Random {
        /// The bytes.
        bytes: Secret,
    },
}

/// Why an operation was not done. Details stay in the server's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
pub enum TaskError {
    /// There is no such key, or this caller may not do this with it: the two look the same.
    #[error("no such key, or no grant for this operation with it")]
    Denied,
    /// The key is not for this operation, or its version's state does not allow it.
    #[error("the key's purpose or its version's state does not allow it")]
    State,
    /// There is no such version.
    #[error("the key has no such version")]
    Version,
    /// The input is not one for this operation: wrong scheme, wrong size, does not decrypt.
    #[error("the input is not good for this operation with this key")]
    Input,
    /// The server may not use the key now: its serving lease is over, and central is out of reach.
    #[error("the server's serving lease is over; it must reach central first, or was thrown out")]
    Lease,
    /// The key is not at this server and could not be had.
    #[error("the key is not at this server, which does not hold its class or could not fetch it")]
    NotHere,
    /// The server is at its limit.
    #[error("the server is busy")]
    Busy,
    /// The token does not answer.
    #[error("the server's token is unavailable")]
    Unavailable,
    /// Something failed inside the server.
    #[error("the server failed")]
    Internal,
}

/// Operations of one caller, done in their order.
#[derive(Debug, Serialize, Deserialize)]
pub struct Batch {
    /// The operations.
    pub tasks: Vec<Task>,
}

/// A batch that its caller has signed, so that the server may pass operations on to another one.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SignedBatch {
    /// The caller's certificate and what leads to the private CA, DER, leaf first.
    pub chain: Vec<Vec<u8>>,
    /// postcard of a [`BatchBody`].
    pub body: Vec<u8>,
    /// How it is signed.
    pub scheme: SignatureScheme,
    /// By the certificate's key over [`batch_text`] of the body.
    pub signature: Vec<u8>,
}

/// What is signed for a batch.
pub fn batch_text(body: &[u8]) -> Vec<u8> {
    [b"keyhaven batch 1\0", body].concat()
}

/// What a caller signs.
#[derive(Debug, Serialize, Deserialize)]
pub struct BatchBody {
    /// Who asks; the certificate's identity.
    pub caller: Identity,
    /// The server that is asked, and the only one that may pass it on.
    pub server: Identity,
    /// Random; no server takes one twice.
    pub nonce: [u8; 16],
    /// Until when it is good, milliseconds since 1970; at most a minute ahead.
    pub expires_ms: u64,
    /// The operations.
    pub tasks: Vec<Task>,
}

/// Operations that a server passes on: it never goes further from there.
#[derive(Debug, Serialize, Deserialize)]
pub struct PassedOn {
    /// As the caller signed it.
    pub batch: SignedBatch,
    /// Which of its operations are meant, by their numbers from 0, ascending.
    pub which: Vec<u16>,
}
