//! What the shim knows while it runs: the real module, the counters, the faults, the objects, the tap.
//!
//! Leaves the calls to `wrappers`. No lock is held while the real module works or while a call is held up.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use cryptoki_sys::{CK_FUNCTION_LIST, CK_FUNCTION_LIST_3_2, CK_RV, CKR_OK, Pkcs11};

use crate::counters::{Counter, Counters, Function};
use crate::faults::{Action, Fault};
use crate::home::Home;
use crate::interfaces::Interfaces;
use crate::lies::Asked;
use crate::names;
use crate::objects::Objects;
use crate::table;
use crate::tap::Tap;
use crate::tapped::Direction;

/// The shim of this process, or of this copy of the module.
pub(crate) struct Shim {
    /// Every function of the real module, from the newest list that has it.
    pub(crate) real: CK_FUNCTION_LIST_3_2,
    /// The list of PKCS#11 2.40 that the caller gets.
    pub(crate) table: CK_FUNCTION_LIST,
    pub(crate) interfaces: Interfaces,
    pub(crate) counters: Counters,
    pub(crate) tap: Tap,
    objects: Mutex<Objects>,
    /// The mechanism of each session's operation under way.
    operations: Mutex<HashMap<(u64, Operation), u64>>,
    faults: Mutex<Faults>,
}

struct Faults {
    path: PathBuf,
    generation: u64,
    list: Vec<Fault>,
}

/// The operations of a session that go on over several calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Operation {
    Encrypt,
    Decrypt,
    Digest,
    Sign,
    Verify,
}

/// What is to be done with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Hand it on.
    Go,
    /// Fail with this code.
    Fail(CK_RV),
    /// Hand it on and alter the result, or this attribute of it.
    Corrupt(Option<u64>),
    /// Make the object readable. Whether its flags may say so.
    Readable(bool),
    /// Say that it can be done.
    Claim,
}

impl Shim {
    /// Loads the real module at the first call; nothing when it cannot be loaded.
    pub(crate) fn get() -> Option<&'static Shim> {
        static SHIM: OnceLock<Option<Shim>> = OnceLock::new();
        SHIM.get_or_init(Shim::load).as_ref()
    }

    fn load() -> Option<Shim> {
        let home = Home::find().inspect_err(|error| eprintln!("pkcs11 shim: shim.conf: {error}"));
        let Home { dir, module } = home.ok()?;
        // SAFETY: loading runs the module's constructors; it is the module that the caller chose.
        let loaded = unsafe { Pkcs11::new(&module) };
        let loaded = loaded
            .inspect_err(|error| eprintln!("pkcs11 shim: {}: {error}", module.display()))
            .ok()?;
        let mut list = std::ptr::null_mut();
        // SAFETY: the pointer is valid for the write, as section 5.2 of PKCS#11 asks.
        let rv = unsafe { loaded.C_GetFunctionList.as_ref().ok()?(&mut list) };
        if rv != CKR_OK || list.is_null() {
            return None;
        }
        // SAFETY: after CKR_OK it points at the module's list, which lives as long as the module.
        let list = unsafe { *list };
        let interfaces = Interfaces::of(&loaded);
        let mut real = CK_FUNCTION_LIST_3_2::default();
        table::take_2_40(&mut real, &list);
        interfaces.take(&mut real);
        // The module stays loaded for as long as the process: its functions are in the tables.
        std::mem::forget(loaded);
        Some(Shim {
            table: table::ours_2_40(&list),
            real,
            interfaces,
            counters: Counters::open(&dir.join("counters")),
            tap: Tap::open(&dir),
            objects: Mutex::default(),
            operations: Mutex::default(),
            faults: Mutex::new(Faults {
                path: dir.join("faults"),
                generation: 0,
                list: Vec::new(),
            }),
        })
    }

    /// Counts a call, holds it up or makes it fail if a fault says so. `of` are its mechanism, or the attributes
    /// that it asks for.
    pub(crate) fn enter(&self, function: Function, of: &[u64]) -> Verdict {
        self.counters.called(function);
        let action = lock(&self.faults).decide(&self.counters, function.name(), of);
        if action.is_some() {
            self.counters.add(Counter::Faults, 1);
        }
        match action {
            None | Some(Action::Extra(_) | Action::Without(_)) => Verdict::Go,
            Some(Action::Corrupt(attribute)) => Verdict::Corrupt(attribute),
            Some(Action::Readable(shown)) => Verdict::Readable(shown),
            Some(Action::Claim) => Verdict::Claim,
            Some(Action::Error(code)) => Verdict::Fail(code as CK_RV),
            Some(Action::Hang(milliseconds)) => {
                std::thread::sleep(Duration::from_millis(milliseconds));
                Verdict::Go
            }
        }
    }

    /// The lies about the list of mechanisms that this call tells: all of them.
    pub(crate) fn edits(&self, function: Function) -> Vec<Action> {
        let edits = lock(&self.faults).edits(&self.counters, function.name());
        self.counters.add(Counter::Faults, edits.len() as u64);
        edits
    }

    /// Puts what passed into the tap, when a test listens.
    pub(crate) fn passed(
        &self,
        function: Function,
        mechanism: Option<u64>,
        direction: Direction,
        bytes: &[u8],
    ) {
        if self.tap.listens() {
            let detail = mechanism.map(names::mechanism).unwrap_or_default();
            self.tap.passed(function, &detail, direction, bytes);
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
        lock(&self.operations).retain(|(of, _), _| *of != session);
        self.counters.gone(count);
    }

    pub(crate) fn all_gone(&self) {
        let count = lock(&self.objects).all_gone();
        self.counters.gone(count);
    }

    pub(crate) fn is_session_object(&self, object: u64) -> bool {
        lock(&self.objects).is_session_object(object)
    }

    pub(crate) fn believe(&self, object: u64, asked: Asked) {
        lock(&self.objects).believe(object, asked);
    }

    pub(crate) fn believed(&self, object: u64) -> Option<Asked> {
        lock(&self.objects).believed(object)
    }

    pub(crate) fn begins(&self, session: u64, operation: Operation, mechanism: Option<u64>) {
        let mut operations = lock(&self.operations);
        match mechanism {
            Some(mechanism) => operations.insert((session, operation), mechanism),
            None => operations.remove(&(session, operation)),
        };
    }

    pub(crate) fn mechanism(&self, session: u64, operation: Operation) -> Option<u64> {
        lock(&self.operations).get(&(session, operation)).copied()
    }
}

impl Faults {
    fn decide(&mut self, counters: &Counters, function: &str, of: &[u64]) -> Option<Action> {
        self.refresh(counters);
        self.list
            .iter_mut()
            .filter(|fault| !fault.edits())
            .find_map(|fault| fault.hits(function, of))
    }

    fn edits(&mut self, counters: &Counters, function: &str) -> Vec<Action> {
        self.refresh(counters);
        self.list
            .iter_mut()
            .filter(|fault| fault.edits())
            .filter_map(|fault| fault.hits(function, &[]))
            .collect()
    }

    fn refresh(&mut self, counters: &Counters) {
        let generation = counters.get(Counter::FaultsGeneration);
        if generation != self.generation {
            self.generation = generation;
            self.list = read(&self.path);
        }
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
