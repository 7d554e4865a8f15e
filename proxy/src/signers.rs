//! The signers of this proxy: who takes a handshake, and who stands in.
//!
//! Keeps one connection to each (that is `service`'s work) and the order in which they are tried. A handshake that
//! has begun stays with its signer; only what has not begun moves on. Never looks into what it carries.

use std::{fmt, time::Duration};

use keyhaven_service::{CallError, Client, PinnedConnection};
use keyhaven_types::Identity;
use keyhaven_wire::{
    ErrorCode, HandshakeId, HandshakeReply, Rekey, Rekeyed, Reply, Request, Start,
};
use tokio::task::JoinSet;

use crate::report::chain;

/// How long a client waits for a signer to come back when none is connected.
const RETURN_TIMEOUT: Duration = Duration::from_secs(1);

/// Every signer, in the order of the configuration.
pub(crate) struct Signers {
    clients: Vec<Client>,
    timeout: Duration,
}

/// A handshake that a signer has taken.
pub(crate) struct Begun {
    /// Which signer.
    pub(crate) signer: usize,
    /// The connection it lives on.
    pub(crate) link: PinnedConnection,
    /// Its name.
    pub(crate) handshake: HandshakeId,
    /// The first answer.
    pub(crate) reply: HandshakeReply,
}

/// Which signer, for people: several may have one identity, and none share an address.
#[derive(Clone, Debug)]
pub(crate) struct SignerName {
    pub(crate) identity: Identity,
    pub(crate) address: String,
}

impl fmt::Display for SignerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "signer {} at {}", self.identity, self.address)
    }
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
    /// Takes the connections over; each request to one of them may take `timeout`.
    pub(crate) fn new(clients: Vec<Client>, timeout: Duration) -> Self {
        Self { clients, timeout }
    }

    /// Who one signer is, for the log.
    pub(crate) fn name(&self, signer: usize) -> SignerName {
        let client = &self.clients[signer];
        SignerName {
            identity: client.identity().clone(),
            address: client.address().to_owned(),
        }
    }

    /// How long one request may take.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Begins a handshake with the first signer that takes it. Nothing has been sent to the client yet, so that
    /// each attempt is a handshake of its own, under its own name.
    pub(crate) async fn start(&self, client: &str, records: &[u8]) -> Result<Begun, SignerError> {
        let mut last = None;
        for (signer, link) in self.connected(None).await {
            // Only here is there a next one; the last failure is the connection's own, and said with it.
            if let Some(error) = last.take() {
                let error = chain(&error);
                tracing::warn!(error, next = %self.name(signer), "trying the next signer");
            }
            match self.start_at(signer, link, client, records).await {
                Ok(begun) => return Ok(begun),
                Err(error) if error.is_for_another() => last = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(last.unwrap_or_else(|| SignerError::NoneConnected(self.why_not())))
    }

    async fn start_at(
        &self,
        signer: usize,
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
                signer,
                link,
                handshake,
                reply,
            }),
            _ => Err(self.mismatch(signer)),
        }
    }

    /// Asks for a next key: first the signer that made the connection, then the others.
    pub(crate) async fn rekey(&self, preferred: usize, ask: Rekey) -> Result<Rekeyed, SignerError> {
        let mut last = None;
        for (signer, link) in self.connected(Some(preferred)).await {
            let request = Rekey {
                state: ask.state.clone(),
                ..ask
            };
            match self.call(signer, &link, Request::Rekey(request)).await {
                Ok(Reply::Rekeyed(rekeyed)) => return Ok(rekeyed),
                Ok(_) => return Err(self.mismatch(signer)),
                Err(error) if error.is_for_another() => last = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(last.unwrap_or_else(|| SignerError::NoneConnected(self.why_not())))
    }

    /// One request on one connection; an error code is an error here.
    pub(crate) async fn call(
        &self,
        signer: usize,
        link: &PinnedConnection,
        request: Request,
    ) -> Result<Reply, SignerError> {
        match link.call(request, self.timeout).await {
            Ok(Reply::Error(code)) => Err(SignerError::Code {
                signer: self.name(signer),
                code,
            }),
            Ok(reply) => Ok(reply),
            Err(source) => Err(SignerError::Call {
                signer: self.name(signer),
                source,
            }),
        }
    }

    pub(crate) fn mismatch(&self, signer: usize) -> SignerError {
        SignerError::Mismatch {
            signer: self.name(signer),
        }
    }

    /// The connections to try: the preferred one, then the healthy ones, then those that are merely connected.
    /// When there is none, waits a moment for one to come back.
    async fn connected(&self, preferred: Option<usize>) -> Vec<(usize, PinnedConnection)> {
        let links = self.connected_now(preferred);
        if !links.is_empty() {
            return links;
        }
        let mut returning = JoinSet::new();
        for client in &self.clients {
            let client = client.clone();
            returning.spawn(async move { client.healthy(RETURN_TIMEOUT).await });
        }
        while let Some(is_back) = returning.join_next().await {
            if matches!(is_back, Ok(true)) {
                break;
            }
        }
        self.connected_now(preferred)
    }

    fn connected_now(&self, preferred: Option<usize>) -> Vec<(usize, PinnedConnection)> {
        let mut order: Vec<usize> = (0..self.clients.len()).collect();
        order.sort_by_key(|&signer| {
            (
                Some(signer) != preferred,
                !self.clients[signer].is_healthy(),
            )
        });
        order
            .into_iter()
            .filter_map(|signer| Some((signer, self.clients[signer].pin()?)))
            .collect()
    }

    fn why_not(&self) -> String {
        self.clients
            .iter()
            .map(|client| {
                let error = client.last_error();
                let error = error.as_deref().unwrap_or("not connected yet");
                format!("{}: {error}", client.address())
            })
            .collect::<Vec<_>>()
            .join("; ")
    }
}
