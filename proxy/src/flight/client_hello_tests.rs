//! ClientHellos cut everywhere, fragmented anyhow, too long, and everything that is none.

use super::*;
use proptest::prelude::*;

/// A ClientHello message with these extensions.
fn message(extensions: &[(u16, &[u8])]) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend_from_slice(&[5; 32]);
    body.extend_from_slice(&[0, 0, 2, 0x13, 0x01, 1, 0]);
    let mut list = Vec::new();
    for (kind, content) in extensions {
        list.extend_from_slice(&kind.to_be_bytes());
        list.extend_from_slice(&(content.len() as u16).to_be_bytes());
        list.extend_from_slice(content);
    }
    body.extend_from_slice(&(list.len() as u16).to_be_bytes());
    body.extend_from_slice(&list);
    let mut message = vec![CLIENT_HELLO, 0, (body.len() >> 8) as u8, body.len() as u8];
    message.extend_from_slice(&body);
    message
}

fn name_extension(name: &str) -> Vec<u8> {
    let len = name.len() as u16;
    let mut content = (len + 3).to_be_bytes().to_vec();
    content.push(0);
    content.extend_from_slice(&len.to_be_bytes());
    content.extend_from_slice(name.as_bytes());
    content
}

fn record(content_type: u8, fragment: &[u8]) -> Vec<u8> {
    let len = fragment.len();
    let mut record = vec![content_type, 3, 1, (len >> 8) as u8, len as u8];
    record.extend_from_slice(fragment);
    record
}

fn fragmented(message: &[u8], size: usize) -> Vec<u8> {
    message
        .chunks(size)
        .flat_map(|part| record(22, part))
        .collect()
}

fn read(bytes: &[u8]) -> Result<Option<Hello>, FlightError> {
    HelloReader::first().read(bytes, &mut Tolerance::default())
}

fn alert_of(bytes: &[u8]) -> Option<u8> {
    match read(bytes) {
        Err(FlightError::Refused(refused)) => Some(refused.alert),
        _ => None,
    }
}

#[test]
fn it_stops_exactly_at_the_end_at_every_cut_and_every_fragment_size() {
    let message = message(&[(0, &name_extension("example.org")), (42, b"")]);
    for size in [1, 2, 3, 7, 50, 4096] {
        let records = fragmented(&message, size);
        let mut reader = HelloReader::first();
        let mut tolerance = Tolerance::default();
        for cut in 0..records.len() {
            let read = reader.read(&records[..cut], &mut tolerance);
            assert_eq!(read, Ok(None), "{size} {cut}");
        }
        let with_more = [records.clone(), record(20, &[1])].concat();
        let hello = reader.read(&with_more, &mut tolerance).unwrap().unwrap();
        assert_eq!(hello.end, records.len());
        assert_eq!(hello.records, records);
        assert_eq!(hello.facts.server_name.as_deref(), Some("example.org"));
        assert!(hello.facts.early_data);
    }
}

#[test]
fn other_protocols_are_refused_with_their_alert() {
    assert_eq!(
        alert_of(b"GET / HTTP/1.1\r\n"),
        Some(alert::UNEXPECTED_MESSAGE)
    );
    assert_eq!(alert_of(b"P"), Some(alert::UNEXPECTED_MESSAGE));
    assert_eq!(alert_of(b"\0\0\0"), Some(alert::UNEXPECTED_MESSAGE));
    assert_eq!(alert_of(&[0x80, 0x2e]), None);
    assert_eq!(
        alert_of(&[0x80, 0x2e, 1, 0, 2]),
        Some(alert::PROTOCOL_VERSION)
    );
    assert_eq!(alert_of(&[0x80, 0x2e, 9]), Some(alert::UNEXPECTED_MESSAGE));
    assert_eq!(alert_of(&[22, 2]), Some(alert::PROTOCOL_VERSION));
}

#[test]
fn other_records_are_refused_and_an_alert_is_not_answered() {
    assert_eq!(alert_of(&record(20, &[1])), Some(alert::UNEXPECTED_MESSAGE));
    assert_eq!(alert_of(&record(23, &[1])), Some(alert::UNEXPECTED_MESSAGE));
    assert_eq!(
        alert_of(&record(22, &[2, 0, 0, 0])),
        Some(alert::UNEXPECTED_MESSAGE)
    );
    assert_eq!(alert_of(&record(22, &[])), Some(alert::UNEXPECTED_MESSAGE));
    assert_eq!(alert_of(&record(21, &[2])), Some(alert::DECODE_ERROR));
    assert_eq!(
        read(&record(21, &[2, 40])),
        Err(FlightError::ClientAlert(40))
    );
}

#[test]
fn too_long_is_refused_on_the_announcement() {
    assert_eq!(alert_of(&[22, 3, 1, 0x40, 1]), Some(alert::RECORD_OVERFLOW));
    // A record of exactly 16 KiB and its header is beyond the cap of both together.
    assert_eq!(alert_of(&[22, 3, 1, 0x40, 0]), Some(alert::DECODE_ERROR));
    assert_eq!(
        alert_of(&record(22, &[1, 1, 0, 0])),
        Some(alert::DECODE_ERROR)
    );
    let full = fragmented(&[&[1, 0, 0x3f, 0xf0][..], &[0; 16_000]].concat(), 8_000);
    let over = [full, vec![22, 3, 1, 2, 0]].concat();
    assert_eq!(alert_of(&over), Some(alert::DECODE_ERROR));
    let mut many = fragmented(&[&[1, 0, 8, 0][..], &[0; FRAGMENTS_MAX]].concat(), 1);
    many.truncate(6 * (FRAGMENTS_MAX + 1));
    assert_eq!(alert_of(&many), Some(alert::DECODE_ERROR));
}

#[test]
fn nothing_may_follow_in_the_last_record() {
    let mut message = message(&[]);
    message.push(0);
    assert_eq!(
        alert_of(&record(22, &message)),
        Some(alert::UNEXPECTED_MESSAGE)
    );
}

#[test]
fn a_second_hello_may_follow_changes_and_skipped_early_data() {
    let hello = fragmented(&message(&[]), 20);
    let early = record(23, &[9; 600]);
    let change = record(20, &[1]);
    let bytes = [&change[..], &early, &change, &hello].concat();
    let mut tolerance = Tolerance::default();
    let refused = HelloReader::second().read(&bytes, &mut Tolerance::default());
    assert!(refused.is_err(), "early data was not offered");
    tolerance.set_early_data(true);
    let found = HelloReader::second()
        .read(&bytes, &mut tolerance)
        .unwrap()
        .unwrap();
    assert_eq!((found.end, found.records), (bytes.len(), hello));
    let third = HelloReader::second().read(&change, &mut tolerance);
    assert!(third.is_err(), "two changes were used up");

    let mut tolerance = Tolerance::default();
    tolerance.set_early_data(true);
    let flood = record(23, &[9; 16_384]).repeat(2);
    assert!(HelloReader::second().read(&flood, &mut tolerance).is_err());
}

#[test]
fn a_name_that_could_forge_a_log_line_is_not_taken() {
    for bad in ["a\nb", "", &"a".repeat(254)] {
        let message = message(&[(0, &name_extension(bad))]);
        let hello = read(&record(22, &message)).unwrap().unwrap();
        assert!(hello.facts.server_name.is_none_or(|name| name.is_empty()));
    }
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), second in any::<bool>()) {
        let mut reader = if second { HelloReader::second() } else { HelloReader::first() };
        let _ = reader.read(&bytes, &mut Tolerance::default());
        let mut framed = vec![1, 0, (bytes.len() >> 8) as u8, bytes.len() as u8];
        framed.extend_from_slice(&bytes);
        let complete = matches!(read(&record(22, &framed)), Ok(Some(_)));
        prop_assert!(complete);
    }
}
