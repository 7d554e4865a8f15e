//! One login at a token: the anchor session that keeps it, and everything that dies with it.
//!
//! When the token is lost, the generation is marked broken and `token` makes the next one. Invariant: C_Login is
//! called once per generation, and never with a PIN that was refused before.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use cryptoki::{
    error::{Error as CryptokiError, RvError},
    object::ObjectHandle,
    session::{Session, UserType},
    slot::Slot,
    types::AuthPin,
};

use keyhaven_types::HashAlgorithm;

use crate::{Error, Module, Pin, TokenInfo, Uri, hkdf, session::OpenSession, slot};

/// A login and its anchor session.
pub(crate) struct Generation {
    pub(crate) number: u64,
    pub(crate) slot: Slot,
    /// Closing a token's last session logs out, so this one stays open. It also owns the keys' session copies.
    anchor: Mutex<OpenSession>,
    module: Module,
    epoch: u64,
    broken: AtomicBool,
    /// Ephemeral objects made and not yet destroyed.
    live: AtomicUsize,
    /// Session copies of private keys in use.
    copies: AtomicUsize,
    /// Secrets of zeros, of 32 and 48 bytes: objects of the anchor session, made when first needed.
    zeros: Mutex<[Option<ObjectHandle>; 2]>,
}

/// A session's share of the ephemeral objects: they die with the session that made them.
pub(crate) struct Owner {
    pub(crate) generation: Arc<Generation>,
    objects: AtomicUsize,
}

/// An ephemeral object, counted until it is destroyed.
pub(crate) struct Counted {
    pub(crate) handle: ObjectHandle,
    pub(crate) owner: Arc<Owner>,
}

impl Generation {
    /// Finds the token, opens the anchor session and logs in.
    pub(crate) fn open(
        module: &Module,
        uri: &Uri,
        pin: &Pin,
        number: u64,
    ) -> Result<(Self, TokenInfo), Error> {
        module.starting();
        let opened = Self::open_inside(module, uri, pin, number);
        module.started();
        opened
    }

    fn open_inside(
        module: &Module,
        uri: &Uri,
        pin: &Pin,
        number: u64,
    ) -> Result<(Self, TokenInfo), Error> {
        let _inside = module.enter()?;
        let (slot, info) = slot::find_slot(module, uri)?;
        if module.was_refused(&info.serial, pin) {
            return Err(Error::PinRefused {
                token: info.label,
                hint: "",
            });
        }
        let anchor = OpenSession::open(module, slot).map_err(|error| error.of(&info.label))?;
        login(module, &anchor, slot, &info, pin)?;
        let generation = Self {
            number,
            slot,
            anchor: Mutex::new(anchor),
            module: module.clone(),
            epoch: module.epoch(),
            broken: AtomicBool::new(false),
            live: AtomicUsize::new(0),
            copies: AtomicUsize::new(0),
            zeros: Mutex::default(),
        };
        Ok((generation, info))
    }

    pub(crate) fn anchor(&self) -> MutexGuard<'_, OpenSession> {
        self.anchor.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The secret of zeros of the hash's length.
    pub(crate) fn zeros(&self, hash: HashAlgorithm) -> Result<ObjectHandle, Error> {
        let mut zeros = self.zeros.lock().unwrap_or_else(PoisonError::into_inner);
        let place = match hash {
            HashAlgorithm::Sha256 => &mut zeros[0],
            HashAlgorithm::Sha384 => &mut zeros[1],
        };
        if let Some(handle) = *place {
            return Ok(handle);
        }
        let handle = hkdf::zeros(&self.anchor(), hash)?;
        *place = Some(handle);
        Ok(handle)
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire) || self.module.epoch() != self.epoch
    }

    /// Marks it broken; true for whoever was first.
    pub(crate) fn break_off(&self) -> bool {
        !self.broken.swap(true, Ordering::AcqRel)
    }

    pub(crate) fn live(&self) -> usize {
        self.live.load(Ordering::Acquire)
    }

    pub(crate) fn copies(&self) -> usize {
        self.copies.load(Ordering::Acquire)
    }

    pub(crate) fn copy_made(&self) {
        self.copies.fetch_add(1, Ordering::AcqRel);
    }

    /// The copy is destroyed, or counted among the ephemeral objects until it is.
    pub(crate) fn copy_gone(&self) {
        self.copies.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Owner {
    pub(crate) fn new(generation: Arc<Generation>) -> Arc<Self> {
        Arc::new(Self {
            generation,
            objects: AtomicUsize::new(0),
        })
    }

    pub(crate) fn objects(&self) -> usize {
        self.objects.load(Ordering::Acquire)
    }
}

impl Counted {
    pub(crate) fn new(handle: ObjectHandle, owner: &Arc<Owner>) -> Self {
        owner.objects.fetch_add(1, Ordering::AcqRel);
        owner.generation.live.fetch_add(1, Ordering::AcqRel);
        Self {
            handle,
            owner: Arc::clone(owner),
        }
    }

    /// To be called when the object is no more.
    pub(crate) fn gone(self) {
        self.owner.objects.fetch_sub(1, Ordering::AcqRel);
        self.owner.generation.live.fetch_sub(1, Ordering::AcqRel);
    }
}

/// One try. The token's own answer about the tries left goes into the message.
pub(crate) fn login(
    module: &Module,
    session: &Session,
    slot: Slot,
    info: &TokenInfo,
    pin: &Pin,
) -> Result<(), Error> {
    if !info.user_pin_set {
        return Err(Error::UserPinNotSet {
            token: info.label.clone(),
        });
    }
    if info.user_pin_locked {
        return Err(Error::PinLocked {
            token: info.label.clone(),
        });
    }
    let secret = AuthPin::new(pin.expose_secret().into());
    let source = match session.login(UserType::User, Some(&secret)) {
        // Another token value of this process holds the login; it is the token's, not the session's.
        Ok(()) | Err(CryptokiError::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => return Ok(()),
        Err(source) => source,
    };
    match &source {
        CryptokiError::Pkcs11(RvError::PinLocked, _) => {
            module.note_refused(&info.serial, pin);
            Err(Error::PinLocked {
                token: info.label.clone(),
            })
        }
        CryptokiError::Pkcs11(
            RvError::PinIncorrect
            | RvError::PinInvalid
            | RvError::PinLenRange
            | RvError::PinExpired,
            _,
        ) => {
            module.note_refused(&info.serial, pin);
            let now = module.pkcs11().get_token_info(slot);
            let hint = match now.map(|raw| TokenInfo::new(slot, &raw)) {
                Ok(now) if now.user_pin_locked => " (it is locked now)",
                Ok(now) if now.user_pin_final_try => " (one more wrong try locks it)",
                Ok(now) if now.user_pin_count_low => " (wrong tries are counted)",
                _ => "",
            };
            Err(Error::PinRefused {
                token: info.label.clone(),
                hint,
            })
        }
        _ => Err(Error::token("the login", source).of(&info.label)),
    }
}
