//! A caller of the counting module: one session, and a method for each act that the tests need.
//!
//! Leaves judging to the tests. It calls nothing that a test has not asked for, but to open its session and to
//! log in, so that counters and taps are the test's own doing.

#![allow(
    dead_code,
    unused_imports,
    clippy::unwrap_used,
    reason = "each test file uses a part; a test fails by panicking"
)]

mod keys;
mod lists;

use std::ffi::CString;
use std::ptr;

use cryptoki_sys::*;
use keyhaven_softhsm_test::{Shim, TestToken};

pub(crate) use lists::interface;
use lists::newest;

/// A template: attributes with their bytes.
pub(crate) type Template<'a> = &'a [(CK_ATTRIBUTE_TYPE, &'a [u8])];

pub(crate) const YES: &[u8] = &[CK_TRUE];
pub(crate) const NO: &[u8] = &[CK_FALSE];
/// The curve P-256, as CKA_EC_PARAMS.
pub(crate) const P256: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];

pub(crate) struct Caller {
    pub(crate) calls: CK_FUNCTION_LIST_3_2,
    pub(crate) session: CK_SESSION_HANDLE,
    pub(crate) slot: CK_SLOT_ID,
    pub(crate) module: Pkcs11,
    /// NSS reads it for as long as it runs.
    _init_args: Option<CString>,
}

impl Caller {
    /// Opens a session of the token through the shim and logs in.
    pub(crate) fn new(token: &TestToken, shim: &Shim) -> Caller {
        // SAFETY: the module is the one under test.
        let module = unsafe { Pkcs11::new(shim.module()) }.unwrap();
        let calls = newest(&module);
        let init_args = token.init_args().map(|args| CString::new(args).unwrap());
        let mut args = CK_C_INITIALIZE_ARGS {
            flags: CKF_OS_LOCKING_OK,
            pReserved: init_args
                .as_ref()
                .map_or(ptr::null_mut(), |args| args.as_ptr().cast_mut().cast()),
            ..CK_C_INITIALIZE_ARGS::default()
        };
        let mut caller = Caller {
            calls,
            session: 0,
            slot: 0,
            module,
            _init_args: init_args,
        };
        // SAFETY: the arguments live during the call.
        ok(unsafe { calls.C_Initialize.unwrap()(ptr::from_mut(&mut args).cast()) }).unwrap();
        caller.slot = caller.slot_of(token.label());
        caller.session = caller.open();
        let pin = token.pin();
        // SAFETY: the PIN is as long as is said.
        ok(unsafe {
            let pin_bytes = pin.as_ptr().cast_mut();
            calls.C_Login.unwrap()(caller.session, CKU_USER, pin_bytes, pin.len() as CK_ULONG)
        })
        .unwrap();
        caller
    }

    fn slot_of(&self, label: &str) -> CK_SLOT_ID {
        let mut slots = [0; 16];
        let mut count = slots.len() as CK_ULONG;
        // SAFETY: the list has room for `count` slots.
        ok(unsafe { self.calls.C_GetSlotList.unwrap()(CK_TRUE, slots.as_mut_ptr(), &mut count) })
            .unwrap();
        *slots[..count as usize]
            .iter()
            .find(|slot| {
                let mut info = CK_TOKEN_INFO::default();
                // SAFETY: the record may be written.
                let rv = unsafe { self.calls.C_GetTokenInfo.unwrap()(**slot, &mut info) };
                rv == CKR_OK && String::from_utf8_lossy(&info.label).trim_end() == label
            })
            .unwrap()
    }

    /// One more session.
    pub(crate) fn open(&self) -> CK_SESSION_HANDLE {
        let mut session = 0;
        let flags = CKF_SERIAL_SESSION | CKF_RW_SESSION;
        // SAFETY: the handle may be written.
        ok(unsafe {
            let open = self.calls.C_OpenSession.unwrap();
            open(self.slot, flags, ptr::null_mut(), None, &mut session)
        })
        .unwrap();
        session
    }

    pub(crate) fn attribute(&self, object: u64, kind: CK_ATTRIBUTE_TYPE) -> Result<Vec<u8>, CK_RV> {
        let mut value = vec![0; 512];
        let mut attribute = CK_ATTRIBUTE {
            type_: kind,
            pValue: value.as_mut_ptr().cast(),
            ulValueLen: value.len() as CK_ULONG,
        };
        // SAFETY: the attribute describes the buffer.
        ok(unsafe {
            self.calls.C_GetAttributeValue.unwrap()(self.session, object, &mut attribute, 1)
        })?;
        value.truncate(attribute.ulValueLen as usize);
        Ok(value)
    }

    pub(crate) fn sign(
        &self,
        kind: CK_MECHANISM_TYPE,
        key: u64,
        data: &[u8],
    ) -> Result<Vec<u8>, CK_RV> {
        self.sign_in(self.session, kind, key, data)
    }

    pub(crate) fn sign_in(
        &self,
        session: CK_SESSION_HANDLE,
        kind: CK_MECHANISM_TYPE,
        key: u64,
        data: &[u8],
    ) -> Result<Vec<u8>, CK_RV> {
        let mut mechanism = plain(kind);
        let mut out = vec![0; 512];
        let mut length = out.len() as CK_ULONG;
        // SAFETY: lengths belong to their buffers.
        unsafe {
            ok(self.calls.C_SignInit.unwrap()(session, &mut mechanism, key))?;
            let input = data.as_ptr().cast_mut();
            let sign = self.calls.C_Sign.unwrap();
            let len = data.len() as CK_ULONG;
            ok(sign(session, input, len, out.as_mut_ptr(), &mut length))?;
        }
        out.truncate(length as usize);
        Ok(out)
    }

    /// SHA-256 in several steps.
    pub(crate) fn digest(&self, data: &[u8]) -> Result<Vec<u8>, CK_RV> {
        let mut mechanism = plain(CKM_SHA256);
        let mut out = vec![0; 64];
        let mut length = out.len() as CK_ULONG;
        // SAFETY: lengths belong to their buffers.
        unsafe {
            ok(self.calls.C_DigestInit.unwrap()(
                self.session,
                &mut mechanism,
            ))?;
            let update = self.calls.C_DigestUpdate.unwrap();
            ok(update(
                self.session,
                data.as_ptr().cast_mut(),
                data.len() as CK_ULONG,
            ))?;
            let last = self.calls.C_DigestFinal.unwrap();
            ok(last(self.session, out.as_mut_ptr(), &mut length))?;
        }
        out.truncate(length as usize);
        Ok(out)
    }

    pub(crate) fn random(&self, length: usize) -> Vec<u8> {
        let mut out = vec![0; length];
        // SAFETY: the buffer has that length.
        ok(unsafe {
            self.calls.C_GenerateRandom.unwrap()(self.session, out.as_mut_ptr(), length as CK_ULONG)
        })
        .unwrap();
        out
    }

    pub(crate) fn mechanisms(&self) -> Vec<CK_MECHANISM_TYPE> {
        let mut count = 0;
        let list = self.calls.C_GetMechanismList.unwrap();
        // SAFETY: without a list the length alone is written.
        ok(unsafe { list(self.slot, ptr::null_mut(), &mut count) }).unwrap();
        let mut all = vec![0; count as usize];
        // SAFETY: the list has room for `count`.
        ok(unsafe { list(self.slot, all.as_mut_ptr(), &mut count) }).unwrap();
        assert_eq!(all.len(), count as usize);
        all
    }

    /// The mechanism's flags.
    pub(crate) fn mechanism_info(&self, kind: CK_MECHANISM_TYPE) -> Result<CK_FLAGS, CK_RV> {
        let mut info = CK_MECHANISM_INFO::default();
        // SAFETY: the record may be written.
        ok(unsafe { self.calls.C_GetMechanismInfo.unwrap()(self.slot, kind, &mut info) })?;
        Ok(info.flags)
    }
}

pub(crate) fn plain(kind: CK_MECHANISM_TYPE) -> CK_MECHANISM {
    CK_MECHANISM {
        mechanism: kind,
        pParameter: ptr::null_mut(),
        ulParameterLen: 0,
    }
}

pub(crate) fn attributes(template: Template<'_>) -> Vec<CK_ATTRIBUTE> {
    let attribute = |(kind, bytes): &(CK_ATTRIBUTE_TYPE, &[u8])| CK_ATTRIBUTE {
        type_: *kind,
        pValue: bytes.as_ptr().cast_mut().cast(),
        ulValueLen: bytes.len() as CK_ULONG,
    };
    template.iter().map(attribute).collect()
}

pub(crate) fn ok(rv: CK_RV) -> Result<(), CK_RV> {
    if rv == CKR_OK { Ok(()) } else { Err(rv) }
}

/// A session secret of 32 bytes that tells nothing.
pub(crate) const SECRET: Template<'static> = &[
    (CKA_CLASS, &CKO_SECRET_KEY.to_ne_bytes()),
    (CKA_KEY_TYPE, &CKK_GENERIC_SECRET.to_ne_bytes()),
    (CKA_TOKEN, NO),
    (CKA_SENSITIVE, YES),
    (CKA_EXTRACTABLE, NO),
    (CKA_DERIVE, YES),
    (CKA_SIGN, YES),
    (CKA_VALUE_LEN, &(32 as CK_ULONG).to_ne_bytes()),
];
