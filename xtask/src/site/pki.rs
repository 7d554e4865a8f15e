//! The certificates of a site: a private CA with one SPIFFE identity for each daemon, and a public-style CA
//! that signs the certificate for the token's key.
//!
//! The two CAs are apart on purpose: what a browser trusts must never open the channel between the daemons. The
//! CAs' own keys are not written anywhere.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};

use super::{Folder, SERVER_NAME, SERVER_NAMES, write_file, write_private};
use crate::Error;

/// The identity of the signer.
pub(super) const SIGNER_IDENTITY: &str = "spiffe://keyhaven.test/signer/main";
/// The identity of the proxy.
pub(super) const PROXY_IDENTITY: &str = "spiffe://keyhaven.test/proxy/edge-1";

/// Makes the private CA and an identity for each daemon.
pub fn issue_identities(folder: &Folder) -> Result<(), Error> {
    let (ca_pem, issuer) = authority("Keyhaven demo: private CA")?;
    write_file(folder.pki("ca.pem"), ca_pem)?;
    for (name, identity) in [("signer", SIGNER_IDENTITY), ("proxy", PROXY_IDENTITY)] {
        let (certificate, key) = identity_certificate(identity, &issuer).map_err(of(identity))?;
        write_file(folder.pki(&format!("{name}.pem")), certificate)?;
        write_private(folder.pki(&format!("{name}.key")), key)?;
    }
    Ok(())
}

/// Makes the site's CA and signs the request that came from the token.
pub fn issue_site_certificate(folder: &Folder, request_pem: &str) -> Result<(), Error> {
    let (ca_pem, issuer) = authority("Keyhaven demo: site CA")?;
    let certificate =
        site_certificate(request_pem, SERVER_NAMES, &issuer).map_err(of(SERVER_NAME))?;
    write_file(folder.site_ca(), ca_pem)?;
    write_file(folder.certificate(), certificate)
}

/// A CA in memory: its key is never written.
#[derive(Debug)]
pub(super) struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// A new one.
    pub(super) fn new(name: &str) -> Result<Authority, Error> {
        let (pem, issuer) = authority(name)?;
        Ok(Authority { pem, issuer })
    }

    /// Its certificate.
    pub(super) fn pem(&self) -> &str {
        &self.pem
    }

    /// Certificate and key of an identity.
    pub(super) fn identity(&self, identity: &str) -> Result<(String, String), Error> {
        identity_certificate(identity, &self.issuer).map_err(of(identity))
    }

    /// What it makes of a request, for these names.
    pub(super) fn certify(&self, request_pem: &str, names: &[&str]) -> Result<String, Error> {
        site_certificate(request_pem, names, &self.issuer).map_err(of(names[0]))
    }
}

/// Writes an identity to `pki/FILE.pem` and `pki/FILE.key`.
pub(super) fn write_pair(
    folder: &Folder,
    file: &str,
    (certificate, key): &(String, String),
) -> Result<(), Error> {
    write_file(folder.pki(&format!("{file}.pem")), certificate)?;
    write_private(folder.pki(&format!("{file}.key")), key)
}

fn authority(name: &str) -> Result<(String, Issuer<'static, KeyPair>), Error> {
    let make = || {
        let mut params = params(Vec::new(), name)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        let pem = params.self_signed(&key)?.pem();
        Ok((pem, Issuer::new(params, key)))
    };
    make().map_err(of(name))
}

fn identity_certificate(
    identity: &str,
    issuer: &Issuer<'_, KeyPair>,
) -> Result<(String, String), rcgen::Error> {
    let mut params = params(Vec::new(), identity)?;
    params.subject_alt_names = vec![SanType::URI(identity.try_into()?)];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, issuer)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

fn site_certificate(
    request_pem: &str,
    names: &[&str],
    issuer: &Issuer<'_, KeyPair>,
) -> Result<String, rcgen::Error> {
    // A CA decides what it certifies: only the public key is taken from the request.
    let request = CertificateSigningRequestParams::from_pem(request_pem)?;
    let common_name = names.first().copied().unwrap_or_default();
    let names = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = params(names, common_name)?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    Ok(params.signed_by(&request.public_key, issuer)?.pem())
}

fn params(names: Vec<String>, common_name: &str) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    params.use_authority_key_identifier_extension = true;
    let now = SystemTime::now();
    params.not_before = (now - DAY).into();
    params.not_after = (now + 90 * DAY).into();
    Ok(params)
}

fn of(subject: &str) -> impl Fn(rcgen::Error) -> Error + '_ {
    move |source| Error::Certificate {
        subject: subject.to_owned(),
        source,
    }
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
