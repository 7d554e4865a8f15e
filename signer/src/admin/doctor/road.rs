//! The doctor on what travels outside: tickets and rekey states, and the token's keys that wrap and seal them.
//!
//! The secrets' files are judged when the configuration is read. Invariant: what the signer does anyway, at a lower
//! level or without tickets, is a warning; what makes it fail is a problem.

use std::collections::HashMap;

use keyhaven_types::CustodyLevel;

use super::{finding::Findings, token::Opened};
use crate::{
    admin::served::Served,
    config::{Config, SiteConfig},
};

/// What of a site and its exchange token counts here.
struct Road<'a> {
    /// The exchange token's name.
    token: &'a str,
    /// It proved keys that wrap and seal.
    vault: bool,
    write_protected: bool,
    /// What it proves for TLS 1.3, up to the site's custody_max.
    reachable: CustodyLevel,
    /// The highest level that the site is served at.
    level: CustodyLevel,
    tls13: Option<CustodyLevel>,
    /// `[tickets]`: whether there is one, and whether its keys are to be token objects.
    tickets: Option<bool>,
    /// `[rekey]`: whether its keys are to be token objects.
    rekey_in_token: bool,
    /// prefer_hybrid without ML-KEM in the token, and not below custody_min.
    vain_hybrid: bool,
}

/// Examines one site.
pub(super) fn examine(
    config: &Config,
    site: &SiteConfig,
    served: &Served,
    tokens: &HashMap<&str, Opened>,
    findings: &mut Findings,
) {
    let first = site.keys.first().map(|key| key.token.as_str());
    let token = site.exchange_token.as_deref().or(first).unwrap_or_default();
    let Some(opened) = tokens.get(token) else {
        return;
    };
    let Some((_, profile)) = &opened.proven else {
        return;
    };
    let label = site.names.first().map_or("(no name)", String::as_str);
    let levels = [served.tls13, served.tls12].into_iter().flatten();
    let road = Road {
        token,
        vault: profile.vault,
        write_protected: opened.write_protected,
        reachable: profile.tls13.min(site.custody_max),
        level: levels.max().unwrap_or_default(),
        tls13: served.tls13,
        tickets: config.tickets.as_ref().map(|tickets| tickets.persistent),
        rekey_in_token: config.rekey.persistent,
        vain_hybrid: site.prefer_hybrid && served.hybrid.is_none(),
    };
    judge(&road, &format!("site {label}"), findings);
}

fn judge(road: &Road<'_>, subject: &str, findings: &mut Findings) {
    let token = road.token;
    if !road.vault && road.reachable == CustodyLevel::Schedule {
        findings.warning(
            subject,
            format!(
                "token \"{token}\" proves schedule and no keys that wrap and seal: TLS 1.3 is served at master, because at schedule no connection could change its keys"
            ),
            "signer-admin custody --details says which self-test of the vault failed; another exchange_token may pass it",
        );
    }
    let tickets_in_token = road.tickets.is_some() && road.level > CustodyLevel::Premaster;
    if !road.vault && tickets_in_token {
        findings.warning(
            subject,
            format!(
                "at level {} tickets are sealed by the token, and token \"{token}\" proves no keys that wrap and seal: no ticket is given",
                road.level
            ),
            "name another exchange_token, lower custody_max to \"premaster\", or leave [tickets] out",
        );
    }
    let states_in_token = road.tls13 == Some(CustodyLevel::Schedule);
    let stored = [
        ("[tickets]", tickets_in_token && road.tickets == Some(true)),
        ("[rekey]", states_in_token && road.rekey_in_token),
    ];
    for (section, _) in stored.iter().filter(|(_, stored)| *stored) {
        if road.write_protected && road.vault {
            findings.problem(
                subject,
                format!(
                    "token_keys of {section} is \"token\", and token \"{token}\" is read-only (CKF_WRITE_PROTECTED): its daily keys cannot be made"
                ),
                "set token_keys = \"process\", or make the token writable for the signer",
            );
        }
    }
    if road.vain_hybrid {
        findings.warning(
            subject,
            format!(
                "prefer_hybrid has no effect: token \"{token}\" proves no ML-KEM, and with that half in the signer the level would be below custody_min"
            ),
            "lower custody_min to \"signature\", name an exchange_token with ML-KEM, or leave prefer_hybrid out",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::{super::finding::Severity, *};

    fn keeper() -> Road<'static> {
        Road {
            token: "keeper",
            vault: true,
            write_protected: false,
            reachable: CustodyLevel::Schedule,
            level: CustodyLevel::Schedule,
            tls13: Some(CustodyLevel::Schedule),
            tickets: Some(true),
            rekey_in_token: true,
            vain_hybrid: false,
        }
    }

    fn judged(road: Road<'_>) -> (Option<Severity>, String) {
        let mut findings = Findings::default();
        judge(&road, "site", &mut findings);
        let text = findings.report().render(false);
        let text = String::from_utf8_lossy(&text).into_owned();
        (findings.worst(), text)
    }

    #[test]
    fn a_token_that_can_do_all_is_not_spoken_of() {
        assert_eq!(judged(keeper()).0, None);
    }

    #[test]
    fn a_token_without_a_vault_gives_no_tickets_and_no_schedule() {
        let (worst, text) = judged(Road {
            vault: false,
            level: CustodyLevel::Master,
            tls13: Some(CustodyLevel::Master),
            ..keeper()
        });
        assert_eq!(worst, Some(Severity::Warning), "{text}");
        assert!(text.contains("served at master") && text.contains("no ticket"));
        // Up to premaster the signer seals tickets itself.
        let (worst, text) = judged(Road {
            vault: false,
            reachable: CustodyLevel::Premaster,
            level: CustodyLevel::Premaster,
            tls13: Some(CustodyLevel::Premaster),
            ..keeper()
        });
        assert_eq!(worst, None, "{text}");
    }

    #[test]
    fn keys_that_are_to_be_stored_in_a_read_only_token_are_a_problem() {
        let protected = || Road {
            write_protected: true,
            ..keeper()
        };
        let (worst, text) = judged(protected());
        assert_eq!(worst, Some(Severity::Problem), "{text}");
        assert!(text.contains("[tickets]") && text.contains("[rekey]"));
        let (worst, text) = judged(Road {
            tickets: Some(false),
            rekey_in_token: false,
            ..protected()
        });
        assert_eq!(worst, None, "{text}");
    }

    #[test]
    fn a_preference_that_cannot_be_had_is_told() {
        let (worst, text) = judged(Road {
            vain_hybrid: true,
            ..keeper()
        });
        assert_eq!(worst, Some(Severity::Warning), "{text}");
    }
}
