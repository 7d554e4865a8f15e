//! The counters: a file of 64-bit numbers, mapped into every process that counts.
//!
//! Leaves reading to `softhsm-test`, which reads the file. The order of [`Counter`] and [`Function`] is the
//! file's format; both sides are built from this file.

use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::{io, ptr};

use rustix::mm::{MapFlags, ProtFlags, mmap};

/// What is counted besides the calls of each function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Counter {
    /// Raised by the writer of the file `faults` when it has changed.
    FaultsGeneration,
    /// Faults done.
    Faults,
    /// Session objects that live now.
    Live,
    /// The most session objects that lived at once.
    LiveMax,
    /// Private and secret keys whose value the shim tried to read.
    Examined,
    /// Those among them that gave it.
    Readable,
    /// Calls of the caller itself that asked for the value of a key.
    ValueAsked,
}

/// How many [`Counter`]s there are; the functions follow.
pub const COUNTERS: usize = 7;
/// The size of the file in bytes.
pub const FILE_BYTES: usize = (COUNTERS + FUNCTIONS.len()) * 8;

macro_rules! functions {
    ($($name:ident)*) => {
        /// The functions that are counted.
        #[allow(non_camel_case_types, missing_docs, reason = "the standard's own names")]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(usize)]
        pub enum Function { $($name),* }

        /// Their names, in the order of the file.
        pub const FUNCTIONS: &[&str] = &[$(stringify!($name)),*];
    };
}

functions! {
    C_Initialize C_Finalize C_GetInfo C_GetSlotList C_GetSlotInfo C_GetTokenInfo C_GetMechanismList
    C_GetMechanismInfo C_InitToken C_InitPIN C_SetPIN C_OpenSession C_CloseSession C_CloseAllSessions
    C_GetSessionInfo C_Login C_Logout C_CreateObject C_CopyObject C_DestroyObject C_GetObjectSize
    C_GetAttributeValue C_SetAttributeValue C_FindObjectsInit C_FindObjects C_FindObjectsFinal C_EncryptInit
    C_Encrypt C_EncryptUpdate C_EncryptFinal C_DecryptInit C_Decrypt C_DecryptUpdate C_DecryptFinal C_DigestInit
    C_Digest C_DigestUpdate C_DigestKey C_DigestFinal C_SignInit C_Sign C_SignUpdate C_SignFinal C_VerifyInit
    C_Verify C_VerifyUpdate C_VerifyFinal C_GenerateKey C_GenerateKeyPair C_WrapKey C_UnwrapKey C_DeriveKey
    C_SeedRandom C_GenerateRandom C_GetOperationState C_SignRecover C_VerifyRecover C_DigestEncryptUpdate
    C_DecryptDigestUpdate C_SignEncryptUpdate C_DecryptVerifyUpdate C_EncryptMessage C_EncryptMessageNext
    C_DecryptMessage C_DecryptMessageNext C_SignMessage C_SignMessageNext C_EncapsulateKey C_DecapsulateKey
    C_WrapKeyAuthenticated C_UnwrapKeyAuthenticated
}

impl Function {
    /// Its name in the standard.
    pub fn name(self) -> &'static str {
        FUNCTIONS[self as usize]
    }
}

/// The numbers, in the file or, when it cannot be made, in memory.
pub(crate) struct Counters {
    slots: &'static [AtomicU64],
}

impl Counters {
    pub(crate) fn open(path: &Path) -> Counters {
        let mapped = map(path).inspect_err(|error| {
            eprintln!("pkcs11 shim: {}: {error}", path.display());
        });
        Counters {
            slots: mapped.unwrap_or_else(|_| in_memory()),
        }
    }

    pub(crate) fn get(&self, counter: Counter) -> u64 {
        self.slots[counter as usize].load(Ordering::SeqCst)
    }

    pub(crate) fn add(&self, counter: Counter, by: u64) {
        self.slots[counter as usize].fetch_add(by, Ordering::SeqCst);
    }

    pub(crate) fn called(&self, function: Function) {
        self.slots[COUNTERS + function as usize].fetch_add(1, Ordering::SeqCst);
    }

    /// Session objects that appeared.
    pub(crate) fn born(&self, count: u64) {
        let before = self.slots[Counter::Live as usize].fetch_add(count, Ordering::SeqCst);
        self.slots[Counter::LiveMax as usize].fetch_max(before + count, Ordering::SeqCst);
    }

    /// Session objects that are gone.
    pub(crate) fn gone(&self, count: u64) {
        self.slots[Counter::Live as usize].fetch_sub(count, Ordering::SeqCst);
    }
}

fn map(path: &Path) -> io::Result<&'static [AtomicU64]> {
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)?;
    if file.metadata()?.len() < FILE_BYTES as u64 {
        file.set_len(FILE_BYTES as u64)?;
    }
    let flags = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new mapping at an address of the kernel's choice, of a file that is long enough; nobody shortens it.
    let start = unsafe {
        mmap(
            ptr::null_mut(),
            FILE_BYTES,
            flags,
            MapFlags::SHARED,
            &file,
            0,
        )?
    };
    // SAFETY: the mapping is page-aligned, FILE_BYTES long, never unmapped, and used through atomics alone.
    Ok(unsafe { std::slice::from_raw_parts(start.cast::<AtomicU64>(), FILE_BYTES / 8) })
}

fn in_memory() -> &'static [AtomicU64] {
    Box::leak((0..FILE_BYTES / 8).map(|_| AtomicU64::new(0)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_counter_is_the_last() {
        assert_eq!(Counter::ValueAsked as usize + 1, COUNTERS);
        assert_eq!(FUNCTIONS[Function::C_DeriveKey as usize], "C_DeriveKey");
    }
}
