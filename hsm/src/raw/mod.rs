//! The PKCS#11 calls that cryptoki has not: TLS mechanisms, key wrapping with padding, templates in templates, and
//! any call that can do without asking for a length first.
//!
//! The one place with unsafe code. Which mechanism is used for what is decided elsewhere. Invariant: every function
//! that can be seen from outside is safe: pointers are made from references that live as long as the call.

#![allow(
    unsafe_code,
    reason = "the functions of a PKCS#11 module take pointers; each block says why it is sound"
)]

mod keys;
mod objects;
mod operation;

use std::{
    ffi::{CStr, c_void},
    path::Path,
    ptr::{self, NonNull},
};

use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Function, Pkcs11},
    error::{Error as CryptokiError, Rv},
    mechanism::{Mechanism, MechanismType},
    object::{Attribute, ObjectHandle},
    session::Session,
    slot::Slot,
};
use cryptoki_sys::{
    CK_ATTRIBUTE, CK_ATTRIBUTE_TYPE, CK_FUNCTION_LIST, CK_INFO, CK_MECHANISM, CK_MECHANISM_TYPE,
    CK_OBJECT_HANDLE, CK_SSL3_RANDOM_DATA, CK_TLS_KDF_PARAMS, CK_TLS_MAC_PARAMS,
    CK_TLS12_EXTENDED_MASTER_KEY_DERIVE_PARAMS, CK_ULONG, CKM_TLS_KDF, CKM_TLS_MAC, CKR_OK,
};

pub(crate) use keys::Item;
pub(crate) use objects::{Way, entries};

use operation::Operation;

type Result<T> = std::result::Result<T, CryptokiError>;

/// A module's own list of functions, beside the one that cryptoki keeps to itself.
pub(crate) struct Raw {
    list: CK_FUNCTION_LIST,
    /// Keeps the library, and with it the functions, in memory.
    _library: cryptoki_sys::Pkcs11,
}

/// The two randoms of a TLS 1.2 derivation, in the order in which the module is to be told of them.
#[derive(Clone, Copy)]
pub(crate) struct Randoms<'a> {
    pub(crate) client: &'a [u8; 32],
    pub(crate) server: &'a [u8; 32],
}

impl Raw {
    /// The functions of a module that cryptoki has loaded and initialised. `None` when they are those of another
    /// instance, as with p11-kit's client, which makes one for every list that is asked for.
    pub(crate) fn open(path: &Path) -> Option<Self> {
        // SAFETY: the library is in this process already, so that loading it again runs no code of it.
        let library = unsafe { cryptoki_sys::Pkcs11::new(path) }.ok()?;
        let get = library.C_GetFunctionList.as_ref().ok()?;
        let mut list = ptr::null_mut();
        // SAFETY: the function may be called at any time (PKCS#11, 5.4), and the pointer it sets is ours.
        let rv = unsafe { get(&raw mut list) };
        if rv != CKR_OK || list.is_null() {
            return None;
        }
        // SAFETY: a successful C_GetFunctionList points at a whole list of version 2, which lives as long as the
        // library; it is copied out.
        let list = unsafe { *list };
        let mut info = CK_INFO::default();
        // SAFETY: `info` is a whole CK_INFO of ours.
        let rv = unsafe { list.C_GetInfo?(&raw mut info) };
        (rv == CKR_OK).then_some(Self {
            list,
            _library: library,
        })
    }

    /// C_GetMechanismList with whatever it has: cryptoki leaves out what it has no name for.
    pub(crate) fn mechanism_list(&self, slot: Slot) -> Result<Vec<MechanismType>> {
        let get = function(self.list.C_GetMechanismList)?;
        let mut count = 0;
        // SAFETY: without a list the function writes the number alone.
        let rv = unsafe { get(slot.into(), ptr::null_mut(), &raw mut count) };
        Rv::from(rv).into_result(Function::GetMechanismList)?;
        let len = usize::try_from(count).map_err(|_| CryptokiError::InvalidValue)?;
        let mut ids: Vec<CK_MECHANISM_TYPE> = vec![0; len.min(MECHANISMS_MAX)];
        count = ids.len() as CK_ULONG;
        // SAFETY: the list is given with its length.
        let rv = unsafe { get(slot.into(), ids.as_mut_ptr(), &raw mut count) };
        Rv::from(rv).into_result(Function::GetMechanismList)?;
        ids.truncate(usize::try_from(count).map_err(|_| CryptokiError::InvalidValue)?);
        Ok(ids.into_iter().map(mechanism_type).collect())
    }

    /// C_SignInit and one C_Sign into `out`; the length of what was written.
    pub(crate) fn sign(
        &self,
        session: &Session,
        mechanism: &Mechanism<'_>,
        key: ObjectHandle,
        data: &[u8],
        out: &mut [u8],
    ) -> Result<usize> {
        self.sign_with(session, CK_MECHANISM::from(mechanism), key, data, out)
    }

    /// CKM_TLS_MAC (PKCS#11 3.0, 2.41.9): a Finished of TLS 1.2.
    pub(crate) fn tls_mac(
        &self,
        session: &Session,
        prf: CK_MECHANISM_TYPE,
        is_server: bool,
        master: ObjectHandle,
        handshake_hash: &[u8],
        out: &mut [u8],
    ) -> Result<usize> {
        let mut params = CK_TLS_MAC_PARAMS {
            prfHashMechanism: prf,
            ulMacLength: FINISHED_LEN,
            ulServerOrClient: if is_server { 1 } else { 2 },
        };
        let mechanism = mechanism(CKM_TLS_MAC, &mut params);
        self.sign_with(session, mechanism, master, handshake_hash, out)
    }

    fn sign_with(
        &self,
        session: &Session,
        mechanism: CK_MECHANISM,
        key: ObjectHandle,
        data: &[u8],
        out: &mut [u8],
    ) -> Result<usize> {
        let operation = Operation {
            init: (self.list.C_SignInit, Function::SignInit),
            run: (self.list.C_Sign, Function::Sign),
        };
        operation.run(session, mechanism, key, data, out)
    }

    /// C_DigestFinal into `out`.
    pub(crate) fn digest_final(&self, session: &Session, out: &mut [u8]) -> Result<usize> {
        let digest_final = function(self.list.C_DigestFinal)?;
        let mut len = out.len() as CK_ULONG;
        // SAFETY: the buffer is given with its length.
        let rv = unsafe { digest_final(session.handle(), out.as_mut_ptr(), &raw mut len) };
        Rv::from(rv).into_result(Function::DigestFinal)?;
        written(len, out)
    }

    /// C_GetAttributeValue of one attribute into `out`.
    pub(crate) fn attribute(
        &self,
        session: &Session,
        object: ObjectHandle,
        attribute: CK_ATTRIBUTE_TYPE,
        out: &mut [u8],
    ) -> Result<usize> {
        let get = function(self.list.C_GetAttributeValue)?;
        let mut asked = CK_ATTRIBUTE {
            type_: attribute,
            pValue: out.as_mut_ptr().cast(),
            ulValueLen: out.len() as CK_ULONG,
        };
        // SAFETY: one attribute is asked for, whose buffer is given with its length.
        let rv = unsafe { get(session.handle(), object.handle(), &raw mut asked, 1) };
        Rv::from(rv).into_result(Function::GetAttributeValue)?;
        written(asked.ulValueLen, out)
    }

    /// C_DeriveKey with CKM_TLS12_EXTENDED_MASTER_KEY_DERIVE_DH (PKCS#11 3.1, 6.40) or a vendor's own that has the
    /// same parameters.
    pub(crate) fn tls12_extended_master(
        &self,
        session: &Session,
        id: CK_MECHANISM_TYPE,
        prf: CK_MECHANISM_TYPE,
        session_hash: &[u8],
        premaster: ObjectHandle,
        template: &[Attribute],
    ) -> Result<ObjectHandle> {
        let mut params = CK_TLS12_EXTENDED_MASTER_KEY_DERIVE_PARAMS {
            prfHashMechanism: prf,
            pSessionHash: session_hash.as_ptr().cast_mut(),
            ulSessionHashLen: session_hash.len() as CK_ULONG,
            pVersion: ptr::null_mut(),
        };
        let mechanism = mechanism(id, &mut params);
        self.derive(session, mechanism, premaster, template)
    }

    /// C_DeriveKey with CKM_TLS_KDF (PKCS#11 3.0, 2.41.10). The module puts the client's random first.
    pub(crate) fn tls_kdf(
        &self,
        session: &Session,
        prf: CK_MECHANISM_TYPE,
        label: &[u8],
        randoms: Randoms<'_>,
        master: ObjectHandle,
        template: &[Attribute],
    ) -> Result<ObjectHandle> {
        let mut params = CK_TLS_KDF_PARAMS {
            prfMechanism: prf,
            pLabel: label.as_ptr().cast_mut(),
            ulLabelLength: label.len() as CK_ULONG,
            RandomInfo: CK_SSL3_RANDOM_DATA {
                pClientRandom: randoms.client.as_ptr().cast_mut(),
                ulClientRandomLen: randoms.client.len() as CK_ULONG,
                pServerRandom: randoms.server.as_ptr().cast_mut(),
                ulServerRandomLen: randoms.server.len() as CK_ULONG,
            },
            pContextData: ptr::null_mut(),
            ulContextDataLength: 0,
        };
        let mechanism = mechanism(CKM_TLS_KDF, &mut params);
        self.derive(session, mechanism, master, template)
    }

    fn derive(
        &self,
        session: &Session,
        mut mechanism: CK_MECHANISM,
        base: ObjectHandle,
        template: &[Attribute],
    ) -> Result<ObjectHandle> {
        let derive = function(self.list.C_DeriveKey)?;
        let mut template: Vec<CK_ATTRIBUTE> = template.iter().map(CK_ATTRIBUTE::from).collect();
        let mut handle = 0;
        // SAFETY: the mechanism's parameters and the template's values are borrowed by the callers past this call.
        let rv = unsafe {
            derive(
                session.handle(),
                &raw mut mechanism,
                base.handle(),
                template.as_mut_ptr(),
                template.len() as CK_ULONG,
                &raw mut handle,
            )
        };
        Rv::from(rv).into_result(Function::DeriveKey)?;
        Ok(object(handle))
    }
}

/// C_Initialize, with a text in pReserved for the modules that want one.
pub(crate) fn initialize(pkcs11: &Pkcs11, reserved: Option<&CStr>) -> Result<()> {
    let flags = CInitializeFlags::OS_LOCKING_OK;
    let text = reserved.and_then(|text| NonNull::new(text.as_ptr().cast_mut().cast::<c_void>()));
    let arguments = match text {
        // SAFETY: modules that read pReserved take a C string there, which lives past the call of C_Initialize.
        Some(text) => unsafe { CInitializeArgs::new_with_reserved(flags, text) },
        None => CInitializeArgs::new(flags),
    };
    pkcs11.initialize(arguments)
}

/// A mechanism whose parameters are in `params`, which must outlive its use.
fn mechanism<T>(id: CK_MECHANISM_TYPE, params: &mut T) -> CK_MECHANISM {
    CK_MECHANISM {
        mechanism: id,
        pParameter: ptr::from_mut(params).cast::<c_void>(),
        ulParameterLen: size_of::<T>() as CK_ULONG,
    }
}

/// A mechanism without parameters.
fn bare(id: CK_MECHANISM_TYPE) -> CK_MECHANISM {
    CK_MECHANISM {
        mechanism: id,
        pParameter: ptr::null_mut(),
        ulParameterLen: 0,
    }
}

/// A mechanism's number as cryptoki wants it.
fn mechanism_type(id: CK_MECHANISM_TYPE) -> MechanismType {
    // SAFETY: MechanismType is a transparent wrapper of this number, and every number is one of its values.
    unsafe { std::mem::transmute::<CK_MECHANISM_TYPE, MechanismType>(id) }
}

fn object(handle: CK_OBJECT_HANDLE) -> ObjectHandle {
    // SAFETY: the handle comes from the module, and a wrong one is an error of the call that uses it.
    unsafe { ObjectHandle::new_from_raw(handle) }
}

fn function<F>(function: Option<F>) -> Result<F> {
    function.ok_or(CryptokiError::NullFunctionPointer)
}

/// A length as the module gave it, if the buffer has as much.
fn written(len: CK_ULONG, out: &[u8]) -> Result<usize> {
    usize::try_from(len)
        .ok()
        .filter(|&len| len <= out.len())
        .ok_or(CryptokiError::InvalidValue)
}

/// More mechanisms than any module has.
const MECHANISMS_MAX: usize = 4096;
/// Bytes of a Finished of TLS 1.2 (RFC 5246, section 7.4.9).
const FINISHED_LEN: CK_ULONG = 12;
