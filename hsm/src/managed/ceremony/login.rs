//! Two logins in turn, in one session.
//!
//! A module has one login for a whole process, and objects of a session outlive a logout unless they are private. That
//! is how a key passes from the officer, who alone can trust it, to the user, who alone can make it private. Invariant:
//! each act ends logged out, and a PIN that was refused once is not tried again.

use cryptoki::{
    error::{Error as CryptokiError, RvError},
    session::{SessionState, UserType},
    slot::Slot,
    types::AuthPin,
};

use super::{CeremonyError, Result};
use crate::{
    Error, Module, Pin, TokenFault, TokenInfo, Uri, generation, quirks::Quirks,
    session::OpenSession, slot,
};

/// A session, and who can log in to it.
pub(super) struct Login {
    session: OpenSession,
    module: Module,
    slot: Slot,
    info: TokenInfo,
    so_pin: Pin,
    pub(super) user_pin: Pin,
}

impl Login {
    pub(super) fn new(module: &Module, uri: &Uri, so_pin: &Pin, user_pin: &Pin) -> Result<Self> {
        let (slot, info) = slot::find_slot(module, uri)?;
        if module.was_refused(&info.serial, user_pin) {
            return Err(Error::PinRefused {
                token: info.label,
                hint: "",
            }
            .into());
        }
        let session = OpenSession::open(module, slot)?;
        let state = session
            .get_session_info()
            .map_err(|source| Error::token("a look at the session", source).of(&info.label))?
            .session_state();
        if state != SessionState::RwPublic {
            return Err(CeremonyError::Occupied { token: info.label });
        }
        Ok(Self {
            session,
            module: module.clone(),
            slot,
            info,
            so_pin: so_pin.clone(),
            user_pin: user_pin.clone(),
        })
    }

    pub(super) fn quirks(&self) -> &'static Quirks {
        Quirks::of(&self.info)
    }

    /// Acts as the security officer.
    pub(super) fn as_officer<'a, T>(
        &'a self,
        act: impl FnOnce(&'a OpenSession) -> Result<T>,
    ) -> Result<T> {
        self.during(|session| self.log_officer_in(session), act)
    }

    /// Acts as the user.
    pub(super) fn as_user<'a, T>(
        &'a self,
        act: impl FnOnce(&'a OpenSession) -> Result<T>,
    ) -> Result<T> {
        let log_in = |session: &OpenSession| {
            generation::login(&self.module, session, self.slot, &self.info, &self.user_pin)
                .map_err(CeremonyError::from)
        };
        self.during(log_in, act)
    }

    fn during<'a, T>(
        &'a self,
        log_in: impl FnOnce(&'a OpenSession) -> Result<()>,
        act: impl FnOnce(&'a OpenSession) -> Result<T>,
    ) -> Result<T> {
        let session = &self.session;
        self.module.starting();
        let logged_in = log_in(session);
        self.module.started();
        logged_in?;
        let outcome = act(session);
        if let Err(source) = session.logout() {
            let fault = TokenFault::new(source);
            tracing::debug!(%fault, "logging out");
        }
        outcome.map_err(|error| match error {
            CeremonyError::Token(error) => CeremonyError::Token(error.of(&self.info.label)),
            other => other,
        })
    }

    fn log_officer_in(&self, session: &OpenSession) -> Result<()> {
        let token = self.info.label.clone();
        if self.module.was_refused(&officer(&self.info), &self.so_pin) {
            return Err(CeremonyError::SoPinRefused { token });
        }
        let pin = AuthPin::new(self.so_pin.expose_secret().into());
        match session.login(UserType::So, Some(&pin)) {
            Ok(()) => Ok(()),
            Err(CryptokiError::Pkcs11(
                RvError::UserAlreadyLoggedIn | RvError::UserAnotherAlreadyLoggedIn,
                _,
            )) => Err(CeremonyError::Occupied { token }),
            Err(CryptokiError::Pkcs11(
                RvError::PinIncorrect
                | RvError::PinInvalid
                | RvError::PinLenRange
                | RvError::PinExpired
                | RvError::PinLocked,
                _,
            )) => {
                self.module.note_refused(&officer(&self.info), &self.so_pin);
                Err(CeremonyError::SoPinRefused { token })
            }
            Err(source) => Err(Error::token("the officer's login", source)
                .of(&token)
                .into()),
        }
    }
}

/// The officer's PIN is refused for itself: the same text may be the user's right one.
fn officer(info: &TokenInfo) -> String {
    format!("{} (security officer)", info.serial)
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Login({})", self.info.label)
    }
}
