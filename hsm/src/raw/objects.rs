//! Objects made, copied, changed and unwrapped with templates that hold templates.
//!
//! cryptoki has no attribute of that form. Which attributes an object gets is decided in `managed`. Invariant: as of the
//! whole module: nothing here is unsafe from outside.

use cryptoki::{
    context::Function, error::Rv, mechanism::Mechanism, object::ObjectHandle, session::Session,
};
use cryptoki_sys::{CK_MECHANISM, CK_MECHANISM_TYPE, CK_ULONG};

use super::{Item, Raw, Result, bare, function, keys::with_template, object};

/// A mechanism that wraps.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Way<'a> {
    /// One without parameters.
    Bare(CK_MECHANISM_TYPE),
    /// One that cryptoki knows.
    Known(&'a Mechanism<'a>),
}

impl Way<'_> {
    fn mechanism(self) -> CK_MECHANISM {
        match self {
            Self::Bare(id) => bare(id),
            Self::Known(mechanism) => CK_MECHANISM::from(mechanism),
        }
    }
}

impl Raw {
    /// C_CreateObject.
    pub(crate) fn create_object(
        &self,
        session: &Session,
        template: &[Item],
    ) -> Result<ObjectHandle> {
        let create = function(self.list.C_CreateObject)?;
        let mut handle = 0;
        let rv = with_template(template, |attributes| {
            // SAFETY: the template's values are borrowed by this function, past the call.
            unsafe {
                create(
                    session.handle(),
                    attributes.as_mut_ptr(),
                    attributes.len() as CK_ULONG,
                    &raw mut handle,
                )
            }
        });
        Rv::from(rv).into_result(Function::CreateObject)?;
        Ok(object(handle))
    }

    /// C_CopyObject.
    pub(crate) fn copy_object(
        &self,
        session: &Session,
        model: ObjectHandle,
        template: &[Item],
    ) -> Result<ObjectHandle> {
        let copy = function(self.list.C_CopyObject)?;
        let mut handle = 0;
        let rv = with_template(template, |attributes| {
            // SAFETY: the template's values are borrowed by this function, past the call.
            unsafe {
                copy(
                    session.handle(),
                    model.handle(),
                    attributes.as_mut_ptr(),
                    attributes.len() as CK_ULONG,
                    &raw mut handle,
                )
            }
        });
        Rv::from(rv).into_result(Function::CopyObject)?;
        Ok(object(handle))
    }

    /// C_SetAttributeValue.
    pub(crate) fn set_attributes(
        &self,
        session: &Session,
        of: ObjectHandle,
        template: &[Item],
    ) -> Result<()> {
        let set = function(self.list.C_SetAttributeValue)?;
        let rv = with_template(template, |attributes| {
            // SAFETY: the template's values are borrowed by this function, past the call.
            unsafe {
                set(
                    session.handle(),
                    of.handle(),
                    attributes.as_mut_ptr(),
                    attributes.len() as CK_ULONG,
                )
            }
        });
        Rv::from(rv).into_result(Function::SetAttributeValue)
    }

    /// C_GenerateKeyPair: the public and the private key.
    pub(crate) fn generate_pair(
        &self,
        session: &Session,
        mechanism: &Mechanism<'_>,
        public: &[Item],
        private: &[Item],
    ) -> Result<(ObjectHandle, ObjectHandle)> {
        let generate = function(self.list.C_GenerateKeyPair)?;
        let mut mechanism = CK_MECHANISM::from(mechanism);
        let (mut first, mut second) = (0, 0);
        let rv = with_template(public, |public| {
            with_template(private, |private| {
                // SAFETY: the mechanism and both templates' values are borrowed by this function, past the call.
                unsafe {
                    generate(
                        session.handle(),
                        &raw mut mechanism,
                        public.as_mut_ptr(),
                        public.len() as CK_ULONG,
                        private.as_mut_ptr(),
                        private.len() as CK_ULONG,
                        &raw mut first,
                        &raw mut second,
                    )
                }
            })
        });
        Rv::from(rv).into_result(Function::GenerateKeyPair)?;
        Ok((object(first), object(second)))
    }

    /// One C_WrapKey into `out`.
    pub(crate) fn wrap_by(
        &self,
        session: &Session,
        way: Way<'_>,
        wrapping: ObjectHandle,
        key: ObjectHandle,
        out: &mut [u8],
    ) -> Result<usize> {
        self.wrap_with(session, way.mechanism(), wrapping, key, out)
    }

    /// C_UnwrapKey to an object whose template may hold templates.
    pub(crate) fn unwrap_to(
        &self,
        session: &Session,
        way: Way<'_>,
        unwrapping: ObjectHandle,
        wrapped: &[u8],
        template: &[Item],
    ) -> Result<ObjectHandle> {
        with_template(template, |attributes| {
            self.unwrap_as(session, way.mechanism(), unwrapping, wrapped, attributes)
        })
    }
}
