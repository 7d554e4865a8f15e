//! Objects made, copied, changed and unwrapped with templates that hold templates.
//!
//! cryptoki has no attribute of that form. Which attributes an object gets is decided in `managed`. Invariant: as of
//! the whole module: nothing here is unsafe from outside.

use std::ptr;

use cryptoki::{
    context::Function,
    error::{Error as CryptokiError, Rv},
    mechanism::Mechanism,
    object::{Attribute, ObjectHandle},
    session::Session,
};
use cryptoki_sys::{CK_ATTRIBUTE, CK_ATTRIBUTE_TYPE, CK_MECHANISM, CK_MECHANISM_TYPE, CK_ULONG};

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

    /// CKA_WRAP_TEMPLATE or CKA_UNWRAP_TEMPLATE of a key: types and values, in the module's order. Modules differ in
    /// whether they tell.
    pub(crate) fn template_of(
        &self,
        session: &Session,
        key: ObjectHandle,
        kind: CK_ATTRIBUTE_TYPE,
    ) -> Result<Vec<Entry>> {
        let get = function(self.list.C_GetAttributeValue)?;
        let mut entries = [CK_ATTRIBUTE {
            type_: 0,
            pValue: ptr::null_mut(),
            ulValueLen: 0,
        }; ENTRIES_MAX];
        let ask = |entries: &mut [CK_ATTRIBUTE]| {
            let mut asked = CK_ATTRIBUTE {
                type_: kind,
                pValue: entries.as_mut_ptr().cast(),
                ulValueLen: size_of_val(entries) as CK_ULONG,
            };
            // SAFETY: one attribute is asked for, whose value is an array of attributes; each has no buffer, or one
            // with its length.
            let rv = unsafe { get(session.handle(), key.handle(), &raw mut asked, 1) };
            Rv::from(rv).into_result(Function::GetAttributeValue)?;
            let len = usize::try_from(asked.ulValueLen).unwrap_or(usize::MAX);
            Ok::<_, CryptokiError>(len / size_of::<CK_ATTRIBUTE>())
        };
        // Types and lengths first: a module gives values for the types that it is shown (SoftHSM2).
        let count = ask(&mut entries)?.min(ENTRIES_MAX);
        let entries = &mut entries[..count];
        let mut values = vec![[0_u8; ENTRY_MAX]; count];
        for (entry, value) in entries.iter_mut().zip(&mut values) {
            entry.pValue = value.as_mut_ptr().cast();
            entry.ulValueLen = ENTRY_MAX as CK_ULONG;
        }
        ask(entries)?;
        let found = entries.iter().zip(&values);
        Ok(found
            .map(|(entry, value)| {
                let len = usize::try_from(entry.ulValueLen).unwrap_or(usize::MAX);
                (entry.type_, value[..len.min(ENTRY_MAX)].to_vec())
            })
            .collect())
    }
}

/// One entry of a template in a template.
pub(crate) type Entry = (CK_ATTRIBUTE_TYPE, Vec<u8>);

/// The entries that stand for attributes.
pub(crate) fn entries(attributes: &[Attribute]) -> Vec<Entry> {
    attributes
        .iter()
        .map(|attribute| {
            let raw = CK_ATTRIBUTE::from(attribute);
            let len = usize::try_from(raw.ulValueLen).unwrap_or(0);
            // SAFETY: the binding points at a value of this length in the attribute, which is borrowed.
            let value = unsafe { std::slice::from_raw_parts(raw.pValue.cast::<u8>(), len) };
            (raw.type_, value.to_vec())
        })
        .collect()
}

/// Flags and numbers only.
const ENTRY_MAX: usize = 64;
/// More than any template has.
const ENTRIES_MAX: usize = 32;
