//! Who a certificate says that its holder is.
//!
//! Reads the one SPIFFE URI of a leaf certificate. Whether the certificate is to be believed was decided before,
//! in `tls`. DNS names and addresses are never identities here, whatever CA put them there.

use std::time::{Duration, SystemTime};

use keyhaven_types::{Identity, IdentityError};
use rustls_pki_types::CertificateDer;
use x509_parser::{extensions::GeneralName, prelude::FromDer as _, prelude::X509Certificate};

/// Why a certificate gives no identity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerIdentityError {
    /// There is no certificate.
    #[error("there is no certificate")]
    NoCertificate,
    /// The certificate, or its list of names, cannot be read.
    #[error("the certificate cannot be read as X.509")]
    Unreadable,
    /// No URI among its names.
    #[error(
        "the certificate names no SPIFFE id: issue one with exactly one URI name, spiffe://DOMAIN/ROLE/NAME"
    )]
    Nameless,
    /// Several URIs among its names.
    #[error(
        "the certificate names {uris} URIs: issue one with exactly one, spiffe://DOMAIN/ROLE/NAME"
    )]
    Ambiguous {
        /// How many.
        uris: usize,
    },
    /// The URI is not an identity of ours.
    #[error("the certificate's URI is not an identity")]
    NotAnIdentity(#[from] IdentityError),
}

/// The identity in the leaf, the first certificate of `chain`.
pub fn peer_identity(chain: &[CertificateDer<'_>]) -> Result<Identity, PeerIdentityError> {
    let leaf = chain.first().ok_or(PeerIdentityError::NoCertificate)?;
    let (_, certificate) =
        X509Certificate::from_der(leaf).map_err(|_| PeerIdentityError::Unreadable)?;
    let names = certificate
        .subject_alternative_name()
        .map_err(|_| PeerIdentityError::Unreadable)?;
    let uris: Vec<&str> = names
        .iter()
        .flat_map(|extension| &extension.value.general_names)
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        })
        .collect();
    match uris.as_slice() {
        [] => Err(PeerIdentityError::Nameless),
        [uri] => Ok(uri.parse()?),
        several => Err(PeerIdentityError::Ambiguous {
            uris: several.len(),
        }),
    }
}

/// How long the leaf is still valid; none when it cannot be read.
pub(crate) fn time_left(chain: &[CertificateDer<'_>]) -> Option<Duration> {
    let (_, certificate) = X509Certificate::from_der(chain.first()?).ok()?;
    let end = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or(0);
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .ok()?;
    // The last second is still valid (RFC 5280, section 4.1.2.5).
    Some(Duration::from_secs(end.saturating_add(1)).saturating_sub(now))
}
