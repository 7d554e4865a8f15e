//! Tries to read what must not be readable.
//!
//! Asks the real module, so the attempts are not among the counted calls. A key counts as examined when it is a
//! private or a secret key, and as readable when the module gives its value.

use std::ptr;

use cryptoki_sys::{
    CK_ATTRIBUTE, CK_ATTRIBUTE_TYPE, CK_OBJECT_HANDLE, CK_SESSION_HANDLE, CK_ULONG,
    CK_UNAVAILABLE_INFORMATION, CKA_CLASS, CKA_PRIVATE_EXPONENT, CKA_VALUE, CKO_PRIVATE_KEY,
    CKO_SECRET_KEY, CKR_OK,
};

use crate::counters::Counter;
use crate::state::Shim;

/// Examines an object that has just been made or found.
pub(crate) fn examine(shim: &Shim, session: CK_SESSION_HANDLE, object: CK_OBJECT_HANDLE) {
    let mut class = [0_u8; 8];
    let is_key = read(shim, session, object, CKA_CLASS, &mut class) == Some(size_of::<CK_ULONG>())
        && [CKO_PRIVATE_KEY, CKO_SECRET_KEY].contains(&CK_ULONG::from_ne_bytes(class));
    if !is_key {
        return;
    }
    let mut value = [0_u8; 1024];
    let readable = [CKA_VALUE, CKA_PRIVATE_EXPONENT]
        .into_iter()
        .any(|kind| read(shim, session, object, kind, &mut value).is_some_and(|length| length > 0));
    value.fill(0);
    shim.counters.add(Counter::Examined, 1);
    if readable {
        shim.counters.add(Counter::Readable, 1);
    }
}

/// Whether a template asks for the value of a key.
pub(crate) fn asks_for_value(template: &[CK_ATTRIBUTE]) -> bool {
    template
        .iter()
        .any(|attribute| [CKA_VALUE, CKA_PRIVATE_EXPONENT].contains(&attribute.type_))
}

/// The attribute's length, if the module gives it.
fn read(
    shim: &Shim,
    session: CK_SESSION_HANDLE,
    object: CK_OBJECT_HANDLE,
    kind: CK_ATTRIBUTE_TYPE,
    into: &mut [u8],
) -> Option<usize> {
    let get = shim.real.C_GetAttributeValue?;
    let mut attribute = CK_ATTRIBUTE {
        type_: kind,
        pValue: ptr::from_mut(into).cast(),
        ulValueLen: into.len() as CK_ULONG,
    };
    // SAFETY: the template is one attribute whose pointer and length describe `into`.
    let rv = unsafe { get(session, object, &mut attribute, 1) };
    (rv == CKR_OK && attribute.ulValueLen != CK_UNAVAILABLE_INFORMATION)
        .then_some(attribute.ulValueLen as usize)
}
