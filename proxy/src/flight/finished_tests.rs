//! Every form a Finished may take, and the alert for every form it may not take.

use super::*;
use crate::record::{Generation, WriteKey};
use keyhaven_types::{AeadAlgorithm, Secret, TlsVersion, alert};
use keyhaven_wire::TrafficKey;

fn key(byte: u8) -> TrafficKey {
    TrafficKey {
        aead: AeadAlgorithm::Aes128Gcm,
        key: Secret::new(vec![byte; 16]),
        iv: Secret::new(vec![byte; 12]),
        seq: 0,
    }
}

fn writer(byte: u8) -> WriteKey {
    WriteKey::new(TlsVersion::Tls13, Generation::FIRST, &key(byte)).unwrap()
}

fn reader() -> FinishedReader {
    let key = ReadKey::new(TlsVersion::Tls13, Generation::FIRST, &key(1)).unwrap();
    FinishedReader::new(key, 32)
}

fn finished() -> Vec<u8> {
    [&[20, 0, 0, 32][..], &[0x5a; 32]].concat()
}

/// Seals each content, in order, as the client's handshake records.
fn sealed(contents: &[(u8, &[u8])]) -> Vec<u8> {
    let mut write = writer(1);
    let mut out = Vec::new();
    for (content_type, content) in contents {
        write.seal(*content_type, content, &mut out).unwrap();
    }
    out
}

fn read(bytes: &[u8]) -> Result<Option<(usize, Vec<u8>)>, FlightError> {
    read_with(bytes, &mut Tolerance::default())
}

fn read_with(
    bytes: &[u8],
    tolerance: &mut Tolerance,
) -> Result<Option<(usize, Vec<u8>)>, FlightError> {
    match reader().read(&mut bytes.to_vec(), tolerance)? {
        FinishedStep::More { .. } => Ok(None),
        FinishedStep::Done {
            consumed,
            verify_data,
        } => Ok(Some((consumed, verify_data.expose_secret().to_vec()))),
    }
}

#[test]
fn no_trace_of_verify_data_stays_in_the_buffer() {
    let rest = b"what follows";
    let flight = sealed(&[(22, &finished()[..9]), (22, &finished()[9..])]);
    let mut buffer = [&flight[..], rest].concat();
    let mut tolerance = Tolerance::default();
    let step = reader().read(&mut buffer, &mut tolerance);
    assert!(matches!(step, Ok(FinishedStep::Done { .. })));
    let (used, unused) = buffer.split_at(flight.len());
    assert!(used.iter().all(|&byte| byte == 0));
    assert_eq!(unused, rest);
    let mut too_long = sealed(&[(22, &[&finished()[..], &[1]].concat())]);
    assert!(reader().read(&mut too_long, &mut tolerance).is_err());
    assert!(too_long.iter().all(|&byte| byte == 0));
}

fn alert_of(bytes: &[u8]) -> Option<u8> {
    match read(bytes) {
        Err(FlightError::Refused(refused)) => Some(refused.alert),
        _ => None,
    }
}

const CHANGE: &[u8] = &[20, 3, 3, 0, 1, 1];

#[test]
fn a_finished_is_read_whole_fragmented_and_behind_a_change() {
    let whole = sealed(&[(22, &finished())]);
    let more = [whole.clone(), vec![23, 3, 3]].concat();
    assert_eq!(read(&more), Ok(Some((whole.len(), vec![0x5a; 32]))));
    let changed = [CHANGE, CHANGE, &whole].concat();
    assert_eq!(read(&changed), Ok(Some((changed.len(), vec![0x5a; 32]))));
    let message = finished();
    for size in 1..message.len() {
        let parts: Vec<(u8, &[u8])> = message.chunks(size).map(|part| (22, part)).collect();
        let bytes = sealed(&parts);
        assert_eq!(read(&bytes), Ok(Some((bytes.len(), vec![0x5a; 32]))));
    }
}

#[test]
fn it_waits_at_every_cut() {
    let message = finished();
    let bytes = [CHANGE, &sealed(&[(22, &message[..9]), (22, &message[9..])])].concat();
    let mut reader = reader();
    let mut tolerance = Tolerance::default();
    let mut start = 0;
    for cut in 0..=bytes.len() {
        let mut unread = bytes[start..cut].to_vec();
        match reader.read(&mut unread, &mut tolerance).unwrap() {
            FinishedStep::More { consumed } => start += consumed,
            FinishedStep::Done { consumed, .. } => {
                assert_eq!((cut, start + consumed), (bytes.len(), bytes.len()));
                return;
            }
        }
    }
    panic!("the Finished was not found");
}

#[test]
fn each_malformed_finished_has_its_alert() {
    let message = finished();
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut changed = message.clone();
        change(&mut changed);
        alert_of(&sealed(&[(22, &changed)]))
    };
    assert_eq!(with(&|m| m[0] = 24), Some(alert::UNEXPECTED_MESSAGE));
    assert_eq!(with(&|m| m[3] = 31), Some(alert::DECODE_ERROR));
    assert_eq!(with(&|m| m[1] = 1), Some(alert::DECODE_ERROR));
    assert_eq!(with(&|m| m.push(0)), Some(alert::UNEXPECTED_MESSAGE));
    // A KeyUpdate in the same record: keys change at record boundaries only.
    let with_update = |m: &mut Vec<u8>| m.extend([24, 0, 0, 1, 0]);
    assert_eq!(with(&with_update), Some(alert::UNEXPECTED_MESSAGE));

    assert_eq!(
        alert_of(&sealed(&[(21, &[])])),
        Some(alert::UNEXPECTED_MESSAGE)
    );
    assert_eq!(
        alert_of(&sealed(&[(22, &[])])),
        Some(alert::UNEXPECTED_MESSAGE)
    );
    assert_eq!(
        alert_of(&sealed(&[(23, b"x")])),
        Some(alert::UNEXPECTED_MESSAGE)
    );
    assert_eq!(
        alert_of(&sealed(&[(20, &[1])])),
        Some(alert::UNEXPECTED_MESSAGE)
    );
    assert_eq!(
        alert_of(&[22, 3, 3, 0, 1, 20]),
        Some(alert::UNEXPECTED_MESSAGE)
    );
    assert_eq!(alert_of(&[23, 3, 3, 0x41, 1]), Some(alert::RECORD_OVERFLOW));
    assert_eq!(
        alert_of(&[23, 3, 3, 0, 3, 1, 2, 3]),
        Some(alert::BAD_RECORD_MAC)
    );
    let mut broken = sealed(&[(22, &message)]);
    broken[20] ^= 1;
    assert_eq!(alert_of(&broken), Some(alert::BAD_RECORD_MAC));
}

#[test]
fn unprotected_records_end_with_the_first_protected_one() {
    let message = finished();
    let begun = sealed(&[(22, &message[..9])]);
    let then = |record: &[u8]| alert_of(&[&begun, record].concat());
    assert_eq!(then(CHANGE), Some(alert::UNEXPECTED_MESSAGE));
    assert_eq!(
        then(&[21, 3, 3, 0, 2, 2, 48]),
        Some(alert::UNEXPECTED_MESSAGE)
    );
    assert_eq!(alert_of(&CHANGE.repeat(3)), Some(alert::UNEXPECTED_MESSAGE));
    assert_eq!(
        alert_of(&[20, 3, 3, 0, 1, 2]),
        Some(alert::UNEXPECTED_MESSAGE)
    );
}

#[test]
fn a_client_may_leave_in_both_forms() {
    let plain = read(&[21, 3, 3, 0, 2, 2, 48]);
    assert_eq!(plain, Err(FlightError::ClientAlert(48)));
    let protected = read(&sealed(&[(21, &[2, 42])]));
    assert_eq!(protected, Err(FlightError::ClientAlert(42)));
    let words = protected.unwrap_err().to_string();
    assert!(words.ends_with("alert 42 bad_certificate"), "{words}");
}

#[test]
fn refused_early_data_is_skipped_when_it_was_offered_and_only_so_much() {
    let mut early = Vec::new();
    let mut other = writer(9);
    for _ in 0..8 {
        other.seal(23, &[7; 2000], &mut early).unwrap();
    }
    let bytes = [CHANGE, &early, &sealed(&[(22, &finished())])].concat();
    assert_eq!(alert_of(&bytes), Some(alert::BAD_RECORD_MAC));
    let mut tolerance = Tolerance::default();
    tolerance.set_early_data(true);
    let done = read_with(&bytes, &mut tolerance);
    assert_eq!(done, Ok(Some((bytes.len(), vec![0x5a; 32]))));

    let mut tolerance = Tolerance::default();
    tolerance.set_early_data(true);
    let flood = [early.clone(), early].concat();
    assert!(read_with(&flood, &mut tolerance).is_err());
}
