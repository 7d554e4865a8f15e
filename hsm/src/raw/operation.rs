//! An operation in two calls: begun with a mechanism and a key, done on one piece of data.
//!
//! C_Sign, C_Encrypt and C_Decrypt have one form (PKCS#11, 5.8 to 5.13). Invariant: the functions come from the list of a
//! module that is loaded, which `Raw` keeps.

use cryptoki::{context::Function, error::Rv, object::ObjectHandle, session::Session};
use cryptoki_sys::{CK_BYTE, CK_MECHANISM, CK_OBJECT_HANDLE, CK_RV, CK_SESSION_HANDLE, CK_ULONG};

use super::{Result, function, written};

type Init = unsafe extern "C" fn(CK_SESSION_HANDLE, *mut CK_MECHANISM, CK_OBJECT_HANDLE) -> CK_RV;
type Run = unsafe extern "C" fn(
    CK_SESSION_HANDLE,
    *mut CK_BYTE,
    CK_ULONG,
    *mut CK_BYTE,
    *mut CK_ULONG,
) -> CK_RV;

/// The two functions of an operation, with their names for errors.
pub(super) struct Operation {
    pub(super) init: (Option<Init>, Function),
    pub(super) run: (Option<Run>, Function),
}

impl Operation {
    /// Runs it into `out`; the length of what was written. What the mechanism's parameters point at outlives this call.
    pub(super) fn run(
        self,
        session: &Session,
        mut mechanism: CK_MECHANISM,
        key: ObjectHandle,
        data: &[u8],
        out: &mut [u8],
    ) -> Result<usize> {
        let init = function(self.init.0)?;
        // SAFETY: a function of the loaded module; the mechanism's parameters are borrowed by the callers past this call.
        let rv = unsafe { init(session.handle(), &raw mut mechanism, key.handle()) };
        Rv::from(rv).into_result(self.init.1)?;
        let run = function(self.run.0)?;
        let mut len = out.len() as CK_ULONG;
        // SAFETY: both buffers are given with their lengths: the module reads the first and writes the second. The
        // parameters live as above.
        let rv = unsafe {
            run(
                session.handle(),
                data.as_ptr().cast_mut(),
                data.len() as CK_ULONG,
                out.as_mut_ptr(),
                &raw mut len,
            )
        };
        Rv::from(rv).into_result(self.run.1)?;
        written(len, out)
    }
}
