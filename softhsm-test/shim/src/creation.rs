//! One call that creates an object: its fault, its template, and what is noted afterwards.
//!
//! Leaves the call itself to the wrappers. Whatever an object was created with is examined as the real module
//! tells it, so a lie told to the caller is still counted as readable.

use std::slice;

use cryptoki_sys::*;

use crate::alter;
use crate::counters::Function;
use crate::examine::{Origin, examine};
use crate::lies::{Asked, opened};
use crate::material;
use crate::names;
use crate::state::{Shim, Verdict};
use crate::tapped::Direction;

/// The call under way.
pub(crate) struct Creation {
    shim: &'static Shim,
    origin: Origin,
    given: (*mut CK_ATTRIBUTE, CK_ULONG),
    opened: Option<Vec<CK_ATTRIBUTE>>,
    /// What the caller is to believe of an opened object.
    believed: Option<Asked>,
    pub(crate) corrupt: bool,
}

impl Creation {
    /// Counts the call; the error is what a fault makes of it.
    ///
    /// # Safety
    /// `given` is null or points at so many attributes, as the caller owes them to a module.
    pub(crate) unsafe fn enter(
        shim: &'static Shim,
        function: Function,
        mechanism: Option<u64>,
        given: (*mut CK_ATTRIBUTE, CK_ULONG),
    ) -> Result<Creation, CK_RV> {
        let verdict = shim.enter(function, mechanism.as_slice());
        let mut creation = Creation::of_public(shim, function, mechanism, given);
        creation.corrupt = matches!(verdict, Verdict::Corrupt(_));
        match verdict {
            Verdict::Fail(code) => return Err(code),
            Verdict::Readable(shown) => {
                // SAFETY: promised by the caller.
                if let Some((opened, asked)) = unsafe { opened(creation.attributes()) } {
                    creation.opened = Some(opened);
                    creation.believed = (!shown).then_some(asked);
                }
            }
            _ => {}
        }
        creation.tap_material();
        Ok(creation)
    }

    /// The other half of a pair: no fault is about it, and what it carries is public.
    pub(crate) fn of_public(
        shim: &'static Shim,
        function: Function,
        mechanism: Option<u64>,
        given: (*mut CK_ATTRIBUTE, CK_ULONG),
    ) -> Creation {
        Creation {
            shim,
            origin: Origin {
                function,
                mechanism,
            },
            given,
            opened: None,
            believed: None,
            corrupt: false,
        }
    }

    /// The template for the real module, and how many attributes it has.
    pub(crate) fn template(&mut self) -> (*mut CK_ATTRIBUTE, CK_ULONG) {
        match &mut self.opened {
            Some(opened) => (opened.as_mut_ptr(), opened.len() as CK_ULONG),
            None => self.given,
        }
    }

    /// Notes the object, unless it lives in the token, and examines it.
    ///
    /// # Safety
    /// `object` is null or points at a handle that the module has written.
    pub(crate) unsafe fn made(
        &self,
        session: CK_SESSION_HANDLE,
        object: *const CK_OBJECT_HANDLE,
        token_unless_said: bool,
    ) {
        // SAFETY: promised by the caller.
        let Some(object) = (unsafe { object.as_ref() }) else {
            return;
        };
        self.exists(session, *object, token_unless_said);
    }

    /// The keys and IVs of a key block, which come by the mechanism's parameters.
    ///
    /// # Safety
    /// The module must have accepted the mechanism and done the derivation.
    pub(crate) unsafe fn made_key_block(
        &self,
        session: CK_SESSION_HANDLE,
        mechanism: &CK_MECHANISM,
    ) {
        // SAFETY: the later form of these parameters begins with the earlier one.
        let parameters = unsafe { alter::of::<CK_SSL3_KEY_MAT_PARAMS>(mechanism) };
        // SAFETY: the module has written there.
        let returned = parameters.and_then(|p| unsafe { p.pReturnedKeyMaterial.as_ref() });
        let (Some(parameters), Some(returned)) = (parameters, returned) else {
            return;
        };
        for key in [
            returned.hClientMacSecret,
            returned.hServerMacSecret,
            returned.hClientKey,
            returned.hServerKey,
        ] {
            self.exists(session, key, false);
        }
        let length = parameters.ulIVSizeInBits as usize / 8;
        for (whose, iv) in [
            ("client", returned.pIVClient),
            ("server", returned.pIVServer),
        ] {
            if !iv.is_null() && length > 0 {
                let detail = format!("{} {whose} IV", names::mechanism(mechanism.mechanism));
                // SAFETY: the caller has given room for an IV of this length, and the module has written it.
                let bytes = unsafe { slice::from_raw_parts(iv, length) };
                let function = self.origin.function;
                self.shim
                    .tap
                    .passed(function, &detail, Direction::Out, bytes);
            }
        }
    }

    fn exists(
        &self,
        session: CK_SESSION_HANDLE,
        object: CK_OBJECT_HANDLE,
        token_unless_said: bool,
    ) {
        if object == CK_INVALID_HANDLE {
            return;
        }
        if !self.in_token().unwrap_or(token_unless_said) {
            self.shim.made(session, object);
        }
        if let Some(asked) = self.believed {
            self.shim.believe(object, asked);
        }
        examine(self.shim, session, object, Some(self.origin));
    }

    /// What the template says of CKA_TOKEN.
    fn in_token(&self) -> Option<bool> {
        let said = self
            .attributes()
            .iter()
            .rfind(|attribute| attribute.type_ == CKA_TOKEN)
            .filter(|attribute| attribute.ulValueLen >= 1 && !attribute.pValue.is_null())?;
        // SAFETY: CKA_TOKEN is one CK_BBOOL, and the length says that it is there.
        Some(unsafe { *said.pValue.cast::<CK_BBOOL>() } != 0)
    }

    /// What the template carries into the token.
    fn tap_material(&self) {
        // SAFETY: the caller owes attributes whose pointers and lengths belong together.
        unsafe { material::in_template(self.shim, self.origin.function, self.attributes()) };
    }

    fn attributes(&self) -> &[CK_ATTRIBUTE] {
        let (template, count) = self.given;
        if template.is_null() {
            return &[];
        }
        // SAFETY: the caller owes a template of `count` attributes.
        unsafe { slice::from_raw_parts(template, count as usize) }
    }
}
