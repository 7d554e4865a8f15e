//! A connection of the measurement's to a daemon, and what is asked of central over it.
//!
//! Every answer that is not the one expected is an error: a figure with a failure in it would be none.

use std::{fmt::Display, net::SocketAddr, time::Duration};

use keyhaven_service::{Client, ClientConfig, Credentials};
use keyhaven_types::{Name, Operation};
use keyhaven_wire::{
    Reply, Request,
    kms::{
        KeyRef,
        admin::{Answer, Ask},
    },
};
use keyhaven_xtask::{Error, site::Kms};

/// A connection to a daemon. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Channel(Client);

impl Channel {
    /// Connects with an identity that was made, and waits until it is answered.
    pub(crate) async fn open(
        kms: &Kms<'_>,
        pair: &str,
        address: SocketAddr,
        identity: String,
    ) -> Result<Channel, Error> {
        let pki = |file: String| kms.folder.pki(&file);
        let credentials = Credentials::load(
            &pki(format!("{pair}.pem")),
            &pki(format!("{pair}.key")),
            &pki("ca.pem".to_owned()),
        );
        let credentials = credentials.map_err(|error| failed(pair, error))?;
        let identity = identity.parse().map_err(|error| failed(pair, error))?;
        let mut config = ClientConfig::new(address.to_string(), identity, credentials);
        // One machine does everybody's work here: whoever is slow is not dead.
        config.ping_interval = Duration::from_secs(60);
        config.ping_timeout = Duration::from_secs(60);
        let client = Client::start(config);
        if client.healthy(CONNECT_MAX).await {
            return Ok(Channel(client));
        }
        let why = client
            .last_error()
            .unwrap_or_else(|| "no answer".to_owned());
        Err(failed(&address.to_string(), why))
    }

    /// Asks, and waits for the reply.
    pub(crate) async fn call(&self, request: Request) -> Result<Reply, Error> {
        let reply = self.0.call(request, CALL_MAX).await;
        reply.map_err(|error| failed(self.0.address(), error))
    }

    /// Asks central as an operator.
    pub(crate) async fn ask(&self, ask: Ask) -> Result<Answer, Error> {
        match self.call(Request::Admin(Box::new(ask))).await? {
            Reply::Admin(answer) => Ok(*answer),
            other => Err(failed("central", format!("{other:?}"))),
        }
    }

    /// Asks for a change; the revision that it was committed with.
    pub(crate) async fn commit(&self, ask: Ask) -> Result<u64, Error> {
        match self.ask(ask).await? {
            Answer::Committed { revision, .. } => Ok(revision),
            other => Err(failed("central", format!("{other:?}"))),
        }
    }

    /// The revision that central is at.
    pub(crate) async fn head(&self) -> Result<u64, Error> {
        match self.ask(Ask::Status).await? {
            Answer::Status(status) => Ok(status.head.revision),
            other => Err(failed("central", format!("{other:?}"))),
        }
    }

    /// Up to which revision a site says that it has everything; none when it has not said so.
    pub(crate) async fn applied(&self, site: &str) -> Result<Option<u64>, Error> {
        match self.ask(Ask::Status).await? {
            Answer::Status(status) => {
                let mut sites = status.sites.into_iter();
                Ok(sites
                    .find(|lag| lag.site.as_str() == site)
                    .and_then(|lag| lag.applied))
            }
            other => Err(failed("central", format!("{other:?}"))),
        }
    }

    /// Lets a client do operations with a key; the revision.
    pub(crate) async fn grant(
        &self,
        client: &str,
        key: &str,
        operations: &[Operation],
    ) -> Result<u64, Error> {
        let identity = client.parse().map_err(|error| failed(client, error))?;
        let grant = Ask::GrantSet {
            identity,
            key: Some(key_ref(key)?),
            operations: operations.to_vec(),
        };
        self.commit(grant).await
    }
}

/// A name that was made here.
pub(crate) fn name(text: &str) -> Result<Name, Error> {
    text.parse().map_err(|error| failed(text, error))
}

/// A key by such a name.
pub(crate) fn key_ref(text: &str) -> Result<KeyRef, Error> {
    name(text).map(KeyRef::Name)
}

/// Somebody did not do what the measurement needs.
pub(crate) fn failed(who: &str, why: impl Display) -> Error {
    Error::Output {
        program: who.to_owned(),
        why: why.to_string(),
    }
}

const CONNECT_MAX: Duration = Duration::from_secs(30);
const CALL_MAX: Duration = Duration::from_secs(120);
