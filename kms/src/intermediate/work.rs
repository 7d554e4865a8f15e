//! Doing one operation, in the token or with the public part alone.
//!
//! Whether it may be done was decided before. Invariant: what a caller gave wrong is the caller's fault, never the token's.

use keyhaven_hsm::{
    Error, Worker,
    managed::{ManagedKey, OaepHash, oaep_encrypt, verifies},
};
use keyhaven_types::{Purpose, Secret, SignatureScheme};
use keyhaven_wire::kms::{DataUse, Done, Manifest, Public, Task, TaskError};
use subtle::ConstantTimeEq as _;

/// An operation for the token, with inputs of its own.
pub(super) enum Work {
    Sign(SignatureScheme, Vec<u8>),
    VerifyMac {
        message: Vec<u8>,
        mac: Vec<u8>,
    },
    Mac(Vec<u8>),
    Encrypt(Secret, Vec<u8>),
    Decrypt(Vec<u8>, Vec<u8>),
    OaepDecrypt(Vec<u8>),
    Wrap,
    UnwrapEncrypt {
        wrapped: Vec<u8>,
        plaintext: Secret,
        aad: Vec<u8>,
    },
    UnwrapDecrypt {
        wrapped: Vec<u8>,
        ciphertext: Vec<u8>,
        aad: Vec<u8>,
    },
}

/// How an operation is done.
pub(super) enum Way {
    /// It is done already, without the token.
    Done(Result<Done, TaskError>),
    Token(Work),
}

/// What an operation takes with this version. The purpose has it: that was decided before.
pub(super) fn way(task: &Task, manifest: &Manifest, oaep: Option<OaepHash>) -> Way {
    let version = manifest.version;
    let is_oaep = manifest.purpose == Purpose::Decrypt;
    Way::Token(match task {
        Task::Sign {
            scheme, message, ..
        } => Work::Sign(*scheme, message.clone()),
        Task::Verify {
            scheme,
            message,
            signature,
            ..
        } => match (&manifest.public, scheme) {
            (Public::Spki(spki), Some(scheme)) => {
                let valid = verifies(spki, *scheme, message, signature);
                return Way::Done(Ok(Done::Verified { version, valid }));
            }
            (Public::Kcv(_), None) => Work::VerifyMac {
                message: message.clone(),
                mac: signature.clone(),
            },
            _ => return Way::Done(Err(TaskError::Input)),
        },
        Task::Encrypt { plaintext, aad, .. } if is_oaep => {
            return Way::Done(encrypt_to(manifest, oaep, plaintext, aad));
        }
        Task::Decrypt { aad, .. } if is_oaep && !aad.is_empty() => {
            return Way::Done(Err(TaskError::Input));
        }
        Task::Decrypt { ciphertext, .. } if is_oaep => Work::OaepDecrypt(ciphertext.clone()),
        Task::Encrypt { plaintext, aad, .. } => Work::Encrypt(copy(plaintext), aad.clone()),
        Task::Decrypt {
            ciphertext, aad, ..
        } => Work::Decrypt(ciphertext.clone(), aad.clone()),
        Task::Mac { message, .. } => Work::Mac(message.clone()),
        Task::Wrap { .. } => Work::Wrap,
        Task::Unwrap {
            wrapped,
            use_for: DataUse::Encrypt { plaintext, aad },
            ..
        } => Work::UnwrapEncrypt {
            wrapped: wrapped.clone(),
            plaintext: copy(plaintext),
            aad: aad.clone(),
        },
        Task::Unwrap {
            wrapped,
            use_for: DataUse::Decrypt { ciphertext, aad },
            ..
        } => Work::UnwrapDecrypt {
            wrapped: wrapped.clone(),
            ciphertext: ciphertext.clone(),
            aad: aad.clone(),
        },
        // It has no key, and so no version.
        Task::Random { .. } => return Way::Done(Err(TaskError::Internal)),
    })
}

/// RSA-OAEP needs the public part alone, and the hash with which this token will open it.
fn encrypt_to(
    manifest: &Manifest,
    oaep: Option<OaepHash>,
    plaintext: &Secret,
    aad: &[u8],
) -> Result<Done, TaskError> {
    let Public::Spki(spki) = &manifest.public else {
        return Err(TaskError::Internal);
    };
    if !aad.is_empty() {
        return Err(TaskError::Input);
    }
    let hash = oaep.ok_or(TaskError::Unavailable)?;
    let ciphertext =
        oaep_encrypt(spki, hash, plaintext.expose_secret()).map_err(|error| refusal(&error))?;
    Ok(Done::Ciphertext {
        version: manifest.version,
        ciphertext,
    })
}

impl Work {
    /// Does it in the token.
    pub(super) fn run(
        &self,
        worker: &Worker,
        key: &ManagedKey,
        version: u32,
    ) -> Result<Done, Error> {
        let plain = |bytes: &[u8]| Done::Plaintext {
            version,
            plaintext: Secret::copy_from(bytes),
        };
        Ok(match self {
            Self::Sign(scheme, message) => Done::Signature {
                version,
                signature: worker.managed_sign(key, *scheme, message)?,
            },
            Self::VerifyMac { message, mac } => {
                let expected = worker.managed_mac(key, message)?;
                Done::Verified {
                    version,
                    valid: expected[..].ct_eq(mac).into(),
                }
            }
            Self::Mac(message) => Done::Mac {
                version,
                mac: worker.managed_mac(key, message)?.to_vec(),
            },
            Self::Encrypt(plaintext, aad) => Done::Ciphertext {
                version,
                ciphertext: worker.managed_encrypt(key, plaintext.expose_secret(), aad)?,
            },
            Self::Decrypt(ciphertext, aad) => plain(&worker.managed_decrypt(key, ciphertext, aad)?),
            Self::OaepDecrypt(ciphertext) => plain(&worker.managed_oaep_decrypt(key, ciphertext)?),
            Self::Wrap => Done::Wrapped {
                version,
                wrapped: worker.managed_wrap(key)?,
            },
            Self::UnwrapEncrypt {
                wrapped,
                plaintext,
                aad,
            } => Done::Ciphertext {
                version,
                ciphertext: worker.managed_unwrap_encrypt(
                    key,
                    wrapped,
                    plaintext.expose_secret(),
                    aad,
                )?,
            },
            Self::UnwrapDecrypt {
                wrapped,
                ciphertext,
                aad,
            } => plain(&worker.managed_unwrap_decrypt(key, wrapped, ciphertext, aad)?),
        })
    }
}

/// What a caller is told of a failure.
pub(super) fn refusal(error: &Error) -> TaskError {
    match error {
        Error::Input { .. } | Error::Blob { .. } | Error::Scheme { .. } => TaskError::Input,
        Error::Busy => TaskError::Busy,
        error if error.is_unavailable() => TaskError::Unavailable,
        _ => TaskError::Internal,
    }
}

/// What a caller is told when a key could not be unwrapped: the wrap was not the caller's.
pub(super) fn not_unwrapped(error: &Error) -> TaskError {
    match error {
        Error::Blob { .. }
        | Error::Input { .. }
        | Error::KekNotFound { .. }
        | Error::Substituted { .. }
        | Error::UnsupportedKey { .. } => TaskError::NotHere,
        error => refusal(error),
    }
}

/// The word for an outcome in the audit log and in metrics.
pub(super) fn word(outcome: Result<(), TaskError>) -> &'static str {
    match outcome {
        Ok(()) => "done",
        Err(TaskError::Denied) => "denied",
        Err(TaskError::State) => "state",
        Err(TaskError::Version) => "version",
        Err(TaskError::Input) => "input",
        Err(TaskError::Lease) => "lease",
        Err(TaskError::NotHere) => "not-here",
        Err(TaskError::Busy) => "busy",
        Err(TaskError::Unavailable) => "unavailable",
        Err(TaskError::Internal) => "internal",
    }
}

fn copy(secret: &Secret) -> Secret {
    Secret::copy_from(secret.expose_secret())
}
