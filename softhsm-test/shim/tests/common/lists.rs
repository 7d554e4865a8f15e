//! The function lists that a module offers.
//!
//! Leaves calling them to the caller. The newest list is told by its version, which every list begins with.

use std::ffi::{CString, c_void};
use std::ptr;

use cryptoki_sys::*;

use super::ok;

macro_rules! take {
    ($to:ident, $from:expr; $($name:ident)*) => { $( $to.$name = $from.$name; )* };
}
macro_rules! take_2_40 {
    ($to:ident, $from:expr) => {
        take! { $to, $from;
            C_Initialize C_GetSlotList C_GetTokenInfo C_GetMechanismList C_GetMechanismInfo C_OpenSession
            C_CloseSession C_Login C_CreateObject C_CopyObject C_DestroyObject C_GetAttributeValue
            C_SetAttributeValue C_EncryptInit C_Encrypt C_DigestInit C_DigestUpdate C_DigestFinal C_SignInit C_Sign
            C_SignUpdate C_SignFinal C_GenerateKey C_GenerateKeyPair C_WrapKey C_UnwrapKey C_DeriveKey
            C_GenerateRandom
        }
    };
}

/// The functions of the default interface, as far as they are used here.
pub(crate) fn newest(module: &Pkcs11) -> CK_FUNCTION_LIST_3_2 {
    let list = interface(module, None, None).unwrap();
    let mut calls = CK_FUNCTION_LIST_3_2::default();
    // SAFETY: a list begins with its version.
    let version = unsafe { *list.cast::<CK_VERSION>() };
    match (version.major, version.minor) {
        (3, 2..) => {
            // SAFETY: a list of this version is of this type.
            calls = unsafe { *list.cast::<CK_FUNCTION_LIST_3_2>() };
        }
        (3, _) => {
            // SAFETY: the same.
            let list = unsafe { *list.cast::<CK_FUNCTION_LIST_3_0>() };
            take_2_40!(calls, list);
        }
        _ => {
            // SAFETY: the same.
            let list = unsafe { *list.cast::<CK_FUNCTION_LIST>() };
            take_2_40!(calls, list);
        }
    }
    calls
}

/// The function list of an interface; without a name and a version, of the default.
pub(crate) fn interface(
    module: &Pkcs11,
    name: Option<&str>,
    version: Option<(u8, u8)>,
) -> Result<*mut c_void, CK_RV> {
    let name = name.map(|name| CString::new(name).unwrap());
    let mut version = version.map(|(major, minor)| CK_VERSION { major, minor });
    let mut found = ptr::null_mut();
    // SAFETY: strings and records live during the call.
    ok(unsafe {
        module.C_GetInterface(
            name.as_ref()
                .map_or(ptr::null_mut(), |name| name.as_ptr().cast_mut().cast()),
            version.as_mut().map_or(ptr::null_mut(), ptr::from_mut),
            &mut found,
            0,
        )
    })?;
    // SAFETY: after success it points at an interface.
    Ok(unsafe { (*found).pFunctionList })
}
