//! The function list that the caller gets: the real one, with ours in the places that are counted.
//!
//! Only the list of PKCS#11 2.40 is offered, so C_GetInterface is not exported. Functions that are not counted
//! are the real module's own.

use std::ptr;

use cryptoki_sys::{
    CK_FUNCTION_LIST, CK_FUNCTION_LIST_PTR_PTR, CK_RV, CKR_ARGUMENTS_BAD, CKR_GENERAL_ERROR, CKR_OK,
};

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

/// The real list with ours in place.
pub(crate) fn build(real: &CK_FUNCTION_LIST) -> CK_FUNCTION_LIST {
    let mut table = *real;
    macro_rules! ours {
        ($($name:ident)*) => { $( table.$name = Some(w::$name); )* };
    }
    table.C_GetFunctionList = Some(C_GetFunctionList);
    ours! {
        C_Initialize C_Finalize C_GetInfo C_GetSlotList C_GetSlotInfo C_GetTokenInfo C_GetMechanismList
        C_GetMechanismInfo C_InitToken C_InitPIN C_SetPIN C_OpenSession C_CloseSession C_CloseAllSessions
        C_GetSessionInfo C_Login C_Logout C_CreateObject C_CopyObject C_DestroyObject C_GetObjectSize
        C_GetAttributeValue C_SetAttributeValue C_FindObjectsInit C_FindObjects C_FindObjectsFinal C_EncryptInit
        C_Encrypt C_EncryptUpdate C_EncryptFinal C_DecryptInit C_Decrypt C_DecryptUpdate C_DecryptFinal
        C_DigestInit C_Digest C_DigestUpdate C_DigestKey C_DigestFinal C_SignInit C_Sign C_SignUpdate C_SignFinal
        C_VerifyInit C_Verify C_VerifyUpdate C_VerifyFinal C_GenerateKey C_GenerateKeyPair C_WrapKey C_UnwrapKey
        C_DeriveKey C_SeedRandom C_GenerateRandom
    }
    table
}
