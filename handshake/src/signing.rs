//! Signatures for rustls: each passes the guard, then the token makes it.
//!
//! Knows which schemes a key has; which key is used is the site's choice.

use std::fmt;

use keyhaven_hsm::{PrivateKey, Worker};
use keyhaven_types::{KeyAlgorithm, SignatureScheme};
use rustls::{
    Error, SignatureAlgorithm,
    sign::{Signer, SigningKey},
};

use crate::{context, error::Failure, guard};

/// A token's private key, as rustls sees it.
pub(crate) struct TokenSigningKey(pub(crate) PrivateKey);

impl fmt::Debug for TokenSigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenSigningKey({})", self.0.algorithm())
    }
}

impl SigningKey for TokenSigningKey {
    fn choose_scheme(&self, offered: &[rustls::SignatureScheme]) -> Option<Box<dyn Signer>> {
        let scheme = self
            .0
            .schemes()
            .iter()
            .copied()
            .find(|scheme| offered.contains(&rustls_scheme(*scheme)))?;
        Some(Box::new(TokenSigner {
            key: self.0.clone(),
            scheme,
        }))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        match self.0.algorithm() {
            KeyAlgorithm::Rsa(_) => SignatureAlgorithm::RSA,
            KeyAlgorithm::EcdsaP256 | KeyAlgorithm::EcdsaP384 => SignatureAlgorithm::ECDSA,
            KeyAlgorithm::Ed25519 => SignatureAlgorithm::ED25519,
        }
    }
}

struct TokenSigner {
    key: PrivateKey,
    scheme: SignatureScheme,
}

impl fmt::Debug for TokenSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenSigner({:?})", self.scheme)
    }
}

impl Signer for TokenSigner {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let admitted = context::with(|context| guard::admit(context, message))
            .unwrap_or(Err("a signature outside a handshake"));
        if let Err(reason) = admitted {
            tracing::error!(
                reason,
                key = self.key.label(),
                "ALARM: the signing guard refused a message"
            );
            context::fail(Failure::Guard(reason));
            return Err(Error::General("refused by the signing guard".into()));
        }
        Worker::with_current(|worker| worker.sign(&self.key, self.scheme, message))
            .and_then(|signed| signed)
            .map_err(|error| {
                context::fail(Failure::Token(error));
                Error::General("the token failed".into())
            })
    }

    fn scheme(&self) -> rustls::SignatureScheme {
        rustls_scheme(self.scheme)
    }
}

/// rustls' name for a scheme.
pub(crate) fn rustls_scheme(scheme: SignatureScheme) -> rustls::SignatureScheme {
    rustls::SignatureScheme::from(scheme as u16)
}
