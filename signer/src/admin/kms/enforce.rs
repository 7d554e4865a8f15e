//! Waiting until a change holds at every site.
//!
//! Central knows what sites have said and when the last lease ends. Invariant: nobody is told that a change is enforced
//! before central has said so.

use std::{
    thread,
    time::{Duration, Instant},
};

use keyhaven_types::Name;
use keyhaven_wire::kms::admin::{Answer, Ask};
use serde_json::{Value, json};

use super::committed::other_answer;
use crate::admin::{
    args::kms::EnforcedArgs,
    ask,
    channel::{Channel, deadline_in},
    failure::Failure,
    report::Report,
};

/// Whether a revision holds.
pub(super) struct Standing {
    pub(super) revision: u64,
    pub(super) enforced: bool,
    pub(super) at_most_s: u64,
    pub(super) waiting_for: Vec<Name>,
}

/// `kms lease enforced`
pub(super) fn enforced(args: &EnforcedArgs) -> Result<Report, Failure> {
    let channel = Channel::new(&args.client)?;
    let standing = if args.wait {
        wait(&channel, args.revision)?
    } else {
        look(&channel, args.revision)?
    };
    Ok(Report::new(standing.json(), standing.text()))
}

/// Asks once.
fn look(channel: &Channel, revision: u64) -> Result<Standing, Failure> {
    match channel.ask(&Ask::Enforced { revision })? {
        Answer::Enforced {
            enforced,
            at_most_s,
            waiting_for,
        } => Ok(Standing {
            revision,
            enforced,
            at_most_s,
            waiting_for,
        }),
        _ => Err(other_answer()),
    }
}

/// Asks until it holds; a central that is away meanwhile is asked again.
pub(super) fn wait(channel: &Channel, revision: u64) -> Result<Standing, Failure> {
    let committed = |failure: Failure| Failure {
        what: format!(
            "revision {revision} is committed, but whether it holds everywhere is not known: {}",
            failure.what
        ),
        ..failure
    };
    let mut standing = look(channel, revision).map_err(committed)?;
    let deadline = deadline_in(standing.at_most_s.saturating_add(PATIENCE_S));
    if !standing.enforced {
        ask::tell(standing.text().trim_end());
    }
    let mut pause = PAUSE_MIN;
    while !standing.enforced {
        thread::sleep(pause);
        pause = (pause * 2).min(PAUSE_MAX);
        match look(channel, revision) {
            Ok(now) => standing = now,
            Err(failure) if Instant::now() > deadline => return Err(committed(failure)),
            Err(_) => {}
        }
        if !standing.enforced && Instant::now() > deadline {
            return Err(committed(Failure::new(
                format!("central still waits for {}", names(&standing.waiting_for)),
                format!(
                    "signer-admin kms status; then signer-admin kms lease enforced {revision} --wait"
                ),
            )));
        }
    }
    Ok(standing)
}

impl Standing {
    pub(super) fn json(&self) -> Value {
        json!({
            "revision": self.revision,
            "enforced": self.enforced,
            "at_most_s": self.at_most_s,
            "waiting_for": self.waiting_for,
        })
    }

    pub(super) fn text(&self) -> String {
        if self.enforced {
            return format!("revision {} holds at every site\n", self.revision);
        }
        format!(
            "revision {} does not hold everywhere yet: waiting for {}\n  in {} seconds at the latest it does, whatever they say\n",
            self.revision,
            names(&self.waiting_for),
            self.at_most_s
        )
    }
}

fn names(names: &[Name]) -> String {
    if names.is_empty() {
        return "leases to end".to_owned();
    }
    let names: Vec<&str> = names.iter().map(Name::as_str).collect();
    names.join(", ")
}

/// Beyond what central has promised: for a central that is away for a moment.
const PATIENCE_S: u64 = 60;
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);
