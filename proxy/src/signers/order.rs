//! Which signer is asked first to begin a handshake.
//!
//! No I/O. Those that serve the name come first, by what each is expected to take; configured ones stand in, in the order
//! of the configuration. Invariant: whoever failed a moment ago comes behind everybody who did not.

use std::time::{Duration, Instant};

use super::signer::Signer;

/// Orders the signers that serve a name: healthy before merely connected, then by failures, then by time.
pub(super) fn by_time(mut named: Vec<(Signer, Duration)>, now: Instant) -> Vec<Signer> {
    named.sort_by_cached_key(|(signer, estimate)| {
        let pace = signer.pace();
        (
            !signer.client().is_healthy(),
            pace.is_avoided(now),
            pace.expected(now, *estimate),
        )
    });
    if let Some((first, _)) = named.first() {
        first.pace().tried(now);
    }
    named.into_iter().map(|(signer, _)| signer).collect()
}

/// Orders configured signers: the preferred one, then the healthy ones, then those that are merely connected.
pub(super) fn by_health<'a>(
    configured: impl IntoIterator<Item = &'a Signer>,
    preferred: Option<&Signer>,
) -> Vec<Signer> {
    let mut order: Vec<&Signer> = configured.into_iter().collect();
    order.sort_by_key(|signer| {
        let is_preferred = preferred.is_some_and(|preferred| preferred.is_same(signer));
        (!is_preferred, !signer.client().is_healthy())
    });
    order.into_iter().cloned().collect()
}
