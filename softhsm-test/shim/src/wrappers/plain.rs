//! The functions that are counted and handed on, and no more.
//!
//! Leaves those that give bytes to `output` and those that make objects to `create`.

use std::slice;

use cryptoki_sys::*;

use super::named;
use crate::counters::Function;
use crate::examine::examine;
use crate::state::{Operation, Shim, Verdict};

/// Counts, then hands on; `of` names the operation that a call belongs to, and with `then` something is done after
/// success.
macro_rules! wrap {
    ($($name:ident ( $($arg:ident : $ty:ty),* ) $(of $session:ident $operation:ident)? $(then |$shim:ident| $then:block)? ;)*) => { $(
        pub(crate) unsafe extern "C" fn $name($($arg: $ty),*) -> CK_RV {
            let Some(shim) = Shim::get() else { return CKR_GENERAL_ERROR };
            let of: Option<u64> = None $(.or(shim.mechanism($session, Operation::$operation)))?;
            if let Verdict::Fail(code) = shim.enter(Function::$name, of.as_slice()) {
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
    C_FindObjectsInit(session: CK_SESSION_HANDLE, template: *mut CK_ATTRIBUTE, count: CK_ULONG);
    C_FindObjects(session: CK_SESSION_HANDLE, objects: *mut CK_OBJECT_HANDLE, max: CK_ULONG,
        found: *mut CK_ULONG) then |shim| {
        // SAFETY: after success the module has written `found`, and that many handles.
        let handles = unsafe { slice::from_raw_parts(objects, *found as usize) };
        handles.iter().for_each(|object| examine(shim, session, *object, None));
    };
    C_FindObjectsFinal(session: CK_SESSION_HANDLE);
    C_SignUpdate(session: CK_SESSION_HANDLE, data: *mut CK_BYTE, len: CK_ULONG) of session Sign;
    C_Verify(session: CK_SESSION_HANDLE, data: *mut CK_BYTE, len: CK_ULONG, signature: *mut CK_BYTE,
        signature_len: CK_ULONG) of session Verify;
    C_VerifyUpdate(session: CK_SESSION_HANDLE, data: *mut CK_BYTE, len: CK_ULONG) of session Verify;
    C_VerifyFinal(session: CK_SESSION_HANDLE, signature: *mut CK_BYTE, signature_len: CK_ULONG) of session Verify;
    C_SeedRandom(session: CK_SESSION_HANDLE, seed: *mut CK_BYTE, len: CK_ULONG);
}

/// The calls that begin an operation: the session's mechanism is known from here on.
macro_rules! wrap_init {
    ($($name:ident ( $($key:ident)? ) begins $operation:ident;)*) => { $(
        pub(crate) unsafe extern "C" fn $name(
            session: CK_SESSION_HANDLE,
            mechanism: *mut CK_MECHANISM,
            $( $key: CK_OBJECT_HANDLE, )?
        ) -> CK_RV {
            let Some(shim) = Shim::get() else { return CKR_GENERAL_ERROR };
            // SAFETY: the caller owes a mechanism, or null.
            let of = unsafe { named(mechanism) };
            if let Verdict::Fail(code) = shim.enter(Function::$name, of.as_slice()) {
                return code;
            }
            let Some(real) = shim.real.$name else { return CKR_FUNCTION_NOT_SUPPORTED };
            // SAFETY: the arguments are the caller's, for a function with the same signature and contract.
            let rv = unsafe { real(session, mechanism, $($key)?) };
            if rv == CKR_OK {
                shim.begins(session, Operation::$operation, of);
            }
            rv
        }
    )* };
}

wrap_init! {
    C_EncryptInit(key) begins Encrypt;
    C_DecryptInit(key) begins Decrypt;
    C_DigestInit() begins Digest;
    C_SignInit(key) begins Sign;
    C_VerifyInit(key) begins Verify;
}

/// A digest under way ends when a step fails (PKCS#11 2.40, section 5.1.6), so a fault ends it as well.
macro_rules! wrap_digest_step {
    ($($name:ident ( $($arg:ident : $ty:ty),* );)*) => { $(
        pub(crate) unsafe extern "C" fn $name(session: CK_SESSION_HANDLE, $($arg: $ty),*) -> CK_RV {
            let Some(shim) = Shim::get() else { return CKR_GENERAL_ERROR };
            let of = shim.mechanism(session, Operation::Digest);
            if let Verdict::Fail(code) = shim.enter(Function::$name, of.as_slice()) {
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
}

/// Ends the digest under way in the real module.
pub(super) fn end_digest(shim: &Shim, session: CK_SESSION_HANDLE) {
    let mut digest = [0_u8; 64];
    let mut len = digest.len() as CK_ULONG;
    if let Some(finish) = shim.real.C_DigestFinal {
        // SAFETY: the buffer and its length are right; 64 bytes hold every digest of the standard.
        unsafe { finish(session, digest.as_mut_ptr(), &mut len) };
    }
}
