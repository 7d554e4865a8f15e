//! An OCSP response (RFC 6960, section 4.2.1) with times of the test's choice; its signature is nobody's.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest;
use x509_parser::{parse_x509_certificate, pem::parse_x509_pem, time::ASN1Time};

/// Says "good" of a certificate (PEM), from an hour ago until then.
pub(crate) fn good(certificate: &str, until: SystemTime) -> Vec<u8> {
    let (_, pem) = parse_x509_pem(certificate.as_bytes()).unwrap();
    let (_, leaf) = parse_x509_certificate(&pem.contents).unwrap();
    let issuer = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, leaf.issuer().as_raw());
    // SHA-1; the hash of the issuer's key is not looked at.
    let sha1 = element(0x30, &[&element(0x06, &[&[0x2b, 0x0e, 0x03, 0x02, 0x1a]])]);
    let cert_id = element(
        0x30,
        &[
            &sha1,
            &element(0x04, &[issuer.as_ref()]),
            &element(0x04, &[&[0; 20]]),
            &element(0x02, &[leaf.raw_serial()]),
        ],
    );
    let from = time(SystemTime::now() - Duration::from_secs(3600));
    let single = element(
        0x30,
        &[
            &cert_id,
            &element(0x80, &[]),
            &from,
            &element(0xa0, &[&time(until)]),
        ],
    );
    let by_key = element(0xa2, &[&element(0x04, &[&[0; 20]])]);
    let data = element(0x30, &[&by_key, &from, &element(0x30, &[&single])]);
    let no_signature = [element(0x30, &[]), element(0x03, &[&[0]])].concat();
    let basic = element(0x30, &[&data, &no_signature]);
    let kind = element(0x06, &[&[0x2b, 6, 1, 5, 5, 7, 0x30, 1, 1]]);
    let bytes = element(0x30, &[&kind, &element(0x04, &[&basic])]);
    element(0x30, &[&element(0x0a, &[&[0]]), &element(0xa0, &[&bytes])])
}

fn time(time: SystemTime) -> Vec<u8> {
    let seconds = time.duration_since(UNIX_EPOCH).unwrap().as_secs();
    let time = ASN1Time::from_timestamp(seconds as i64).unwrap();
    let time = time.to_datetime();
    let text = format!(
        "{:04}{:02}{:02}{:02}{:02}{:02}Z",
        time.year(),
        u8::from(time.month()),
        time.day(),
        time.hour(),
        time.minute(),
        time.second()
    );
    element(0x18, &[text.as_bytes()])
}

fn element(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let len = match u8::try_from(content.len()) {
        Ok(short @ 0..=0x7f) => vec![short],
        _ => vec![0x82, (content.len() >> 8) as u8, content.len() as u8],
    };
    [&[tag][..], &len, &content].concat()
}
