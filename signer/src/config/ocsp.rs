//! An OCSP response as a file holds it: whether it can be stapled to a certificate now.
//!
//! Reads just enough of the DER (RFC 6960, section 4.2.1) to tell whose status it gives and how long. The signature
//! is for the client to verify. Invariant: what is stapled says "good", of this certificate, and is current.

use std::time::{Duration, SystemTime};

use aws_lc_rs::digest;
use x509_parser::{certificate::X509Certificate, prelude::FromDer as _, time::ASN1Time};

use super::certificate::system_time;

/// A response that can be stapled.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Staple {
    /// When it must be stapled no more; none: the responder does not say.
    pub(super) until: Option<SystemTime>,
}

/// Why a response is not stapled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unfit {
    /// It is no such structure at all.
    #[error("it is not an OCSP response in DER")]
    Form,
    /// The responder gave an error instead (RFC 6960, section 4.2.1).
    #[error("the responder gave no answer, but status {0}")]
    Unanswered(u8),
    /// It is about other certificates.
    #[error("it is about another certificate")]
    Another,
    /// The certificate is revoked.
    #[error("it says that the certificate is revoked")]
    Revoked,
    /// The responder does not know the certificate.
    #[error("the responder does not know the certificate")]
    Unknown,
    /// thisUpdate is ahead.
    #[error("it is not valid yet")]
    Early,
    /// nextUpdate is past.
    #[error("it is out of date: its nextUpdate is past")]
    Late,
}

impl Unfit {
    /// Whether a newer file will do: a certificate is often renewed before its response is.
    pub(super) fn is_of_the_moment(self) -> bool {
        self != Self::Form
    }
}

/// Judges a response for a certificate.
pub(super) fn judge(
    response: &[u8],
    leaf: &X509Certificate<'_>,
    now: SystemTime,
) -> Result<Staple, Unfit> {
    let singles = single_responses(response)?;
    let mut rest = singles;
    while !rest.is_empty() {
        let (single, after) = tagged(rest, SEQUENCE).ok_or(Unfit::Form)?;
        rest = after;
        let (cert_id, single) = tagged(single, SEQUENCE).ok_or(Unfit::Form)?;
        if names(cert_id, leaf).ok_or(Unfit::Form)? {
            return judge_single(single, now);
        }
    }
    Err(Unfit::Another)
}

/// The contents of ResponseData.responses.
fn single_responses(response: &[u8]) -> Result<&[u8], Unfit> {
    let (outer, after) = tagged(response, SEQUENCE).ok_or(Unfit::Form)?;
    let (status, outer) = tagged(outer, ENUMERATED).ok_or(Unfit::Form)?;
    match (status, after) {
        ([0], []) => {}
        ([status], []) => return Err(Unfit::Unanswered(*status)),
        _ => return Err(Unfit::Form),
    }
    responses_of(outer).ok_or(Unfit::Form)
}

fn responses_of(response_bytes: &[u8]) -> Option<&[u8]> {
    let (explicit, _) = tagged(response_bytes, CONTEXT_0)?;
    let (bytes, _) = tagged(explicit, SEQUENCE)?;
    let (kind, bytes) = tagged(bytes, OBJECT_IDENTIFIER)?;
    let (basic, _) = tagged(bytes, OCTET_STRING)?;
    let (basic, _) = tagged(basic, SEQUENCE)?;
    let (data, _) = tagged(basic, SEQUENCE)?;
    // version [0] DEFAULT v1, responderID, producedAt.
    let data = tagged(data, CONTEXT_0).map_or(data, |(_, rest)| rest);
    let (_, _, data) = element(data)?;
    let (_, data) = tagged(data, GENERALIZED_TIME)?;
    let (responses, _) = tagged(data, SEQUENCE)?;
    (kind == PKIX_OCSP_BASIC).then_some(responses)
}

/// Whether a CertID is the certificate's: serial number and, where the hash is known, the issuer's name.
fn names(cert_id: &[u8], leaf: &X509Certificate<'_>) -> Option<bool> {
    let (_, rest) = tagged(cert_id, SEQUENCE)?;
    let (issuer, rest) = tagged(rest, OCTET_STRING)?;
    let (_, rest) = tagged(rest, OCTET_STRING)?;
    let (serial, _) = tagged(rest, INTEGER)?;
    let name = leaf.issuer().as_raw();
    let is_issuer = match issuer.len() {
        20 => digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, name).as_ref() == issuer,
        32 => digest::digest(&digest::SHA256, name).as_ref() == issuer,
        _ => true,
    };
    Some(is_issuer && serial == leaf.raw_serial())
}

/// certStatus, thisUpdate, nextUpdate [0] OPTIONAL.
fn judge_single(single: &[u8], now: SystemTime) -> Result<Staple, Unfit> {
    let (status, _, rest) = element(single).ok_or(Unfit::Form)?;
    match status {
        GOOD => {}
        REVOKED => return Err(Unfit::Revoked),
        UNKNOWN => return Err(Unfit::Unknown),
        _ => return Err(Unfit::Form),
    }
    let (from, rest) = time(rest).ok_or(Unfit::Form)?;
    let until = match tagged(rest, CONTEXT_0) {
        Some((explicit, _)) => Some(time(explicit).ok_or(Unfit::Form)?.0),
        None => None,
    };
    if from > now + CLOCK_SKEW {
        return Err(Unfit::Early);
    }
    if until.is_some_and(|until| until <= now) {
        return Err(Unfit::Late);
    }
    Ok(Staple { until })
}

fn time(bytes: &[u8]) -> Option<(SystemTime, &[u8])> {
    let (_, rest) = tagged(bytes, GENERALIZED_TIME)?;
    let (_, time) = ASN1Time::from_der(&bytes[..bytes.len() - rest.len()]).ok()?;
    Some((system_time(time), rest))
}

/// The content of the first element, if it has this tag, and what follows it.
fn tagged(bytes: &[u8], wanted: u8) -> Option<(&[u8], &[u8])> {
    let (tag, content, rest) = element(bytes)?;
    (tag == wanted).then_some((content, rest))
}

/// One DER element: tag, content, and what follows.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (len, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x83 => {
            let (len, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            let len = len
                .iter()
                .fold(0, |len, byte| len << 8 | usize::from(*byte));
            (len, rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(len)?;
    Some((tag, content, rest))
}

const INTEGER: u8 = 0x02;
const OCTET_STRING: u8 = 0x04;
const OBJECT_IDENTIFIER: u8 = 0x06;
const ENUMERATED: u8 = 0x0a;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const CONTEXT_0: u8 = 0xa0;
/// CertStatus: good \[0\] IMPLICIT NULL, revoked \[1\] IMPLICIT SEQUENCE, unknown \[2\] IMPLICIT NULL.
const GOOD: u8 = 0x80;
const REVOKED: u8 = 0xa1;
const UNKNOWN: u8 = 0x82;
/// 1.3.6.1.5.5.7.48.1.1, id-pkix-ocsp-basic.
const PKIX_OCSP_BASIC: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x30, 0x01, 0x01];
/// How far a responder's clock may be ahead.
const CLOCK_SKEW: Duration = Duration::from_secs(300);

#[cfg(test)]
#[path = "ocsp_tests.rs"]
mod tests;
