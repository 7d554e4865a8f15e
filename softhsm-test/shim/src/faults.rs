//! The faults that a test asks for, one a line.
//!
//! `FUNCTION ACTION [of MECHANISM] [after N] [times M]`, where FUNCTION is a name or `*`, and ACTION is
//! `error CODE` (the call fails with that CK_RV), `hang MILLISECONDS` (it is held first), or `corrupt` (one bit
//! of the signature is wrong). `of` keeps it to signatures with that mechanism, `after` lets N calls pass first,
//! `times` ends it after M. Empty lines and lines that start with `#` say nothing.

use crate::counters::FUNCTIONS;

/// One line of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The function's name; `*` stands for each.
    function: String,
    action: Action,
    mechanism: Option<u64>,
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
    /// Its result is altered.
    Corrupt,
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
            "corrupt" => Action::Corrupt,
            _ => return None,
        };
        let mut fault = Fault {
            function: function.to_owned(),
            action,
            mechanism: None,
            after: 0,
            left: u64::MAX,
        };
        while let Some(word) = words.next() {
            let value = number(words.next()?)?;
            match word {
                "of" => fault.mechanism = Some(value),
                "after" => fault.after = value,
                "times" => fault.left = value,
                _ => return None,
            }
        }
        Some(fault)
    }

    /// Whether this call is hit; counts it.
    pub fn hits(&mut self, function: &str, mechanism: Option<u64>) -> Option<Action> {
        let meant = (self.function == "*" || self.function == function)
            && (self.mechanism.is_none() || self.mechanism == mechanism);
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

fn number(word: &str) -> Option<u64> {
    match word.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => word.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_each_form() {
        let text = "# a remark\n\nC_Sign corrupt of 0x1041\n* hang 3000\nC_DeriveKey error 0x30 after 1 times 2\n";
        let mut faults = Fault::parse_all(text).unwrap();
        assert_eq!(faults[0].hits("C_Sign", Some(0x1)), None);
        assert_eq!(
            faults[0].hits("C_Sign", Some(0x1041)),
            Some(Action::Corrupt)
        );
        assert_eq!(faults[1].hits("C_GetInfo", None), Some(Action::Hang(3000)));
        let hits: Vec<_> = (0..4)
            .map(|_| faults[2].hits("C_DeriveKey", None))
            .collect();
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
    fn names_the_line_that_makes_no_sense() {
        for line in [
            "C_Nothing corrupt",
            "C_Sign",
            "C_Sign error",
            "C_Sign corrupt after",
            "C_Sign hang x",
        ] {
            assert_eq!(Fault::parse_all(line), Err(line.to_owned()));
        }
    }
}
