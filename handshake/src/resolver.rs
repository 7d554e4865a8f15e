//! Which of a site's keys answers a client: the first that it can verify and that its level is good enough for.
//!
//! rustls asks in the middle of a handshake, before it looks at tickets, so a session is resumed only under a key that
//! would have answered.

use std::{sync::Arc, time::SystemTime};

use aws_lc_rs::digest;
use keyhaven_types::{CustodyLevel, KeyAlgorithm, NamedGroup, SignatureScheme, alert};
use rustls::{
    server::{ClientHello as RustlsHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use crate::{
    context,
    error::Failure,
    signing::{TokenSigningKey, rustls_scheme},
    site::SiteKey,
};

/// The keys of a site, for rustls.
#[derive(Debug, Default)]
pub(crate) struct Resolver {
    keys: Vec<Answer>,
}

#[derive(Debug)]
struct Answer {
    algorithm: KeyAlgorithm,
    schemes: Vec<SignatureScheme>,
    custody_min: CustodyLevel,
    certified: Arc<CertifiedKey>,
    spki_hash: [u8; 32],
    not_after: SystemTime,
}

impl Resolver {
    pub(crate) fn new(keys: &[SiteKey]) -> Self {
        let keys = keys.iter().map(Answer::new).collect();
        Self { keys }
    }
}

impl Answer {
    fn new(key: &SiteKey) -> Self {
        let signing = Arc::new(TokenSigningKey(key.key.clone()));
        let mut certified = CertifiedKey::new(key.chain.clone(), signing);
        certified.ocsp.clone_from(&key.ocsp);
        let mut spki_hash = [0; 32];
        spki_hash.copy_from_slice(digest::digest(&digest::SHA256, key.key.spki()).as_ref());
        Self {
            algorithm: key.key.algorithm(),
            schemes: key.key.schemes().to_vec(),
            custody_min: key.custody_min,
            certified: Arc::new(certified),
            spki_hash,
            not_after: key.not_after,
        }
    }

    fn fits(&self, hello: &RustlsHello<'_>, is_tls13: bool, level: CustodyLevel) -> bool {
        let verifies = |scheme: &SignatureScheme| {
            // PKCS#1 v1.5 is for TLS 1.2 alone (RFC 8446, section 4.2.3).
            let is_pkcs1 = matches!(
                scheme,
                SignatureScheme::RsaPkcs1Sha256
                    | SignatureScheme::RsaPkcs1Sha384
                    | SignatureScheme::RsaPkcs1Sha512
            );
            !(is_tls13 && is_pkcs1) && hello.signature_schemes().contains(&rustls_scheme(*scheme))
        };
        level >= self.custody_min
            && self.schemes.iter().any(verifies)
            && (is_tls13 || takes_curve(self.algorithm, hello.named_groups()))
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: RustlsHello<'_>) -> Option<Arc<CertifiedKey>> {
        let (expected, is_tls13, level) = context::with(|context| {
            let facts = &context.facts;
            (facts.server_name.clone(), facts.is_tls13, facts.level)
        })?;
        if self.keys.is_empty() {
            return refuse(
                alert::UNRECOGNIZED_NAME,
                "no site for this caller under that name",
            );
        }
        if hello.server_name() != expected.as_deref() {
            context::fail(Failure::Engine(
                "rustls reads another name in the ClientHello",
            ));
            return None;
        }
        let mut keys = self.keys.iter();
        match keys.find(|key| key.fits(&hello, is_tls13, level)) {
            Some(key) => {
                context::with(|context| context.chosen = Some((key.spki_hash, key.not_after)));
                Some(key.certified.clone())
            }
            None => refuse(
                alert::HANDSHAKE_FAILURE,
                "the client can verify none of the site's keys at this level",
            ),
        }
    }
}

/// In TLS 1.2 an ECDSA key's curve must be among the client's groups (RFC 8422, section 5.1.1).
fn takes_curve(algorithm: KeyAlgorithm, groups: Option<&[rustls::NamedGroup]>) -> bool {
    let curve = match algorithm {
        KeyAlgorithm::EcdsaP256 => NamedGroup::Secp256r1,
        KeyAlgorithm::EcdsaP384 => NamedGroup::Secp384r1,
        KeyAlgorithm::Rsa(_) | KeyAlgorithm::Ed25519 => return true,
    };
    groups.is_none_or(|groups| groups.contains(&rustls::NamedGroup::from(curve as u16)))
}

fn refuse(alert: u8, reason: &'static str) -> Option<Arc<CertifiedKey>> {
    context::with(|context| context.resolver_alert = Some((alert, reason)));
    None
}
