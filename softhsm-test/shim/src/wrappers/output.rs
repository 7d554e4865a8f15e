//! The functions that give bytes: what they give may be altered, and goes into the tap as the caller gets it.
//!
//! Leaves attributes to `attributes`. A call that a fault makes fail is done by the real module all the same,
//! which ends the operation as a failing token would; the caller gets nothing of it.

use std::slice;

use cryptoki_sys::*;

use super::named;
use super::plain::end_digest;
use crate::counters::Function;
use crate::state::{Operation, Shim, Verdict};
use crate::tapped::Direction;

/// Where a call writes, and how much the caller has room for there.
pub(super) struct Output {
    function: Function,
    mechanism: Option<u64>,
    verdict: Verdict,
    to: *mut CK_BYTE,
    room: CK_ULONG,
}

impl Output {
    /// Counts the call.
    ///
    /// # Safety
    /// `length` is null or points at the room behind `to`.
    pub(super) unsafe fn enter(
        shim: &Shim,
        function: Function,
        mechanism: Option<u64>,
        to: *mut CK_BYTE,
        length: *const CK_ULONG,
    ) -> Output {
        Output {
            function,
            mechanism,
            verdict: shim.enter(function, mechanism.as_slice()),
            to,
            // SAFETY: promised by the caller.
            room: unsafe { length.as_ref() }.copied().unwrap_or(0),
        }
    }

    /// The same for a call that is counted already.
    ///
    /// # Safety
    /// `length` is null or points at the room behind `to`.
    pub(super) unsafe fn entered(
        function: Function,
        mechanism: Option<u64>,
        corrupt: bool,
        to: *mut CK_BYTE,
        length: *const CK_ULONG,
    ) -> Output {
        Output {
            function,
            mechanism,
            verdict: if corrupt {
                Verdict::Corrupt(None)
            } else {
                Verdict::Go
            },
            to,
            // SAFETY: promised by the caller.
            room: unsafe { length.as_ref() }.copied().unwrap_or(0),
        }
    }

    /// What the caller is told after the real call.
    ///
    /// # Safety
    /// After success the module has written `length`, and that many bytes if there was a place and room for them.
    pub(super) unsafe fn given(&self, shim: &Shim, rv: CK_RV, length: *const CK_ULONG) -> CK_RV {
        // SAFETY: promised by the caller.
        let length = unsafe { length.as_ref() }.map_or(0, |length| self.room.min(*length));
        if rv == CKR_OK && !self.to.is_null() && length > 0 {
            // SAFETY: the caller has this room, and the module has written so far.
            let bytes = unsafe { slice::from_raw_parts_mut(self.to, length as usize) };
            match self.verdict {
                Verdict::Fail(_) => bytes.fill(0),
                Verdict::Corrupt(_) => bytes[length as usize / 2] ^= 1,
                _ => {}
            }
            if !matches!(self.verdict, Verdict::Fail(_)) {
                shim.passed(self.function, self.mechanism, Direction::Out, bytes);
            }
        }
        match self.verdict {
            Verdict::Fail(code) => code,
            _ => rv,
        }
    }
}

/// Functions whose last two arguments are where the bytes go and how much room there is. `of` names the operation
/// that they belong to, `by` the argument that is their mechanism.
macro_rules! wrap_output {
    ($($name:ident ( $session:ident, $($arg:ident : $ty:ty),* => $out:ident, $out_len:ident $(, $flags:ident)? )
        $(of $operation:ident)? $(by $mechanism:ident)?;)*) => { $(
        pub(crate) unsafe extern "C" fn $name(
            $session: CK_SESSION_HANDLE,
            $($arg: $ty,)*
            $out: *mut CK_BYTE,
            $out_len: *mut CK_ULONG,
            $( $flags: CK_FLAGS, )?
        ) -> CK_RV {
            let Some(shim) = Shim::get() else { return CKR_GENERAL_ERROR };
            let Some(real) = shim.real.$name else { return CKR_FUNCTION_NOT_SUPPORTED };
            let of: Option<u64> = None $(.or(shim.mechanism($session, Operation::$operation)))?;
            // SAFETY: the caller owes a mechanism, or null.
            $( let of = of.or(unsafe { named($mechanism) }); )?
            // SAFETY: the caller owes a place and its room.
            let output = unsafe { Output::enter(shim, Function::$name, of, $out, $out_len) };
            // SAFETY: the arguments are the caller's, for a function with the same signature and contract.
            let rv = unsafe { real($session, $($arg,)* $out, $out_len, $($flags)?) };
            // SAFETY: the module has been given this place and this length.
            unsafe { output.given(shim, rv, $out_len) }
        }
    )* };
}

wrap_output! {
    C_Sign(session, data: *mut CK_BYTE, len: CK_ULONG => out, out_len) of Sign;
    C_SignFinal(session, => out, out_len) of Sign;
    C_SignRecover(session, data: *mut CK_BYTE, len: CK_ULONG => out, out_len);
    C_VerifyRecover(session, signature: *mut CK_BYTE, len: CK_ULONG => out, out_len);
    C_Digest(session, data: *mut CK_BYTE, len: CK_ULONG => out, out_len) of Digest;
    C_Encrypt(session, data: *mut CK_BYTE, len: CK_ULONG => out, out_len) of Encrypt;
    C_EncryptUpdate(session, data: *mut CK_BYTE, len: CK_ULONG => out, out_len) of Encrypt;
    C_EncryptFinal(session, => out, out_len) of Encrypt;
    C_Decrypt(session, data: *mut CK_BYTE, len: CK_ULONG => out, out_len) of Decrypt;
    C_DecryptUpdate(session, data: *mut CK_BYTE, len: CK_ULONG => out, out_len) of Decrypt;
    C_DecryptFinal(session, => out, out_len) of Decrypt;
    C_DigestEncryptUpdate(session, data: *mut CK_BYTE, len: CK_ULONG => out, out_len) of Encrypt;
    C_SignEncryptUpdate(session, data: *mut CK_BYTE, len: CK_ULONG => out, out_len) of Encrypt;
    C_DecryptDigestUpdate(session, data: *mut CK_BYTE, len: CK_ULONG => out, out_len) of Decrypt;
    C_DecryptVerifyUpdate(session, data: *mut CK_BYTE, len: CK_ULONG => out, out_len) of Decrypt;
    C_GetOperationState(session, => out, out_len);
    C_WrapKey(session, mechanism: *mut CK_MECHANISM, with: CK_OBJECT_HANDLE, key: CK_OBJECT_HANDLE
        => out, out_len) by mechanism;
    C_WrapKeyAuthenticated(session, mechanism: *mut CK_MECHANISM, with: CK_OBJECT_HANDLE, key: CK_OBJECT_HANDLE,
        data: *mut CK_BYTE, len: CK_ULONG => out, out_len) by mechanism;
    C_EncryptMessage(session, parameter: CK_VOID_PTR, parameter_len: CK_ULONG, associated: *mut CK_BYTE,
        associated_len: CK_ULONG, data: *mut CK_BYTE, len: CK_ULONG => out, out_len);
    C_DecryptMessage(session, parameter: CK_VOID_PTR, parameter_len: CK_ULONG, associated: *mut CK_BYTE,
        associated_len: CK_ULONG, data: *mut CK_BYTE, len: CK_ULONG => out, out_len);
    C_EncryptMessageNext(session, parameter: CK_VOID_PTR, parameter_len: CK_ULONG, data: *mut CK_BYTE,
        len: CK_ULONG => out, out_len, flags);
    C_DecryptMessageNext(session, parameter: CK_VOID_PTR, parameter_len: CK_ULONG, data: *mut CK_BYTE,
        len: CK_ULONG => out, out_len, flags);
    C_SignMessage(session, parameter: CK_VOID_PTR, parameter_len: CK_ULONG, data: *mut CK_BYTE,
        len: CK_ULONG => out, out_len);
    C_SignMessageNext(session, parameter: CK_VOID_PTR, parameter_len: CK_ULONG, data: *mut CK_BYTE,
        len: CK_ULONG => out, out_len);
}

/// The end of a digest; a fault ends it even when only the length was asked for.
pub(crate) unsafe extern "C" fn C_DigestFinal(
    session: CK_SESSION_HANDLE,
    out: *mut CK_BYTE,
    out_len: *mut CK_ULONG,
) -> CK_RV {
    let Some(shim) = Shim::get() else {
        return CKR_GENERAL_ERROR;
    };
    let Some(real) = shim.real.C_DigestFinal else {
        return CKR_FUNCTION_NOT_SUPPORTED;
    };
    let mechanism = shim.mechanism(session, Operation::Digest);
    // SAFETY: the caller owes a place and its room.
    let output = unsafe { Output::enter(shim, Function::C_DigestFinal, mechanism, out, out_len) };
    if let Verdict::Fail(code) = output.verdict {
        end_digest(shim, session);
        return code;
    }
    // SAFETY: the arguments are the caller's, for a function with the same signature and contract.
    let rv = unsafe { real(session, out, out_len) };
    // SAFETY: the module has been given this place and this length.
    unsafe { output.given(shim, rv, out_len) }
}

/// Random bytes, whose length the caller fixes.
pub(crate) unsafe extern "C" fn C_GenerateRandom(
    session: CK_SESSION_HANDLE,
    out: *mut CK_BYTE,
    len: CK_ULONG,
) -> CK_RV {
    let Some(shim) = Shim::get() else {
        return CKR_GENERAL_ERROR;
    };
    let Some(real) = shim.real.C_GenerateRandom else {
        return CKR_FUNCTION_NOT_SUPPORTED;
    };
    // SAFETY: the length is a local, and the caller owes as many bytes of room.
    let output = unsafe { Output::enter(shim, Function::C_GenerateRandom, None, out, &len) };
    // SAFETY: the arguments are the caller's, for a function with the same signature and contract.
    let rv = unsafe { real(session, out, len) };
    // SAFETY: after success the module has written that many bytes.
    unsafe { output.given(shim, rv, &len) }
}
