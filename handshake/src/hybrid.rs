//! X25519MLKEM768 for rustls (draft-ietf-tls-ecdhe-mlkem): two exchanges, one secret, ML-KEM first.
//!
//! Above `signature` the X25519 half runs in the token, and the ML-KEM half, too, where the token can; else it runs
//! here, and what is made of both stays in the token. Invariant: a half that was in this process's memory takes the
//! handshake's level down to `signature`, which the site says before it begins.

use aws_lc_rs::kem::{EncapsulationKey, ML_KEM_768};
use keyhaven_hsm::Worker;
use keyhaven_types::{CustodyLevel, NamedGroup, Secret};
use rustls::{
    Error, PeerMisbehaved, ProtocolVersion,
    crypto::{
        ActiveKeyExchange, CompletedKeyExchange, SharedSecret, SupportedKxGroup,
        aws_lc_rs::kx_group,
    },
    ffdhe_groups::FfdheGroup,
};

use crate::{
    context,
    error::Failure,
    exchange::{self, InToken},
};

/// Code point of the group.
pub(crate) const X25519_ML_KEM_768: u16 = 0x11ec;

/// The group; which side its halves run on is decided by each handshake's context.
#[derive(Debug)]
pub(crate) struct Hybrid;

impl Hybrid {
    fn in_token(&self, place: &InToken, peer: &[u8]) -> Result<CompletedKeyExchange, Error> {
        let (peer_ml_kem, peer_x25519) = peer
            .split_at_checked(ENCAPSULATION_KEY_LEN)
            .filter(|(_, rest)| rest.len() == X25519_LEN)
            .ok_or(PeerMisbehaved::InvalidKeyShare)?;
        let key = exchange::generate(&place.token, NamedGroup::X25519)?;
        let agreed = exchange::agree(&key, peer_x25519)?;
        let (ciphertext, secret) = if place.ml_kem {
            let (ciphertext, first) =
                Worker::with_current(|worker| worker.encapsulate(&place.token, peer_ml_kem))
                    .and_then(|done| done)
                    .map_err(exchange::failed)?;
            let joined = Worker::with_current(|worker| worker.concatenate(&first, &agreed))
                .and_then(|done| done)
                .map_err(exchange::failed)?;
            (
                ciphertext,
                exchange::shared(|context| context.secrets.keep(joined))?,
            )
        } else {
            let (ciphertext, first) = encapsulate(peer_ml_kem)?;
            (ciphertext, join_outside(first, agreed)?)
        };
        Ok(CompletedKeyExchange {
            group: self.name(),
            pub_key: [&ciphertext, key.public_value()].concat(),
            secret,
        })
    }
}

/// One half is known here: the token joins the two, or takes the known one before the other into its hash.
fn join_outside(first: Secret, agreed: keyhaven_hsm::TokenSecret) -> Result<SharedSecret, Error> {
    if context::runs_at() < CustodyLevel::Master {
        return exchange::shared(|context| context.secrets.keep_prefixed(first, agreed));
    }
    let joined = Worker::with_current(|worker| worker.prepend(first.expose_secret(), &agreed))
        .and_then(|done| done)
        .map_err(exchange::failed)?;
    exchange::shared(|context| context.secrets.keep(joined))
}

/// ML-KEM-768 in this process (FIPS 203).
fn encapsulate(peer: &[u8]) -> Result<(Vec<u8>, Secret), Error> {
    let key = EncapsulationKey::new(&ML_KEM_768, peer)
        .map_err(|_| Error::from(PeerMisbehaved::InvalidKeyShare))?;
    let (ciphertext, secret) = key.encapsulate().map_err(|_| {
        context::fail(Failure::Engine("ML-KEM encapsulation failed"));
        Error::General("ML-KEM encapsulation failed".into())
    })?;
    Ok((
        ciphertext.as_ref().to_vec(),
        Secret::copy_from(secret.as_ref()),
    ))
}

impl SupportedKxGroup for Hybrid {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        // Only clients begin; a server answers.
        Err(Error::General("a hybrid exchange without a peer".into()))
    }

    fn start_and_complete(&self, peer: &[u8]) -> Result<CompletedKeyExchange, Error> {
        let done = match exchange::token()? {
            Some(place) => self.in_token(&place, peer)?,
            None => kx_group::X25519MLKEM768.start_and_complete(peer)?,
        };
        exchange::note_public_value(self.name(), &done.pub_key);
        Ok(done)
    }

    fn ffdhe_group(&self) -> Option<FfdheGroup<'static>> {
        None
    }

    fn name(&self) -> rustls::NamedGroup {
        rustls::NamedGroup::from(X25519_ML_KEM_768)
    }

    fn usable_for_version(&self, version: ProtocolVersion) -> bool {
        version == ProtocolVersion::TLSv1_3
    }
}

/// FIPS 203, table 3.
const ENCAPSULATION_KEY_LEN: usize = 1184;
const X25519_LEN: usize = 32;
