//! Reaching a signer or central: resolve, connect, authenticate.
//!
//! Makes one connection, under one deadline, to exactly the identity that is expected; trying again is the
//! business of `client`.

use std::{io, sync::Arc, time::Duration};

use keyhaven_types::{Identity, Role};
use keyhaven_wire::ALPN;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{credentials::Credentials, tls};

/// What a client needs to reach one signer.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// `HOST:PORT`, resolved anew for each connection.
    pub address: String,
    /// Who must answer there.
    pub identity: Identity,
    /// What we prove ourselves with.
    pub credentials: Credentials,
    /// Requests that wait for their reply at once; more get [`crate::CallError::Busy`].
    pub outstanding_max: usize,
    /// How long connecting may take, with TLS and the first answer.
    pub connect_timeout: Duration,
    /// How often the signer is asked whether it can serve.
    pub ping_interval: Duration,
    /// How long its answer may take before the connection counts as lost.
    pub ping_timeout: Duration,
    /// How long the signer may leave a request unread.
    pub write_timeout: Duration,
    /// The first pause before connecting again; it doubles at each failure.
    pub backoff_min: Duration,
    /// The longest pause before connecting again.
    pub backoff_max: Duration,
}

impl ClientConfig {
    /// With limits that fit a proxy and a signer in one site.
    pub fn new(address: impl Into<String>, identity: Identity, credentials: Credentials) -> Self {
        Self {
            address: address.into(),
            identity,
            credentials,
            outstanding_max: 1024,
            connect_timeout: Duration::from_secs(5),
            ping_interval: Duration::from_secs(5),
            ping_timeout: Duration::from_secs(5),
            write_timeout: Duration::from_secs(5),
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_secs(2),
        }
    }
}

/// Why the other end was not reached.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// No address, or nobody there.
    #[error("cannot connect to {address}; check {}", place(*.role))]
    Connect {
        /// The address as configured.
        address: String,
        /// Of whom is expected there.
        role: Role,
        /// Why.
        source: io::Error,
    },
    /// Too slow.
    #[error("{address} does not answer in {limit:?}; check {}", place(*.role))]
    Timeout {
        /// The address as configured.
        address: String,
        /// Of whom is expected there.
        role: Role,
        /// The limit.
        limit: Duration,
    },
    /// The other end is not who is expected, or does not take us for whom we are.
    #[error("no secure channel with {address}: {reason}")]
    Tls {
        /// The address as configured.
        address: String,
        /// Why, for an operator.
        reason: String,
    },
    /// Our own credentials cannot be used.
    #[error("the identity's certificate, key or CA cannot be used")]
    Credentials(#[from] rustls::Error),
}

/// What to check when nobody of this role answers at an address.
fn place(role: Role) -> String {
    let who = match role {
        Role::Central => "central",
        _ => "a signer",
    };
    format!("that {who} runs there, and its address {}", record(role))
}

/// Where an address and an identity stand: of sites that were found through central, in its record.
pub(crate) fn record(role: Role) -> &'static str {
    match role {
        Role::Central => "in our configuration",
        _ => "in our configuration or, of a site, in `signer-admin kms site list`",
    }
}

/// The other end, in a sentence.
pub(crate) fn who(role: Role) -> &'static str {
    match role {
        Role::Central => "central",
        _ => "the signer",
    }
}

pub(crate) async fn dial(config: &ClientConfig) -> Result<TlsStream<TcpStream>, DialError> {
    let limit = config.connect_timeout;
    timeout(limit, connect(config)).await.unwrap_or_else(|_| {
        Err(DialError::Timeout {
            address: config.address.clone(),
            role: config.identity.role(),
            limit,
        })
    })
}

async fn connect(config: &ClientConfig) -> Result<TlsStream<TcpStream>, DialError> {
    let failed = |source| DialError::Connect {
        address: config.address.clone(),
        role: config.identity.role(),
        source,
    };
    let refused = |reason| DialError::Tls {
        address: config.address.clone(),
        reason,
    };
    let connector: TlsConnector = TlsConnector::from(Arc::clone(&tls::client_config(
        &config.credentials,
        &config.identity,
    )?));
    let stream = TcpStream::connect(&config.address).await.map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    let stream = connector
        .connect(tls::no_name(), stream)
        .await
        .map_err(|error| refused(tls::describe(&error)))?;
    if stream.get_ref().1.alpn_protocol() != Some(ALPN) {
        return Err(refused("it does not speak keyhaven/1".to_owned()));
    }
    Ok(stream)
}
