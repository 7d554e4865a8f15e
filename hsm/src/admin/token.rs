//! Initialising a token: C_InitToken by the security officer, C_InitPIN for the user.
//!
//! It destroys what the token holds; asking whether that is meant is left to the caller. Invariant: a token that
//! is initialised already is touched only when the caller names it by [`InitTarget::Token`].

use cryptoki::{
    error::{Error as CryptokiError, RvError},
    session::{Session, UserType},
    slot::Slot,
    types::AuthPin,
};

use super::error::AdminError;
use crate::{Error, Module, Pin, TokenInfo, Uri};

/// Which token is to be initialised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InitTarget {
    /// The first that was never initialised.
    Free,
    /// This one, with all that it holds.
    Token(TokenInfo),
}

/// Initialises a token and sets its user PIN. Returns what the token then says about itself.
///
/// # Errors
/// [`AdminError::TokenLabel`], [`AdminError::PinLength`] and [`AdminError::NoFreeSlot`] before anything is done;
/// [`AdminError::SoPinRefused`] when the token keeps its security officer's PIN; else a failed call.
pub fn init_token(
    module: &Module,
    target: &InitTarget,
    label: &str,
    so_pin: &Pin,
    user_pin: &Pin,
) -> Result<TokenInfo, AdminError> {
    check_label(label)?;
    let chosen = match target {
        InitTarget::Token(info) => info.clone(),
        InitTarget::Free => find_free(module)?,
    };
    let failed = |operation, error| AdminError::from(Error::token(operation, error).of(label));
    let slot = Slot::try_from(chosen.slot_id).map_err(|error| failed("find the slot", error))?;
    check_pins(module, slot, so_pin, user_pin).map_err(|error| match error {
        Ok(refusal) => refusal,
        Err(error) => failed("read the token's PIN limits", error),
    })?;

    let so_auth = AuthPin::new(so_pin.expose_secret().into());
    let user_auth = AuthPin::new(user_pin.expose_secret().into());
    module
        .pkcs11()
        .init_token(slot, &so_auth, label)
        .map_err(|error| so_error(error, label, "initialise the token"))?;
    // The slot keeps its number until the slots are listed again, so this comes before any listing.
    let session = module
        .pkcs11()
        .open_rw_session(slot)
        .map_err(|error| failed("open a session", error))?;
    session
        .login(UserType::So, Some(&so_auth))
        .map_err(|error| so_error(error, label, "log in as security officer"))?;
    let outcome = session.init_pin(&user_auth);
    end(session);
    module.started();
    outcome.map_err(|error| failed("set the user PIN", error))?;

    let found: Vec<TokenInfo> = module.tokens()?;
    found
        .into_iter()
        .find(|token| token.initialized && token.label == label && token.user_pin_set)
        .ok_or_else(|| {
            Error::answer("initialise the token", "no token with the new label").of(label)
        })
        .map_err(AdminError::from)
}

/// Whether the token is one that the URI speaks of. Attributes that the URI leaves out fit anything.
pub fn token_fits(token: &TokenInfo, uri: &Uri) -> bool {
    let fits = |wanted: Option<&str>, is: &str| wanted.is_none_or(|wanted| wanted == is);
    fits(uri.token(), &token.label)
        && fits(uri.serial(), &token.serial)
        && fits(uri.manufacturer(), &token.manufacturer)
        && fits(uri.model(), &token.model)
        && uri.slot_id().is_none_or(|slot| slot == token.slot_id)
}

fn find_free(module: &Module) -> Result<TokenInfo, AdminError> {
    let tokens = module.tokens()?;
    let found = tokens.iter().map(|token| token.label.clone()).collect();
    tokens
        .into_iter()
        .find(|token| !token.initialized)
        .ok_or(AdminError::NoFreeSlot { found })
}

fn check_label(label: &str) -> Result<(), AdminError> {
    let fits = (1..=32).contains(&label.len()) && !label.chars().any(char::is_control);
    // CKA label is padded with blanks: one at the end could not be told from padding.
    if fits && label.trim() == label {
        Ok(())
    } else {
        Err(AdminError::TokenLabel {
            label: label.escape_debug().to_string(),
        })
    }
}

fn check_pins(
    module: &Module,
    slot: Slot,
    so_pin: &Pin,
    user_pin: &Pin,
) -> Result<(), Result<AdminError, CryptokiError>> {
    let info = module.pkcs11().get_token_info(slot).map_err(Err)?;
    let (min, max) = (info.min_pin_length(), info.max_pin_length());
    for (whose, pin) in [("security officer's", so_pin), ("user", user_pin)] {
        let bytes = pin.expose_secret().len();
        if !is_pin_length(bytes, min, max) {
            return Err(Ok(AdminError::PinLength { whose, min, max }));
        }
    }
    Ok(())
}

/// Some modules say 0 for the most before a token is initialised (kryoptic): then there is none.
fn is_pin_length(bytes: usize, min: usize, max: usize) -> bool {
    bytes >= min && (bytes <= max || max < min)
}

fn so_error(error: CryptokiError, label: &str, operation: &'static str) -> AdminError {
    match &error {
        CryptokiError::Pkcs11(RvError::PinIncorrect | RvError::PinLocked, _) => {
            AdminError::SoPinRefused
        }
        _ => Error::token(operation, error).of(label).into(),
    }
}

/// Logs the officer out. The token's state is the same whether or not that succeeds: the session closes next.
fn end(session: Session) {
    let _ = session.logout();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_most_that_is_below_the_least_is_none() {
        assert!(is_pin_length(8, 4, 8) && !is_pin_length(9, 4, 8));
        assert!(!is_pin_length(3, 4, 8));
        assert!(is_pin_length(12, 8, 0) && !is_pin_length(7, 8, 0));
    }

    #[test]
    fn labels_fit_into_32_padded_bytes() {
        for good in ["a", "keyhaven", &"x".repeat(32), "zwölf"] {
            assert!(check_label(good).is_ok(), "{good}");
        }
        for bad in ["", " a", "a ", "a\nb", &"x".repeat(33)] {
            assert!(check_label(bad).is_err(), "{bad:?}");
        }
    }
}
