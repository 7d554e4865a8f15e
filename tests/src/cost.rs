//! What a conversation costs the tokens: calls of each function, exactly.
//!
//! Counts over many and divides, because checks of health call as well. A call that is not in each of them is
//! theirs, and must be rare.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use keyhaven_softhsm_test::ShimReport;

use crate::running::Site;

/// Calls of one token by function.
pub type Calls = BTreeMap<String, u64>;

/// Calls of each token in one conversation, the key token's first.
///
/// # Panics
/// When more is called now and then than checks of health explain.
pub fn cost(site: &Site, mut conversation: impl FnMut()) -> Vec<Calls> {
    // The first ones may open sessions, make a day's keys and check signatures more than the later ones.
    for _ in 0..8 {
        conversation();
    }
    settle(site);
    let before = reports(site);
    for _ in 0..MANY {
        conversation();
    }
    settle(site);
    let after = reports(site);
    let each = |(before, after): (&ShimReport, &ShimReport)| per_conversation(before, after);
    before.iter().zip(&after).map(each).collect()
}

/// The sum over all functions and tokens.
pub fn total(calls: &[Calls]) -> u64 {
    calls.iter().flat_map(BTreeMap::values).sum()
}

/// Waits until the clean-up of the last conversation is done.
pub fn settle(site: &Site) {
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut last = reports(site);
    loop {
        thread::sleep(Duration::from_millis(30));
        let now = reports(site);
        if now == last || Instant::now() > deadline {
            return;
        }
        last = now;
    }
}

fn reports(site: &Site) -> Vec<ShimReport> {
    let tokens = site.parts.tokens();
    tokens.map(|token| token.shim().report()).collect()
}

fn per_conversation(before: &ShimReport, after: &ShimReport) -> Calls {
    let said = after.calls_since(before);
    let mut each = Calls::new();
    let mut stray = 0;
    for (function, calls) in said.split(", ").filter_map(|part| part.split_once(' ')) {
        let calls: u64 = calls.parse().expect("a number of calls");
        stray += calls % MANY;
        if calls >= MANY {
            each.insert(function.to_owned(), calls / MANY);
        }
    }
    assert!(stray <= STRAY, "{stray} calls now and then: {said}");
    each
}

/// Conversations over which is counted.
const MANY: u64 = 30;
/// Calls that checks of health may add in that time.
const STRAY: u64 = 12;
