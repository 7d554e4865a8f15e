//! The function lists that the caller gets: the real ones, with ours in the places that are counted.
//!
//! Functions that are not counted are the real module's own, and what the real module has not is not offered.

use std::ptr;

use cryptoki_sys::*;

use crate::interfaces::{C_GetInterface, C_GetInterfaceList};
use crate::state::Shim;
use crate::wrappers as w;

/// The module's entry (PKCS#11 2.40, section 5.4).
///
/// # Safety
/// `list` is null or valid for writing a pointer.
#[unsafe(no_mangle)]
#[allow(
    unreachable_pub,
    reason = "exported by its name, not through the crate"
)]
pub unsafe extern "C" fn C_GetFunctionList(list: CK_FUNCTION_LIST_PTR_PTR) -> CK_RV {
    if list.is_null() {
        return CKR_ARGUMENTS_BAD;
    }
    let Some(shim) = Shim::get() else {
        return CKR_GENERAL_ERROR;
    };
    // SAFETY: the caller promises that it may be written; the list lives as long as the process, and no caller
    // may write to it (PKCS#11 2.40, section 5.4).
    unsafe { *list = ptr::from_ref(&shim.table).cast_mut() };
    CKR_OK
}

/// Does `$do` with the counted functions of each version, the older first.
macro_rules! of_2_40 {
    ($do:ident, $($with:expr),*) => { $do! { $($with),*;
        C_Initialize C_Finalize C_GetInfo C_GetSlotList C_GetSlotInfo C_GetTokenInfo C_GetMechanismList
        C_GetMechanismInfo C_InitToken C_InitPIN C_SetPIN C_OpenSession C_CloseSession C_CloseAllSessions
        C_GetSessionInfo C_Login C_Logout C_CreateObject C_CopyObject C_DestroyObject C_GetObjectSize
        C_GetAttributeValue C_SetAttributeValue C_FindObjectsInit C_FindObjects C_FindObjectsFinal C_EncryptInit
        C_Encrypt C_EncryptUpdate C_EncryptFinal C_DecryptInit C_Decrypt C_DecryptUpdate C_DecryptFinal
        C_DigestInit C_Digest C_DigestUpdate C_DigestKey C_DigestFinal C_SignInit C_Sign C_SignUpdate C_SignFinal
        C_VerifyInit C_Verify C_VerifyUpdate C_VerifyFinal C_GenerateKey C_GenerateKeyPair C_WrapKey C_UnwrapKey
        C_DeriveKey C_SeedRandom C_GenerateRandom C_GetOperationState C_SignRecover C_VerifyRecover
        C_DigestEncryptUpdate C_DecryptDigestUpdate C_SignEncryptUpdate C_DecryptVerifyUpdate
    } };
}
macro_rules! of_3_0 {
    ($do:ident, $($with:expr),*) => { $do! { $($with),*;
        C_EncryptMessage C_EncryptMessageNext C_DecryptMessage C_DecryptMessageNext C_SignMessage
        C_SignMessageNext
    } };
}
macro_rules! of_3_2 {
    ($do:ident, $($with:expr),*) => { $do! { $($with),*;
        C_EncapsulateKey C_DecapsulateKey C_WrapKeyAuthenticated C_UnwrapKeyAuthenticated
    } };
}

macro_rules! take {
    ($to:expr, $from:expr; $($name:ident)*) => {
        $( if $from.$name.is_some() { $to.$name = $from.$name; } )*
    };
}

macro_rules! replace {
    ($table:expr; $($name:ident)*) => {
        $( if $table.$name.is_some() { $table.$name = Some(w::$name); } )*
    };
}

/// Adds the functions of a list of 2.40.
pub(crate) fn take_2_40(real: &mut CK_FUNCTION_LIST_3_2, list: &CK_FUNCTION_LIST) {
    of_2_40!(take, real, list);
}

/// Adds the functions of a list of 3.0.
pub(crate) fn take_3_0(real: &mut CK_FUNCTION_LIST_3_2, list: &CK_FUNCTION_LIST_3_0) {
    of_2_40!(take, real, list);
    of_3_0!(take, real, list);
}

/// Adds the functions of a list of 3.2.
pub(crate) fn take_3_2(real: &mut CK_FUNCTION_LIST_3_2, list: &CK_FUNCTION_LIST_3_2) {
    of_2_40!(take, real, list);
    of_3_0!(take, real, list);
    of_3_2!(take, real, list);
}

/// The list of 2.40 with ours in place.
pub(crate) fn ours_2_40(real: &CK_FUNCTION_LIST) -> CK_FUNCTION_LIST {
    let mut table = *real;
    table.C_GetFunctionList = Some(C_GetFunctionList);
    of_2_40!(replace, table);
    table
}

/// The list of 3.0 with ours in place.
pub(crate) fn ours_3_0(real: &CK_FUNCTION_LIST_3_0) -> CK_FUNCTION_LIST_3_0 {
    let mut table = *real;
    table.C_GetFunctionList = Some(C_GetFunctionList);
    table.C_GetInterfaceList = Some(C_GetInterfaceList);
    table.C_GetInterface = Some(C_GetInterface);
    of_2_40!(replace, table);
    of_3_0!(replace, table);
    table
}

/// The list of 3.2 with ours in place.
pub(crate) fn ours_3_2(real: &CK_FUNCTION_LIST_3_2) -> CK_FUNCTION_LIST_3_2 {
    let mut table = *real;
    table.C_GetFunctionList = Some(C_GetFunctionList);
    table.C_GetInterfaceList = Some(C_GetInterfaceList);
    table.C_GetInterface = Some(C_GetInterface);
    of_2_40!(replace, table);
    of_3_0!(replace, table);
    of_3_2!(replace, table);
    table
}
