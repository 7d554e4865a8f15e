//! The signers of this proxy: who takes a handshake, and who stands in.
//!
//! Keeps one connection to each (that is `service`'s work); who serves a name is `lookup`'s answer, who is tried first
//! `order`'s. A handshake that has begun stays with its signer; only what has not begun moves on. Never looks into what it
//! carries.

mod lookup;
mod names;
mod order;
mod signer;

use std::time::{Duration, Instant};

use keyhaven_service::{CallError, Client, Credentials, PinnedConnection};
use keyhaven_wire::{
    ErrorCode, HandshakeId, HandshakeReply, Rekey, Rekeyed, Reply, Request, Start,
};

pub(crate) use self::signer::{Signer, SignerName};
use self::{lookup::Finder, signer::wait_for_one};
use crate::{config::LookupSection, report::chain};

/// Every signer that is known.
pub(crate) struct Signers {
    /// In the order of the configuration.
    configured: Vec<Signer>,
    finder: Option<Finder>,
    timeout: Duration,
}

/// A handshake that a signer has taken.
pub(crate) struct Begun {
    /// Which signer.
    pub(crate) signer: Signer,
    /// The connection it lives on.
    pub(crate) link: PinnedConnection,
    /// Its name.
    pub(crate) handshake: HandshakeId,
    /// The first answer.
    pub(crate) reply: HandshakeReply,
}

/// Why a signer did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SignerError {
    /// None is connected.
    #[error("no signer can be reached ({0})")]
    NoneConnected(String),
    /// It did not answer.
    #[error("{signer} did not answer")]
    Call {
        /// Which.
        signer: SignerName,
        /// What happened.
        #[source]
        source: CallError,
    },
    /// It answered that it does not.
    #[error("{signer} answered: {code}; its log says why")]
    Code {
        /// Which.
        signer: SignerName,
        /// Its answer.
        code: ErrorCode,
    },
    /// Its answer does not belong to the question.
    #[error("{signer} answered something else than it was asked")]
    Mismatch {
        /// Which.
        signer: SignerName,
    },
    /// No random bytes for a handshake's name.
    #[error("the system gives no random bytes")]
    Random,
}

impl SignerError {
    /// Whether another signer may do it.
    fn is_for_another(&self) -> bool {
        match self {
            Self::Call { .. } => true,
            Self::Code { code, .. } => matches!(
                code,
                ErrorCode::Busy | ErrorCode::Unavailable | ErrorCode::StateRefused
            ),
            Self::NoneConnected(_) | Self::Mismatch { .. } | Self::Random => false,
        }
    }
}

impl Signers {
    /// Takes the connections to configured signers over; each request to one of them may take `timeout`.
    pub(crate) fn new(clients: Vec<Client>, timeout: Duration) -> Self {
        Self {
            configured: clients.into_iter().map(Signer::new).collect(),
            finder: None,
            timeout,
        }
    }

    /// Lets lookups find further ones.
    pub(crate) fn with_lookup(mut self, section: LookupSection, credentials: Credentials) -> Self {
        let configured = self.configured.clone();
        self.finder = Some(Finder::new(configured, credentials, section));
        self
    }

    /// How long one request may take.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Begins a handshake for a host name with the first signer that takes it. Nothing has been sent to the client yet,
    /// so that each attempt is a handshake of its own, under its own name.
    pub(crate) async fn start(
        &self,
        client: &str,
        server_name: Option<&str>,
        records: &[u8],
    ) -> Result<Begun, SignerError> {
        let mut last = None;
        for (signer, link) in self.for_name(server_name).await {
            // Only here is there a next one; the last failure is the connection's own, and said with it.
            if let Some(error) = last.take() {
                let error = chain(&error);
                tracing::warn!(error, next = %signer.name(), "trying the next signer");
            }
            let begin = Instant::now();
            match self.start_at(&signer, link, client, records).await {
                Ok(begun) => {
                    signer.pace().done(Instant::now(), begin.elapsed());
                    return Ok(begun);
                }
                Err(error) if error.is_for_another() => {
                    signer.pace().failed(Instant::now());
                    last = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        Err(last.unwrap_or_else(|| SignerError::NoneConnected(self.why_not())))
    }

    async fn start_at(
        &self,
        signer: &Signer,
        link: PinnedConnection,
        client: &str,
        records: &[u8],
    ) -> Result<Begun, SignerError> {
        let mut name = [0; 32];
        aws_lc_rs::rand::fill(&mut name).map_err(|_| SignerError::Random)?;
        let handshake = HandshakeId(name);
        let start = Start {
            handshake,
            client: client.to_owned(),
            records: records.to_vec(),
        };
        let binding = start.binding();
        match self.call(signer, &link, Request::Start(start)).await? {
            Reply::Handshake(reply) if reply.binding == binding => Ok(Begun {
                signer: signer.clone(),
                link,
                handshake,
                reply,
            }),
            _ => Err(mismatch(signer)),
        }
    }

    /// Asks for a next key: first the signer that made the connection, then the others.
    pub(crate) async fn rekey(
        &self,
        preferred: &Signer,
        ask: Rekey,
    ) -> Result<Rekeyed, SignerError> {
        let mut last = None;
        for (signer, link) in self.connected(Some(preferred)).await {
            let request = Rekey {
                state: ask.state.clone(),
                ..ask
            };
            match self.call(&signer, &link, Request::Rekey(request)).await {
                Ok(Reply::Rekeyed(rekeyed)) => return Ok(rekeyed),
                Ok(_) => return Err(mismatch(&signer)),
                Err(error) if error.is_for_another() => last = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(last.unwrap_or_else(|| SignerError::NoneConnected(self.why_not())))
    }

    /// One request on one connection; an error code is an error here.
    pub(crate) async fn call(
        &self,
        signer: &Signer,
        link: &PinnedConnection,
        request: Request,
    ) -> Result<Reply, SignerError> {
        match link.call(request, self.timeout).await {
            Ok(Reply::Error(code)) => Err(SignerError::Code {
                signer: signer.name(),
                code,
            }),
            Ok(reply) => Ok(reply),
            Err(source) => Err(SignerError::Call {
                signer: signer.name(),
                source,
            }),
        }
    }

    /// The connections to try for a name: those that serve it by their expected time, then the configured ones.
    async fn for_name(&self, server_name: Option<&str>) -> Vec<(Signer, PinnedConnection)> {
        let named = match (&self.finder, server_name) {
            (Some(finder), Some(name)) => finder.find(name).await,
            _ => Vec::new(),
        };
        if named.is_empty() {
            return self.connected(None).await;
        }
        if !named.iter().any(|(signer, _)| signer.pin().is_some()) {
            // Just learned, most likely. The configured ones could only refuse the name.
            wait_for_one(named.iter().map(|(signer, _)| signer)).await;
        }
        let mut signers = order::by_time(named, Instant::now());
        for signer in order::by_health(&self.configured, None) {
            if !signers.iter().any(|known| known.is_same(&signer)) {
                signers.push(signer);
            }
        }
        pinned(signers)
    }

    /// Every connection, the preferred one first, then the configured ones, the healthy before those that are merely
    /// connected. When there is none, waits a moment for one to come back.
    async fn connected(&self, preferred: Option<&Signer>) -> Vec<(Signer, PinnedConnection)> {
        let links = self.connected_now(preferred);
        if !links.is_empty() {
            return links;
        }
        wait_for_one(&self.configured).await;
        self.connected_now(preferred)
    }

    fn connected_now(&self, preferred: Option<&Signer>) -> Vec<(Signer, PinnedConnection)> {
        let mut signers = order::by_health(&self.configured, preferred);
        // Others were learned for some names; they may have the state of a connection that is asked about, and nothing else.
        if let (Some(finder), Some(preferred)) = (&self.finder, preferred) {
            let learned = finder.learned();
            signers.extend(order::by_health(&learned, Some(preferred)));
            if !signers.iter().any(|signer| signer.is_same(preferred)) {
                signers.push(preferred.clone());
            }
            signers.sort_by_key(|signer| !signer.is_same(preferred));
        }
        pinned(signers)
    }

    fn why_not(&self) -> String {
        self.configured
            .iter()
            .map(|signer| {
                let client = signer.client();
                let error = client.last_error();
                let error = error.as_deref().unwrap_or("not connected yet");
                format!("{}: {error}", client.address())
            })
            .collect::<Vec<_>>()
            .join("; ")
    }
}

/// An answer that does not belong to its question.
pub(crate) fn mismatch(signer: &Signer) -> SignerError {
    SignerError::Mismatch {
        signer: signer.name(),
    }
}

fn pinned(signers: Vec<Signer>) -> Vec<(Signer, PinnedConnection)> {
    let links = signers.into_iter();
    links
        .filter_map(|signer| Some((signer.pin()?, signer)))
        .map(|(link, signer)| (signer, link))
        .collect()
}
