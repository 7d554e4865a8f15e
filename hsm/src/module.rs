//! A PKCS#11 module: found, loaded and initialised once per process.
//!
//! Which token is meant, and the login, are the business of `token`. Invariant: C_Initialize is called once per
//! path. It and every login happen under a lock between processes. C_Finalize is called only to start the
//! module anew when none of its logins works any more, with no other thread inside.

use std::{
    ffi::CString,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use cryptoki::{
    context::Pkcs11,
    error::{Error as CryptokiError, RvError},
    slot::{Slot, TokenInfo as RawTokenInfo},
};
use serde::Serialize;

use crate::{
    Error, TokenFault,
    gate::{Gate, Inside},
    generation::Generation,
    raw::{self, Raw},
    start_lock::StartLock,
};

/// A loaded module. Clones are the same module, and so is every later load of the same file.
#[derive(Clone)]
pub struct Module(Arc<Inner>);

struct Inner {
    path: PathBuf,
    pkcs11: Pkcs11,
    /// The same functions once more, where the module has one list of them.
    raw: Option<Raw>,
    /// Who made it, by C_GetInfo; empty when it does not say.
    manufacturer: String,
    /// What C_Initialize gets in pReserved, now and at each restart.
    init_args: Option<CString>,
    start_lock: Mutex<Option<StartLock>>,
    /// Serial numbers and PINs that were refused: none of them is tried again, whoever opens the token.
    refused: Mutex<Vec<(String, crate::Pin)>>,
    gate: Gate,
    /// Counts restarts: handles and sessions of another epoch mean nothing.
    epoch: AtomicU64,
    logins: Mutex<Vec<Weak<Generation>>>,
    /// The canonical path, for the start lock.
    name: PathBuf,
}

/// What a token says about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TokenInfo {
    /// Label.
    pub label: String,
    /// Manufacturer.
    pub manufacturer: String,
    /// Model.
    pub model: String,
    /// Serial number.
    pub serial: String,
    /// Slot number, good until the next start.
    pub slot_id: u64,
    /// Whether C_InitToken was run.
    pub initialized: bool,
    /// Whether a user PIN is set.
    pub user_pin_set: bool,
    /// A wrong user PIN was given since the last good one.
    pub user_pin_count_low: bool,
    /// One more wrong user PIN locks it.
    pub user_pin_final_try: bool,
    /// The user PIN is locked.
    pub user_pin_locked: bool,
    /// Who made the library, by C_GetInfo: a token's own words may be those of the chip behind it.
    #[serde(skip)]
    pub library_manufacturer: String,
}

impl Module {
    /// Loads and initialises the module; without a path, SoftHSM2 is looked for where systems put it.
    ///
    /// # Errors
    /// [`Error::ModuleNotFound`] lists where it was looked for; [`Error::LoadModule`] carries the loader's words.
    pub fn load(path: Option<&Path>) -> Result<Self, Error> {
        Self::load_with(path, None)
    }

    /// As [`Module::load`], with a text for C_Initialize's pReserved, as NSS and some vendors want it.
    ///
    /// # Errors
    /// As [`Module::load`]; [`Error::InitArguments`] when it was loaded with another text, or the text cannot be
    /// one of C.
    pub fn load_with(path: Option<&Path>, init_args: Option<&str>) -> Result<Self, Error> {
        let path = match path {
            Some(path) => path.to_owned(),
            None => find_softhsm()?,
        };
        let failed = |source| Error::LoadModule {
            path: path.clone(),
            source: TokenFault::new(source),
        };
        let refused = |reason| Error::InitArguments {
            path: path.clone(),
            reason,
        };
        let init_args = init_args.map(CString::new).transpose();
        let init_args = init_args.map_err(|_| refused("they contain a zero byte"))?;
        // The same file by another name is the same module.
        let name = path.canonicalize().unwrap_or_else(|_| path.clone());
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, module)) = loaded.iter().find(|(known, _)| *known == name) {
            if module.0.init_args != init_args {
                return Err(refused("the module was started with other ones"));
            }
            return Ok(module.clone());
        }
        if std::fs::metadata(&name).is_ok_and(|data| data.mode() & 0o002 != 0) {
            tracing::warn!(module = %path.display(), "the module's file can be changed by everybody");
        }
        let pkcs11 = Pkcs11::new(&path).map_err(failed)?;
        let start_lock = StartLock::take(&name);
        match raw::initialize(&pkcs11, init_args.as_deref()) {
            Ok(()) | Err(CryptokiError::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
            Err(source) => return Err(failed(source)),
        }
        let raw = Raw::open(&path);
        let manufacturer = pkcs11
            .get_library_info()
            .map(|info| info.manufacturer_id().to_owned())
            .unwrap_or_default();
        tracing::debug!(module = %path.display(), own_list = raw.is_some(), "module started");
        let module = Self(Arc::new(Inner {
            path: path.clone(),
            pkcs11,
            raw,
            manufacturer,
            init_args,
            start_lock: Mutex::new(start_lock),
            refused: Mutex::new(Vec::new()),
            gate: Gate::default(),
            epoch: AtomicU64::new(0),
            logins: Mutex::new(Vec::new()),
            name: name.clone(),
        }));
        loaded.push((name, module.clone()));
        Ok(module)
    }

    /// The library, as it was named.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// The tokens in the module's slots, uninitialised ones too. A slot that cannot say what it holds is left
    /// out with a warning in the log.
    ///
    /// # Errors
    /// When the slots cannot be listed at all.
    pub fn tokens(&self) -> Result<Vec<TokenInfo>, Error> {
        let found = self.slots();
        // Whoever only looks must not keep others from starting; a login takes the lock again.
        self.started();
        Ok(found?.into_iter().map(|(_, info)| info).collect())
    }

    pub(crate) fn slots(&self) -> Result<Vec<(Slot, TokenInfo)>, Error> {
        let _inside = self.enter()?;
        let slots = self
            .pkcs11()
            .get_slots_with_token()
            .map_err(|source| Error::token("listing the tokens", source).of(&self.name()))?;
        let mut found = Vec::with_capacity(slots.len());
        for slot in slots {
            match self.pkcs11().get_token_info(slot) {
                Ok(raw) => {
                    let mut info = TokenInfo::new(slot, &raw);
                    info.library_manufacturer.clone_from(&self.0.manufacturer);
                    found.push((slot, info));
                }
                Err(error) => {
                    let error = TokenFault::new(error);
                    tracing::warn!(slot = slot.id(), %error, "a slot cannot say what token it holds");
                }
            }
        }
        Ok(found)
    }

    pub(crate) fn pkcs11(&self) -> &Pkcs11 {
        &self.0.pkcs11
    }

    /// What cryptoki lacks; `None` when the module's functions cannot be had beside cryptoki's.
    pub(crate) fn raw(&self) -> Option<&Raw> {
        self.0.raw.as_ref()
    }

    /// To be held during calls into the module, so that it is not restarted under them.
    pub(crate) fn enter(&self) -> Result<Inside<'_>, Error> {
        self.0.gate.enter().ok_or_else(|| Error::TokenUnavailable {
            token: self.name(),
            reason: "the module is being restarted".to_owned(),
        })
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.0.epoch.load(Ordering::Acquire)
    }

    pub(crate) fn note_login(&self, generation: &Arc<Generation>) {
        let mut logins = self.0.logins.lock().unwrap_or_else(PoisonError::into_inner);
        logins.retain(|login| login.strong_count() > 0);
        logins.push(Arc::downgrade(generation));
    }

    /// C_Finalize and C_Initialize, for modules that see a token again in no other way (SoftHSM2 after its folder
    /// was away). Nothing is done while another login of this process still works: it would be cut off.
    pub(crate) fn restart(&self) -> bool {
        {
            let logins = self.0.logins.lock().unwrap_or_else(PoisonError::into_inner);
            let works = |login: Arc<Generation>| !login.is_broken();
            if logins.iter().filter_map(Weak::upgrade).any(works) {
                return false;
            }
        }
        let Some(_alone) = self.0.gate.shut(RESTART_PATIENCE) else {
            return false;
        };
        let lock = StartLock::take(&self.0.name);
        self.0.epoch.fetch_add(1, Ordering::AcqRel);
        if let Err(error) = self.pkcs11().clone().finalize() {
            tracing::debug!(error = %TokenFault::new(error), "C_Finalize");
        }
        match raw::initialize(self.pkcs11(), self.0.init_args.as_deref()) {
            Ok(()) | Err(CryptokiError::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {
                *self.lock_slot() = lock;
                true
            }
            Err(error) => {
                tracing::warn!(error = %TokenFault::new(error), "the module does not start again");
                false
            }
        }
    }

    /// The file's name, for messages.
    pub(crate) fn name(&self) -> String {
        let name = self.0.path.file_name().unwrap_or(self.0.path.as_os_str());
        name.to_string_lossy().into_owned()
    }

    /// Keeps other processes from starting, from before a login until [`Module::started`].
    pub(crate) fn starting(&self) {
        let mut lock = self.lock_slot();
        if lock.is_none() {
            *lock = StartLock::take(&self.0.name);
        }
    }

    /// Lets other processes start: to be called after a login, whether it went well or not.
    pub(crate) fn started(&self) {
        drop(self.lock_slot().take());
    }

    fn lock_slot(&self) -> MutexGuard<'_, Option<StartLock>> {
        let slot = &self.0.start_lock;
        slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn was_refused(&self, serial: &str, pin: &crate::Pin) -> bool {
        let refused = self
            .0
            .refused
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        refused
            .iter()
            .any(|(known, bad)| known == serial && bad == pin)
    }

    pub(crate) fn note_refused(&self, serial: &str, pin: &crate::Pin) {
        let mut refused = self
            .0
            .refused
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        refused.push((serial.to_owned(), pin.clone()));
    }
}

impl std::fmt::Debug for Module {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Module({})", self.0.path.display())
    }
}

impl TokenInfo {
    pub(crate) fn new(slot: Slot, raw: &RawTokenInfo) -> Self {
        Self {
            label: raw.label().to_owned(),
            manufacturer: raw.manufacturer_id().to_owned(),
            model: raw.model().to_owned(),
            serial: raw.serial_number().to_owned(),
            slot_id: slot.id(),
            initialized: raw.token_initialized(),
            user_pin_set: raw.user_pin_initialized(),
            user_pin_count_low: raw.user_pin_count_low(),
            user_pin_final_try: raw.user_pin_final_try(),
            user_pin_locked: raw.user_pin_locked(),
            library_manufacturer: String::new(),
        }
    }
}

fn find_softhsm() -> Result<PathBuf, Error> {
    SOFTHSM_PLACES
        .iter()
        .map(PathBuf::from)
        .find(|path| path.is_file())
        .ok_or_else(|| Error::ModuleNotFound {
            tried: SOFTHSM_PLACES.iter().map(PathBuf::from).collect(),
        })
}

/// How long a restart waits for calls that are under way.
const RESTART_PATIENCE: Duration = Duration::from_secs(5);

/// Loaded modules by canonical path; they stay loaded.
static LOADED: Mutex<Vec<(PathBuf, Module)>> = Mutex::new(Vec::new());

const SOFTHSM_PLACES: &[&str] = &[
    // Debian, Ubuntu, Alpine, Arch.
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib/pkcs11/libsofthsm2.so",
    // Fedora and its family.
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/lib64/softhsm/libsofthsm2.so",
    "/usr/lib64/libsofthsm2.so",
    // Built by hand, FreeBSD, Homebrew.
    "/usr/local/lib/softhsm/libsofthsm2.so",
    "/opt/homebrew/lib/softhsm/libsofthsm2.so",
    "/opt/homebrew/opt/softhsm/lib/softhsm/libsofthsm2.so",
    "/home/linuxbrew/.linuxbrew/lib/softhsm/libsofthsm2.so",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_no_module_is_refused_with_its_name() {
        let error = Module::load(Some(Path::new("/nowhere/x.so"))).unwrap_err();
        assert!(error.to_string().contains("/nowhere/x.so"), "{error}");
    }
}
