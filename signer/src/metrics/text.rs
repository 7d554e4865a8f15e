//! Prometheus' text format 0.0.4, written by hand: a dozen families, and one rule for quoting.
//!
//! Invariant: no family is written twice, and no two samples of it have the same labels.

use std::{
    fmt::Write as _,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::UNIX_EPOCH,
};

use super::{TokenState, site};
use crate::{counters::Counters, kms::KmsFacts, policy::Policy};

/// Everything that there is to tell.
pub(super) fn of(
    counters: &Counters,
    policy: &Policy,
    states: &[TokenState],
    kms: Option<&KmsFacts>,
) -> String {
    let mut text = Text::default();
    of_counters(&mut text, counters);
    of_tokens(&mut text, policy, states);
    of_certificates(&mut text, policy);
    if let Some(facts) = kms {
        site::write(&mut text, facts);
    }
    text.0
}

fn of_counters(text: &mut Text, counters: &Counters) {
    let kinds = counters.kinds().into_iter().map(|(kind, count)| {
        let labels = vec![
            ("site", kind.site),
            ("version", kind.version.to_owned()),
            ("level", kind.level.to_string()),
            ("resumed", kind.resumed.to_string()),
        ];
        (labels, count)
    });
    text.family(
        "keyhaven_handshakes_total",
        "counter",
        "Handshakes whose keys left the signer.",
        kinds.collect(),
    );
    let left = counters.left().into_iter().map(|(left, count)| {
        let token = left.token.unwrap_or_default();
        let labels = vec![("token", token), ("what", left.what.to_owned())];
        (labels, count)
    });
    text.family(
        "keyhaven_left_token_total",
        "counter",
        "Handshakes by what left which token for them; no token: it was never in one.",
        left.collect(),
    );
    let plain: [(&str, &str, &AtomicU64); 9] = [
        ("started", "Handshakes begun.", &counters.started),
        (
            "proven",
            "Handshakes whose client proved itself.",
            &counters.proven,
        ),
        (
            "aborted",
            "Handshakes whose keys left and whose client did not prove itself.",
            &counters.aborted,
        ),
        (
            "forged",
            "Proofs of an outcome that were wrong.",
            &counters.forged,
        ),
        (
            "refused",
            "Handshakes refused to the client.",
            &counters.refused,
        ),
        ("failed", "Handshakes that failed here.", &counters.failed),
        ("busy", "Requests turned away at a limit.", &counters.busy),
        ("rekeys", "Next traffic keys given.", &counters.rekeyed),
        (
            "rekeys_refused",
            "Next traffic keys refused.",
            &counters.rekey_refused,
        ),
    ];
    for (name, help, counter) in plain {
        let name = match name.strip_prefix("rekeys") {
            Some(rest) => format!("keyhaven_rekeys{rest}_total"),
            None => format!("keyhaven_handshakes_{name}_total"),
        };
        let value = counter.load(Relaxed);
        text.family(&name, "counter", help, vec![(Vec::new(), value)]);
    }
    let results = [
        ("taken", &counters.reloaded),
        ("refused", &counters.reload_refused),
    ];
    let results = results
        .map(|(result, counter)| (vec![("result", result.to_owned())], counter.load(Relaxed)));
    text.family(
        "keyhaven_reloads_total",
        "counter",
        "Configurations read again while serving, by what became of them.",
        results.to_vec(),
    );
}

fn of_tokens(text: &mut Text, policy: &Policy, states: &[TokenState]) {
    let named =
        |name: &str, label: &str| vec![("token", label.to_owned()), ("name", name.to_owned())];
    let up = states.iter().map(|state| {
        let labels = named(&state.name, &state.label);
        (labels, u64::from(state.is_up))
    });
    text.family(
        "keyhaven_token_up",
        "gauge",
        "Whether the token answers.",
        up.collect(),
    );
    let tokens = || {
        let tokens = policy.tokens().iter();
        tokens.map(|served| (served, named(&served.name, &served.token.info().label)))
    };
    let live = tokens().map(|(served, labels)| (labels, served.token.live_ephemerals() as u64));
    text.family(
        "keyhaven_token_live_objects",
        "gauge",
        "Ephemeral objects of handshakes under way in the token.",
        live.collect(),
    );
    let custody = tokens().flat_map(|(served, labels)| {
        let levels = [("1.2", served.profile.tls12), ("1.3", served.profile.tls13)];
        levels.map(|(version, level)| {
            let more = [
                ("version", version.to_owned()),
                ("level", level.to_string()),
            ];
            ([&labels[..], &more].concat(), 1)
        })
    });
    text.family(
        "keyhaven_token_custody",
        "gauge",
        "The level that the token has proven for a TLS version.",
        custody.collect(),
    );
}

fn of_certificates(text: &mut Text, policy: &Policy) {
    let mut ends: Vec<(Labels, u64)> = Vec::new();
    for site in policy.sites() {
        for key in &site.keys {
            let end = key.not_after.duration_since(UNIX_EPOCH).unwrap_or_default();
            let labels = vec![("site", site.label.clone()), ("serial", key.serial.clone())];
            ends.push((labels, end.as_secs()));
        }
    }
    ends.sort();
    ends.dedup_by(|one, other| one.0 == other.0);
    text.family(
        "keyhaven_certificate_not_after_seconds",
        "gauge",
        "The end of a site's certificate, in seconds since 1970.",
        ends,
    );
}

pub(super) type Labels = Vec<(&'static str, String)>;

/// The text as far as it is written.
#[derive(Default)]
pub(super) struct Text(pub(super) String);

impl Text {
    pub(super) fn family(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        samples: Vec<(Labels, u64)>,
    ) {
        let text = &mut self.0;
        // Writing to a text cannot fail.
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in samples {
            text.push_str(name);
            for (index, (label, value)) in labels.iter().enumerate() {
                text.push(if index == 0 { '{' } else { ',' });
                let _ = write!(text, "{label}=\"{}\"", quoted(value));
            }
            if !labels.is_empty() {
                text.push('}');
            }
            let _ = writeln!(text, " {value}");
        }
    }
}

/// A label's value: backslash, quote and line feed are escaped; other control characters, which a token's label may
/// have, are left out.
fn quoted(value: &str) -> String {
    let mut quoted = String::with_capacity(value.len());
    for character in value.chars() {
        match character {
            '\\' => quoted.push_str("\\\\"),
            '"' => quoted.push_str("\\\""),
            '\n' => quoted.push_str("\\n"),
            character if character.is_control() => {}
            character => quoted.push(character),
        }
    }
    quoted
}

#[cfg(test)]
mod tests {
    use keyhaven_types::CustodyLevel;

    use super::*;
    use crate::counters::{HandshakeKind, Left};

    fn counted() -> Counters {
        let counters = Counters::default();
        for (resumed, token) in [(false, Some("k\"p")), (true, Some("k\"p")), (true, None)] {
            let kind = HandshakeKind {
                site: "a.example".to_owned(),
                version: "1.3",
                level: CustodyLevel::Schedule,
                resumed,
            };
            let left = Left {
                token: token.map(str::to_owned),
                what: "keys, IVs, MACs",
            };
            counters.handshake(kind, left);
        }
        Counters::add(&counters.refused);
        Counters::add(&counters.reload_refused);
        counters
    }

    #[test]
    fn counters_are_told_with_their_labels() {
        let states = [TokenState {
            name: "keeper".to_owned(),
            label: "a\\b\n\u{7}c".to_owned(),
            is_up: true,
        }];
        let text = of(&counted(), &Policy::default(), &states, None);
        for line in [
            "keyhaven_handshakes_total{site=\"a.example\",version=\"1.3\",level=\"schedule\",resumed=\"false\"} 1",
            "keyhaven_handshakes_total{site=\"a.example\",version=\"1.3\",level=\"schedule\",resumed=\"true\"} 2",
            "keyhaven_left_token_total{token=\"\",what=\"keys, IVs, MACs\"} 1",
            "keyhaven_left_token_total{token=\"k\\\"p\",what=\"keys, IVs, MACs\"} 2",
            "keyhaven_handshakes_refused_total 1",
            "keyhaven_handshakes_failed_total 0",
            "keyhaven_handshakes_busy_total 0",
            "keyhaven_rekeys_total 0",
            "keyhaven_rekeys_refused_total 0",
            "keyhaven_reloads_total{result=\"taken\"} 0",
            "keyhaven_reloads_total{result=\"refused\"} 1",
            "keyhaven_token_up{token=\"a\\\\b\\nc\",name=\"keeper\"} 1",
        ] {
            assert!(text.lines().any(|told| told == line), "{line} in\n{text}");
        }
    }

    #[test]
    fn a_family_has_one_heading_and_ends_with_a_line() {
        let text = of(&counted(), &Policy::default(), &[], None);
        let mut headings: Vec<&str> = text
            .lines()
            .filter(|line| line.starts_with("# TYPE"))
            .collect();
        let all = headings.len();
        headings.sort_unstable();
        headings.dedup();
        assert_eq!(headings.len(), all);
        assert!(text.ends_with('\n'));
    }
}
