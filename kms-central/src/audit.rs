//! One audit line for each request: who asked for what, and what came of it.
//!
//! Nothing secret is in a request of an operator's, and wraps are not told anyway.

use keyhaven_types::Identity;
use keyhaven_wire::kms::{
    Fetch, KeyRef,
    admin::{Answer, Ask},
};

/// Whether a request changes something.
pub(crate) fn changes(ask: &Ask) -> bool {
    !matches!(
        ask,
        Ask::Status
            | Ask::KeyList { .. }
            | Ask::KeyShow { .. }
            | Ask::ClassList
            | Ask::SiteList { .. }
            | Ask::GrantList { .. }
            | Ask::Enforced { .. }
    )
}

/// A request with its answer.
pub(crate) fn answered(caller: &Identity, ask: &Ask, answer: &Answer) {
    match answer {
        Answer::Committed { revision, .. } => admin(caller, ask, Some(*revision), Ok(())),
        Answer::Refused(refused) => admin(caller, ask, None, Err(&refused.why)),
        _ => admin(caller, ask, None, Ok(())),
    }
}

/// One line.
pub(crate) fn admin(caller: &Identity, ask: &Ask, revision: Option<u64>, result: Result<(), &str>) {
    let (verb, object) = told(ask);
    tracing::info!(
        target: "audit",
        event = "admin",
        caller = %caller,
        verb,
        object,
        outcome = if result.is_ok() { "done" } else { "refused" },
        reason = result.err(),
        revision,
        "{verb} {object}"
    );
}

/// A key that a site asked for.
pub(crate) fn fetch(site: &Identity, fetch: &Fetch, entries: usize) {
    tracing::info!(
        target: "audit",
        event = "fetch",
        caller = %site,
        on_behalf_of = %fetch.caller,
        operation = %fetch.operation,
        object = key(&fetch.key),
        outcome = if entries > 0 { "done" } else { "refused" },
        "a site asked for a key"
    );
}

/// The verb as `signer-admin` has it, and what it is about.
fn told(ask: &Ask) -> (&'static str, String) {
    match ask {
        Ask::Status => ("status", String::new()),
        Ask::KeyCreate(new) => ("key create", new.name.to_string()),
        Ask::TransportKey => ("key transport", String::new()),
        Ask::KeyImport(import) => ("key import", import.key.name.to_string()),
        Ask::KeyRotate { key: of } => ("key rotate", key(of)),
        Ask::KeyState {
            key: of,
            version,
            state,
        } => {
            let verb = match state {
                keyhaven_types::KeyState::Revoked => "key revoke",
                keyhaven_types::KeyState::Destroyed => "key destroy",
                _ => "key disable",
            };
            (verb, with_version(of, *version))
        }
        Ask::KeyCsr { key: of } => ("key csr", key(of)),
        Ask::KeyChain {
            key: of, version, ..
        } => ("key chain", with_version(of, *version)),
        Ask::KeyList { .. } => ("key list", String::new()),
        Ask::KeyShow { key: of } => ("key show", key(of)),
        Ask::ClassCreate(class) => ("class create", class.name.to_string()),
        Ask::ClassBound { class, bound_s } => ("class bound", format!("{class} {bound_s} s")),
        Ask::ClassRotate { class, .. } => ("class rotate", class.to_string()),
        Ask::ClassRewrap { class, .. } => ("class rewrap", class.to_string()),
        Ask::ClassList => ("class list", String::new()),
        Ask::SiteAdd(site) => ("site add", site.name.to_string()),
        Ask::SiteEvict { site } => ("site evict", site.to_string()),
        Ask::SiteList { .. } => ("site list", String::new()),
        Ask::GrantSet {
            identity,
            key: of,
            operations,
        } => {
            let operations: Vec<&str> = operations.iter().map(|one| one.as_str()).collect();
            let of = of.as_ref().map_or_else(|| "server".to_owned(), key);
            (
                "grant set",
                format!("{identity} {of}: {}", operations.join(", ")),
            )
        }
        Ask::GrantList { .. } => ("grant list", String::new()),
        Ask::Enforced { revision } => ("lease enforced", revision.to_string()),
        Ask::EraBump => ("era bump", String::new()),
    }
}

fn key(key: &KeyRef) -> String {
    match key {
        KeyRef::Id(id) => id.to_string(),
        KeyRef::Name(name) => name.to_string(),
        KeyRef::ServerName(name) => name.escape_default().to_string(),
    }
}

fn with_version(of: &KeyRef, version: Option<u32>) -> String {
    match version {
        Some(version) => format!("{} version {version}", key(of)),
        None => key(of),
    }
}
