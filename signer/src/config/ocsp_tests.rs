//! Responses that OpenSSL made, at other times and for other certificates.

use std::time::UNIX_EPOCH;

use x509_parser::parse_x509_certificate;

use super::*;

const LEAF: &[u8] = include_bytes!("../../tests/data/ocsp/leaf.der");
const OTHER: &[u8] = include_bytes!("../../tests/data/ocsp/other.der");
const GOOD: &[u8] = include_bytes!("../../tests/data/ocsp/good.der");
/// CertID with SHA-256.
const SHA256: &[u8] = include_bytes!("../../tests/data/ocsp/sha256.der");
/// About the other certificate first, then about the leaf.
const BOTH: &[u8] = include_bytes!("../../tests/data/ocsp/both.der");
const ANOTHER: &[u8] = include_bytes!("../../tests/data/ocsp/another.der");
const REVOKED: &[u8] = include_bytes!("../../tests/data/ocsp/revoked.der");
const UNKNOWN: &[u8] = include_bytes!("../../tests/data/ocsp/unknown.der");
/// Without nextUpdate.
const ENDLESS: &[u8] = include_bytes!("../../tests/data/ocsp/endless.der");
const FAILED: &[u8] = include_bytes!("../../tests/data/ocsp/failed.der");
/// thisUpdate of all, within seconds.
const MADE: u64 = 1_795_574_430;
const WEEK: u64 = 7 * 86_400;

fn judge_at(response: &[u8], leaf: &[u8], seconds: u64) -> Result<Staple, Unfit> {
    let (_, leaf) = parse_x509_certificate(leaf).unwrap();
    judge(response, &leaf, UNIX_EPOCH + Duration::from_secs(seconds))
}

#[test]
fn a_good_response_is_stapled_until_its_next_update() {
    for response in [GOOD, SHA256, BOTH] {
        let staple = judge_at(response, LEAF, MADE + 60).unwrap();
        let until = staple.until.unwrap().duration_since(UNIX_EPOCH).unwrap();
        assert!((MADE + WEEK..MADE + WEEK + 60).contains(&until.as_secs()));
        assert_eq!(
            judge_at(response, LEAF, until.as_secs() - 1),
            Ok(staple),
            "a second before"
        );
        assert_eq!(
            judge_at(response, LEAF, until.as_secs()),
            Err(Unfit::Late),
            "then"
        );
    }
    let endless = judge_at(ENDLESS, LEAF, MADE + 100 * WEEK);
    assert_eq!(endless, Ok(Staple { until: None }));
}

#[test]
fn a_response_from_the_future_is_not_stapled() {
    assert_eq!(judge_at(GOOD, LEAF, MADE - 3600), Err(Unfit::Early));
}

#[test]
fn a_response_about_another_certificate_is_not_stapled() {
    assert_eq!(judge_at(ANOTHER, LEAF, MADE + 60), Err(Unfit::Another));
    assert_eq!(judge_at(GOOD, OTHER, MADE + 60), Err(Unfit::Another));
    assert!(judge_at(BOTH, OTHER, MADE + 60).is_ok());
}

#[test]
fn a_response_that_is_not_good_is_not_stapled() {
    assert_eq!(judge_at(REVOKED, LEAF, MADE + 60), Err(Unfit::Revoked));
    assert_eq!(judge_at(UNKNOWN, LEAF, MADE + 60), Err(Unfit::Unknown));
    assert_eq!(judge_at(FAILED, LEAF, MADE + 60), Err(Unfit::Unanswered(2)));
}

#[test]
fn what_is_no_response_is_refused_and_never_panics() {
    for no_response in [LEAF, b"", b"-----BEGIN", &[0x30, 0x84, 1, 1, 1, 1]] {
        assert_eq!(judge_at(no_response, LEAF, MADE + 60), Err(Unfit::Form));
    }
    for cut in 0..GOOD.len() {
        assert_eq!(judge_at(&GOOD[..cut], LEAF, MADE + 60), Err(Unfit::Form));
        let mut altered = GOOD.to_vec();
        for value in [0, 1, 0x30, 0x80, 0x83, 0xff] {
            altered[cut] = value;
            let _ = judge_at(&altered, LEAF, MADE + 60);
        }
    }
}
