//! The functions that make objects.
//!
//! Leaves what is done around such a call to `creation`. A result that is to be wrong is derived by the real
//! module from altered parameters.

use cryptoki_sys::*;

use super::named;
use super::output::Output;
use crate::alter::altered;
use crate::counters::Function;
use crate::creation::Creation;
use crate::material;
use crate::state::Shim;
use crate::tapped::Direction;

/// Functions with one template and one object: the arguments before the template, and those after it.
/// `by` names the mechanism, `from` an object that is copied, `tapping` an input that is key material.
macro_rules! wrap_creation {
    ($($name:ident ( $session:ident $(by $mechanism:ident)? $(from $from:ident)?
        $(, $before:ident : $before_ty:ty)* ; $($after:ident : $after_ty:ty),* )
        $(tapping $material:ident, $material_len:ident)?;)*) => { $(
        pub(crate) unsafe extern "C" fn $name(
            $session: CK_SESSION_HANDLE,
            $( $mechanism: *mut CK_MECHANISM, )?
            $( $from: CK_OBJECT_HANDLE, )?
            $( $before: $before_ty, )*
            template: *mut CK_ATTRIBUTE,
            count: CK_ULONG,
            $( $after: $after_ty, )*
            object: *mut CK_OBJECT_HANDLE,
        ) -> CK_RV {
            let Some(shim) = Shim::get() else { return CKR_GENERAL_ERROR };
            // SAFETY: the caller owes a mechanism, or null.
            let of: Option<u64> = None $(.or(unsafe { named($mechanism) }))?;
            // SAFETY: the caller owes a template of `count` attributes.
            let entered = unsafe { Creation::enter(shim, Function::$name, of, (template, count)) };
            let mut creation = match entered {
                Ok(creation) => creation,
                Err(code) => return code,
            };
            let Some(real) = shim.real.$name else { return CKR_FUNCTION_NOT_SUPPORTED };
            $( if !$material.is_null() {
                // SAFETY: the caller owes that many bytes.
                let bytes = unsafe { std::slice::from_raw_parts($material, $material_len as usize) };
                shim.passed(Function::$name, of, Direction::In, bytes);
            } )?
            let (template, count) = creation.template();
            // SAFETY: the arguments are the caller's, for a function with the same signature and contract; a
            // template of ours is made of its attributes and of constants.
            let rv = unsafe {
                real($session, $($mechanism,)? $($from,)? $($before,)* template, count, $($after,)* object)
            };
            if rv == CKR_OK {
                let inherited = false $(|| !shim.is_session_object($from))?;
                // SAFETY: the module has written the handle.
                unsafe { creation.made($session, object, inherited) };
            }
            rv
        }
    )* };
}

wrap_creation! {
    C_CreateObject(session;);
    C_CopyObject(session from original;);
    C_GenerateKey(session by mechanism;);
    C_UnwrapKey(session by mechanism, with: CK_OBJECT_HANDLE, wrapped: *mut CK_BYTE,
        wrapped_len: CK_ULONG;) tapping wrapped, wrapped_len;
    C_UnwrapKeyAuthenticated(session by mechanism, with: CK_OBJECT_HANDLE, wrapped: *mut CK_BYTE,
        wrapped_len: CK_ULONG; associated: *mut CK_BYTE, associated_len: CK_ULONG) tapping wrapped, wrapped_len;
    C_DecapsulateKey(session by mechanism, key: CK_OBJECT_HANDLE; sealed: *mut CK_BYTE,
        sealed_len: CK_ULONG) tapping sealed, sealed_len;
}

/// A key pair: the fault and the lie are about the private key.
pub(crate) unsafe extern "C" fn C_GenerateKeyPair(
    session: CK_SESSION_HANDLE,
    mechanism: *mut CK_MECHANISM,
    public: *mut CK_ATTRIBUTE,
    public_count: CK_ULONG,
    private: *mut CK_ATTRIBUTE,
    private_count: CK_ULONG,
    public_key: *mut CK_OBJECT_HANDLE,
    private_key: *mut CK_OBJECT_HANDLE,
) -> CK_RV {
    let Some(shim) = Shim::get() else {
        return CKR_GENERAL_ERROR;
    };
    let function = Function::C_GenerateKeyPair;
    // SAFETY: the caller owes a mechanism, or null.
    let of = unsafe { named(mechanism) };
    // SAFETY: the caller owes a template of so many attributes.
    let entered = unsafe { Creation::enter(shim, function, of, (private, private_count)) };
    let mut creation = match entered {
        Ok(creation) => creation,
        Err(code) => return code,
    };
    let Some(real) = shim.real.C_GenerateKeyPair else {
        return CKR_FUNCTION_NOT_SUPPORTED;
    };
    let (private, private_count) = creation.template();
    // SAFETY: the arguments are the caller's, for a function with the same signature and contract; a template of
    // ours is made of its attributes and of constants.
    let rv = unsafe {
        real(
            session,
            mechanism,
            public,
            public_count,
            private,
            private_count,
            public_key,
            private_key,
        )
    };
    if rv == CKR_OK {
        let other = Creation::of_public(shim, function, of, (public, public_count));
        // SAFETY: the module has written both handles.
        unsafe {
            other.made(session, public_key, false);
            creation.made(session, private_key, false);
        }
    }
    rv
}

/// A derivation; a key block comes by the mechanism's parameters.
pub(crate) unsafe extern "C" fn C_DeriveKey(
    session: CK_SESSION_HANDLE,
    mechanism: *mut CK_MECHANISM,
    base: CK_OBJECT_HANDLE,
    template: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
    object: *mut CK_OBJECT_HANDLE,
) -> CK_RV {
    let Some(shim) = Shim::get() else {
        return CKR_GENERAL_ERROR;
    };
    // SAFETY: the caller owes a mechanism, or null.
    let of = unsafe { named(mechanism) };
    // SAFETY: the caller owes a template of `count` attributes.
    let entered = unsafe { Creation::enter(shim, Function::C_DeriveKey, of, (template, count)) };
    let mut creation = match entered {
        Ok(creation) => creation,
        Err(code) => return code,
    };
    let Some(real) = shim.real.C_DeriveKey else {
        return CKR_FUNCTION_NOT_SUPPORTED;
    };
    // SAFETY: the caller owes a mechanism with parameters of its type, or null.
    let given = unsafe { mechanism.as_ref() };
    if let Some(given) = given {
        // SAFETY: the same.
        unsafe { material::in_derivation(shim, given) };
    }
    let mut other = None;
    if creation.corrupt {
        // SAFETY: the same.
        other = given.and_then(|given| unsafe { altered(given, base) });
        if other.is_none() {
            eprintln!("pkcs11 shim: a derivation with {of:x?} cannot be altered");
            return CKR_FUNCTION_FAILED;
        }
    }
    let (done, base) = match &mut other {
        Some(other) => (std::ptr::from_mut(&mut other.mechanism), other.base),
        None => (mechanism, base),
    };
    let (template, count) = creation.template();
    // SAFETY: the arguments are the caller's, or made from them to the same contract.
    let rv = unsafe { real(session, done, base, template, count, object) };
    if rv == CKR_OK {
        match given.filter(|given| KEY_BLOCKS.contains(&given.mechanism)) {
            // SAFETY: the module has done the derivation; what it returns goes where the caller's pointer says.
            Some(given) => unsafe { creation.made_key_block(session, given) },
            // SAFETY: the module has written the handle.
            None => unsafe { creation.made(session, object, false) },
        }
    }
    rv
}

/// A key and what carries it to the peer.
pub(crate) unsafe extern "C" fn C_EncapsulateKey(
    session: CK_SESSION_HANDLE,
    mechanism: *mut CK_MECHANISM,
    key: CK_OBJECT_HANDLE,
    template: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
    out: *mut CK_BYTE,
    out_len: *mut CK_ULONG,
    object: *mut CK_OBJECT_HANDLE,
) -> CK_RV {
    let Some(shim) = Shim::get() else {
        return CKR_GENERAL_ERROR;
    };
    // SAFETY: the caller owes a mechanism, or null.
    let of = unsafe { named(mechanism) };
    let function = Function::C_EncapsulateKey;
    // SAFETY: the caller owes a template of `count` attributes.
    let entered = unsafe { Creation::enter(shim, function, of, (template, count)) };
    let mut creation = match entered {
        Ok(creation) => creation,
        Err(code) => return code,
    };
    let Some(real) = shim.real.C_EncapsulateKey else {
        return CKR_FUNCTION_NOT_SUPPORTED;
    };
    // SAFETY: the caller owes a place and its room.
    let output = unsafe { Output::entered(function, of, creation.corrupt, out, out_len) };
    let (template, count) = creation.template();
    // SAFETY: the arguments are the caller's, for a function with the same signature and contract; a template of
    // ours is made of its attributes and of constants.
    let rv = unsafe {
        real(
            session, mechanism, key, template, count, out, out_len, object,
        )
    };
    if rv == CKR_OK && !out.is_null() {
        // SAFETY: the module has written the handle: not only the length was asked for.
        unsafe { creation.made(session, object, false) };
    }
    // SAFETY: the module has been given this place and this length.
    unsafe { output.given(shim, rv, out_len) }
}

/// The mechanisms that return four keys and two IVs.
const KEY_BLOCKS: [CK_MECHANISM_TYPE; 4] = [
    CKM_SSL3_KEY_AND_MAC_DERIVE,
    CKM_TLS_KEY_AND_MAC_DERIVE,
    CKM_TLS12_KEY_AND_MAC_DERIVE,
    CKM_TLS12_KEY_SAFE_DERIVE,
];
