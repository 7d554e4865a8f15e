//! What a module must enforce to be central, seen on session objects that are thrown away.
//!
//! The tests go by behaviour: what a module says of its attributes is not asked. Each has its counterpart, the same act
//! without the restraint, so that a module that can do nothing at all does not pass for one that refuses. Invariant: a
//! test that cannot be done is one that failed.

mod bench;
mod probes;

use crate::{Error, FaultClass, quirks::Quirks, session::OpenSession};

use self::{bench::Probes, probes::Refused};

/// What the module does not do that central rests on, each a verb phrase; nothing when all is well.
pub(crate) fn central(
    session: &OpenSession,
    quirks: &'static Quirks,
) -> Result<Vec<String>, Error> {
    let probes = Probes::new(session, quirks);
    let mut failed = Vec::new();
    for (claim, test) in tests() {
        match test(&probes) {
            Ok(Refused::Yes) => {}
            Ok(Refused::No(how)) => failed.push(format!("{claim} ({how})")),
            Err(error) if is_away(&error) => return Err(error),
            Err(error) => failed.push(format!("{claim} (it could not be tried: {})", told(&error))),
        }
    }
    Ok(failed)
}

fn told(error: &Error) -> String {
    match error {
        Error::Token { source, .. } => source.to_string(),
        other => other.to_string(),
    }
}

/// A failure that says nothing of what the module enforces.
fn is_away(error: &Error) -> bool {
    matches!(
        error.fault_class(),
        Some(FaultClass::Busy | FaultClass::SessionLost | FaultClass::Pin)
    )
}

type Test<'a> = fn(&Probes<'a>) -> Result<Refused, Error>;

fn tests<'a>() -> [(&'static str, Test<'a>); 7] {
    [
        (
            "keep CKA_TRUSTED for the security officer",
            Probes::trusts_nobody,
        ),
        (
            "heed CKA_WRAP_WITH_TRUSTED",
            Probes::wraps_with_trusted_alone,
        ),
        (
            "heed CKA_EXTRACTABLE",
            Probes::keeps_what_is_not_extractable,
        ),
        ("heed CKA_UNWRAP_TEMPLATE", Probes::unwraps_by_template),
        ("heed CKA_WRAP_TEMPLATE", Probes::wraps_by_template),
        (
            "heed CKA_ALLOWED_MECHANISMS",
            Probes::unwraps_by_one_mechanism,
        ),
        ("heed CKA_MODIFIABLE", Probes::changes_nothing_locked),
    ]
}
