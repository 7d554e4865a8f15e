//! What metrics tell of a site of the KMS: how far it follows, how fresh its lease is, what it did.
//!
//! How the text is written is `text`'s business. Invariant: labels are operations and outcomes, of which there are few,
//! and never keys or callers.

use super::text::{Labels, Text};
use crate::kms::KmsFacts;

/// Writes the families of a site. What there is not is left out: a lease's age without a lease.
pub(super) fn write(text: &mut Text, facts: &KmsFacts) {
    let one = |value: u64| vec![(Labels::new(), value)];
    let age = |age: Option<std::time::Duration>| {
        let age = age.map(|age| (Labels::new(), age.as_secs()));
        age.into_iter().collect::<Vec<_>>()
    };
    let gauges = [
        (
            "keyhaven_kms_applied_revision",
            "Every record of central's up to this revision is applied.",
            one(facts.applied),
        ),
        (
            "keyhaven_kms_lease_age_seconds",
            "Since the site asked for the lease that it has.",
            age(facts.lease_age),
        ),
        (
            "keyhaven_kms_central_heard_seconds",
            "Since central last answered.",
            age(facts.central_heard),
        ),
        (
            "keyhaven_kms_unwrapped_keys",
            "Managed keys that are kept unwrapped in the token.",
            one(facts.unwrapped as u64),
        ),
        (
            "keyhaven_kms_peers_up",
            "Other sites that answer.",
            one(facts.counts.peers_alive),
        ),
    ];
    for (name, help, samples) in gauges {
        text.family(name, "gauge", help, samples);
    }
    let outcomes = facts.outcomes.iter().map(|(operation, outcome, count)| {
        let labels = vec![
            ("operation", operation.as_str().to_owned()),
            ("outcome", (*outcome).to_owned()),
        ];
        (labels, *count)
    });
    let passed = [
        ("done", facts.counts.passed_on),
        ("failed", facts.counts.passed_on_failed),
    ];
    let passed = passed.map(|(result, count)| (vec![("result", result.to_owned())], count));
    let counters = [
        (
            "keyhaven_kms_operations_total",
            "Operations with managed keys, by how they ended here.",
            outcomes.collect(),
        ),
        (
            "keyhaven_kms_lookups_total",
            "Lookups that were answered.",
            one(facts.counts.lookups),
        ),
        (
            "keyhaven_kms_passed_on_total",
            "Operations that were passed on to another site, by what came of it.",
            passed.to_vec(),
        ),
        (
            "keyhaven_kms_taken_over_total",
            "Operations that another site passed on to this one.",
            one(facts.counts.taken_over),
        ),
        (
            "keyhaven_kms_batches_refused_total",
            "Signed batches that were not believed.",
            one(facts.counts.refused),
        ),
    ];
    for (name, help, samples) in counters {
        text.family(name, "counter", help, samples);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use keyhaven_kms::lookup::Counts;
    use keyhaven_types::Operation;

    use super::*;

    fn told(lease_age: Option<Duration>) -> String {
        let facts = KmsFacts {
            applied: 41,
            lease_age,
            central_heard: None,
            unwrapped: 3,
            outcomes: vec![(Operation::Sign, "done", 5), (Operation::Sign, "Denied", 2)],
            counts: Counts {
                lookups: 7,
                passed_on: 8,
                ..Counts::default()
            },
        };
        let mut text = Text::default();
        write(&mut text, &facts);
        text.0
    }

    #[test]
    fn a_site_tells_how_far_it_is_and_what_it_did() {
        let told = told(Some(Duration::from_millis(2500)));
        for line in [
            "keyhaven_kms_applied_revision 41",
            "keyhaven_kms_lease_age_seconds 2",
            "keyhaven_kms_unwrapped_keys 3",
            "keyhaven_kms_operations_total{operation=\"sign\",outcome=\"done\"} 5",
            "keyhaven_kms_operations_total{operation=\"sign\",outcome=\"Denied\"} 2",
            "keyhaven_kms_lookups_total 7",
            "keyhaven_kms_passed_on_total{result=\"done\"} 8",
            "keyhaven_kms_passed_on_total{result=\"failed\"} 0",
        ] {
            assert!(told.lines().any(|one| one == line), "{line} in\n{told}");
        }
    }

    #[test]
    fn without_a_lease_it_has_no_age() {
        let told = told(None);
        assert!(!told.contains("\nkeyhaven_kms_lease_age_seconds "));
    }
}
