//! From a valid configuration to tokens that are open and proven, keys that are found, sites that can serve.
//!
//! Opens what is not open yet, and tries each PIN once. Everything here blocks. Invariant: a configuration that
//! cannot be served as a whole changes nothing of what is open.

mod facts;
mod sites;
mod tokens;

use keyhaven_handshake::{TicketDays, TicketKey, TicketSpec};
use keyhaven_hsm::PrivateKey;

use crate::{audit::error_chain, config::Config, policy::Policy};

pub use facts::{Change, SiteFacts};

use sites::OpenKey;
use tokens::OpenToken;

/// What stays open from one configuration to the next.
#[derive(Default)]
pub struct Inventory {
    tokens: Vec<OpenToken>,
    keys: Vec<OpenKey>,
    /// Seals tickets where no file holds a secret.
    own_tickets: Option<TicketKey>,
    /// What a managed ticket key gives for each day.
    ticket_days: TicketDays,
    /// Whether a managed key seals tickets. As it was when this was opened first: only a start begins to derive them.
    has_managed_tickets: Option<bool>,
}

/// Everything that a signer serves with.
pub struct Opened {
    /// Sites and who may use them.
    pub policy: Policy,
    /// How sessions are resumed.
    pub tickets: Option<TicketSpec>,
    /// What is told of the sites.
    pub facts: Vec<SiteFacts>,
    /// What an operator should know, though it does not stop the signer.
    pub warnings: Vec<String>,
}

/// Whether somebody is there to type a PIN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Terminal {
    /// At the start there may be.
    Asked,
    /// While the signer serves nobody is asked.
    NotAsked,
}

impl Inventory {
    /// Where a managed ticket key's days go.
    pub fn ticket_days(&self) -> TicketDays {
        self.ticket_days.clone()
    }

    /// Opens and proves everything that is not open, and says everything that is wrong. What depends on a token that
    /// does not open is not complained of again.
    ///
    /// # Errors
    /// With one, nothing has changed.
    pub fn open(&mut self, config: &Config, terminal: Terminal) -> Result<Opened, StartErrors> {
        let mut errors = Vec::new();
        let mut next = Self {
            own_tickets: self.own_tickets.clone(),
            ticket_days: self.ticket_days.clone(),
            has_managed_tickets: self.has_managed_tickets,
            ..Self::default()
        };
        for section in &config.tokens {
            match tokens::open(section, &self.tokens, terminal) {
                Ok(opened) => next.tokens.push(opened),
                Err(error) => errors.push(error),
            }
        }
        let tickets = next.ticket_spec(config, &mut errors);
        let ticket_key = config.kms.as_ref().map(|kms| kms.ticket_key.is_some());
        next.has_managed_tickets = self
            .has_managed_tickets
            .or(Some(ticket_key.unwrap_or_default()));
        let mut policy = Policy::new(next.tokens.iter().map(OpenToken::served).collect());
        let mut facts = Vec::new();
        let mut warnings = Vec::new();
        for section in &config.sites {
            let known = sites::Known {
                tokens: &next.tokens,
                keys: &self.keys,
                tickets: tickets.as_ref(),
                rekey_persistent: config.rekey.persistent,
            };
            if !known.has_tokens_of(section) {
                continue;
            }
            match sites::open(section, &known, &mut next.keys, &mut warnings) {
                Ok(site) => {
                    facts.push(SiteFacts::new(section, &site));
                    policy.add(site, &section.names, section.default);
                }
                Err(error) => errors.push(error),
            }
        }
        if !errors.is_empty() {
            return Err(StartErrors(errors));
        }
        warnings.extend(next.keys.iter().flat_map(|open| warnings_of(&open.key)));
        *self = next;
        Ok(Opened {
            policy,
            tickets,
            facts,
            warnings,
        })
    }

    fn ticket_spec(&mut self, config: &Config, errors: &mut Vec<StartError>) -> Option<TicketSpec> {
        let tickets = config.tickets.as_ref()?;
        let is_asked_for = config
            .kms
            .as_ref()
            .is_some_and(|kms| kms.ticket_key.is_some());
        let is_managed = is_asked_for && self.has_managed_tickets != Some(false);
        let key = match &tickets.secret {
            _ if is_managed => Some(TicketKey::of_days(self.ticket_days.clone())),
            Some(secret) => TicketKey::new(secret),
            None => self.own_tickets.clone().or_else(TicketKey::generate),
        };
        let Some(key) = key else {
            errors.push(StartError::new("tickets", "no key can be made")(
                "the system gives no randomness",
            ));
            return None;
        };
        if tickets.secret.is_none() && !is_managed {
            self.own_tickets = Some(key.clone());
        }
        Some(TicketSpec {
            key,
            persistent: tickets.persistent,
            lifetime: tickets.lifetime,
            tls12: tickets.tls12,
        })
    }
}

/// Everything that keeps a signer from starting.
#[derive(Debug, thiserror::Error)]
#[error("not everything that the configuration names can be used:{}", list(.0))]
pub struct StartErrors(Vec<StartError>);

fn list(errors: &[StartError]) -> String {
    errors
        .iter()
        .map(|error| format!("\n- {}", error_chain(error)))
        .collect()
}

/// One thing that keeps a signer from starting.
#[derive(Debug, thiserror::Error)]
#[error("{subject}: {what}")]
pub struct StartError {
    /// Which token, or which key of which site, with its line in the file.
    subject: String,
    what: &'static str,
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl StartError {
    fn new<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
        subject: &str,
        what: &'static str,
    ) -> impl FnOnce(E) -> Self {
        move |source| Self {
            subject: subject.to_owned(),
            what,
            source: source.into(),
        }
    }
}

fn warnings_of(key: &PrivateKey) -> Vec<String> {
    let token = &key.token().info().label;
    key.warnings()
        .iter()
        .map(|warning| format!("token \"{token}\": {warning}"))
        .collect()
}
