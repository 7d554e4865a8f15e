//! The signer as a site of the KMS: what it is made of, and who may ask what of it.
//!
//! Operations are the intermediate's business, where else they can be done is lookup's; here they are started, asked in
//! the name of a caller, and stopped. Which role may ask what is decided before, at the door. Invariant: a site that was
//! thrown out keeps no connection.

mod seals;
mod sites;
mod tickets;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, Once, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use keyhaven_handshake::{TicketDays, TicketSpec};
use keyhaven_hsm::{Profile, Token, Workers, managed::SiteToken};
use keyhaven_kms::{
    intermediate::{Clock, Intermediate, IntermediateParts, StartError},
    lookup::{Counts, Operate, Router, RouterParts},
};
use keyhaven_service::{Caller, Credentials, Shares, shutdown::Shutdown};
use keyhaven_types::{CustodyLevel, Identity, Name, Operation, Role};
use keyhaven_wire::{ErrorCode, Reply, Request, kms::SiteRecord};
use tokio::sync::Semaphore;

use crate::{
    config::KmsConfig,
    policy::{Policy, ServedToken},
};

pub use sites::{ManagedKeys, ManagedSites, NotServed};

/// What a site is made of.
pub struct KmsParts<'a> {
    /// Its section.
    pub config: &'a KmsConfig,
    /// Who the signer is.
    pub credentials: Credentials,
    /// The open tokens.
    pub policy: &'a Policy,
    /// Their threads.
    pub workers: Workers,
    /// How many these are.
    pub threads: usize,
    /// How sessions with managed keys are resumed.
    pub tickets: Option<TicketSpec>,
    /// Where the days of a managed ticket key go.
    pub ticket_days: Option<TicketDays>,
    /// Whether the exchange token's keys for rekey states are shared by its signers.
    pub rekey_persistent: bool,
    /// Operations at once.
    pub operations_max: usize,
    /// Tells when to stop.
    pub shutdown: Shutdown,
}

/// Why the signer is no site.
#[derive(Debug, thiserror::Error)]
pub enum KmsError {
    /// The section names a token that is not open.
    #[error("[kms] names token \"{0}\", which is not open")]
    NoToken(String),
    /// The token cannot be a site's.
    #[error("token \"{token}\" cannot be a site's; docs/kms.md says which modules can")]
    Token {
        /// Its name.
        token: String,
        /// Why.
        source: keyhaven_hsm::Error,
    },
    /// The level that is asked for is not reached.
    #[error(
        "[kms] custody_min is {min}, but token \"{token}\" reaches {reached} with these settings"
    )]
    BelowMinimum {
        /// The token of exchange and schedule.
        token: String,
        /// What is asked for.
        min: CustodyLevel,
        /// What there is.
        reached: CustodyLevel,
    },
    /// The replica cannot be used.
    #[error(transparent)]
    Start(#[from] StartError),
}

/// A running site.
pub struct Kms {
    intermediate: Intermediate,
    router: Router,
    sites: ManagedSites,
    token: Token,
    permits: Semaphore,
    shares: Shares,
    /// Connections of other signers, by their numbers.
    peers: Mutex<HashMap<u64, Weak<Caller>>>,
    /// What was applied when the last sweep began.
    swept: AtomicU64,
    /// How often the intermediate had thrown everything away when the last sweep began.
    forgotten: AtomicU64,
    /// Who the signer is.
    identity: Identity,
    /// Done when it was said that central knows the site by another name.
    misnamed: Once,
}

/// How a site is, for metrics.
pub(crate) struct KmsFacts {
    pub(crate) applied: u64,
    pub(crate) lease_age: Option<Duration>,
    pub(crate) central_heard: Option<Duration>,
    pub(crate) unwrapped: usize,
    pub(crate) outcomes: Vec<(Operation, &'static str, u64)>,
    pub(crate) counts: Counts,
}

impl Kms {
    /// Opens the token's class keys and the replica, and starts to follow central. Call it inside a runtime.
    ///
    /// # Errors
    /// [`KmsError`].
    pub async fn start(parts: KmsParts<'_>) -> Result<Arc<Self>, KmsError> {
        let KmsParts {
            config,
            credentials,
            policy,
            workers,
            ..
        } = parts;
        let served = named(policy, &config.token)?;
        let exchange = exchange(config, policy, served)?;
        let token = open_token(served).await?;
        let holds = labels(&token);
        if holds.is_empty() {
            tracing::warn!("{}", no_class_keys(&served.name));
        }
        let intermediate = Intermediate::start(IntermediateParts {
            site: config.site.clone(),
            identity: credentials.identity().clone(),
            credentials: credentials.clone(),
            central: config.central.clone(),
            central_key: config.central_key.clone(),
            replica: config.replica.clone(),
            cache_bytes: config.cache_bytes,
            unwrapped_max: config.unwrapped_max,
            token,
            workers,
            threads: u32::try_from(parts.threads).unwrap_or(u32::MAX),
            clock: Clock::system(),
        })?;
        let identity = credentials.identity().clone();
        let router = Router::start(RouterParts {
            local: Arc::new(intermediate.clone()),
            credentials,
            interval: config.peer_interval,
        });
        intermediate.set_peers(router.peers());
        if let (Some(name), Some(days)) = (&config.ticket_key, parts.ticket_days) {
            let keeper = tickets::keep(intermediate.clone(), name.clone(), days);
            let stopping = parts.shutdown.token();
            parts.shutdown.spawn(async move {
                tokio::select! {
                    () = keeper => {}
                    () = stopping.cancelled() => {}
                }
            });
        }
        tracing::info!(
            site = %config.site,
            token = served.name,
            applied = *intermediate.applied().borrow(),
            holds = ?holds,
            "a site of the KMS"
        );
        let sites = ManagedSites::new(sites::Ways {
            intermediate: intermediate.clone(),
            alpn: config.alpn.clone(),
            custody_min: config.custody_min,
            custody_max: config.custody_max,
            exchange: exchange.token.clone(),
            profile: exchange.profile.clone(),
            tickets: parts.tickets,
            rekey_persistent: parts.rekey_persistent,
            sites_max: config.unwrapped_max,
        });
        Ok(Arc::new(Self {
            intermediate,
            router,
            sites,
            token: served.token.clone(),
            permits: Semaphore::new(parts.operations_max),
            // As with handshakes: two callers with all they can ask for leave a third one room.
            shares: Shares::new(parts.operations_max * 2 / 5),
            peers: Mutex::default(),
            swept: AtomicU64::new(0),
            forgotten: AtomicU64::new(0),
            identity,
            misnamed: Once::new(),
        }))
    }

    /// Sites that are served with managed keys.
    pub fn sites(&self) -> &ManagedSites {
        &self.sites
    }

    /// The token of class keys.
    pub fn token(&self) -> &Token {
        &self.token
    }

    /// How the site is.
    pub(crate) fn facts(&self) -> KmsFacts {
        let status = self.intermediate.status();
        KmsFacts {
            applied: status.applied,
            lease_age: status.lease_age_ms.map(Duration::from_millis),
            central_heard: self.intermediate.central_heard(),
            unwrapped: self.intermediate.unwrapped(),
            outcomes: self.intermediate.outcomes(),
            counts: self.router.counts(),
        }
    }

    /// Answers what is asked of a site, by a role that may ask it.
    pub(crate) async fn call(&self, caller: &Arc<Caller>, request: Request) -> Reply {
        if caller.identity.role() == Role::Signer {
            self.note(caller);
            if self.is_thrown_out(&caller.identity) {
                caller.close();
                return Reply::Error(ErrorCode::Denied);
            }
        }
        match request {
            // Cheap, and a peer that gets no answer takes this site for dead.
            Request::Status if self.is_enrolled(&caller.identity) => {
                Reply::Status(Box::new(self.intermediate.status()))
            }
            Request::Status => Reply::Error(ErrorCode::Denied),
            request => self.work(caller, request).await,
        }
    }

    /// Whatever takes time, within the bounds on all callers and on this one.
    async fn work(&self, caller: &Caller, request: Request) -> Reply {
        let identity = &caller.identity;
        let Some(_share) = self.shares.take(identity) else {
            return Reply::Error(ErrorCode::Busy);
        };
        let Ok(_permit) = self.permits.try_acquire() else {
            return Reply::Error(ErrorCode::Busy);
        };
        let router = &self.router;
        match request {
            Request::Operate(batch) => router.operate(identity, Operate::Here(batch)).await,
            Request::OperateSigned(batch) => {
                router.operate(identity, Operate::Anywhere(batch)).await
            }
            Request::OperatePassed(passed) if self.is_enrolled(identity) => {
                router.operate(identity, Operate::Passed(passed)).await
            }
            Request::Lookup(lookup) => router.lookup(identity, &lookup).await,
            Request::Fetch(fetch) if self.is_enrolled(identity) => {
                self.intermediate.fetch_for(identity, &fetch).await
            }
            _ => Reply::Error(ErrorCode::Denied),
        }
    }

    /// Whether an identity is the signer of a site that was not thrown out.
    fn is_enrolled(&self, identity: &Identity) -> bool {
        self.intermediate.table().site_of(identity).is_some()
    }

    /// Whether it was a site's and is no more. One that is not known yet may come with the next records.
    fn is_thrown_out(&self, identity: &Identity) -> bool {
        let is_theirs = || {
            let sites = self.intermediate.table().sites();
            sites.iter().any(|site| site.identity == *identity)
        };
        !self.is_enrolled(identity) && is_theirs()
    }

    fn note(&self, caller: &Arc<Caller>) {
        let mut peers = self.peers();
        peers
            .entry(caller.connection)
            .or_insert_with(|| Arc::downgrade(caller));
    }

    /// A connection is over.
    pub(crate) fn closed(&self, caller: &Caller) {
        self.peers().remove(&caller.connection);
    }

    /// After new records: ends connections of sites that were thrown out, drops what may be used no more, and looks
    /// whether central knows this site by its name. Called each second.
    pub(crate) fn sweep(&self) {
        let forgotten = self.intermediate.forgotten();
        if self.forgotten.swap(forgotten, Ordering::Relaxed) != forgotten {
            self.sites.forget_all();
        }
        let applied = self.intermediate.table().applied();
        if self.swept.swap(applied, Ordering::Relaxed) == applied {
            return;
        }
        let peers: Vec<Arc<Caller>> = self.peers().values().filter_map(Weak::upgrade).collect();
        for peer in peers {
            if self.is_thrown_out(&peer.identity) {
                tracing::warn!(peer = %peer.identity, "the site was thrown out: its connection ends");
                peer.close();
            }
        }
        self.sites.forget_stale();
        let own = self.intermediate.table().site_of(&self.identity);
        if let Some(why) = own.and_then(|own| other_name(self.intermediate.site(), &own)) {
            self.misnamed.call_once(|| tracing::error!("{why}"));
        }
    }

    fn peers(&self) -> MutexGuard<'_, HashMap<u64, Weak<Caller>>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stops following and asking.
    pub async fn stop(&self) {
        self.router.stop().await;
        self.intermediate.stop().await;
    }
}

fn named<'a>(policy: &'a Policy, name: &str) -> Result<&'a ServedToken, KmsError> {
    let token = policy.tokens().iter().find(|token| token.name == name);
    token.ok_or_else(|| KmsError::NoToken(name.to_owned()))
}

async fn open_token(served: &ServedToken) -> Result<SiteToken, KmsError> {
    let token = served.token.clone();
    let opened = tokio::task::spawn_blocking(move || SiteToken::open(&token)).await;
    let failed = |source| KmsError::Token {
        token: served.name.clone(),
        source,
    };
    match opened {
        Ok(opened) => opened.map_err(failed),
        // The thread died.
        Err(_) => Err(failed(keyhaven_hsm::Error::JobDied)),
    }
}

/// The token of exchange and schedule, if managed keys can be served with it as the section says.
fn exchange<'a>(
    config: &KmsConfig,
    policy: &'a Policy,
    token: &'a ServedToken,
) -> Result<&'a ServedToken, KmsError> {
    let exchange = match &config.exchange_token {
        Some(name) => named(policy, name)?,
        None => token,
    };
    let reached = reached(&exchange.profile).min(config.custody_max);
    if reached < config.custody_min {
        return Err(KmsError::BelowMinimum {
            token: exchange.name.clone(),
            min: config.custody_min,
            reached,
        });
    }
    Ok(exchange)
}

/// The highest level of a token. Without keys that wrap secrets TLS 1.3 ends below `schedule`.
fn reached(profile: &Profile) -> CustodyLevel {
    let tls13 = match profile.vault {
        true => profile.tls13,
        false => profile.tls13.min(CustodyLevel::Master),
    };
    tls13.max(profile.tls12)
}

/// Why the configuration's name of the site is not the one of its record, if so.
fn other_name(configured: &Name, own: &SiteRecord) -> Option<String> {
    (own.name != *configured).then(|| {
        format!(
            "[kms] says site = \"{configured}\", but central knows {} as site `{}`; correct `site`, and give it a replica \
             of its own, or correct the certificate in [identity]",
            own.identity, own.name
        )
    })
}

fn labels(token: &SiteToken) -> Vec<String> {
    token.holds().iter().map(|kek| kek.label()).collect()
}

fn no_class_keys(token: &str) -> String {
    format!(
        "token \"{token}\" holds no class key, so no managed key can be used: have a ceremony bring them \
         (`signer-admin kms site enroll`)"
    )
}

/// Opens what a section names without starting anything, for `--check`. Blocks. Gives the warnings.
///
/// # Errors
/// [`KmsError`].
pub fn check(config: &KmsConfig, policy: &Policy) -> Result<Vec<String>, KmsError> {
    let served = named(policy, &config.token)?;
    exchange(config, policy, served)?;
    let token = SiteToken::open(&served.token).map_err(|source| KmsError::Token {
        token: served.name.clone(),
        source,
    })?;
    let is_bare = labels(&token).is_empty();
    Ok(is_bare
        .then(|| no_class_keys(&served.name))
        .into_iter()
        .collect())
}
