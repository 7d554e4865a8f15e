//! Requests of sites and operators: who may, what is answered, what is written down.
//!
//! Role before verb, then the tables of now. Invariant: an operator's change has its audit line whether it was done or not.

use std::{sync::Arc, time::Duration};

use keyhaven_kms::central::Followed;
use keyhaven_service::{Caller, Handler};
use keyhaven_types::Role;
use keyhaven_wire::{
    ErrorCode, Reply, Request,
    kms::{
        Changes, Fetch, Fetched, Follow, LeaseGrant, LeaseRequest, Signed, SiteRecord,
        admin::{Answer, Ask},
    },
};
use tokio::time::{Instant, timeout_at};

use crate::{config::Admins, desk::Desk};

/// The daemon's answers.
pub(crate) struct Central {
    desk: Arc<Desk>,
    admins: Admins,
}

impl Central {
    pub(crate) fn new(desk: Arc<Desk>, admins: Admins) -> Self {
        Self { desk, admins }
    }

    /// The enrolled site that a connection belongs to. One that was thrown out loses its connection.
    fn site(&self, caller: &Caller) -> Option<SiteRecord> {
        let site = self
            .desk
            .read(|mirror| mirror.site_of(&caller.identity).cloned())?;
        (!site.evicted).then_some(site)
    }

    async fn admin(&self, caller: &Caller, ask: Ask) -> Reply {
        let changes = is_change(&ask);
        let may = if changes {
            self.admins.may_write(&caller.identity)
        } else {
            self.admins.may_read(&caller.identity)
        };
        let verb = verb(&ask);
        let object = object(&ask);
        if !may {
            audit(caller, verb, &object, "denied", None);
            return Reply::Error(ErrorCode::Denied);
        }
        let answer = self.desk.ask(ask).await;
        if changes {
            match &answer {
                Answer::Refused(refused) => audit(caller, verb, &object, &refused.why, None),
                Answer::Committed { revision, .. } => {
                    audit(caller, verb, &object, "done", Some(*revision));
                }
                _ => audit(caller, verb, &object, "done", None),
            }
        }
        Reply::Admin(Box::new(answer))
    }

    async fn follow(&self, caller: &Caller, follow: Follow) -> Reply {
        let until = Instant::now() + Duration::from_millis(u64::from(follow.wait_ms));
        let mut revisions = self.desk.revisions();
        loop {
            let Some(site) = self.site(caller) else {
                return self.not_enrolled(caller);
            };
            let now = self.desk.monotonic_ms();
            self.desk.acks().followed(&site.name, follow.after, now);
            revisions.mark_unchanged();
            let (followed, head) = self
                .desk
                .read(|mirror| (mirror.follow(&site, &follow), mirror.head().cloned()));
            let Some((head, signed)) = head else {
                // Nothing was ever written: nobody is enrolled then.
                return Reply::Error(ErrorCode::Unavailable);
            };
            match followed {
                Followed::History(why) => {
                    self.desk.alarm(site.name.as_str(), why);
                    return Reply::Error(ErrorCode::History);
                }
                Followed::Changes { entries, through } => {
                    self.desk.calm(site.name.as_str());
                    return changes(entries, through, signed);
                }
                Followed::Nothing => {
                    self.desk.calm(site.name.as_str());
                    let waited = timeout_at(until, revisions.changed()).await;
                    if !matches!(waited, Ok(Ok(()))) {
                        return changes(Vec::new(), follow.after.max(head.revision), signed);
                    }
                }
            }
        }
    }

    fn fetch(&self, caller: &Caller, fetch: &Fetch) -> Reply {
        let Some(site) = self.site(caller) else {
            return self.not_enrolled(caller);
        };
        let (entries, head) = self
            .desk
            .read(|mirror| (mirror.fetch(&site, fetch), mirror.head().cloned()));
        let Some((_, head)) = head else {
            return Reply::Error(ErrorCode::Unavailable);
        };
        tracing::info!(
            target: "audit",
            event = "fetch",
            site = %site.name,
            key = ?fetch.key,
            caller = %fetch.caller,
            operation = %fetch.operation,
            found = !entries.is_empty(),
            "a site fetches a key"
        );
        Reply::Fetched(Fetched { entries, head })
    }

    async fn lease(&self, caller: &Caller, ask: LeaseRequest) -> Reply {
        if self.site(caller).is_none() {
            return self.not_enrolled(caller);
        }
        // After the question came, and before the table is looked at again: whoever was thrown out in between must not
        // get another one.
        let head = match self.desk.linear_head().await {
            Ok(Some(head)) => head,
            Ok(None) => return Reply::Error(ErrorCode::Unavailable),
            Err(error) => {
                self.desk.store_trouble(&error);
                return Reply::Error(ErrorCode::Unavailable);
            }
        };
        if !self.caught_up(head.0.revision).await {
            return Reply::Error(ErrorCode::Busy);
        }
        let Some(site) = self.site(caller) else {
            return self.not_enrolled(caller);
        };
        if let Err(why) = self.desk.read(|mirror| mirror.compare(&ask.seen)) {
            self.desk.alarm(site.name.as_str(), why);
            return Reply::Error(ErrorCode::History);
        }
        let now = self.desk.monotonic_ms();
        self.desk.acks().leased(&site.name, now);
        Reply::Leased(LeaseGrant {
            nonce: ask.nonce,
            head: head.1,
        })
    }

    /// Whether the mirror reaches a revision soon.
    async fn caught_up(&self, revision: u64) -> bool {
        let mut revisions = self.desk.revisions();
        let reached = revisions.wait_for(|latest| *latest >= revision);
        let until = Instant::now() + CATCH_UP;
        matches!(timeout_at(until, reached).await, Ok(Ok(_)))
    }

    fn not_enrolled(&self, caller: &Caller) -> Reply {
        tracing::info!(caller = %caller.identity, "not an enrolled site");
        Reply::Error(ErrorCode::NotEnrolled)
    }
}

impl Handler for Central {
    async fn call(&self, caller: Arc<Caller>, request: Request) -> Reply {
        match (caller.identity.role(), request) {
            (Role::Admin, Request::Admin(ask)) => self.admin(&caller, *ask).await,
            (Role::Signer, Request::Follow(follow)) => self.follow(&caller, follow).await,
            (Role::Signer, Request::Fetch(fetch)) => self.fetch(&caller, &fetch),
            (Role::Signer, Request::Lease(lease)) => self.lease(&caller, lease).await,
            (Role::Admin | Role::Signer, Request::Ping) => match self.desk.is_well().await {
                true => Reply::Pong,
                false => Reply::Error(ErrorCode::Unavailable),
            },
            _ => Reply::Error(ErrorCode::Denied),
        }
    }
}

fn changes(entries: Vec<keyhaven_wire::kms::Entry>, through: u64, head: Signed) -> Reply {
    Reply::Changes(Changes {
        entries,
        through,
        head,
    })
}

fn audit(caller: &Caller, verb: &str, object: &str, outcome: &str, revision: Option<u64>) {
    tracing::info!(
        target: "audit",
        event = "admin",
        caller = %caller.identity,
        peer = %caller.peer,
        verb,
        object,
        outcome,
        revision,
        "an operator's request"
    );
}

/// Whether it changes anything, or makes the token do more than sign.
fn is_change(ask: &Ask) -> bool {
    !matches!(
        ask,
        Ask::Status
            | Ask::KeyList { .. }
            | Ask::KeyShow { .. }
            | Ask::ClassList
            | Ask::SiteList
            | Ask::GrantList { .. }
            | Ask::Enforced { .. }
    )
}

fn verb(ask: &Ask) -> &'static str {
    match ask {
        Ask::Status => "status",
        Ask::KeyCreate(_) => "key create",
        Ask::TransportKey => "key transport",
        Ask::KeyImport(_) => "key import",
        Ask::KeyRotate { .. } => "key rotate",
        Ask::KeyState { .. } => "key state",
        Ask::KeyCsr { .. } => "key csr",
        Ask::KeyChain { .. } => "key chain",
        Ask::KeyList { .. } => "key list",
        Ask::KeyShow { .. } => "key show",
        Ask::ClassCreate(_) => "class create",
        Ask::ClassBound { .. } => "class bound",
        Ask::ClassRotate { .. } => "class rotate",
        Ask::ClassRewrap { .. } => "class rewrap",
        Ask::ClassList => "class list",
        Ask::SiteAdd(_) => "site add",
        Ask::SiteEvict { .. } => "site evict",
        Ask::SiteList => "site list",
        Ask::GrantSet { .. } => "grant set",
        Ask::GrantList { .. } => "grant list",
        Ask::Enforced { .. } => "enforced",
        Ask::EraBump => "era bump",
    }
}

fn object(ask: &Ask) -> String {
    match ask {
        Ask::KeyCreate(key) => format!(
            "{} ({}, {}, {})",
            key.name, key.kind, key.purpose, key.class
        ),
        Ask::KeyImport(import) => format!("{} ({})", import.key.name, import.provenance),
        Ask::KeyRotate { key } | Ask::KeyCsr { key } | Ask::KeyShow { key } => format!("{key:?}"),
        Ask::KeyChain { key, version, .. } => format!("{key:?} {version:?}"),
        Ask::KeyState {
            key,
            version,
            state,
        } => format!("{key:?} {version:?} to {state}"),
        Ask::ClassCreate(class) => class.name.to_string(),
        Ask::ClassBound { class, bound_s } => format!("{class} to {bound_s} s"),
        Ask::ClassRotate { class, .. } | Ask::ClassRewrap { class } => class.to_string(),
        Ask::SiteAdd(site) => format!("{} ({})", site.name, site.identity),
        Ask::SiteEvict { site } => site.to_string(),
        Ask::GrantSet {
            identity,
            key,
            operations,
        } => format!("{identity} {key:?} {operations:?}"),
        _ => String::new(),
    }
}

/// How long a lease may wait for the mirror.
const CATCH_UP: Duration = Duration::from_secs(3);
