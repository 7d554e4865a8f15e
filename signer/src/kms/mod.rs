//! The signer as a site of the KMS: what it is made of, and who may ask what of it.
//!
//! Operations are the intermediate's business, where else they can be done is lookup's; here they are started, asked in
//! the name of a caller, and stopped. Invariant: role before verb.

mod sites;
mod tickets;

use std::sync::Arc;

use keyhaven_handshake::{TicketDays, TicketSpec};
use keyhaven_hsm::{Workers, managed::SiteToken};
use keyhaven_kms::{
    intermediate::{Clock, Intermediate, IntermediateParts, StartError},
    lookup::{Operate, Router, RouterParts},
};
use keyhaven_service::{Caller, Credentials, Shares, shutdown::Shutdown};
use keyhaven_types::Role;
use keyhaven_wire::{ErrorCode, Reply, Request, kms::SiteStatus};
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
    /// The replica cannot be used.
    #[error(transparent)]
    Start(#[from] StartError),
}

/// A running site.
pub struct Kms {
    intermediate: Intermediate,
    router: Router,
    sites: ManagedSites,
    permits: Semaphore,
    shares: Shares,
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
        let exchange = match &config.exchange_token {
            Some(name) => named(policy, name)?,
            None => served,
        };
        let token = open_token(served).await?;
        tracing::info!(
            site = %config.site,
            token = served.name,
            holds = ?token.holds().iter().map(|kek| kek.label()).collect::<Vec<_>>(),
            "the token's class keys"
        );
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
            applied = *intermediate.applied().borrow(),
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
        });
        Ok(Arc::new(Self {
            intermediate,
            router,
            sites,
            permits: Semaphore::new(parts.operations_max),
            shares: Shares::new(parts.operations_max * 2 / 5),
        }))
    }

    /// Sites that are served with managed keys.
    pub fn sites(&self) -> &ManagedSites {
        &self.sites
    }

    /// How the site is.
    pub fn status(&self) -> SiteStatus {
        self.intermediate.status()
    }

    /// What lookup and passing on have done.
    pub fn counts(&self) -> keyhaven_kms::lookup::Counts {
        self.router.counts()
    }

    /// Answers what is asked of a site. Whatever a role may not ask is denied before it is looked at.
    pub(crate) async fn call(&self, caller: &Caller, request: Request) -> Reply {
        let identity = &caller.identity;
        let role = identity.role();
        match request {
            Request::Operate(batch) if role != Role::Central => {
                self.operate(caller, Operate::Here(batch)).await
            }
            Request::OperateSigned(batch) if role != Role::Central => {
                self.operate(caller, Operate::Anywhere(batch)).await
            }
            Request::OperatePassed(passed) if role == Role::Signer && self.is_peer(caller) => {
                self.operate(caller, Operate::Passed(passed)).await
            }
            Request::Lookup(lookup) if role != Role::Central => {
                self.router.lookup(identity, &lookup).await
            }
            Request::Fetch(fetch) if role == Role::Signer && self.is_peer(caller) => {
                self.intermediate.fetch_for(identity, &fetch).await
            }
            Request::Status if role == Role::Signer && self.is_peer(caller) => {
                Reply::Status(Box::new(self.intermediate.status()))
            }
            _ => Reply::Error(ErrorCode::Denied),
        }
    }

    /// Whether the caller is the signer of an enrolled site. One that was thrown out loses its connection (security rule
    /// M3).
    fn is_peer(&self, caller: &Caller) -> bool {
        let table = self.intermediate.table();
        if table.site_of(&caller.identity).is_some() {
            return true;
        }
        let sites = table.sites();
        if sites.iter().any(|site| site.identity == caller.identity) {
            caller.close();
        }
        false
    }

    async fn operate(&self, caller: &Caller, operate: Operate) -> Reply {
        let Some(_share) = self.shares.take(&caller.identity) else {
            return Reply::Error(ErrorCode::Busy);
        };
        let Ok(_permit) = self.permits.try_acquire() else {
            return Reply::Error(ErrorCode::Busy);
        };
        self.router.operate(&caller.identity, operate).await
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

/// Opens what a section names without starting anything, for `--check`. Blocks.
///
/// # Errors
/// [`KmsError`].
pub fn check(config: &KmsConfig, policy: &Policy) -> Result<(), KmsError> {
    let served = named(policy, &config.token)?;
    SiteToken::open(&served.token).map_err(|source| KmsError::Token {
        token: served.name.clone(),
        source,
    })?;
    Ok(())
}
