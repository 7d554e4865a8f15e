//! The hold: what a module refuses even to code that has the login.
//!
//! A level says where secrets live in what the signer does; the hold says what somebody else could do who has the
//! PIN or runs in the signer's process. Both are facts and neither is rounded up. Every attack is made on objects of
//! its own, which are destroyed. Invariant: an attack that could not be tried is said to be neither refused nor
//! successful.

mod attacks;
mod target;

use serde::Serialize;

use self::{attacks::ATTACKS, target::Target};
use crate::{quirks::Ways, session::OpenSession};

/// One attack and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HoldCheck {
    /// What was attempted, in a few words that do not change from release to release.
    pub name: String,
    /// Whether the module refused; nothing when it could not be tried.
    pub refused: Option<bool>,
    /// What happened, in words.
    pub detail: String,
}

/// What became of an attack that was tried.
enum Outcome {
    Refused(String),
    Succeeded(&'static str),
}

/// An attack: it fails with the reason why it could not be tried.
type Attack = fn(&Target<'_>) -> Result<Outcome, String>;

/// Makes every attack, on a session that is used for nothing else.
pub(crate) fn examine(session: &OpenSession, ways: &Ways) -> Vec<HoldCheck> {
    let make = |&(name, attack): &(&str, Attack)| {
        let target = Target::new(session, ways);
        let outcome = attack(&target);
        let left = target.destroy();
        let (refused, mut detail) = match outcome {
            Ok(Outcome::Refused(detail)) => (Some(true), detail),
            Ok(Outcome::Succeeded(detail)) => (Some(false), detail.to_owned()),
            Err(detail) => (None, format!("could not be tried: {detail}")),
        };
        if let Err(error) = left {
            detail = format!("{detail}; an object was not destroyed: {error}");
        }
        HoldCheck {
            name: name.to_owned(),
            refused,
            detail,
        }
    };
    ATTACKS.iter().map(make).collect()
}
