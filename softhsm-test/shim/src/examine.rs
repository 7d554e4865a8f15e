//! Tries to read what must not be readable, and notes what was created.
//!
//! Asks the real module, so the attempts are neither among the counted calls nor in the tap. A key counts as
//! examined when it is a private or a secret key, and as readable when the module gives its value or a secret
//! part of it. Data objects are readable by nature and are only noted.

use std::ptr;

use cryptoki_sys::*;

use crate::counters::{Counter, Function};
use crate::names;
use crate::seen::ObjectSeen;
use crate::state::Shim;

/// How an object came to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin {
    pub(crate) function: Function,
    pub(crate) mechanism: Option<u64>,
}

/// Examines an object that has just been made or, without an origin, found.
pub(crate) fn examine(
    shim: &Shim,
    session: CK_SESSION_HANDLE,
    object: CK_OBJECT_HANDLE,
    origin: Option<Origin>,
) {
    let look = Look {
        shim,
        session,
        object,
    };
    let class = look.class();
    let is_key = class.is_some_and(|class| KEYS.contains(&class));
    let noted = origin.filter(|_| shim.tap.listens());
    if !is_key && noted.is_none() {
        return;
    }
    let readable = look.readable();
    if is_key {
        shim.counters.add(Counter::Examined, 1);
        if readable {
            shim.counters.add(Counter::Readable, 1);
        }
    }
    if let Some(origin) = noted {
        shim.tap.seen(&look.describe(origin, class, readable));
    }
}

/// The object's class, if the module tells it.
pub(crate) fn class_of(
    shim: &Shim,
    session: CK_SESSION_HANDLE,
    object: CK_OBJECT_HANDLE,
) -> Option<CK_ULONG> {
    Look {
        shim,
        session,
        object,
    }
    .class()
}

/// Whether these attributes include the value of a key, or a secret part of it.
pub(crate) fn asks_for_value(template: &[CK_ATTRIBUTE]) -> bool {
    template
        .iter()
        .any(|attribute| SECRETS.contains(&attribute.type_))
}

/// Whether such an object's value is a secret. An object that tells no class may be one.
pub(crate) fn may_be_key(class: Option<CK_ULONG>) -> bool {
    class.is_none_or(|class| KEYS.contains(&class))
}

struct Look<'a> {
    shim: &'a Shim,
    session: CK_SESSION_HANDLE,
    object: CK_OBJECT_HANDLE,
}

impl Look<'_> {
    fn class(&self) -> Option<CK_ULONG> {
        self.number(CKA_CLASS)
    }

    fn readable(&self) -> bool {
        // The longest: a private key of ML-DSA-87.
        let mut value = [0_u8; 8192];
        let readable = SECRETS
            .into_iter()
            .any(|kind| self.read(kind, &mut value).is_some_and(|length| length > 0));
        value.fill(0);
        readable
    }

    fn describe(&self, origin: Origin, class: Option<CK_ULONG>, readable: bool) -> ObjectSeen {
        ObjectSeen {
            handle: self.object,
            class: class.map_or_else(|| "unknown".to_owned(), names::class),
            key_type: self.number(CKA_KEY_TYPE).map(names::key_type),
            function: origin.function.name().to_owned(),
            mechanism: origin.mechanism.map(names::mechanism),
            readable,
            sensitive: self.flag(CKA_SENSITIVE),
            extractable: self.flag(CKA_EXTRACTABLE),
            private: self.flag(CKA_PRIVATE),
            token: self.flag(CKA_TOKEN),
            derive: self.flag(CKA_DERIVE),
            sign: self.flag(CKA_SIGN),
            encrypt: self.flag(CKA_ENCRYPT),
            decrypt: self.flag(CKA_DECRYPT),
            wrap: self.flag(CKA_WRAP),
            unwrap: self.flag(CKA_UNWRAP),
        }
    }

    fn number(&self, kind: CK_ATTRIBUTE_TYPE) -> Option<CK_ULONG> {
        let mut value = [0_u8; size_of::<CK_ULONG>()];
        (self.read(kind, &mut value) == Some(value.len())).then(|| CK_ULONG::from_ne_bytes(value))
    }

    fn flag(&self, kind: CK_ATTRIBUTE_TYPE) -> Option<bool> {
        let mut value = [0_u8; size_of::<CK_BBOOL>()];
        (self.read(kind, &mut value) == Some(1)).then_some(value[0] != 0)
    }

    /// The attribute's length, if the module gives it.
    fn read(&self, kind: CK_ATTRIBUTE_TYPE, into: &mut [u8]) -> Option<usize> {
        let get = self.shim.real.C_GetAttributeValue?;
        let mut attribute = CK_ATTRIBUTE {
            type_: kind,
            pValue: ptr::from_mut(into).cast(),
            ulValueLen: into.len() as CK_ULONG,
        };
        // SAFETY: the template is one attribute whose pointer and length describe `into`.
        let rv = unsafe { get(self.session, self.object, &mut attribute, 1) };
        (rv == CKR_OK && attribute.ulValueLen != CK_UNAVAILABLE_INFORMATION)
            .then_some(attribute.ulValueLen as usize)
    }
}

/// The classes whose value is a secret.
const KEYS: [CK_OBJECT_CLASS; 2] = [CKO_PRIVATE_KEY, CKO_SECRET_KEY];

/// The attributes that are a secret of such an object.
pub(crate) const SECRETS: [CK_ATTRIBUTE_TYPE; 4] =
    [CKA_VALUE, CKA_PRIVATE_EXPONENT, CKA_PRIME_1, CKA_SEED];
