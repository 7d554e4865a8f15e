//! Reading and writing attributes: counted when a key's value is asked for, tapped, altered and lied about.
//!
//! Leaves the shim's own reading to `examine`. A call that gives some attributes and refuses others has given
//! some, so it is tapped as well.

use std::slice;

use cryptoki_sys::*;

use crate::counters::{Counter, Function};
use crate::examine::{asks_for_value, class_of, may_be_key};
use crate::material;
use crate::names;
use crate::state::{Shim, Verdict};
use crate::tap;
use crate::tapped::Direction;

/// Also counts when the caller itself asks for the value of a key.
pub(crate) unsafe extern "C" fn C_GetAttributeValue(
    session: CK_SESSION_HANDLE,
    object: CK_OBJECT_HANDLE,
    template: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
) -> CK_RV {
    let Some(shim) = Shim::get() else {
        return CKR_GENERAL_ERROR;
    };
    let asked: &[CK_ATTRIBUTE] = if template.is_null() {
        &[]
    } else {
        // SAFETY: the caller owes a template of `count` attributes; it is let go before the module writes there.
        unsafe { slice::from_raw_parts(template, count as usize) }
    };
    let kinds: Vec<_> = asked.iter().map(|attribute| attribute.type_).collect();
    let room: Vec<_> = asked.iter().map(|attribute| attribute.ulValueLen).collect();
    let value = asks_for_value(asked);
    let verdict = shim.enter(Function::C_GetAttributeValue, &kinds);
    if let Verdict::Fail(code) = verdict {
        return code;
    }
    let class = (value || shim.tap.listens())
        .then(|| class_of(shim, session, object))
        .flatten();
    if value && may_be_key(class) {
        shim.counters.add(Counter::ValueAsked, 1);
    }
    let Some(real) = shim.real.C_GetAttributeValue else {
        return CKR_FUNCTION_NOT_SUPPORTED;
    };
    // SAFETY: the arguments are the caller's, for a function with the same signature and contract.
    let rv = unsafe { real(session, object, template, count) };
    if kinds.is_empty() || !GAVE.contains(&rv) {
        return rv;
    }
    // SAFETY: as above; the module has written to it.
    let given = unsafe { slice::from_raw_parts(template, count as usize) };
    for (attribute, room) in given.iter().zip(&room) {
        // SAFETY: the pointer leads to the caller's buffer, and `room` is its size.
        unsafe { touch(shim, object, verdict, attribute, *room) };
    }
    if shim.tap.listens() {
        let of = class.map_or_else(String::new, |class| format!(" of {}", names::class(class)));
        // SAFETY: what is available is in the caller's buffers, which are as long as they were said to be.
        for (kind, bytes) in unsafe { tap::values(given, Some(&room)) } {
            let detail = format!("{}{of}", names::attribute(kind));
            let function = Function::C_GetAttributeValue;
            shim.tap.passed(function, &detail, Direction::Out, &bytes);
        }
    }
    rv
}

/// Alters an answer, or tells a lie about the object.
///
/// # Safety
/// The attribute's pointer is null or leads to `room` bytes that may be written.
unsafe fn touch(
    shim: &Shim,
    object: CK_OBJECT_HANDLE,
    verdict: Verdict,
    attribute: &CK_ATTRIBUTE,
    room: CK_ULONG,
) {
    let given = attribute.ulValueLen != CK_UNAVAILABLE_INFORMATION;
    let length = attribute.ulValueLen.min(room) as usize;
    if attribute.pValue.is_null() || !given || length == 0 {
        return;
    }
    // SAFETY: promised by the caller.
    let bytes = unsafe { slice::from_raw_parts_mut(attribute.pValue.cast::<u8>(), length) };
    if verdict == Verdict::Corrupt(Some(attribute.type_)) {
        bytes[length / 2] ^= 1;
    }
    let believed = shim.believed(object);
    if let Some(answer) = believed.and_then(|asked| asked.answer(attribute.type_)) {
        bytes[0] = u8::from(answer);
    }
}

/// Also taps what goes into the token.
pub(crate) unsafe extern "C" fn C_SetAttributeValue(
    session: CK_SESSION_HANDLE,
    object: CK_OBJECT_HANDLE,
    template: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
) -> CK_RV {
    let Some(shim) = Shim::get() else {
        return CKR_GENERAL_ERROR;
    };
    if let Verdict::Fail(code) = shim.enter(Function::C_SetAttributeValue, &[]) {
        return code;
    }
    if !template.is_null() {
        // SAFETY: the caller owes a template of `count` attributes.
        let attributes = unsafe { slice::from_raw_parts(template, count as usize) };
        // SAFETY: and their pointers and lengths belong together.
        unsafe { material::in_template(shim, Function::C_SetAttributeValue, attributes) };
    }
    let Some(real) = shim.real.C_SetAttributeValue else {
        return CKR_FUNCTION_NOT_SUPPORTED;
    };
    // SAFETY: the arguments are the caller's, for a function with the same signature and contract.
    unsafe { real(session, object, template, count) }
}

/// The return values after which the attributes that are there have been written (PKCS#11 2.40, section 5.7).
const GAVE: [CK_RV; 4] = [
    CKR_OK,
    CKR_ATTRIBUTE_SENSITIVE,
    CKR_ATTRIBUTE_TYPE_INVALID,
    CKR_BUFFER_TOO_SMALL,
];
