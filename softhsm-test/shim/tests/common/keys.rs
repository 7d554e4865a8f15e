//! The acts that make objects, and the one that destroys them.
//!
//! Leaves templates to the tests, but for the pair that most of them need.

use std::ptr;

use cryptoki_sys::*;

use super::{Caller, NO, P256, Template, YES, attributes, ok, plain};

impl Caller {
    /// A session key pair on P-256 that may sign and derive.
    pub(crate) fn pair(&self) -> Result<(u64, u64), CK_RV> {
        let public: Template<'_> = &[(CKA_EC_PARAMS, P256), (CKA_TOKEN, NO)];
        let private: Template<'_> = &[
            (CKA_TOKEN, NO),
            (CKA_PRIVATE, YES),
            (CKA_SENSITIVE, YES),
            (CKA_EXTRACTABLE, NO),
            (CKA_SIGN, YES),
            (CKA_DERIVE, YES),
        ];
        self.pair_of(CKM_EC_KEY_PAIR_GEN, public, private)
    }

    pub(crate) fn pair_of(
        &self,
        kind: CK_MECHANISM_TYPE,
        public: Template<'_>,
        private: Template<'_>,
    ) -> Result<(u64, u64), CK_RV> {
        let (public, private) = (attributes(public), attributes(private));
        let mut mechanism = plain(kind);
        let (mut public_key, mut private_key) = (0, 0);
        // SAFETY: the templates are as long as is said, and the handles may be written.
        ok(unsafe {
            self.calls.C_GenerateKeyPair.unwrap()(
                self.session,
                &mut mechanism,
                public.as_ptr().cast_mut(),
                public.len() as CK_ULONG,
                private.as_ptr().cast_mut(),
                private.len() as CK_ULONG,
                &mut public_key,
                &mut private_key,
            )
        })?;
        Ok((public_key, private_key))
    }

    /// A secret under ML-KEM: its handle, and what carries it.
    pub(crate) fn encapsulate(
        &self,
        public: u64,
        template: Template<'_>,
    ) -> Result<(u64, Vec<u8>), CK_RV> {
        let template = attributes(template);
        let mut mechanism = plain(CKM_ML_KEM);
        let mut sealed = vec![0; 2000];
        let mut length = sealed.len() as CK_ULONG;
        let mut object = 0;
        // SAFETY: lengths belong to their buffers.
        ok(unsafe {
            self.calls.C_EncapsulateKey.unwrap()(
                self.session,
                &mut mechanism,
                public,
                template.as_ptr().cast_mut(),
                template.len() as CK_ULONG,
                sealed.as_mut_ptr(),
                &mut length,
                &mut object,
            )
        })?;
        sealed.truncate(length as usize);
        Ok((object, sealed))
    }

    /// The opposite of [`Caller::encapsulate`].
    pub(crate) fn decapsulate(
        &self,
        private: u64,
        sealed: &[u8],
        template: Template<'_>,
    ) -> Result<u64, CK_RV> {
        let template = attributes(template);
        let mut mechanism = plain(CKM_ML_KEM);
        let mut object = 0;
        // SAFETY: lengths belong to their buffers.
        ok(unsafe {
            self.calls.C_DecapsulateKey.unwrap()(
                self.session,
                &mut mechanism,
                private,
                template.as_ptr().cast_mut(),
                template.len() as CK_ULONG,
                sealed.as_ptr().cast_mut(),
                sealed.len() as CK_ULONG,
                &mut object,
            )
        })?;
        Ok(object)
    }

    /// A session object.
    pub(crate) fn create(&self, template: Template<'_>) -> Result<u64, CK_RV> {
        let template = attributes(template);
        let mut object = 0;
        // SAFETY: the template is as long as is said, and the handle may be written.
        ok(unsafe {
            self.calls.C_CreateObject.unwrap()(
                self.session,
                template.as_ptr().cast_mut(),
                template.len() as CK_ULONG,
                &mut object,
            )
        })?;
        Ok(object)
    }

    /// A secret key of this value that may do everything.
    pub(crate) fn secret(&self, value: &[u8]) -> u64 {
        let template: Template<'_> = &[
            (CKA_CLASS, &CKO_SECRET_KEY.to_ne_bytes()),
            (CKA_KEY_TYPE, &CKK_GENERIC_SECRET.to_ne_bytes()),
            (CKA_TOKEN, NO),
            (CKA_SENSITIVE, YES),
            (CKA_EXTRACTABLE, NO),
            (CKA_DERIVE, YES),
            (CKA_SIGN, YES),
            (CKA_VALUE, value),
        ];
        self.create(template).unwrap()
    }

    pub(crate) fn derive<P>(
        &self,
        kind: CK_MECHANISM_TYPE,
        parameters: &mut P,
        base: u64,
        template: Template<'_>,
    ) -> Result<u64, CK_RV> {
        let template = attributes(template);
        let mut mechanism = CK_MECHANISM {
            mechanism: kind,
            pParameter: ptr::from_mut(parameters).cast(),
            ulParameterLen: size_of::<P>() as CK_ULONG,
        };
        let mut object = 0;
        // SAFETY: the mechanism has its parameters, the template is as long as is said.
        ok(unsafe {
            self.calls.C_DeriveKey.unwrap()(
                self.session,
                &mut mechanism,
                base,
                template.as_ptr().cast_mut(),
                template.len() as CK_ULONG,
                &mut object,
            )
        })?;
        Ok(object)
    }

    /// ECDH with this peer's point.
    pub(crate) fn agree(
        &self,
        private: u64,
        point: &[u8],
        template: Template<'_>,
    ) -> Result<u64, CK_RV> {
        let mut parameters = CK_ECDH1_DERIVE_PARAMS {
            kdf: CKD_NULL,
            ulPublicDataLen: point.len() as CK_ULONG,
            pPublicData: point.as_ptr().cast_mut(),
            ..CK_ECDH1_DERIVE_PARAMS::default()
        };
        self.derive(CKM_ECDH1_DERIVE, &mut parameters, private, template)
    }

    /// The key under another one, by CKM_AES_KEY_WRAP.
    pub(crate) fn wrap(&self, with: u64, key: u64) -> Result<Vec<u8>, CK_RV> {
        let mut mechanism = plain(CKM_AES_KEY_WRAP);
        let mut out = vec![0; 512];
        let mut length = out.len() as CK_ULONG;
        // SAFETY: the length belongs to the buffer.
        ok(unsafe {
            let wrap = self.calls.C_WrapKey.unwrap();
            wrap(
                self.session,
                &mut mechanism,
                with,
                key,
                out.as_mut_ptr(),
                &mut length,
            )
        })?;
        out.truncate(length as usize);
        Ok(out)
    }

    /// The opposite of [`Caller::wrap`].
    pub(crate) fn unwrap(
        &self,
        with: u64,
        wrapped: &[u8],
        template: Template<'_>,
    ) -> Result<u64, CK_RV> {
        let template = attributes(template);
        let mut mechanism = plain(CKM_AES_KEY_WRAP);
        let mut object = 0;
        // SAFETY: lengths belong to their buffers.
        ok(unsafe {
            self.calls.C_UnwrapKey.unwrap()(
                self.session,
                &mut mechanism,
                with,
                wrapped.as_ptr().cast_mut(),
                wrapped.len() as CK_ULONG,
                template.as_ptr().cast_mut(),
                template.len() as CK_ULONG,
                &mut object,
            )
        })?;
        Ok(object)
    }

    pub(crate) fn destroy(&self, object: u64) {
        // SAFETY: two numbers.
        ok(unsafe { self.calls.C_DestroyObject.unwrap()(self.session, object) }).unwrap();
    }
}
