//! What the shim knows while it runs: the real module, the counters, the faults, the objects.
//!
//! Leaves the calls to `wrappers`. No lock is held while the real module works or while a call is held up.

use std::collections::HashMap;
use std::env;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use cryptoki_sys::{CK_FUNCTION_LIST, CK_RV, CKR_OK, Pkcs11};

use crate::counters::{Counter, Counters, FUNCTIONS, Function};
use crate::faults::{Action, Fault};
use crate::objects::Objects;
use crate::table;

/// The shim of this process.
pub(crate) struct Shim {
    pub(crate) real: CK_FUNCTION_LIST,
    pub(crate) table: CK_FUNCTION_LIST,
    pub(crate) counters: Counters,
    objects: Mutex<Objects>,
    /// The mechanism of each session's signature under way.
    signing: Mutex<HashMap<u64, u64>>,
    faults: Mutex<Faults>,
    /// Keeps the real module loaded.
    _module: Pkcs11,
}

struct Faults {
    path: Option<PathBuf>,
    generation: u64,
    list: Vec<Fault>,
}

/// What is to be done with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Hand it on.
    Go,
    /// Fail with this code.
    Fail(CK_RV),
    /// Hand it on and alter the result.
    Corrupt,
}

impl Shim {
    /// Loads the real module at the first call; nothing when it cannot be loaded.
    pub(crate) fn get() -> Option<&'static Shim> {
        static SHIM: OnceLock<Option<Shim>> = OnceLock::new();
        SHIM.get_or_init(Shim::load).as_ref()
    }

    fn load() -> Option<Shim> {
        let path = env::var_os("KEYHAVEN_SHIM_MODULE").unwrap_or_else(|| DEFAULT_MODULE.into());
        // SAFETY: loading runs the module's constructors; it is the module that the caller chose.
        let module = unsafe { Pkcs11::new(path) }.ok()?;
        let mut list = std::ptr::null_mut();
        // SAFETY: the pointer is valid for the write, as section 5.2 of PKCS#11 asks.
        let rv = unsafe { module.C_GetFunctionList(&mut list) };
        if rv != CKR_OK || list.is_null() {
            return None;
        }
        // SAFETY: after CKR_OK it points at the module's list, which lives as long as the module.
        let real = unsafe { *list };
        let dir = env::var_os("KEYHAVEN_SHIM_DIR").map(PathBuf::from);
        Some(Shim {
            table: table::build(&real),
            real,
            counters: Counters::open(dir.as_deref().map(|dir| dir.join("counters")).as_deref()),
            objects: Mutex::default(),
            signing: Mutex::default(),
            faults: Mutex::new(Faults {
                path: dir.map(|dir| dir.join("faults")),
                generation: 0,
                list: Vec::new(),
            }),
            _module: module,
        })
    }

    /// Counts a call, holds it up or makes it fail if a fault says so.
    pub(crate) fn enter(&self, function: Function, mechanism: Option<u64>) -> Verdict {
        self.counters.called(function);
        let action =
            lock(&self.faults).decide(&self.counters, FUNCTIONS[function as usize], mechanism);
        if action.is_some() {
            self.counters.add(Counter::Faults, 1);
        }
        match action {
            None => Verdict::Go,
            Some(Action::Corrupt) => Verdict::Corrupt,
            Some(Action::Error(code)) => Verdict::Fail(code as CK_RV),
            Some(Action::Hang(milliseconds)) => {
                std::thread::sleep(Duration::from_millis(milliseconds));
                Verdict::Go
            }
        }
    }

    pub(crate) fn made(&self, session: u64, object: u64) {
        lock(&self.objects).made(session, object);
        self.counters.born(1);
    }

    pub(crate) fn destroyed(&self, object: u64) {
        if lock(&self.objects).destroyed(object) {
            self.counters.gone(1);
        }
    }

    pub(crate) fn closed(&self, session: u64) {
        let count = lock(&self.objects).closed(session);
        self.counters.gone(count);
    }

    pub(crate) fn all_gone(&self) {
        let count = lock(&self.objects).all_gone();
        self.counters.gone(count);
    }

    pub(crate) fn is_session_object(&self, object: u64) -> bool {
        lock(&self.objects).is_session_object(object)
    }

    pub(crate) fn signs_with(&self, session: u64, mechanism: u64) {
        lock(&self.signing).insert(session, mechanism);
    }

    pub(crate) fn signing_mechanism(&self, session: u64) -> Option<u64> {
        lock(&self.signing).get(&session).copied()
    }
}

impl Faults {
    fn decide(
        &mut self,
        counters: &Counters,
        function: &str,
        mechanism: Option<u64>,
    ) -> Option<Action> {
        let generation = counters.get(Counter::FaultsGeneration);
        if generation != self.generation {
            self.generation = generation;
            self.list = self.path.as_deref().map(read).unwrap_or_default();
        }
        self.list
            .iter_mut()
            .find_map(|fault| fault.hits(function, mechanism))
    }
}

fn read(path: &Path) -> Vec<Fault> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    Fault::parse_all(&text).unwrap_or_else(|line| {
        eprintln!("pkcs11 shim: {}: no such fault: {line}", path.display());
        Vec::new()
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

const DEFAULT_MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";
