//! Ephemeral key exchange for rustls: in the token where the handshake says so, else in software.
//!
//! rustls gets our public value as bytes and the shared secret as a handle. A bad public value of the peer is
//! the peer's fault and ends in illegal_parameter; everything else is noted as a failure of ours.

use keyhaven_hsm::{ExchangeKey, Token, Worker};
use keyhaven_types::NamedGroup;
use rustls::{
    Error, PeerMisbehaved,
    crypto::{ActiveKeyExchange, CompletedKeyExchange, SharedSecret, SupportedKxGroup},
    ffdhe_groups::FfdheGroup,
};

use crate::{context, error::Failure};

/// One group; which side it runs on is decided by each handshake's context.
#[derive(Debug)]
pub(crate) struct Group {
    name: NamedGroup,
    software: &'static dyn SupportedKxGroup,
}

impl Group {
    pub(crate) const fn new(name: NamedGroup, software: &'static dyn SupportedKxGroup) -> Self {
        Self { name, software }
    }

    fn start_in_token(&self, token: &Token) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        let key = Worker::with_current(|worker| worker.generate_exchange(token, self.name))
            .and_then(|made| made)
            .map_err(failed)?;
        Ok(Box::new(TokenExchange {
            key,
            group: self.name(),
        }))
    }
}

impl SupportedKxGroup for Group {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        let token = context::with(|context| context.exchange.clone())
            .ok_or_else(|| Error::General("a key exchange outside a step".into()))?;
        let exchange = match token {
            Some(token) => self.start_in_token(&token)?,
            None => self.software.start()?,
        };
        context::with(|context| {
            context.public_value = Some((u16::from(self.name()), exchange.pub_key().to_vec()));
        });
        Ok(exchange)
    }

    fn start_and_complete(&self, peer: &[u8]) -> Result<CompletedKeyExchange, Error> {
        let exchange = self.start()?;
        Ok(CompletedKeyExchange {
            group: self.name(),
            pub_key: exchange.pub_key().to_vec(),
            secret: exchange.complete(peer)?,
        })
    }

    fn ffdhe_group(&self) -> Option<FfdheGroup<'static>> {
        None
    }

    fn name(&self) -> rustls::NamedGroup {
        rustls::NamedGroup::from(self.name as u16)
    }
}

/// A key pair in the token, which destroys it when this is dropped.
struct TokenExchange {
    key: ExchangeKey,
    group: rustls::NamedGroup,
}

impl ActiveKeyExchange for TokenExchange {
    fn complete(self: Box<Self>, peer: &[u8]) -> Result<SharedSecret, Error> {
        let secret =
            Worker::with_current(|worker| worker.agree(&self.key, peer)).and_then(|agreed| agreed);
        let secret = match secret {
            Ok(secret) => secret,
            Err(error) if error.is_peer_fault() => {
                return Err(PeerMisbehaved::InvalidKeyShare.into());
            }
            Err(error) => return Err(failed(error)),
        };
        let handle = context::with(|context| context.keep(secret))
            .ok_or_else(|| Error::General("a key exchange outside a step".into()))?;
        Ok(SharedSecret::from(handle))
    }

    fn pub_key(&self) -> &[u8] {
        self.key.public_value()
    }

    fn ffdhe_group(&self) -> Option<FfdheGroup<'static>> {
        None
    }

    fn group(&self) -> rustls::NamedGroup {
        self.group
    }
}

/// Notes the failure for the engine; rustls only learns that there is one.
fn failed(error: keyhaven_hsm::Error) -> Error {
    context::fail(Failure::Token(error));
    Error::General("the token failed".into())
}
