//! `kms status` and `kms lease status`: how central and its sites stand, at a glance.
//!
//! Invariant: what an operator should look at comes last, where a terminal shows it.

use keyhaven_wire::kms::{
    Head,
    admin::{Answer, Ask, SiteLag, Status},
};
use serde_json::{Value, json};

use super::{
    committed::other_answer,
    show::{date, groups, span},
};
use crate::admin::{
    channel::Channel,
    failure::Failure,
    report::{Report, table},
    text,
};

/// `kms status`
pub(super) fn status(channel: &Channel) -> Result<Report, Failure> {
    let status = fetch(channel)?;
    Ok(Report::new(status_json(&status), status_text(&status)))
}

/// `kms lease status`
pub(super) fn leases(channel: &Channel) -> Result<Report, Failure> {
    let status = fetch(channel)?;
    let json = json!({"head": head_json(&status), "sites": sites_json(&status)});
    Ok(Report::new(json, sites_text(&status)))
}

/// Asks central.
pub(super) fn fetch(channel: &Channel) -> Result<Box<Status>, Failure> {
    match channel.ask(&Ask::Status)? {
        Answer::Status(status) => Ok(status),
        _ => Err(other_answer()),
    }
}

fn status_json(status: &Status) -> Value {
    let pool: Vec<Value> = status
        .pool
        .iter()
        .map(|(purpose, free)| json!({"purpose": purpose, "free": free}))
        .collect();
    let free: Vec<Value> = status
        .free_keks
        .iter()
        .map(|(purpose, kek)| json!({"purpose": purpose, "kek": kek}))
        .collect();
    json!({
        "head": head_json(status),
        "store": status.store,
        "keys": status.keys,
        "classes": status.classes,
        "grants": status.grants,
        "signer_sha256": text::hex(&status.signer),
        "pool": pool,
        "free_keks": free,
        "sites": sites_json(status),
        "warnings": status.warnings,
    })
}

fn head_json(status: &Status) -> Value {
    json!({
        "era": status.head.era,
        "revision": status.head.revision,
        "chain": text::hex(&status.head.chain),
        "at_ms": status.head.at_ms,
    })
}

fn sites_json(status: &Status) -> Value {
    status
        .sites
        .iter()
        .map(|site| {
            json!({
                "site": site.site,
                "evicted": site.evicted,
                "applied": site.applied,
                "behind": behind(status, site),
                "heard_ms_ago": site.heard_ms_ago,
                "leased_ms_ago": site.leased_ms_ago,
            })
        })
        .collect()
}

fn behind(status: &Status, site: &SiteLag) -> Option<u64> {
    let applied = site.applied?;
    Some(status.head.revision.saturating_sub(applied))
}

fn status_text(status: &Status) -> String {
    let head = &status.head;
    let mut out = format!(
        "head      revision {}, era {}, {}\nstore     {}\nholds     {} keys, {} classes, {} grants\nsigned by {}\npool      {}\n",
        head.revision,
        head.era,
        written(head),
        text::clean(&status.store),
        status.keys,
        status.classes,
        status.grants,
        groups(&status.signer),
        pool(status),
    );
    out.push('\n');
    out.push_str(&sites_text(status));
    if !status.warnings.is_empty() {
        out.push('\n');
    }
    for warning in &status.warnings {
        out.push_str(&format!("warning: {}\n", text::clean(warning)));
    }
    out
}

fn written(head: &Head) -> String {
    match head.revision {
        0 => "nothing is written yet".to_owned(),
        _ => format!("written {}", date(head.at_ms)),
    }
}

fn pool(status: &Status) -> String {
    let parts: Vec<String> = status
        .pool
        .iter()
        .map(|(purpose, free)| format!("{purpose} {free}"))
        .collect();
    if parts.is_empty() {
        "empty: signer-admin kms ceremony pool makes more".to_owned()
    } else {
        parts.join(", ")
    }
}

fn sites_text(status: &Status) -> String {
    if status.sites.is_empty() {
        return "no site is registered\n".to_owned();
    }
    let mut rows = vec![
        ["SITE", "APPLIED", "BEHIND", "HEARD", "LEASE ASKED"]
            .map(str::to_owned)
            .to_vec(),
    ];
    let ago = |ms: Option<u64>, never: &str| {
        ms.map_or_else(|| never.to_owned(), |ms| format!("{} ago", span(ms)))
    };
    for site in &status.sites {
        let lag = match (site.evicted, behind(status, site)) {
            (true, _) => "thrown out".to_owned(),
            (false, Some(0)) => "nothing".to_owned(),
            (false, Some(behind)) => behind.to_string(),
            (false, None) => "?".to_owned(),
        };
        rows.push(vec![
            site.site.to_string(),
            site.applied
                .map_or_else(|| "?".to_owned(), |revision| revision.to_string()),
            lag,
            ago(site.heard_ms_ago, "not since central's start"),
            ago(site.leased_ms_ago, "not since central's start"),
        ]);
    }
    table(&rows)
}

#[cfg(test)]
mod tests {
    use keyhaven_types::Purpose;

    use super::*;

    fn example() -> Status {
        let site = |name: &str, evicted, applied| SiteLag {
            site: name.parse().unwrap(),
            evicted,
            applied,
            heard_ms_ago: applied.map(|_| 1200),
            leased_ms_ago: None,
        };
        Status {
            head: Head {
                era: 1,
                revision: 40,
                chain: [7; 32],
                state: [0; 32],
                bound_s: 0,
                at_ms: 1_700_000_000_000,
            },
            store: "redb".to_owned(),
            keys: 3,
            classes: 1,
            grants: 2,
            sites: vec![
                site("fra", false, Some(40)),
                site("nyc", false, Some(38)),
                site("sgp", true, None),
            ],
            pool: vec![(Purpose::Sign, 4)],
            signer: [0x3f; 32],
            free_keks: Vec::new(),
            warnings: vec!["the pool is low".to_owned()],
        }
    }

    #[test]
    fn a_glance_shows_who_lags_and_ends_with_warnings() {
        let text = status_text(&example());
        let line = |start: &str| {
            let found = text.lines().find(|line| line.starts_with(start));
            found.unwrap_or_else(|| panic!("no {start}: {text}"))
        };
        assert!(line("fra").contains("nothing"));
        assert!(line("nyc").contains(" 2 "), "{text}");
        assert!(line("sgp").contains("thrown out"));
        assert!(line("signed by").contains("3f3f 3f3f"));
        assert!(text.ends_with("warning: the pool is low\n"));
    }

    #[test]
    fn a_store_that_is_new_has_no_date() {
        let mut status = example();
        assert!(status_text(&status).contains("era 1, written "));
        (status.head.revision, status.head.at_ms) = (0, 0);
        let text = status_text(&status);
        assert!(
            text.starts_with("head      revision 0, era 1, nothing is written yet\n"),
            "{text}"
        );
        assert!(!text.contains("1970"), "{text}");
    }

    #[test]
    fn scripts_read_the_same() {
        let json = status_json(&example());
        assert_eq!(json["head"]["revision"], 40);
        assert_eq!(json["sites"][1]["behind"], 2);
        assert_eq!(json["sites"][2]["applied"], Value::Null);
        assert_eq!(json["pool"][0]["purpose"], "sign");
    }
}
