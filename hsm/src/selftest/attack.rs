//! Attacks on the objects of the self-tests: their values must not come out, whatever is asked.
//!
//! What a module grants to its owner beyond these objects is the business of `hold`. Invariant: an attack that
//! cannot be judged is one that succeeded.

use cryptoki::object::{Attribute, AttributeType, ObjectHandle};

use crate::{Kept, TokenFault, quirks::Ways, session::OpenSession};

/// What an attack has shown of an object.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Weakness {
    /// Its value came out, or whether it does cannot be judged.
    Open(String),
    /// Its flags are not those that were asked for; the value did not come out.
    Flags(String),
}

impl Weakness {
    pub(super) fn into_detail(self) -> String {
        match self {
            Self::Open(detail) | Self::Flags(detail) => detail,
        }
    }
}

/// Tries to read a value: as it is, after its flags were changed, and from a copy that is asked to be readable.
pub(super) fn try_to_read(
    session: &OpenSession,
    ways: &Ways,
    object: ObjectHandle,
    kept: Kept,
) -> Result<(), Weakness> {
    let types = [AttributeType::Sensitive, AttributeType::Extractable];
    let flags = session
        .get_attributes(object, &types)
        .map_err(|error| Weakness::Open(TokenFault::new(error).to_string()))?;
    let extractable = kept == Kept::Wrappable && ways.wrappable.is_extractable();
    let asked = [
        Attribute::Sensitive(true),
        Attribute::Extractable(extractable),
    ];
    match (takes_value(session, object), flags == asked) {
        (Ok(()), true) => Ok(()),
        (Ok(()), false) => Err(Weakness::Flags(FLAGS.to_owned())),
        (Err(how), true) => Err(Weakness::Open(how.to_owned())),
        (Err(how), false) => Err(Weakness::Open(format!("{FLAGS}; {how}"))),
    }
}

fn takes_value(session: &OpenSession, object: ObjectHandle) -> Result<(), &'static str> {
    if is_readable(session, object) {
        return Err("CKA_VALUE was read");
    }
    let open = [Attribute::Sensitive(false), Attribute::Extractable(true)];
    let _ = session.update_attributes(object, &open);
    if is_readable(session, object) {
        return Err("CKA_VALUE was read after the flags were changed");
    }
    if let Ok(copy) = session.copy_object(object, &open) {
        let readable = is_readable(session, copy);
        let destroyed = session.destroy_object(copy);
        if readable || destroyed.is_err() {
            return Err("CKA_VALUE was read from a copy");
        }
    }
    Ok(())
}

const FLAGS: &str = "the token does not keep CKA_SENSITIVE and CKA_EXTRACTABLE as asked";

pub(super) fn is_readable(session: &OpenSession, object: ObjectHandle) -> bool {
    let values = session.get_attributes(object, &[AttributeType::Value]);
    // An attribute that is refused is left out by the binding.
    values.is_ok_and(|values| {
        values
            .iter()
            .any(|value| !matches!(value, Attribute::Value(bytes) if bytes.is_empty()))
    })
}
