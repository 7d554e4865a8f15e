//! What goes into the token as key material: values in templates, and data that a derivation mixes in.
//!
//! Leaves wrapped and encapsulated keys to their wrappers. Labels and contexts are no key material: they may be
//! known to everybody.

use std::slice;

use cryptoki_sys::*;

use crate::alter;
use crate::counters::Function;
use crate::examine::SECRETS;
use crate::names;
use crate::state::Shim;
use crate::tap;
use crate::tapped::Direction;

/// Taps what a template carries into the token.
///
/// # Safety
/// The attributes' pointers and lengths must belong together.
pub(crate) unsafe fn in_template(shim: &Shim, function: Function, template: &[CK_ATTRIBUTE]) {
    if !shim.tap.listens() {
        return;
    }
    // SAFETY: promised by the caller.
    for (kind, bytes) in unsafe { tap::values(template, None) } {
        if SECRETS.contains(&kind) || PARTS.contains(&kind) {
            let detail = names::attribute(kind);
            shim.tap.passed(function, &detail, Direction::In, &bytes);
        }
    }
}

/// Taps what a derivation mixes with its base key.
///
/// # Safety
/// The mechanism must be as the caller owes it to a module: parameters of the mechanism's type, pointers and
/// lengths that belong together.
pub(crate) unsafe fn in_derivation(shim: &Shim, mechanism: &CK_MECHANISM) {
    if !shim.tap.listens() {
        return;
    }
    let (what, data, length) = match mechanism.mechanism {
        CKM_CONCATENATE_BASE_AND_DATA | CKM_CONCATENATE_DATA_AND_BASE | CKM_XOR_BASE_AND_DATA => {
            // SAFETY: promised by the caller.
            match unsafe { alter::of::<CK_KEY_DERIVATION_STRING_DATA>(mechanism) } {
                Some(p) => ("data", p.pData, p.ulLen),
                None => return,
            }
        }
        CKM_HKDF_DERIVE | CKM_HKDF_DATA => {
            // SAFETY: promised by the caller.
            match unsafe { alter::of::<CK_HKDF_PARAMS>(mechanism) } {
                Some(p) if p.bExtract != 0 && p.ulSaltType == CKF_HKDF_SALT_DATA => {
                    ("salt", p.pSalt, p.ulSaltLen)
                }
                _ => return,
            }
        }
        _ => return,
    };
    if !data.is_null() {
        // SAFETY: promised by the caller.
        let bytes = unsafe { slice::from_raw_parts(data, length as usize) };
        let detail = format!("{} {what}", names::mechanism(mechanism.mechanism));
        let function = Function::C_DeriveKey;
        shim.tap.passed(function, &detail, Direction::In, bytes);
    }
}

/// The other secret parts of an RSA key.
const PARTS: [CK_ATTRIBUTE_TYPE; 4] =
    [CKA_PRIME_2, CKA_EXPONENT_1, CKA_EXPONENT_2, CKA_COEFFICIENT];
