//! `client_auth`, `client_ca`, `client_crl`: who may vouch for a site's clients, and whom they no longer vouch for.
//!
//! Reads the files; chains are verified in the handshake. Invariant: what would make every client fail, or none,
//! is said when the file is read.

use std::path::{Path, PathBuf};

use keyhaven_handshake::{Authorities, ClientAuth};
use keyhaven_service::config::Problems;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, pem::PemObject as _};
use toml::Spanned;
use x509_parser::{
    certificate::X509Certificate, parse_x509_certificate, prelude::FromDer as _,
    revocation_list::CertificateRevocationList, time::ASN1Time,
};

use super::{
    files,
    raw::{ClientAuthMode, SiteSection},
};

/// Reads what a site says of its clients' certificates.
pub(super) fn validate(section: &SiteSection, problems: &mut Problems) -> ClientAuth {
    let mode = section.client_auth.as_ref().map(|mode| *mode.get_ref());
    let mode = mode.unwrap_or_default();
    if mode == ClientAuthMode::None {
        let unused = section.client_ca.iter().chain(&section.client_crl);
        for path in unused {
            problems.add(
                path.span(),
                "client_ca and client_crl are given, but no client is asked for a certificate",
                "add client_auth = \"required\" or \"optional\", or leave them out",
            );
        }
        return ClientAuth::None;
    }
    let Some(bundle) = &section.client_ca else {
        problems.add(
            section.client_auth.as_ref().map(Spanned::span),
            "client_auth needs client_ca",
            "name a PEM file with the certificates of the CAs that clients' certificates come from",
        );
        return ClientAuth::None;
    };
    let roots = read_bundle(bundle, problems).unwrap_or_default();
    let lists = section.client_crl.iter();
    let crls: Vec<_> = lists
        .filter_map(|path| read_lists(path, problems))
        .flatten()
        .collect();
    if !crls.is_empty() {
        warn_of_uncovered(&roots, &crls, section, problems);
    }
    let authorities = Authorities { roots, crls };
    match mode {
        ClientAuthMode::Optional => ClientAuth::Optional(authorities),
        _ => ClientAuth::Required(authorities),
    }
}

fn read_bundle(
    at: &Spanned<PathBuf>,
    problems: &mut Problems,
) -> Option<Vec<CertificateDer<'static>>> {
    let path = problems.resolve(at.get_ref());
    let bytes = files::read("client_ca", at, FILE_BYTES_MAX, problems)?;
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let roots = match read {
        Ok(roots) if !roots.is_empty() => roots,
        Ok(_) => {
            problems.add(
                at.span(),
                format!("client_ca {} holds no certificate", path.display()),
                "it must be a PEM file with the CAs' certificates",
            );
            return None;
        }
        Err(error) => {
            problems.add(
                at.span(),
                format!("client_ca {} is not PEM: {error}", path.display()),
                "it must be a PEM file with the CAs' certificates",
            );
            return None;
        }
    };
    let mut names = 0;
    for root in &roots {
        let Ok((_, root)) = parse_x509_certificate(root) else {
            problems.add(
                at.span(),
                format!("a certificate in client_ca {} is not X.509", path.display()),
                "it must be a PEM file with the CAs' certificates",
            );
            return None;
        };
        names += root.subject().as_raw().len();
        warn_of_authority(&root, &path, at, problems);
    }
    if names > NAMES_BYTES_MAX {
        problems.add(
            at.span(),
            format!(
                "the names of the CAs in client_ca {} have more than {NAMES_BYTES_MAX} bytes",
                path.display()
            ),
            "they are sent to every client: keep only the CAs that clients' certificates come from",
        );
    }
    Some(roots)
}

fn warn_of_authority(
    root: &X509Certificate<'_>,
    path: &Path,
    at: &Spanned<PathBuf>,
    problems: &mut Problems,
) {
    let subject = root.subject();
    if !root.is_ca() {
        problems.warn(
            at.span(),
            format!("\"{subject}\" in client_ca {} is not a CA", path.display()),
            "it should be the certificate of a CA: anybody with a certificate from its key is let in",
        );
    }
    if !root.validity().is_valid() {
        problems.warn(
            at.span(),
            format!(
                "\"{subject}\" in client_ca {} is not valid now, but from {} until {}",
                path.display(),
                root.validity().not_before,
                root.validity().not_after
            ),
            "put the CA's present certificate in its place",
        );
    }
}

/// One list in DER, or any number in PEM.
fn read_lists(
    at: &Spanned<PathBuf>,
    problems: &mut Problems,
) -> Option<Vec<CertificateRevocationListDer<'static>>> {
    let path = problems.resolve(at.get_ref());
    let bytes = files::read("client_crl", at, FILE_BYTES_MAX, problems)?;
    let lists = if bytes.first() == Some(&DER_SEQUENCE) {
        vec![CertificateRevocationListDer::from(bytes)]
    } else {
        CertificateRevocationListDer::pem_slice_iter(&bytes)
            .collect::<Result<_, _>>()
            .unwrap_or_default()
    };
    let parsed: Option<Vec<_>> = lists.iter().map(|list| parse_list(list)).collect();
    let Some(parsed) = parsed.filter(|parsed| !parsed.is_empty()) else {
        problems.add(
            at.span(),
            format!(
                "client_crl {} is not a revocation list in PEM or DER",
                path.display()
            ),
            "fetch it again from the CA",
        );
        return None;
    };
    for list in &parsed {
        warn_of_age(list, &path, at, problems);
    }
    Some(lists)
}

fn warn_of_age(
    list: &CertificateRevocationList<'_>,
    path: &Path,
    at: &Spanned<PathBuf>,
    problems: &mut Problems,
) {
    let is_late = list
        .next_update()
        .is_some_and(|next| next < ASN1Time::now());
    if is_late {
        problems.warn(
            at.span(),
            format!(
                "the list of \"{}\" in client_crl {} is out of date: its nextUpdate is past",
                list.issuer(),
                path.display()
            ),
            "no client of this CA is let in until it is fetched again",
        );
    }
}

/// With lists, a client is let in only when its CA has one.
fn warn_of_uncovered(
    roots: &[CertificateDer<'_>],
    crls: &[CertificateRevocationListDer<'_>],
    section: &SiteSection,
    problems: &mut Problems,
) {
    let lists: Vec<_> = crls.iter().filter_map(|list| parse_list(list)).collect();
    for root in roots {
        let Ok((_, root)) = parse_x509_certificate(root) else {
            continue;
        };
        let subject = root.subject();
        if !lists
            .iter()
            .any(|list| list.issuer().as_raw() == subject.as_raw())
        {
            problems.warn(
                section.client_ca.as_ref().map(Spanned::span),
                format!("client_crl has no list of the CA \"{subject}\""),
                "with client_crl, clients whose CA has no list are refused: add its list",
            );
        }
    }
}

fn parse_list<'a>(
    list: &'a CertificateRevocationListDer<'_>,
) -> Option<CertificateRevocationList<'a>> {
    match CertificateRevocationList::from_der(list) {
        Ok(([], list)) => Some(list),
        _ => None,
    }
}

/// The names go to every client beside the chain, and one reply holds both.
const NAMES_BYTES_MAX: usize = 32 * 1024;
/// Revocation lists of large CAs have some megabytes.
const FILE_BYTES_MAX: u64 = 32 * 1024 * 1024;
const DER_SEQUENCE: u8 = 0x30;
