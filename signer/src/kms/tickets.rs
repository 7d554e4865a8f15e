//! Ticket keys of the day from a managed key: derived in the token, by every signer that has it.
//!
//! The file that signers of a site would share is not needed then. Invariant: when the key may not be used, there is no
//! ticket key either.

use std::time::{Duration, SystemTime};

use keyhaven_handshake::TicketDays;
use keyhaven_kms::intermediate::Intermediate;
use keyhaven_types::{Name, Secret};
use keyhaven_wire::kms::TaskError;
use tokio::time::timeout;

/// Keeps yesterday's, today's and tomorrow's key, for ever.
pub(super) async fn keep(intermediate: Intermediate, name: Name, days: TicketDays) {
    let mut applied = intermediate.applied();
    let mut told = None;
    loop {
        applied.mark_unchanged();
        let outcome = match timeout(RENEW_MAX, renew(&intermediate, &name, &days)).await {
            Ok(outcome) => outcome,
            // Whether the key may still be used was not seen in time.
            Err(_) => {
                days.clear();
                Err(TaskError::Busy)
            }
        };
        if outcome != told.unwrap_or(Ok(())) || told.is_none() {
            match outcome {
                Ok(()) => tracing::info!(key = %name, "tickets are sealed with a managed key"),
                Err(error) => {
                    tracing::warn!(key = %name, %error, "no tickets: the managed ticket key cannot be used");
                }
            }
            told = Some(outcome);
        }
        let pause = if outcome.is_ok() { LOOK } else { RETRY };
        tokio::select! {
            // A revocation, or the key itself, may have come.
            _ = applied.changed() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

async fn renew(
    intermediate: &Intermediate,
    name: &Name,
    days: &TicketDays,
) -> Result<(), TaskError> {
    let today = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs() / DAY_S);
    let mut keys = Vec::new();
    for day in today.saturating_sub(1)..=today + 1 {
        let label = [b"keyhaven tickets\0", day.to_be_bytes().as_slice()].concat();
        match intermediate.ticket_mac(name, &label).await {
            Ok(mac) => keys.push((day, Secret::copy_from(&mac))),
            // The token is away or at its limit: what was derived before is still good.
            Err(error @ (TaskError::Unavailable | TaskError::Busy)) => return Err(error),
            Err(error) => {
                days.clear();
                return Err(error);
            }
        }
    }
    days.replace(keys);
    Ok(())
}

const DAY_S: u64 = 24 * 60 * 60;
/// How often leases and days are looked at: within the two seconds that central gives every site beyond a class's bound.
const LOOK: Duration = Duration::from_secs(1);
/// Longer, and a revoked key would seal tickets beyond its bound.
const RENEW_MAX: Duration = Duration::from_secs(1);
const RETRY: Duration = Duration::from_secs(1);
