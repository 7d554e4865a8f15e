//! Keys that wrap and seal: made with templates in templates, used in one call.
//!
//! What they are for is decided in `vault` and `hold`. Invariant: as of the whole module: nothing here is unsafe from
//! outside.

use cryptoki::{
    context::Function,
    error::Rv,
    mechanism::Mechanism,
    object::{Attribute, ObjectHandle},
    session::Session,
};
use cryptoki_sys::{
    CK_ATTRIBUTE, CK_ATTRIBUTE_TYPE, CK_MECHANISM, CK_MECHANISM_TYPE, CK_ULONG,
    CKA_ALLOWED_MECHANISMS,
};

use super::{Operation, Raw, Result, bare, function, object, written};

/// One attribute of a template.
#[derive(Clone, Debug)]
pub(crate) enum Item {
    /// As cryptoki knows it.
    Plain(Attribute),
    /// CKA_ALLOWED_MECHANISMS, with mechanisms that cryptoki does not know.
    Allowed(Vec<CK_MECHANISM_TYPE>),
    /// CKA_WRAP_TEMPLATE or CKA_UNWRAP_TEMPLATE.
    Template(CK_ATTRIBUTE_TYPE, Vec<Attribute>),
}

impl Raw {
    /// C_GenerateKey.
    pub(crate) fn generate_key(
        &self,
        session: &Session,
        mechanism: &Mechanism<'_>,
        template: &[Item],
    ) -> Result<ObjectHandle> {
        let generate = function(self.list.C_GenerateKey)?;
        let mut mechanism = CK_MECHANISM::from(mechanism);
        let mut handle = 0;
        let rv = with_template(template, |attributes| {
            // SAFETY: the mechanism and the template's values are borrowed by this function, past the call.
            unsafe {
                generate(
                    session.handle(),
                    &raw mut mechanism,
                    attributes.as_mut_ptr(),
                    attributes.len() as CK_ULONG,
                    &raw mut handle,
                )
            }
        });
        Rv::from(rv).into_result(Function::GenerateKey)?;
        Ok(object(handle))
    }

    /// One C_WrapKey into `out`, with a mechanism that has no parameters.
    pub(crate) fn wrap_key(
        &self,
        session: &Session,
        id: CK_MECHANISM_TYPE,
        wrapping: ObjectHandle,
        key: ObjectHandle,
        out: &mut [u8],
    ) -> Result<usize> {
        self.wrap_with(session, bare(id), wrapping, key, out)
    }

    /// C_WrapKey. What the mechanism's parameters point at is borrowed by the callers past this call.
    pub(super) fn wrap_with(
        &self,
        session: &Session,
        mut mechanism: CK_MECHANISM,
        wrapping: ObjectHandle,
        key: ObjectHandle,
        out: &mut [u8],
    ) -> Result<usize> {
        let wrap = function(self.list.C_WrapKey)?;
        let mut len = out.len() as CK_ULONG;
        // SAFETY: the buffer is given with its length; the mechanism's parameters are borrowed by the caller past this
        // call.
        let rv = unsafe {
            wrap(
                session.handle(),
                &raw mut mechanism,
                wrapping.handle(),
                key.handle(),
                out.as_mut_ptr(),
                &raw mut len,
            )
        };
        Rv::from(rv).into_result(Function::WrapKey)?;
        written(len, out)
    }

    /// C_UnwrapKey with a mechanism that has no parameters.
    pub(crate) fn unwrap_key(
        &self,
        session: &Session,
        id: CK_MECHANISM_TYPE,
        unwrapping: ObjectHandle,
        wrapped: &[u8],
        template: &[Attribute],
    ) -> Result<ObjectHandle> {
        self.unwrap_with(session, bare(id), unwrapping, wrapped, template)
    }

    /// The same with a mechanism that cryptoki knows.
    pub(crate) fn unwrap_key_by(
        &self,
        session: &Session,
        mechanism: &Mechanism<'_>,
        unwrapping: ObjectHandle,
        wrapped: &[u8],
        template: &[Attribute],
    ) -> Result<ObjectHandle> {
        let mechanism = CK_MECHANISM::from(mechanism);
        self.unwrap_with(session, mechanism, unwrapping, wrapped, template)
    }

    fn unwrap_with(
        &self,
        session: &Session,
        mechanism: CK_MECHANISM,
        unwrapping: ObjectHandle,
        wrapped: &[u8],
        template: &[Attribute],
    ) -> Result<ObjectHandle> {
        let mut template: Vec<CK_ATTRIBUTE> = template.iter().map(CK_ATTRIBUTE::from).collect();
        self.unwrap_as(session, mechanism, unwrapping, wrapped, &mut template)
    }

    /// C_UnwrapKey. The attributes, and what the mechanism's parameters point at, are borrowed by the callers past this
    /// call.
    pub(super) fn unwrap_as(
        &self,
        session: &Session,
        mut mechanism: CK_MECHANISM,
        unwrapping: ObjectHandle,
        wrapped: &[u8],
        template: &mut [CK_ATTRIBUTE],
    ) -> Result<ObjectHandle> {
        let unwrap = function(self.list.C_UnwrapKey)?;
        let mut handle = 0;
        // SAFETY: the blob and the template's values are borrowed past the call, and so are the mechanism's parameters
        // by the caller; the module writes to neither of the first two.
        let rv = unsafe {
            unwrap(
                session.handle(),
                &raw mut mechanism,
                unwrapping.handle(),
                wrapped.as_ptr().cast_mut(),
                wrapped.len() as CK_ULONG,
                template.as_mut_ptr(),
                template.len() as CK_ULONG,
                &raw mut handle,
            )
        };
        Rv::from(rv).into_result(Function::UnwrapKey)?;
        Ok(object(handle))
    }

    /// C_EncryptInit and one C_Encrypt into `out`, which must have room for the tag, too.
    pub(crate) fn encrypt(
        &self,
        session: &Session,
        mechanism: &Mechanism<'_>,
        key: ObjectHandle,
        data: &[u8],
        out: &mut [u8],
    ) -> Result<usize> {
        let operation = Operation {
            init: (self.list.C_EncryptInit, Function::EncryptInit),
            run: (self.list.C_Encrypt, Function::Encrypt),
        };
        operation.run(session, CK_MECHANISM::from(mechanism), key, data, out)
    }

    /// C_DecryptInit and one C_Decrypt into `out`.
    pub(crate) fn decrypt(
        &self,
        session: &Session,
        mechanism: &Mechanism<'_>,
        key: ObjectHandle,
        data: &[u8],
        out: &mut [u8],
    ) -> Result<usize> {
        self.decrypt_with(session, CK_MECHANISM::from(mechanism), key, data, out)
    }

    /// The same with a mechanism that has no parameters.
    pub(crate) fn decrypt_bare(
        &self,
        session: &Session,
        id: CK_MECHANISM_TYPE,
        key: ObjectHandle,
        data: &[u8],
        out: &mut [u8],
    ) -> Result<usize> {
        self.decrypt_with(session, bare(id), key, data, out)
    }

    fn decrypt_with(
        &self,
        session: &Session,
        mechanism: CK_MECHANISM,
        key: ObjectHandle,
        data: &[u8],
        out: &mut [u8],
    ) -> Result<usize> {
        let operation = Operation {
            init: (self.list.C_DecryptInit, Function::DecryptInit),
            run: (self.list.C_Decrypt, Function::Decrypt),
        };
        operation.run(session, mechanism, key, data, out)
    }
}

/// Calls `f` with the attributes that stand for the items. They point into the items and into what is kept here
/// until `f` has returned.
pub(super) fn with_template<T>(items: &[Item], f: impl FnOnce(&mut [CK_ATTRIBUTE]) -> T) -> T {
    let mut nested: Vec<Vec<CK_ATTRIBUTE>> = items
        .iter()
        .map(|item| match item {
            Item::Template(_, attributes) => attributes.iter().map(CK_ATTRIBUTE::from).collect(),
            _ => Vec::new(),
        })
        .collect();
    let mut attributes: Vec<CK_ATTRIBUTE> = items
        .iter()
        .zip(&mut nested)
        .map(|(item, nested)| match item {
            Item::Plain(attribute) => CK_ATTRIBUTE::from(attribute),
            Item::Allowed(mechanisms) => CK_ATTRIBUTE {
                type_: CKA_ALLOWED_MECHANISMS,
                pValue: mechanisms.as_ptr().cast_mut().cast(),
                ulValueLen: size_of_val(mechanisms.as_slice()) as CK_ULONG,
            },
            Item::Template(kind, _) => CK_ATTRIBUTE {
                type_: *kind,
                pValue: nested.as_mut_ptr().cast(),
                ulValueLen: size_of_val(nested.as_slice()) as CK_ULONG,
            },
        })
        .collect();
    f(&mut attributes)
}
