//! What the token says it can do, and the lies about it.
//!
//! Leaves failing at what was claimed to other faults. The real list is edited, never invented: without a fault
//! the caller gets the real module's own.

use cryptoki_sys::*;

use crate::counters::Function;
use crate::faults::Action;
use crate::state::{Shim, Verdict};

/// The list, with what the faults add and leave out.
pub(crate) unsafe extern "C" fn C_GetMechanismList(
    slot: CK_SLOT_ID,
    list: *mut CK_MECHANISM_TYPE,
    count: *mut CK_ULONG,
) -> CK_RV {
    let Some(shim) = Shim::get() else {
        return CKR_GENERAL_ERROR;
    };
    if let Verdict::Fail(code) = shim.enter(Function::C_GetMechanismList, &[]) {
        return code;
    }
    let Some(real) = shim.real.C_GetMechanismList else {
        return CKR_FUNCTION_NOT_SUPPORTED;
    };
    let edits = shim.edits(Function::C_GetMechanismList);
    if edits.is_empty() || count.is_null() {
        // SAFETY: the arguments are the caller's, for a function with the same signature and contract.
        return unsafe { real(slot, list, count) };
    }
    let mut length = 0;
    // SAFETY: without a list the module writes the length alone.
    let rv = unsafe { real(slot, std::ptr::null_mut(), &mut length) };
    if rv != CKR_OK {
        return rv;
    }
    let mut all = vec![0; length as usize];
    // SAFETY: the list has room for that many.
    let rv = unsafe { real(slot, all.as_mut_ptr(), &mut length) };
    if rv != CKR_OK {
        return rv;
    }
    all.truncate(length as usize);
    edit(&mut all, &edits);
    // SAFETY: the caller owes a count that may be read and written.
    let room = std::mem::replace(unsafe { &mut *count }, all.len() as CK_ULONG);
    if list.is_null() {
        return CKR_OK;
    }
    if room < all.len() as CK_ULONG {
        return CKR_BUFFER_TOO_SMALL;
    }
    // SAFETY: the caller's list has that room, and is not ours.
    unsafe { std::ptr::copy_nonoverlapping(all.as_ptr(), list, all.len()) };
    CKR_OK
}

/// What a mechanism can do; a claim says that it can do everything.
pub(crate) unsafe extern "C" fn C_GetMechanismInfo(
    slot: CK_SLOT_ID,
    kind: CK_MECHANISM_TYPE,
    info: *mut CK_MECHANISM_INFO,
) -> CK_RV {
    let Some(shim) = Shim::get() else {
        return CKR_GENERAL_ERROR;
    };
    match shim.enter(Function::C_GetMechanismInfo, &[kind]) {
        Verdict::Fail(code) => return code,
        Verdict::Claim => {
            // SAFETY: the caller owes a record that may be written, or null.
            let Some(info) = (unsafe { info.as_mut() }) else {
                return CKR_ARGUMENTS_BAD;
            };
            *info = CK_MECHANISM_INFO {
                ulMinKeySize: 0,
                ulMaxKeySize: 65536,
                flags: EVERYTHING,
            };
            return CKR_OK;
        }
        _ => {}
    }
    let Some(real) = shim.real.C_GetMechanismInfo else {
        return CKR_FUNCTION_NOT_SUPPORTED;
    };
    // SAFETY: the arguments are the caller's, for a function with the same signature and contract.
    unsafe { real(slot, kind, info) }
}

fn edit(all: &mut Vec<CK_MECHANISM_TYPE>, edits: &[Action]) {
    for edit in edits {
        match edit {
            Action::Extra(mechanism) if !all.contains(mechanism) => all.push(*mechanism),
            Action::Without(mechanism) => all.retain(|listed| listed != mechanism),
            _ => {}
        }
    }
}

const EVERYTHING: CK_FLAGS = CKF_ENCRYPT
    | CKF_DECRYPT
    | CKF_DIGEST
    | CKF_SIGN
    | CKF_VERIFY
    | CKF_GENERATE
    | CKF_GENERATE_KEY_PAIR
    | CKF_WRAP
    | CKF_UNWRAP
    | CKF_DERIVE
    | CKF_ENCAPSULATE
    | CKF_DECAPSULATE;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_a_list_once() {
        let mut all = vec![1, 2, 3];
        edit(
            &mut all,
            &[Action::Extra(9), Action::Extra(9), Action::Without(2)],
        );
        assert_eq!(all, [1, 3, 9]);
    }
}
