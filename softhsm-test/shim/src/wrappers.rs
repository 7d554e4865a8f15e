//! One function for each counted function of PKCS#11: count, perhaps a fault, then the real module.
//!
//! Leaves the meaning of arguments to the real module. Arguments are handed on as they came, so whatever the
//! caller owes the real function (valid pointers, right lengths) it owes these, and no more.
#![allow(
    non_snake_case,
    clippy::too_many_arguments,
    reason = "the standard's own names and signatures"
)]

use std::ptr;
use std::slice;

use cryptoki_sys::*;

use crate::counters::{Counter, Function};
use crate::examine::{asks_for_value, examine};
use crate::state::{Shim, Verdict};

/// Counts, then hands on; with `then`, does something after success.
macro_rules! wrap {
    ($($name:ident ( $($arg:ident : $ty:ty),* ) $(then |$shim:ident| $then:block)? ;)*) => { $(
        pub(crate) unsafe extern "C" fn $name($($arg: $ty),*) -> CK_RV {
            let Some(shim) = Shim::get() else { return CKR_GENERAL_ERROR };
            if let Verdict::Fail(code) = shim.enter(Function::$name, None) {
                return code;
            }
            let Some(real) = shim.real.$name else { return CKR_FUNCTION_NOT_SUPPORTED };
            // SAFETY: the arguments are the caller's, for a function with the same signature and contract.
            let rv = unsafe { real($($arg),*) };
            $( if rv == CKR_OK { let $shim = shim; $then } )?
            rv
        }
    )* };
}

wrap! {
    C_Initialize(args: CK_VOID_PTR);
    C_Finalize(reserved: CK_VOID_PTR) then |shim| { shim.all_gone() };
    C_GetInfo(info: *mut CK_INFO);
    C_GetSlotList(present: CK_BBOOL, list: *mut CK_SLOT_ID, count: *mut CK_ULONG);
    C_GetSlotInfo(slot: CK_SLOT_ID, info: *mut CK_SLOT_INFO);
    C_GetTokenInfo(slot: CK_SLOT_ID, info: *mut CK_TOKEN_INFO);
    C_GetMechanismList(slot: CK_SLOT_ID, list: *mut CK_MECHANISM_TYPE, count: *mut CK_ULONG);
    C_GetMechanismInfo(slot: CK_SLOT_ID, kind: CK_MECHANISM_TYPE, info: *mut CK_MECHANISM_INFO);
    C_InitToken(slot: CK_SLOT_ID, pin: *mut CK_UTF8CHAR, len: CK_ULONG, label: *mut CK_UTF8CHAR);
    C_InitPIN(session: CK_SESSION_HANDLE, pin: *mut CK_UTF8CHAR, len: CK_ULONG);
    C_SetPIN(session: CK_SESSION_HANDLE, old: *mut CK_UTF8CHAR, old_len: CK_ULONG,
        new: *mut CK_UTF8CHAR, new_len: CK_ULONG);
    C_OpenSession(slot: CK_SLOT_ID, flags: CK_FLAGS, application: CK_VOID_PTR, notify: CK_NOTIFY,
        session: *mut CK_SESSION_HANDLE);
    C_CloseSession(session: CK_SESSION_HANDLE) then |shim| { shim.closed(session) };
    C_CloseAllSessions(slot: CK_SLOT_ID) then |shim| { shim.all_gone() };
    C_GetSessionInfo(session: CK_SESSION_HANDLE, info: *mut CK_SESSION_INFO);
    C_Login(session: CK_SESSION_HANDLE, user: CK_USER_TYPE, pin: *mut CK_UTF8CHAR, len: CK_ULONG);
    C_Logout(session: CK_SESSION_HANDLE) then |shim| { shim.all_gone() };
    C_DestroyObject(session: CK_SESSION_HANDLE, object: CK_OBJECT_HANDLE) then |shim| { shim.destroyed(object) };
    C_GetObjectSize(session: CK_SESSION_HANDLE, object: CK_OBJECT_HANDLE, size: *mut CK_ULONG);
    C_SetAttributeValue(session: CK_SESSION_HANDLE, object: CK_OBJECT_HANDLE,
        template: *mut CK_ATTRIBUTE, count: CK_ULONG);
    C_FindObjectsInit(session: CK_SESSION_HANDLE, template: *mut CK_ATTRIBUTE, count: CK_ULONG);
    C_FindObjects(session: CK_SESSION_HANDLE, objects: *mut CK_OBJECT_HANDLE, max: CK_ULONG,
        found: *mut CK_ULONG) then |shim| {
        // SAFETY: after success the module has written `found`, and that many handles.
        let handles = unsafe { slice::from_raw_parts(objects, *found as usize) };
        handles.iter().for_each(|object| examine(shim, session, *object));
    };
    C_FindObjectsFinal(session: CK_SESSION_HANDLE);
    C_EncryptInit(session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM, key: CK_OBJECT_HANDLE);
    C_Encrypt(session: CK_SESSION_HANDLE, data: *mut CK_BYTE, len: CK_ULONG, out: *mut CK_BYTE,
        out_len: *mut CK_ULONG);
    C_EncryptUpdate(session: CK_SESSION_HANDLE, data: *mut CK_BYTE, len: CK_ULONG, out: *mut CK_BYTE,
        out_len: *mut CK_ULONG);
    C_EncryptFinal(session: CK_SESSION_HANDLE, out: *mut CK_BYTE, out_len: *mut CK_ULONG);
    C_DecryptInit(session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM, key: CK_OBJECT_HANDLE);
    C_Decrypt(session: CK_SESSION_HANDLE, data: *mut CK_BYTE, len: CK_ULONG, out: *mut CK_BYTE,
        out_len: *mut CK_ULONG);
    C_DecryptUpdate(session: CK_SESSION_HANDLE, data: *mut CK_BYTE, len: CK_ULONG, out: *mut CK_BYTE,
        out_len: *mut CK_ULONG);
    C_DecryptFinal(session: CK_SESSION_HANDLE, out: *mut CK_BYTE, out_len: *mut CK_ULONG);
    C_DigestInit(session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM);
    C_Digest(session: CK_SESSION_HANDLE, data: *mut CK_BYTE, len: CK_ULONG, out: *mut CK_BYTE,
        out_len: *mut CK_ULONG);
    C_SignUpdate(session: CK_SESSION_HANDLE, data: *mut CK_BYTE, len: CK_ULONG);
    C_SignFinal(session: CK_SESSION_HANDLE, out: *mut CK_BYTE, out_len: *mut CK_ULONG);
    C_VerifyInit(session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM, key: CK_OBJECT_HANDLE);
    C_Verify(session: CK_SESSION_HANDLE, data: *mut CK_BYTE, len: CK_ULONG, signature: *mut CK_BYTE,
        signature_len: CK_ULONG);
    C_VerifyUpdate(session: CK_SESSION_HANDLE, data: *mut CK_BYTE, len: CK_ULONG);
    C_VerifyFinal(session: CK_SESSION_HANDLE, signature: *mut CK_BYTE, signature_len: CK_ULONG);
    C_SignInit(session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM, key: CK_OBJECT_HANDLE) then |shim| {
        // SAFETY: the module has accepted the pointer as a mechanism.
        shim.signs_with(session, unsafe { (*mechanism).mechanism });
    };
    C_CreateObject(session: CK_SESSION_HANDLE, template: *mut CK_ATTRIBUTE, count: CK_ULONG,
        object: *mut CK_OBJECT_HANDLE) then |shim| {
        // SAFETY: the module has accepted the template and written the handle.
        unsafe { appeared(shim, session, template, count, object, false) };
    };
    C_CopyObject(session: CK_SESSION_HANDLE, from: CK_OBJECT_HANDLE, template: *mut CK_ATTRIBUTE,
        count: CK_ULONG, object: *mut CK_OBJECT_HANDLE) then |shim| {
        let inherited = !shim.is_session_object(from);
        // SAFETY: the module has accepted the template and written the handle.
        unsafe { appeared(shim, session, template, count, object, inherited) };
    };
    C_GenerateKey(session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM, template: *mut CK_ATTRIBUTE,
        count: CK_ULONG, object: *mut CK_OBJECT_HANDLE) then |shim| {
        // SAFETY: the module has accepted the template and written the handle.
        unsafe { appeared(shim, session, template, count, object, false) };
    };
    C_GenerateKeyPair(session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM, public: *mut CK_ATTRIBUTE,
        public_count: CK_ULONG, private: *mut CK_ATTRIBUTE, private_count: CK_ULONG,
        public_key: *mut CK_OBJECT_HANDLE, private_key: *mut CK_OBJECT_HANDLE) then |shim| {
        // SAFETY: the module has accepted both templates and written both handles.
        unsafe {
            appeared(shim, session, public, public_count, public_key, false);
            appeared(shim, session, private, private_count, private_key, false);
        }
    };
    C_WrapKey(session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM, with: CK_OBJECT_HANDLE,
        key: CK_OBJECT_HANDLE, out: *mut CK_BYTE, out_len: *mut CK_ULONG);
    C_UnwrapKey(session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM, with: CK_OBJECT_HANDLE,
        wrapped: *mut CK_BYTE, wrapped_len: CK_ULONG, template: *mut CK_ATTRIBUTE, count: CK_ULONG,
        object: *mut CK_OBJECT_HANDLE) then |shim| {
        // SAFETY: the module has accepted the template and written the handle.
        unsafe { appeared(shim, session, template, count, object, false) };
    };
    C_DeriveKey(session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM, base: CK_OBJECT_HANDLE,
        template: *mut CK_ATTRIBUTE, count: CK_ULONG, object: *mut CK_OBJECT_HANDLE) then |shim| {
        // SAFETY: the module has accepted the template and written the handle.
        unsafe { appeared(shim, session, template, count, object, false) };
    };
    C_SeedRandom(session: CK_SESSION_HANDLE, seed: *mut CK_BYTE, len: CK_ULONG);
    C_GenerateRandom(session: CK_SESSION_HANDLE, out: *mut CK_BYTE, len: CK_ULONG);
}

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
    if let Verdict::Fail(code) = shim.enter(Function::C_GetAttributeValue, None) {
        return code;
    }
    if !template.is_null() {
        // SAFETY: the caller owes a template of `count` attributes.
        let attributes = unsafe { slice::from_raw_parts(template, count as usize) };
        if asks_for_value(attributes) {
            shim.counters.add(Counter::ValueAsked, 1);
        }
    }
    let Some(real) = shim.real.C_GetAttributeValue else {
        return CKR_FUNCTION_NOT_SUPPORTED;
    };
    // SAFETY: the arguments are the caller's, for a function with the same signature and contract.
    unsafe { real(session, object, template, count) }
}

/// Fails only after the real call, which ends the operation as a failing token would; may alter the signature.
pub(crate) unsafe extern "C" fn C_Sign(
    session: CK_SESSION_HANDLE,
    data: *mut CK_BYTE,
    len: CK_ULONG,
    out: *mut CK_BYTE,
    out_len: *mut CK_ULONG,
) -> CK_RV {
    let Some(shim) = Shim::get() else {
        return CKR_GENERAL_ERROR;
    };
    let verdict = shim.enter(Function::C_Sign, shim.signing_mechanism(session));
    let Some(real) = shim.real.C_Sign else {
        return CKR_FUNCTION_NOT_SUPPORTED;
    };
    // SAFETY: the arguments are the caller's, for a function with the same signature and contract.
    let rv = unsafe { real(session, data, len, out, out_len) };
    let wrote = rv == CKR_OK && !out.is_null();
    match verdict {
        Verdict::Fail(code) => {
            if wrote {
                // SAFETY: the module has just written so many bytes there.
                unsafe { ptr::write_bytes(out, 0, *out_len as usize) };
            }
            return code;
        }
        // SAFETY: the module has just written at least one byte there.
        Verdict::Corrupt if wrote => unsafe { *out.add(*out_len as usize / 2) ^= 1 },
        Verdict::Corrupt | Verdict::Go => {}
    }
    rv
}

/// A digest under way ends when a step fails (PKCS#11 2.40, section 5.1.6), so a fault ends it as well.
macro_rules! wrap_digest_step {
    ($($name:ident ( $($arg:ident : $ty:ty),* );)*) => { $(
        pub(crate) unsafe extern "C" fn $name(session: CK_SESSION_HANDLE, $($arg: $ty),*) -> CK_RV {
            let Some(shim) = Shim::get() else { return CKR_GENERAL_ERROR };
            if let Verdict::Fail(code) = shim.enter(Function::$name, None) {
                end_digest(shim, session);
                return code;
            }
            let Some(real) = shim.real.$name else { return CKR_FUNCTION_NOT_SUPPORTED };
            // SAFETY: the arguments are the caller's, for a function with the same signature and contract.
            unsafe { real(session, $($arg),*) }
        }
    )* };
}

wrap_digest_step! {
    C_DigestUpdate(data: *mut CK_BYTE, len: CK_ULONG);
    C_DigestKey(key: CK_OBJECT_HANDLE);
    C_DigestFinal(out: *mut CK_BYTE, out_len: *mut CK_ULONG);
}

fn end_digest(shim: &Shim, session: CK_SESSION_HANDLE) {
    let mut digest = [0_u8; 64];
    let mut len = digest.len() as CK_ULONG;
    if let Some(finish) = shim.real.C_DigestFinal {
        // SAFETY: the buffer and its length are right; 64 bytes hold every digest of the standard.
        unsafe { finish(session, digest.as_mut_ptr(), &mut len) };
    }
}

/// Notes a new object, unless it lives in the token, and examines it.
///
/// # Safety
/// `template` is null or points at `count` attributes, and `object` at a handle.
unsafe fn appeared(
    shim: &Shim,
    session: CK_SESSION_HANDLE,
    template: *const CK_ATTRIBUTE,
    count: CK_ULONG,
    object: *const CK_OBJECT_HANDLE,
    token_unless_said: bool,
) {
    let mut in_token = token_unless_said;
    if !template.is_null() {
        // SAFETY: promised by the caller.
        for attribute in unsafe { slice::from_raw_parts(template, count as usize) } {
            if attribute.type_ == CKA_TOKEN
                && attribute.ulValueLen >= 1
                && !attribute.pValue.is_null()
            {
                // SAFETY: CKA_TOKEN is one CK_BBOOL, and the length says that it is there.
                in_token = unsafe { *attribute.pValue.cast::<CK_BBOOL>() } != 0;
            }
        }
    }
    // SAFETY: promised by the caller.
    let object = unsafe { *object };
    if !in_token {
        shim.made(session, object);
    }
    examine(shim, session, object);
}
