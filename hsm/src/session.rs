//! A session that is closed once, and only in the module's life in which it was opened.
//!
//! It also has the calls that are made without asking for a length first, where the module's own functions can be
//! had; elsewhere the binding asks. Invariant: after a restart of the module, whose session numbers start anew, an old session is never closed or
//! used: its number may be another one's by then.

use std::ops::Deref;

use cryptoki::{
    error::Error as CryptokiError,
    mechanism::Mechanism,
    object::{Attribute, AttributeType, ObjectHandle},
    session::Session,
    slot::Slot,
};
use zeroize::Zeroizing;

use crate::{Error, Module, raw::Raw};

/// An open read-write session.
pub(crate) struct OpenSession {
    session: Option<Session>,
    module: Module,
    epoch: u64,
}

impl OpenSession {
    /// Opens a session; read-write, since some modules derive in no other kind.
    pub(crate) fn open(module: &Module, slot: Slot) -> Result<Self, Error> {
        let _inside = module.enter()?;
        let session = module
            .pkcs11()
            .open_rw_session(slot)
            .map_err(|source| Error::token("opening a session", source))?;
        Ok(Self {
            session: Some(session),
            epoch: module.epoch(),
            module: module.clone(),
        })
    }

    /// What cryptoki lacks.
    ///
    /// # Errors
    /// [`CryptokiError::NotSupported`] when the module's functions cannot be had.
    pub(crate) fn raw(&self) -> Result<&Raw, CryptokiError> {
        self.module.raw().ok_or(CryptokiError::NotSupported)
    }

    /// A signature or MAC of at most [`SIGNATURE_MAX`] bytes: C_SignInit and one C_Sign.
    pub(crate) fn sign_once(
        &self,
        mechanism: &Mechanism<'_>,
        key: ObjectHandle,
        data: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, CryptokiError> {
        let Ok(raw) = self.raw() else {
            return self.sign(mechanism, key, data).map(Zeroizing::new);
        };
        let mut out = Zeroizing::new(vec![0; SIGNATURE_MAX]);
        let len = raw.sign(self, mechanism, key, data, &mut out)?;
        out.truncate(len);
        Ok(out)
    }

    /// The end of a digest of at most 64 bytes: one C_DigestFinal.
    pub(crate) fn digest_final_once(&self) -> Result<Zeroizing<Vec<u8>>, CryptokiError> {
        let Ok(raw) = self.raw() else {
            return self.digest_final().map(Zeroizing::new);
        };
        let mut out = Zeroizing::new(vec![0; DIGEST_MAX]);
        let len = raw.digest_final(self, &mut out)?;
        out.truncate(len);
        Ok(out)
    }

    /// CKA_VALUE of a few hundred bytes at most: one C_GetAttributeValue.
    pub(crate) fn value(&self, object: ObjectHandle) -> Result<Zeroizing<Vec<u8>>, CryptokiError> {
        self.bytes(object, AttributeType::Value)
    }

    /// An attribute that is a few hundred bytes at most: one C_GetAttributeValue.
    pub(crate) fn bytes(
        &self,
        object: ObjectHandle,
        attribute: AttributeType,
    ) -> Result<Zeroizing<Vec<u8>>, CryptokiError> {
        let Ok(raw) = self.raw() else {
            return match self.get_attributes(object, &[attribute])?.pop() {
                Some(Attribute::Value(bytes) | Attribute::EcPoint(bytes)) => {
                    Ok(Zeroizing::new(bytes))
                }
                _ => Err(CryptokiError::InvalidValue),
            };
        };
        let mut out = Zeroizing::new(vec![0; VALUE_MAX]);
        let len = raw.attribute(self, object, attribute.into(), &mut out)?;
        out.truncate(len);
        Ok(out)
    }
}

/// An RSA signature of 8,192 bits.
const SIGNATURE_MAX: usize = 1024;
const DIGEST_MAX: usize = 64;
const VALUE_MAX: usize = 512;

impl Deref for OpenSession {
    type Target = Session;

    fn deref(&self) -> &Session {
        self.session
            .as_ref()
            .expect("taken by drop alone, after which nobody can ask")
    }
}

impl Drop for OpenSession {
    fn drop(&mut self) {
        let inside = self.module.enter();
        let session = self.session.take();
        if inside.is_err() || self.module.epoch() != self.epoch {
            // Dropping it would close whatever session has its number now.
            std::mem::forget(session);
        }
    }
}
