//! Objects that are readable although the caller asked for the opposite.
//!
//! Rewrites templates and answers; which object it is done to is the business of `creation`. Data objects have no
//! such flags and are left alone.

use cryptoki_sys::*;

/// What the caller asked for; what it said nothing of is taken as the strict answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    sensitive: bool,
    extractable: bool,
}

impl Default for Asked {
    fn default() -> Self {
        Asked {
            sensitive: true,
            extractable: false,
        }
    }
}

impl Asked {
    /// The flag as the caller wants to hear it, if it is one of those that are lied about.
    pub(crate) fn answer(self, kind: CK_ATTRIBUTE_TYPE) -> Option<bool> {
        match kind {
            CKA_SENSITIVE | CKA_ALWAYS_SENSITIVE => Some(self.sensitive),
            CKA_EXTRACTABLE => Some(self.extractable),
            CKA_NEVER_EXTRACTABLE => Some(!self.extractable),
            _ => None,
        }
    }
}

/// The template of a readable key, and what the caller had asked for.
///
/// # Safety
/// The attributes must be as a caller owes them to a module: pointers and lengths that belong together.
pub(crate) unsafe fn opened(template: &[CK_ATTRIBUTE]) -> Option<(Vec<CK_ATTRIBUTE>, Asked)> {
    let mut asked = Asked::default();
    let mut kept = Vec::with_capacity(template.len() + 2);
    for attribute in template {
        let first = attribute.pValue.cast::<CK_BBOOL>();
        let there = !first.is_null() && attribute.ulValueLen >= 1;
        match attribute.type_ {
            CKA_CLASS if attribute.ulValueLen as usize == size_of::<CK_ULONG>() && there => {
                // SAFETY: the length says that a CK_ULONG is there, of whatever alignment.
                let class = unsafe { first.cast::<CK_ULONG>().read_unaligned() };
                if class == CKO_DATA {
                    return None;
                }
                kept.push(*attribute);
            }
            // SAFETY: the length says that one CK_BBOOL is there.
            CKA_SENSITIVE if there => asked.sensitive = unsafe { *first } != 0,
            // SAFETY: the same.
            CKA_EXTRACTABLE if there => asked.extractable = unsafe { *first } != 0,
            _ => kept.push(*attribute),
        }
    }
    for (kind, value) in [(CKA_SENSITIVE, &CK_FALSE), (CKA_EXTRACTABLE, &CK_TRUE)] {
        kept.push(CK_ATTRIBUTE {
            type_: kind,
            pValue: std::ptr::from_ref(value).cast_mut().cast(),
            ulValueLen: 1,
        });
    }
    Some((kept, asked))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute<T>(kind: CK_ATTRIBUTE_TYPE, value: &T) -> CK_ATTRIBUTE {
        CK_ATTRIBUTE {
            type_: kind,
            pValue: std::ptr::from_ref(value).cast_mut().cast(),
            ulValueLen: size_of::<T>() as CK_ULONG,
        }
    }

    #[test]
    fn opens_keys_and_leaves_data_alone() {
        let key = [
            attribute(CKA_CLASS, &CKO_SECRET_KEY),
            attribute(CKA_SENSITIVE, &CK_TRUE),
            attribute(CKA_DERIVE, &CK_TRUE),
        ];
        // SAFETY: each attribute describes a constant.
        let (template, asked) = unsafe { opened(&key) }.unwrap();
        let kinds: Vec<_> = template.iter().map(|attribute| attribute.type_).collect();
        assert_eq!(
            kinds,
            [CKA_CLASS, CKA_DERIVE, CKA_SENSITIVE, CKA_EXTRACTABLE]
        );
        assert_eq!(asked.answer(CKA_SENSITIVE), Some(true));
        assert_eq!(asked.answer(CKA_EXTRACTABLE), Some(false));
        assert_eq!(asked.answer(CKA_NEVER_EXTRACTABLE), Some(true));
        assert_eq!(asked.answer(CKA_DERIVE), None);
        let data = [attribute(CKA_CLASS, &CKO_DATA)];
        // SAFETY: the same.
        assert!(unsafe { opened(&data) }.is_none());
    }
}
