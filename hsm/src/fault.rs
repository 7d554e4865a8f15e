//! PKCS#11 return values: their names, and what each says about the session and the module.
//!
//! What is done about it is decided in `token`. Invariant: a failure is classified by its return value alone, and no
//! class blames the peer: peers' values are judged before a token sees them.

use std::fmt;

use cryptoki::error::{Error as CryptokiError, RvError};

/// What a failed call says about the session and the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultClass {
    /// Too much at once; the session is good.
    Busy,
    /// The session, the login or the handles are gone: open, log in and find again.
    SessionLost,
    /// The token or the whole module does not work.
    ModuleDead,
    /// Something about a PIN: never retried.
    Pin,
    /// This operation cannot be done; nothing is said about the next.
    Operation,
}

/// A PKCS#11 return value, or another failure of the binding, without the standard's long prose.
#[derive(Debug)]
pub struct TokenFault {
    rv: Option<RvError>,
    text: String,
}

impl TokenFault {
    pub(crate) fn new(error: CryptokiError) -> Self {
        match error {
            CryptokiError::Pkcs11(rv, function) => Self {
                rv: Some(rv),
                text: format!("C_{function:?}: {}", ckr_name(rv)),
            },
            other => Self {
                rv: None,
                text: other.to_string(),
            },
        }
    }

    /// What it says about the session and the module.
    pub fn class(&self) -> FaultClass {
        match self.rv {
            Some(rv) => classify(rv),
            None => FaultClass::Operation,
        }
    }

    /// Whether it speaks of the key that wraps or unwraps as of one that is not there.
    pub(crate) fn is_of_wrapping_key(&self) -> bool {
        matches!(
            self.rv,
            Some(RvError::WrappingKeyHandleInvalid | RvError::UnwrappingKeyHandleInvalid)
        )
    }
}

impl fmt::Display for TokenFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for TokenFault {}

/// The classes of return values. `CKR_FUNCTION_FAILED` is left an operation's own failure: SoftHSM2 says it of
/// templates that it does not like.
fn classify(rv: RvError) -> FaultClass {
    match rv {
        RvError::SessionCount | RvError::DeviceMemory | RvError::HostMemory => FaultClass::Busy,
        RvError::SessionHandleInvalid
        | RvError::SessionClosed
        | RvError::UserNotLoggedIn
        | RvError::KeyHandleInvalid
        | RvError::ObjectHandleInvalid => FaultClass::SessionLost,
        RvError::DeviceError
        | RvError::DeviceRemoved
        | RvError::TokenNotPresent
        | RvError::TokenNotRecognized
        | RvError::SlotIdInvalid
        | RvError::GeneralError
        | RvError::CryptokiNotInitialized
        | RvError::VendorDefined(_) => FaultClass::ModuleDead,
        RvError::PinIncorrect
        | RvError::PinInvalid
        | RvError::PinLenRange
        | RvError::PinExpired
        | RvError::PinLocked => FaultClass::Pin,
        _ => FaultClass::Operation,
    }
}

/// The standard's spelling of a return value: `GeneralError` is `CKR_GENERAL_ERROR`.
fn ckr_name(rv: RvError) -> String {
    match rv {
        RvError::VendorDefined(value) | RvError::UnknownErrorCode(value) => {
            return format!("return value {value:#010x}");
        }
        _ => {}
    }
    let mut name = String::from("CKR");
    for letter in format!("{rv:?}").chars() {
        if letter.is_ascii_uppercase() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}
