//! `[[site.key]]`: which key, with which certificates, from which level on, and what is stapled.
//!
//! Whether the key is there, and is the certificate's, is found out later, in its token. Invariant: a stapled
//! response is of this certificate, good and current.

use std::{path::PathBuf, str::FromStr as _, time::SystemTime};

use keyhaven_hsm::Uri;
use keyhaven_service::config::Problems;
use keyhaven_types::CustodyLevel;
use rustls_pki_types::CertificateDer;
use toml::Spanned;
use x509_parser::parse_x509_certificate;

use super::{
    certificate::{self, Leaf},
    files, ocsp, raw,
    site::Levels,
};

/// One key of a site.
pub struct SiteKeyConfig {
    /// The token's name in this file.
    pub token: String,
    /// Which key.
    pub uri: Uri,
    /// DER certificates, leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// Where the chain came from.
    pub certificate: PathBuf,
    /// Serial number of the leaf, in hexadecimal.
    pub serial: String,
    /// The end of the leaf's validity.
    pub not_after: SystemTime,
    /// The least level at which the key is used; never below the site's.
    pub custody_min: CustodyLevel,
    /// An OCSP response to staple, DER: of this leaf, good, and current.
    pub ocsp: Option<Vec<u8>>,
    /// When it must be stapled no more.
    pub ocsp_until: Option<SystemTime>,
    /// SubjectPublicKeyInfo of the leaf, DER.
    pub spki: Vec<u8>,
    /// The line of the URI, for messages.
    pub line: usize,
}

pub(super) fn validate(
    section: &raw::SiteKeySection,
    names: &[String],
    levels: Levels,
    tokens: &[&str],
    problems: &mut Problems,
) -> Option<SiteKeyConfig> {
    let token = section.token.get_ref();
    if !tokens.contains(&token.as_str()) {
        problems.add(
            section.token.span(),
            format!("there is no [[token]] named \"{token}\""),
            "use the name of a [[token]] in this file",
        );
    }
    let uri = Uri::from_str(section.uri.get_ref())
        .map_err(|error| {
            problems.add(
                section.uri.span(),
                format!("the key's uri is not accepted: {error}"),
                "write pkcs11:object=LABEL;type=private (RFC 7512)",
            );
        })
        .ok();
    let certificate = problems.resolve(section.certificate.get_ref());
    let chain = certificate::read_chain(&certificate, &section.certificate, problems)?;
    let leaf = Leaf::read(&chain, &certificate, &section.certificate, problems)?;
    leaf.warn_of_missing_names(names, &certificate, &section.certificate, problems);
    let custody_min = check_minimum(section, levels, problems);
    let staple = section
        .ocsp
        .as_ref()
        .and_then(|at| read_staple(at, chain.first()?, problems));
    let (ocsp, ocsp_until) = staple.map_or((None, None), |(ocsp, until)| (Some(ocsp), until));
    Some(SiteKeyConfig {
        token: token.clone(),
        uri: uri?,
        chain,
        certificate,
        serial: leaf.serial,
        not_after: leaf.not_after,
        custody_min,
        ocsp,
        ocsp_until,
        spki: leaf.spki,
        line: problems.line(section.uri.span()),
    })
}

fn check_minimum(
    section: &raw::SiteKeySection,
    levels: Levels,
    problems: &mut Problems,
) -> CustodyLevel {
    let Some(asked) = &section.custody_min else {
        return levels.min;
    };
    let min = *asked.get_ref();
    if min > levels.max {
        problems.add(
            asked.span(),
            format!(
                "custody_min = \"{min}\" of the key is above the site's custody_max = \"{}\"",
                levels.max
            ),
            "raise custody_max or lower custody_min: the key would never be used",
        );
    } else if min < levels.min {
        problems.warn(
            asked.span(),
            format!(
                "custody_min = \"{min}\" of the key is below the site's \"{}\", which holds",
                levels.min
            ),
            "leave it out, or lower the site's and give each key its own",
        );
    }
    min.max(levels.min)
}

fn read_staple(
    at: &Spanned<PathBuf>,
    leaf: &CertificateDer<'_>,
    problems: &mut Problems,
) -> Option<(Vec<u8>, Option<SystemTime>)> {
    let response = files::read("ocsp", at, OCSP_BYTES_MAX, problems)?;
    let (_, leaf) = parse_x509_certificate(leaf).ok()?;
    let unfit = match ocsp::judge(&response, &leaf, SystemTime::now()) {
        Ok(staple) => return Some((response, staple.until)),
        Err(unfit) => unfit,
    };
    let what = format!(
        "ocsp {} is not stapled: {unfit}",
        problems.resolve(at.get_ref()).display()
    );
    let remedy = "fetch it again: openssl ocsp -issuer CA.pem -cert LEAF.pem -url … -respout FILE";
    if unfit.is_of_the_moment() {
        problems.warn(at.span(), what, remedy);
    } else {
        problems.add(at.span(), what, remedy);
    }
    None
}

/// It goes to clients beside the chain, in one reply.
const OCSP_BYTES_MAX: u64 = 8 * 1024;
