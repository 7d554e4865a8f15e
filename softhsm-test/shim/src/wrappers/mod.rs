//! One function for each counted function of PKCS#11: count, perhaps a fault, then the real module.
//!
//! Leaves the meaning of arguments to the real module. Arguments are handed on as they came, so whatever the
//! caller owes the real function (valid pointers, right lengths) it owes these, and no more.
#![allow(
    non_snake_case,
    clippy::too_many_arguments,
    reason = "the standard's own names and signatures"
)]

use cryptoki_sys::{CK_MECHANISM, CK_MECHANISM_TYPE};

mod attributes;
mod create;
mod mechanisms;
mod output;
mod plain;

pub(crate) use attributes::*;
pub(crate) use create::*;
pub(crate) use mechanisms::*;
pub(crate) use output::*;
pub(crate) use plain::*;

/// The mechanism that a call names; none when there is no pointer, which ends an operation in PKCS#11 3.0.
///
/// # Safety
/// The pointer is null or leads to a mechanism.
unsafe fn named(mechanism: *const CK_MECHANISM) -> Option<CK_MECHANISM_TYPE> {
    // SAFETY: promised by the caller.
    unsafe { mechanism.as_ref() }.map(|mechanism| mechanism.mechanism)
}
