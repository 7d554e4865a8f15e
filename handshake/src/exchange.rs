//! Ephemeral key exchange for rustls: in the token where the handshake says so, else in software.
//!
//! rustls gets our public value as bytes and the shared secret as a handle. A bad public value of the peer is
//! the peer's fault and ends in illegal_parameter; everything else is noted as a failure of ours.

use keyhaven_hsm::{ExchangeKey, Token, TokenSecret, Worker};
use keyhaven_types::NamedGroup;
use rustls::{
    Error, PeerMisbehaved,
    crypto::{ActiveKeyExchange, CompletedKeyExchange, SharedSecret, SupportedKxGroup},
    ffdhe_groups::FfdheGroup,
};

use crate::{
    context::{self, Place},
    error::Failure,
    secrets::{Index, to_handle},
};

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
}

impl SupportedKxGroup for Group {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        let exchange = match token()? {
            Some(place) => Box::new(TokenExchange {
                key: generate(&place.token, self.name)?,
                group: self.name(),
            }),
            None => self.software.start()?,
        };
        note_public_value(self.name(), exchange.pub_key());
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

/// Where this handshake's exchange runs, when in a token.
pub(crate) struct InToken {
    pub(crate) token: Token,
    pub(crate) ml_kem: bool,
}

pub(crate) fn token() -> Result<Option<InToken>, Error> {
    context::with(|context| match &context.facts.place {
        Place::Software => None,
        Place::Token { token, ml_kem, .. } => Some(InToken {
            token: token.clone(),
            ml_kem: *ml_kem,
        }),
    })
    .ok_or_else(|| Error::General("a key exchange outside a step".into()))
}

/// Makes a key pair in the token.
pub(crate) fn generate(token: &Token, group: NamedGroup) -> Result<ExchangeKey, Error> {
    Worker::with_current(|worker| worker.generate_exchange(token, group))
        .and_then(|made| made)
        .map_err(failed)
}

/// Agrees on a secret that stays in the token.
pub(crate) fn agree(key: &ExchangeKey, peer: &[u8]) -> Result<TokenSecret, Error> {
    Worker::with_current(|worker| worker.agree(key, peer))
        .and_then(|agreed| agreed)
        .map_err(failed)
}

/// Keeps a secret for the length of the handshake, and gives rustls its handle.
pub(crate) fn shared(
    keep: impl FnOnce(&mut context::Context) -> Index,
) -> Result<SharedSecret, Error> {
    let index = context::with(keep)
        .ok_or_else(|| Error::General("a key exchange outside a step".into()))?;
    Ok(SharedSecret::from(&to_handle(index)[..]))
}

/// For the signing guard.
pub(crate) fn note_public_value(group: rustls::NamedGroup, value: &[u8]) {
    context::with(|context| context.public_value = Some((u16::from(group), value.to_vec())));
}

/// The peer's fault as rustls says it, or a failure noted for the engine; rustls only learns that there is one.
pub(crate) fn failed(error: keyhaven_hsm::Error) -> Error {
    if error.is_peer_fault() {
        return PeerMisbehaved::InvalidKeyShare.into();
    }
    context::fail(Failure::Token(error));
    Error::General("the token failed".into())
}

/// A key pair in the token, which destroys it when this is dropped.
struct TokenExchange {
    key: ExchangeKey,
    group: rustls::NamedGroup,
}

impl ActiveKeyExchange for TokenExchange {
    fn complete(self: Box<Self>, peer: &[u8]) -> Result<SharedSecret, Error> {
        let secret = agree(&self.key, peer)?;
        shared(|context| context.secrets.keep(secret))
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
