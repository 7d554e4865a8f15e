//! The faults that a test asks for, one a line; the crate's own page has the language with examples.
//!
//! Leaves doing them to the wrappers. A line that no wrapper could do is refused, so that a test cannot ask for
//! nothing. Empty lines and lines that start with `#` say nothing.

use crate::counters::FUNCTIONS;
use crate::names;

/// One line of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The function's name; `*` stands for each.
    function: String,
    action: Action,
    /// The mechanism, or the attribute, that it is kept to.
    of: Option<u64>,
    /// Calls that pass first.
    after: u64,
    /// How often it is done yet.
    left: u64,
}

/// What happens to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It fails with this code.
    Error(u64),
    /// It is held for so many milliseconds, then done.
    Hang(u64),
    /// Its result is altered; of an attribute call, this attribute.
    Corrupt(Option<u64>),
    /// The object is made readable. Whether its flags say so.
    Readable(bool),
    /// It succeeds without the real module: the mechanism can be used, says the answer.
    Claim,
    /// This mechanism is listed as well.
    Extra(u64),
    /// This mechanism is not listed.
    Without(u64),
}

impl Fault {
    /// Reads the whole file; the error is the line that makes no sense.
    pub fn parse_all(text: &str) -> Result<Vec<Fault>, String> {
        text.lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .map(|line| Fault::parse(line).ok_or_else(|| line.to_owned()))
            .collect()
    }

    fn parse(line: &str) -> Option<Fault> {
        let mut words = line.split_whitespace();
        let function = words
            .next()
            .filter(|name| *name == "*" || FUNCTIONS.contains(name))?;
        let action = match words.next()? {
            "error" => Action::Error(number(words.next()?)?),
            "hang" => Action::Hang(number(words.next()?)?),
            "corrupt" => Action::Corrupt(None),
            "readable" => Action::Readable(false),
            "readable-shown" => Action::Readable(true),
            "ok" => Action::Claim,
            "extra" => Action::Extra(mechanism(words.next()?)?),
            "without" => Action::Without(mechanism(words.next()?)?),
            _ => return None,
        };
        let mut fault = Fault {
            function: function.to_owned(),
            action,
            of: None,
            after: 0,
            left: u64::MAX,
        };
        while let Some(word) = words.next() {
            let value = words.next()?;
            match word {
                "of" if function == ATTRIBUTES => fault.of = Some(attribute(value)?),
                "of" => fault.of = Some(mechanism(value)?),
                "after" => fault.after = number(value)?,
                "times" => fault.left = number(value)?,
                _ => return None,
            }
        }
        if fault.action == Action::Corrupt(None) && function == ATTRIBUTES {
            fault.of = fault.of.or_else(|| names::attribute_named("CKA_VALUE"));
            fault.action = Action::Corrupt(fault.of);
        }
        fault.can_be_done().then_some(fault)
    }

    fn can_be_done(&self) -> bool {
        let function = self.function.as_str();
        match self.action {
            Action::Error(_) | Action::Hang(_) => true,
            Action::Corrupt(_) => CORRUPTED.contains(&function),
            Action::Readable(_) => CREATING.contains(&function),
            Action::Claim => function == "C_GetMechanismInfo",
            Action::Extra(_) | Action::Without(_) => function == "C_GetMechanismList",
        }
    }

    /// Whether it changes a list that other faults may change too.
    pub fn edits(&self) -> bool {
        matches!(self.action, Action::Extra(_) | Action::Without(_))
    }

    /// Whether this call is hit; counts it. `of` are the call's mechanism, or the attributes it asks for.
    pub fn hits(&mut self, function: &str, of: &[u64]) -> Option<Action> {
        let meant = (self.function == "*" || self.function == function)
            && self.of.is_none_or(|only| of.contains(&only));
        if !meant || self.left == 0 {
            return None;
        }
        if self.after > 0 {
            self.after -= 1;
            return None;
        }
        self.left -= 1;
        Some(self.action)
    }
}

fn mechanism(word: &str) -> Option<u64> {
    names::mechanism_named(word).or_else(|| number(word))
}

fn attribute(word: &str) -> Option<u64> {
    names::attribute_named(word).or_else(|| number(word))
}

fn number(word: &str) -> Option<u64> {
    match word.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => word.parse().ok(),
    }
}

const ATTRIBUTES: &str = "C_GetAttributeValue";

/// The functions whose template can be rewritten.
const CREATING: &[&str] = &[
    "C_CreateObject",
    "C_CopyObject",
    "C_GenerateKey",
    "C_GenerateKeyPair",
    "C_UnwrapKey",
    "C_UnwrapKeyAuthenticated",
    "C_DeriveKey",
    "C_EncapsulateKey",
    "C_DecapsulateKey",
];

/// The functions whose result can be altered.
const CORRUPTED: &[&str] = &[
    ATTRIBUTES,
    "C_DeriveKey",
    "C_Sign",
    "C_SignFinal",
    "C_SignRecover",
    "C_SignMessage",
    "C_Digest",
    "C_DigestFinal",
    "C_Encrypt",
    "C_EncryptUpdate",
    "C_EncryptFinal",
    "C_Decrypt",
    "C_DecryptUpdate",
    "C_DecryptFinal",
    "C_WrapKey",
    "C_GenerateRandom",
    "C_EncapsulateKey",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_each_form() {
        let text = "# a remark\n\nC_Sign corrupt of 0x1041\n* hang 3000\nC_DeriveKey error 0x30 after 1 times 2\n";
        let mut faults = Fault::parse_all(text).unwrap();
        assert_eq!(faults[0].hits("C_Sign", &[0x1]), None);
        assert_eq!(
            faults[0].hits("C_Sign", &[0x1041]),
            Some(Action::Corrupt(None))
        );
        assert_eq!(faults[1].hits("C_GetInfo", &[]), Some(Action::Hang(3000)));
        let hits: Vec<_> = (0..4).map(|_| faults[2].hits("C_DeriveKey", &[])).collect();
        assert_eq!(
            hits,
            [
                None,
                Some(Action::Error(0x30)),
                Some(Action::Error(0x30)),
                None
            ]
        );
    }

    #[test]
    fn reads_the_standard_s_names() {
        let text = "C_DeriveKey error 0x70 of CKM_HKDF_DERIVE\nC_GetAttributeValue corrupt of CKA_EC_POINT\n\
                    C_GetAttributeValue corrupt\nC_GetMechanismList extra CKM_HKDF_DATA\n";
        let mut faults = Fault::parse_all(text).unwrap();
        assert_eq!(faults[0].hits("C_DeriveKey", &[0x1050]), None);
        assert_eq!(
            faults[0].hits("C_DeriveKey", &[0x402a]),
            Some(Action::Error(0x70))
        );
        assert_eq!(
            faults[1].hits(ATTRIBUTES, &[0x100, 0x181]),
            Some(Action::Corrupt(Some(0x181)))
        );
        assert_eq!(
            faults[2].hits(ATTRIBUTES, &[0x11]),
            Some(Action::Corrupt(Some(0x11)))
        );
        assert!(faults[3].edits());
    }

    #[test]
    fn names_the_line_that_makes_no_sense() {
        for line in [
            "C_Nothing corrupt",
            "C_Sign",
            "C_Sign error",
            "C_Sign corrupt after",
            "C_Sign hang x",
            "C_DeriveKey error 0x70 of CKM_NOTHING",
            "C_Verify corrupt",
            "* corrupt",
            "C_Sign readable",
            "C_Sign extra 0x1",
        ] {
            assert_eq!(Fault::parse_all(line), Err(line.to_owned()));
        }
    }
}
