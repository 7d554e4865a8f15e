//! The objects that attacks are made on, and what attackers have.
//!
//! Invariant: whatever is made here is a session object and is destroyed at the end of its attack.

use std::cell::RefCell;

use aws_lc_rs::key_wrap::{AES_256, AesKek, KeyWrap as _, KeyWrapPadded as _};
use cryptoki::{
    error::{Error as CryptokiError, RvError},
    mechanism::Mechanism,
    object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle},
};
use cryptoki_sys::{CK_MECHANISM_TYPE, CKM_AES_KEY_WRAP};
use keyhaven_types::NamedGroup;

use super::Outcome;
use crate::{Error, TokenFault, exchange, quirks::Ways, session::OpenSession, template};

/// One attack's session and objects.
pub(super) struct Target<'a> {
    pub(super) session: &'a OpenSession,
    pub(super) ways: &'a Ways,
    made: RefCell<Vec<ObjectHandle>>,
}

impl<'a> Target<'a> {
    pub(super) fn new(session: &'a OpenSession, ways: &'a Ways) -> Self {
        Self {
            session,
            ways,
            made: RefCell::new(Vec::new()),
        }
    }

    /// Takes an object in, to be destroyed.
    pub(super) fn keep(&self, object: ObjectHandle) -> ObjectHandle {
        self.made.borrow_mut().push(object);
        object
    }

    pub(super) fn destroy(self) -> Result<(), String> {
        let mut failed = Ok(());
        for object in self.made.take() {
            if let Err(error) = self.session.destroy_object(object) {
                failed = Err(TokenFault::new(error).to_string());
            }
        }
        failed
    }

    /// A secret of 32 bytes that the token made, sensitive and not extractable.
    pub(super) fn secret(&self) -> Result<ObjectHandle, String> {
        self.secret_that_is(false)
    }

    /// The same, extractable or not.
    pub(super) fn secret_that_is(&self, extractable: bool) -> Result<ObjectHandle, String> {
        let template = |kind| {
            [
                Attribute::Class(ObjectClass::SECRET_KEY),
                Attribute::KeyType(kind),
                template::value_len(32),
                Attribute::Token(false),
                Attribute::Private(self.ways.ephemeral_private),
                Attribute::Sensitive(true),
                Attribute::Extractable(extractable),
                Attribute::Sign(true),
                Attribute::Derive(true),
            ]
        };
        let generate = |mechanism, kind| self.session.generate_key(&mechanism, &template(kind));
        let made = generate(Mechanism::GenericSecretKeyGen, KeyType::GENERIC_SECRET);
        let made = match made {
            Err(error) if is_missing(&error) => generate(Mechanism::AesKeyGen, KeyType::AES),
            made => made,
        };
        made.map(|object| self.keep(object)).map_err(untried)
    }

    /// A private key for signatures, sensitive, extractable or not.
    pub(super) fn private_that_is(&self, extractable: bool) -> Result<ObjectHandle, String> {
        let public = [
            Attribute::Token(false),
            Attribute::EcParams(exchange::P256_PARAMS.to_vec()),
            Attribute::Verify(true),
        ];
        let private = [
            Attribute::Token(false),
            Attribute::Private(self.ways.ephemeral_private),
            Attribute::Sensitive(true),
            Attribute::Extractable(extractable),
            Attribute::Sign(true),
        ];
        let made = self
            .session
            .generate_key_pair(&Mechanism::EccKeyPairGen, &public, &private);
        let (public, private) = made.map_err(untried)?;
        self.keep(public);
        Ok(self.keep(private))
    }

    /// An ephemeral key as handshakes have it, and its public value.
    pub(super) fn exchange_key(&self) -> Result<(ObjectHandle, Vec<u8>), String> {
        let (private, public) =
            exchange::generate(self.session, self.ways, NamedGroup::Secp256r1).map_err(told)?;
        Ok((self.keep(private), public))
    }

    /// An AES key whose value the attacker has chosen.
    pub(super) fn known_key(&self) -> Result<ObjectHandle, String> {
        let template = [
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(KeyType::AES),
            Attribute::Token(false),
            Attribute::Private(false),
            Attribute::Wrap(true),
            Attribute::Decrypt(true),
            Attribute::Value(KNOWN.to_vec()),
        ];
        self.session
            .create_object(&template)
            .map(|object| self.keep(object))
            .map_err(untried)
    }

    /// Wraps `object` under the known key and opens the blob in software. `control` is an object of the same kind that
    /// may be wrapped: a module that does not wrap that either has refused nothing.
    pub(super) fn wrap_and_open(
        &self,
        object: ObjectHandle,
        control: ObjectHandle,
    ) -> Result<Outcome, String> {
        let key = self.known_key()?;
        let mut refused = Vec::new();
        let mut untried = Vec::new();
        for id in [self.ways.wrap.mechanism(), CKM_AES_KEY_WRAP] {
            match self.wrap(id, key, object) {
                Ok(blob) if opens(id, &blob) => {
                    return Ok(Outcome::Succeeded(
                        "the blob was opened with a key that the attacker had chosen",
                    ));
                }
                Ok(_) => {
                    return Ok(Outcome::Succeeded(
                        "a blob came out under a key that the attacker had chosen",
                    ));
                }
                Err(error) => match self.wrap(id, key, control) {
                    Ok(_) => refused.push(TokenFault::new(error).to_string()),
                    Err(error) => untried.push(TokenFault::new(error).to_string()),
                },
            }
        }
        refused.dedup();
        untried.dedup();
        if refused.is_empty() {
            let why = untried.join("; ");
            Err(format!("what is extractable is not wrapped either: {why}"))
        } else {
            Ok(Outcome::Refused(refused.join("; ")))
        }
    }

    fn wrap(
        &self,
        id: CK_MECHANISM_TYPE,
        key: ObjectHandle,
        object: ObjectHandle,
    ) -> Result<Vec<u8>, CryptokiError> {
        let mut blob = vec![0; BLOB_MAX];
        let raw = self.session.raw()?;
        let len = raw.wrap_key(self.session, id, key, object, &mut blob)?;
        blob.truncate(len);
        Ok(blob)
    }

    /// Whether CKA_VALUE comes out of an object that an attack has made.
    pub(super) fn is_readable(&self, object: ObjectHandle) -> bool {
        let values = self
            .session
            .get_attributes(object, &[AttributeType::Value])
            .unwrap_or_default();
        values
            .iter()
            .any(|value| matches!(value, Attribute::Value(bytes) if !bytes.is_empty()))
    }

    /// The outcome of an attack that should end with something readable.
    pub(super) fn judge(
        &self,
        made: Result<ObjectHandle, CryptokiError>,
    ) -> Result<Outcome, String> {
        match made {
            Ok(object) => {
                self.keep(object);
                Ok(if self.is_readable(object) {
                    Outcome::Succeeded("the value was read")
                } else {
                    Outcome::Refused("the object was made, and its value not given".to_owned())
                })
            }
            Err(error) if is_missing(&error) => Err(TokenFault::new(error).to_string()),
            Err(error) => Ok(Outcome::Refused(TokenFault::new(error).to_string())),
        }
    }
}

/// A generic secret as an attacker wants it.
pub(super) fn readable(len: Option<usize>) -> Vec<Attribute> {
    let mut template = vec![
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::GENERIC_SECRET),
        Attribute::Token(false),
        Attribute::Private(false),
        Attribute::Sensitive(false),
        Attribute::Extractable(true),
    ];
    template.extend(len.map(template::value_len));
    template
}

/// The software that opens blobs.
fn opens(id: CK_MECHANISM_TYPE, blob: &[u8]) -> bool {
    let Ok(key) = AesKek::new(&AES_256, &KNOWN) else {
        return false;
    };
    let mut out = vec![0; BLOB_MAX];
    if id == CKM_AES_KEY_WRAP {
        key.unwrap(blob, &mut out).is_ok()
    } else {
        key.unwrap_with_padding(blob, &mut out).is_ok()
    }
}

/// A module that has no such mechanism has not refused anything.
pub(super) fn is_missing(error: &CryptokiError) -> bool {
    matches!(
        error,
        CryptokiError::NotSupported
            | CryptokiError::NullFunctionPointer
            | CryptokiError::Pkcs11(RvError::MechanismInvalid | RvError::FunctionNotSupported, _)
    )
}

pub(super) fn untried(error: CryptokiError) -> String {
    TokenFault::new(error).to_string()
}

pub(super) fn told(error: Error) -> String {
    match error {
        Error::Token { source, .. } | Error::Derivation { source, .. } => source.to_string(),
        other => other.to_string(),
    }
}

/// The attacker's AES-256 key.
const KNOWN: [u8; 32] = *b"a key that the attacker has made";
/// A wrapped private key has a few hundred bytes.
const BLOB_MAX: usize = 4096;
