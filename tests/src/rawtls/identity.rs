//! A client's certificate and the proof that it has the key (RFC 8446 section 4.4, RFC 5246 section 7.4.8).
//!
//! The signature itself is rustls' business. What is signed is made here, so that a test can sign something else.

use std::sync::Arc;

use rustls::SignatureScheme;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::SigningKey;

use super::messages::handshake_message;
use super::record::Stop;

/// A certificate chain with its key.
#[derive(Clone, Debug)]
pub struct Identity {
    chain: Vec<Vec<u8>>,
    key: Arc<dyn SigningKey>,
}

impl Identity {
    /// From a chain, leaf first, and the leaf's key. The two need not fit.
    ///
    /// # Panics
    /// When the key is of an unknown kind.
    pub fn new(chain: &[CertificateDer<'_>], key: &PrivateKeyDer<'_>) -> Identity {
        Identity {
            chain: chain.iter().map(|der| der.to_vec()).collect(),
            key: any_supported_type(key).expect("a key of a known kind"),
        }
    }

    /// The Certificate message of TLS 1.3; an empty one without an identity.
    pub(crate) fn certificate13(identity: Option<&Identity>, context: &[u8]) -> Vec<u8> {
        let mut entries = Vec::new();
        for der in identity.iter().flat_map(|identity| &identity.chain) {
            entries.extend(vector24(der));
            entries.extend([0, 0]);
        }
        let mut body = vec![context.len() as u8];
        body.extend(context);
        body.extend(vector24(&entries));
        handshake_message(11, &body)
    }

    /// The Certificate message of TLS 1.2; an empty one without an identity.
    pub(crate) fn certificate12(identity: Option<&Identity>) -> Vec<u8> {
        let entries: Vec<u8> = identity
            .iter()
            .flat_map(|identity| &identity.chain)
            .flat_map(|der| vector24(der))
            .collect();
        handshake_message(11, &vector24(&entries))
    }

    /// CertificateVerify of TLS 1.3 over the hash of the transcript.
    pub(crate) fn verify13(&self, schemes: &[u16], hash: &[u8]) -> Result<Vec<u8>, Stop> {
        let mut content = vec![0x20; 64];
        content.extend(b"TLS 1.3, client CertificateVerify\0");
        content.extend(hash);
        self.verify12(schemes, &content)
    }

    /// CertificateVerify of TLS 1.2 over the whole transcript.
    pub(crate) fn verify12(&self, schemes: &[u16], content: &[u8]) -> Result<Vec<u8>, Stop> {
        let schemes: Vec<SignatureScheme> = schemes.iter().copied().map(Into::into).collect();
        let signer = self
            .key
            .choose_scheme(&schemes)
            .ok_or(Stop::Nonsense("no signature scheme fits the client's key"))?;
        let signature = signer
            .sign(content)
            .map_err(|_| Stop::Nonsense("the client cannot sign"))?;
        let mut body = u16::from(signer.scheme()).to_be_bytes().to_vec();
        body.extend((signature.len() as u16).to_be_bytes());
        body.extend(signature);
        Ok(handshake_message(15, &body))
    }
}

fn vector24(bytes: &[u8]) -> Vec<u8> {
    let mut vector = (bytes.len() as u32).to_be_bytes()[1..].to_vec();
    vector.extend_from_slice(bytes);
    vector
}
