//! The interfaces of PKCS#11 3.x: those of the real module, with our function lists in them.
//!
//! Leaves the choice between them to the real module. A module that has none is given the one that a list of
//! 2.40 makes, because a caller that finds C_GetInterface expects an answer. An interface by another name than
//! `PKCS 11` is a vendor's own and passes uncounted.

use std::ffi::{CStr, c_char, c_void};
use std::ptr;
use std::sync::OnceLock;

use cryptoki_sys::*;

use crate::state::Shim;
use crate::table;

/// Every interface that the real module names, and what the caller gets in its place.
pub(crate) struct Interfaces {
    all: Vec<(CK_INTERFACE, CK_INTERFACE)>,
    get: CK_C_GetInterface,
    /// The interface of a module that has none.
    only: OnceLock<CK_INTERFACE>,
}

// SAFETY: the pointers in it lead to memory that is never freed and that nobody writes to after it was built.
unsafe impl Send for Interfaces {}
// SAFETY: the same.
unsafe impl Sync for Interfaces {}

impl Interfaces {
    pub(crate) fn of(module: &Pkcs11) -> Interfaces {
        let get = module.C_GetInterface.as_ref().ok().copied();
        let list = module.C_GetInterfaceList.as_ref().ok().copied();
        let mut named = list.map(all_of).unwrap_or_default();
        // A module may have a default that it does not list.
        named.extend(get.and_then(default_of));
        let all = named.into_iter().map(|real| (real, replaced(&real)));
        Interfaces {
            all: all.collect(),
            get,
            only: OnceLock::new(),
        }
    }

    /// Adds the functions of these lists, the newest last.
    pub(crate) fn take(&self, real: &mut CK_FUNCTION_LIST_3_2) {
        for wanted in [(3, 0), (3, 2)] {
            for (interface, _) in self
                .all
                .iter()
                .filter(|(real, _)| is_standard(real.pInterfaceName))
            {
                let list = interface.pFunctionList;
                match version_of(interface) {
                    // SAFETY: a list begins with its version, and this version's list is of this type.
                    (3, 0 | 1) if wanted == (3, 0) => unsafe {
                        table::take_3_0(real, &*list.cast());
                    },
                    // SAFETY: the same.
                    (3, 2..) if wanted == (3, 2) => unsafe {
                        table::take_3_2(real, &*list.cast());
                    },
                    _ => {}
                }
            }
        }
    }

    fn ours(&self, real: &CK_INTERFACE) -> Option<&CK_INTERFACE> {
        self.all
            .iter()
            .find(|(known, _)| known.pFunctionList == real.pFunctionList)
            .map(|(_, ours)| ours)
    }
}

/// The interfaces (PKCS#11 3.0, section 5.4).
///
/// # Safety
/// `count` is null or valid for reading and writing, and `list` is null or has room for `count` interfaces.
#[unsafe(no_mangle)]
#[allow(
    unreachable_pub,
    reason = "exported by its name, not through the crate"
)]
pub unsafe extern "C" fn C_GetInterfaceList(
    list: *mut CK_INTERFACE,
    count: *mut CK_ULONG,
) -> CK_RV {
    if count.is_null() {
        return CKR_ARGUMENTS_BAD;
    }
    let Some(shim) = Shim::get() else {
        return CKR_GENERAL_ERROR;
    };
    let all: Vec<CK_INTERFACE> = match shim.interfaces.get {
        Some(_) => shim.interfaces.all.iter().map(|(_, ours)| *ours).collect(),
        None => vec![*only(shim)],
    };
    // SAFETY: promised by the caller.
    let room = std::mem::replace(unsafe { &mut *count }, all.len() as CK_ULONG);
    if list.is_null() {
        return CKR_OK;
    }
    if room < all.len() as CK_ULONG {
        return CKR_BUFFER_TOO_SMALL;
    }
    // SAFETY: the caller's list has room for all of them, and is not ours.
    unsafe { ptr::copy_nonoverlapping(all.as_ptr(), list, all.len()) };
    CKR_OK
}

/// One interface (PKCS#11 3.0, section 5.4); without a name or a version, the default.
///
/// # Safety
/// `name` is null or a string, `version` null or readable, `interface` null or valid for writing a pointer.
#[unsafe(no_mangle)]
#[allow(
    unreachable_pub,
    reason = "exported by its name, not through the crate"
)]
pub unsafe extern "C" fn C_GetInterface(
    name: *mut CK_UTF8CHAR,
    version: *mut CK_VERSION,
    interface: *mut *mut CK_INTERFACE,
    flags: CK_FLAGS,
) -> CK_RV {
    if interface.is_null() {
        return CKR_ARGUMENTS_BAD;
    }
    let Some(shim) = Shim::get() else {
        return CKR_GENERAL_ERROR;
    };
    let Some(get) = shim.interfaces.get else {
        let ours = only(shim);
        // SAFETY: promised by the caller.
        let version = unsafe { version.as_ref() };
        let meant = (name.is_null() || is_standard(name))
            && version.is_none_or(|wanted| (wanted.major, wanted.minor) == version_of(ours));
        if !meant || flags != 0 {
            return CKR_FUNCTION_FAILED;
        }
        // SAFETY: promised by the caller; ours lives as long as the process.
        unsafe { *interface = ptr::from_ref(ours).cast_mut() };
        return CKR_OK;
    };
    // SAFETY: the arguments are the caller's, for a function with the same signature and contract.
    let rv = unsafe { get(name, version, interface, flags) };
    if rv != CKR_OK {
        return rv;
    }
    // SAFETY: after success the module has written a pointer to an interface, or null.
    let Some(real) = (unsafe { (*interface).as_ref() }) else {
        return rv;
    };
    let Some(ours) = shim.interfaces.ours(real) else {
        eprintln!("pkcs11 shim: the module gives an interface that it does not list");
        return CKR_FUNCTION_FAILED;
    };
    // SAFETY: the caller promises that it may be written; ours lives as long as the process.
    unsafe { *interface = ptr::from_ref(ours).cast_mut() };
    CKR_OK
}

/// The interface of a module that has no interfaces.
fn only(shim: &'static Shim) -> &'static CK_INTERFACE {
    shim.interfaces.only.get_or_init(|| CK_INTERFACE {
        pInterfaceName: NAME.as_ptr().cast_mut().cast(),
        pFunctionList: ptr::from_ref(&shim.table).cast_mut().cast(),
        flags: 0,
    })
}

type List = unsafe extern "C" fn(*mut CK_INTERFACE, *mut CK_ULONG) -> CK_RV;
type Get = unsafe extern "C" fn(
    *mut CK_UTF8CHAR,
    *mut CK_VERSION,
    *mut *mut CK_INTERFACE,
    CK_FLAGS,
) -> CK_RV;

fn all_of(list: List) -> Vec<CK_INTERFACE> {
    let mut count = 0;
    // SAFETY: without a list the module writes the count alone.
    if unsafe { list(ptr::null_mut(), &mut count) } != CKR_OK {
        return Vec::new();
    }
    let mut all = vec![CK_INTERFACE::default(); count as usize];
    // SAFETY: the list has room for `count` interfaces.
    if unsafe { list(all.as_mut_ptr(), &mut count) } != CKR_OK {
        return Vec::new();
    }
    all.truncate(count as usize);
    all.retain(|interface| !interface.pFunctionList.is_null());
    all
}

fn default_of(get: Get) -> Option<CK_INTERFACE> {
    let mut interface = ptr::null_mut();
    // SAFETY: without a name and a version the default is asked for; the pointer may be written.
    let rv = unsafe { get(ptr::null_mut(), ptr::null_mut(), &mut interface, 0) };
    // SAFETY: after success it points at an interface of the module, or nowhere.
    let interface = unsafe { interface.as_ref() }?;
    (rv == CKR_OK && !interface.pFunctionList.is_null()).then_some(*interface)
}

/// The same with our list, which is left for as long as the process lives.
fn replaced(real: &CK_INTERFACE) -> CK_INTERFACE {
    let list = real.pFunctionList;
    let ours: *mut c_void = match version_of(real) {
        _ if !is_standard(real.pInterfaceName) => list,
        // SAFETY: a list begins with its version, and this version's list is of this type.
        (2, _) => unsafe { leaked(table::ours_2_40(&*list.cast())) },
        // SAFETY: the same.
        (3, 0 | 1) => unsafe { leaked(table::ours_3_0(&*list.cast())) },
        // SAFETY: the same; a later list of this major version begins with this one.
        (3, _) => unsafe { leaked(table::ours_3_2(&*list.cast())) },
        _ => list,
    };
    CK_INTERFACE {
        pFunctionList: ours,
        ..*real
    }
}

fn leaked<T>(table: T) -> *mut c_void {
    ptr::from_mut(Box::leak(Box::new(table))).cast()
}

fn version_of(interface: &CK_INTERFACE) -> (u8, u8) {
    // SAFETY: every function list begins with its version (PKCS#11 3.0, section 3.6).
    let version = unsafe { *interface.pFunctionList.cast::<CK_VERSION>() };
    (version.major, version.minor)
}

/// Of a name that is null or a string.
fn is_standard(name: *const CK_UTF8CHAR) -> bool {
    // SAFETY: a name that is there is a string, as the standard has it.
    !name.is_null() && unsafe { CStr::from_ptr(name.cast::<c_char>()) == NAME }
}

const NAME: &CStr = c"PKCS 11";
