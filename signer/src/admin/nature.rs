//! Whether a token is a device or a program, as far as that can be known from here.
//!
//! A module's own word is taken for what it is. Invariant: "hardware" is never said on our own account.

use keyhaven_hsm::{TokenInfo, admin::SlotFacts};
use serde::Serialize;

/// What a token is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Nature {
    /// A program that is known as one, whatever it says of itself.
    Software,
    /// The module says that it is a device (CKF_HW_SLOT).
    SaysHardware,
    /// The module does not say so, and it is not known here.
    Unknown,
}

impl Nature {
    pub(super) fn of(token: &TokenInfo, slot: &SlotFacts) -> Self {
        let starts = |text: &str, known: &[&str]| {
            let text = text.to_ascii_lowercase();
            known.iter().any(|start| text.starts_with(start))
        };
        let is_known = starts(&token.manufacturer, &MANUFACTURERS) || starts(&token.model, &MODELS);
        if is_known {
            Self::Software
        } else if slot.hardware {
            Self::SaysHardware
        } else {
            Self::Unknown
        }
    }

    pub(super) fn in_words(self) -> &'static str {
        match self {
            Self::Software => "software",
            Self::SaysHardware => "hardware, says its module",
            Self::Unknown => "not known whether hardware or software",
        }
    }
}

/// Manufacturers of software tokens, as their tokens spell them, in lower case. SoftHSM2 behind a remote module
/// gives its own name, too.
const MANUFACTURERS: [&str; 4] = [
    "softhsm project",
    "mozilla foundation",
    "kryoptic",
    "craton",
];

/// The same for models: TPMs that are programs (libtpms, as under swtpm) give the name of a maker of TPMs.
const MODELS: [&str; 1] = ["sw   tpm"];

#[cfg(test)]
mod tests {
    use super::*;

    fn nature(manufacturer: &str, model: &str, hardware: bool) -> Nature {
        let token = TokenInfo {
            manufacturer: manufacturer.to_owned(),
            model: model.to_owned(),
            ..TokenInfo::default()
        };
        let slot = SlotFacts {
            description: String::new(),
            manufacturer: String::new(),
            hardware,
            removable: false,
            hardware_version: String::new(),
            firmware_version: String::new(),
        };
        Nature::of(&token, &slot)
    }

    #[test]
    fn a_known_program_that_calls_itself_a_device_is_a_program() {
        let softhsm = nature("SoftHSM project", "SoftHSM v2", true);
        assert_eq!(softhsm, Nature::Software);
        assert_eq!(nature("IBM", "SW   TPM", true), Nature::Software);
        assert_eq!(nature("Somebody", "Box", true), Nature::SaysHardware);
        assert_eq!(nature("Somebody", "Box", false), Nature::Unknown);
    }
}
