//! Data, alerts, KeyUpdates and caps of an established connection, record by record.

use super::*;
use crate::{
    record::WriteKey,
    session::{Outbound, Rekeying},
};
use keyhaven_types::{AeadAlgorithm, Direction, Secret};
use keyhaven_wire::{ConnectionId, Rekeyed, TrafficKey};
use proptest::prelude::*;

fn key(byte: u8) -> TrafficKey {
    TrafficKey {
        aead: AeadAlgorithm::Aes128Gcm,
        key: Secret::new(vec![byte; 16]),
        iv: Secret::new(vec![byte; 12]),
        seq: 0,
    }
}

fn inbound(version: TlsVersion) -> Inbound {
    let key = ReadKey::new(version, Generation::FIRST, &key(1)).unwrap();
    Inbound::new(key, version, Instant::now())
}

fn sealed(version: TlsVersion, contents: &[(u8, &[u8])]) -> Vec<u8> {
    let mut write = WriteKey::new(version, Generation::FIRST, &key(1)).unwrap();
    let mut out = Vec::new();
    for (content_type, content) in contents {
        write.seal(*content_type, content, &mut out).unwrap();
    }
    out
}

/// Reads everything; the data, and what came after it.
fn read(inbound: &mut Inbound, bytes: &[u8]) -> (Vec<u8>, Result<Event, Fault>) {
    let mut buffer = bytes.to_vec();
    let mut batch = Batch::default();
    let mut data = Vec::new();
    let mut start = 0;
    loop {
        let event = inbound.read(Instant::now(), &mut buffer[start..], &mut batch);
        for range in &batch.data {
            data.extend_from_slice(&buffer[start..][range.clone()]);
        }
        start += batch.consumed;
        if event != Ok(Event::Again) {
            return (data, event);
        }
    }
}

fn alert_of(version: TlsVersion, contents: &[(u8, &[u8])]) -> Option<u8> {
    match read(&mut inbound(version), &sealed(version, contents)).1 {
        Err(Fault::Refused(refused)) => Some(refused.alert),
        _ => None,
    }
}

/// The next key as an answered question gives it.
fn next_key(rekeying: &mut Rekeying, byte: u8) -> NextKey {
    let asked = rekeying.ask().unwrap();
    let answer = Rekeyed {
        connection: asked.connection,
        direction: asked.direction,
        generation: asked.generation,
        key: key(byte),
        state: vec![byte],
    };
    rekeying.answer(answer).unwrap()
}

const TLS12: TlsVersion = TlsVersion::Tls12;
const TLS13: TlsVersion = TlsVersion::Tls13;
const UPDATE: &[u8] = &[24, 0, 0, 1, 0];

#[test]
fn data_and_close_notify_arrive_in_order() {
    for version in [TLS12, TLS13] {
        let bytes = sealed(
            version,
            &[(23, b"one "), (23, b""), (23, b"two"), (21, &[1, 0])],
        );
        let (data, event) = read(&mut inbound(version), &bytes);
        assert_eq!(
            (data.as_slice(), event),
            (&b"one two"[..], Ok(Event::CloseNotify))
        );
    }
}

#[test]
fn many_records_take_several_batches() {
    let contents = vec![(23, &b"x"[..]); 200];
    let (data, event) = read(&mut inbound(TLS13), &sealed(TLS13, &contents));
    assert_eq!((data.len(), event), (200, Ok(Event::More)));
}

#[test]
fn what_came_before_a_fault_is_still_there() {
    let bytes = sealed(TLS13, &[(23, b"kept"), (20, &[1])]);
    let (data, event) = read(&mut inbound(TLS13), &bytes);
    assert_eq!(data, b"kept");
    assert!(event.is_err());
}

#[test]
fn alerts_are_fatal_closing_or_counted() {
    let fatal = read(&mut inbound(TLS13), &sealed(TLS13, &[(21, &[2, 40])])).1;
    assert_eq!(fatal, Err(Fault::ClientAlert(40)));
    // In TLS 1.3 an error alert is fatal whatever its level says.
    let level = read(&mut inbound(TLS13), &sealed(TLS13, &[(21, &[1, 40])])).1;
    assert_eq!(level, Err(Fault::ClientAlert(40)));
    let warning: &[(u8, &[u8])] = &[(21, &[1, 100])];
    let tolerated = read(&mut inbound(TLS12), &sealed(TLS12, warning)).1;
    assert_eq!(tolerated, Ok(Event::More));
    let unexpected = Some(alert::UNEXPECTED_MESSAGE);
    assert_eq!(alert_of(TLS12, &[(21, &[1, 100][..]); 4]), None);
    assert_eq!(alert_of(TLS12, &[(21, &[1, 100][..]); 5]), unexpected);
    assert_eq!(alert_of(TLS13, &[(21, &[1, 90][..]); 5]), unexpected);
    assert_eq!(alert_of(TLS13, &[(21, &[2])]), Some(alert::DECODE_ERROR));
    let unexpected = Some(alert::UNEXPECTED_MESSAGE);
    assert_eq!(alert_of(TLS13, &[(21, &[])]), unexpected);
    assert_eq!(alert_of(TLS12, &[(21, &[])]), unexpected);
}

#[test]
fn empty_records_are_capped() {
    assert_eq!(alert_of(TLS13, &[(23, &[][..]); 32]), None);
    let unexpected = Some(alert::UNEXPECTED_MESSAGE);
    assert_eq!(alert_of(TLS13, &[(23, &[][..]); 33]), unexpected);
    assert_eq!(alert_of(TLS12, &[(23, &[][..]); 33]), unexpected);
}

#[test]
fn every_other_message_after_the_handshake_is_refused() {
    let unexpected = Some(alert::UNEXPECTED_MESSAGE);
    for message in [1u8, 4, 11, 13, 20] {
        assert_eq!(alert_of(TLS13, &[(22, &[message, 0, 0, 0])]), unexpected);
    }
    assert_eq!(alert_of(TLS13, &[(22, &[])]), unexpected);
    assert_eq!(alert_of(TLS13, &[(20, &[1])]), unexpected);
    assert_eq!(alert_of(TLS12, &[(20, &[1])]), unexpected);
    let unprotected = read(&mut inbound(TLS13), &[20, 3, 3, 0, 1, 1]).1;
    assert!(
        matches!(unprotected, Err(Fault::Refused(refused)) if Some(refused.alert) == unexpected)
    );
}

#[test]
fn renegotiation_is_refused() {
    for message in [0u8, 1] {
        let alert = alert_of(TLS12, &[(22, &[message, 0, 0, 0])]);
        assert_eq!(alert, Some(alert::NO_RENEGOTIATION));
    }
    assert_eq!(
        alert_of(TLS12, &[(22, &[16, 0, 0, 0])]),
        Some(alert::UNEXPECTED_MESSAGE)
    );
}

#[test]
fn a_key_update_has_one_form() {
    let unexpected = Some(alert::UNEXPECTED_MESSAGE);
    assert_eq!(
        alert_of(TLS13, &[(22, &[24, 0, 0, 1, 2])]),
        Some(alert::ILLEGAL_PARAMETER)
    );
    assert_eq!(
        alert_of(TLS13, &[(22, &[24, 0, 0, 2, 0])]),
        Some(alert::DECODE_ERROR)
    );
    assert_eq!(alert_of(TLS13, &[(22, &[24, 0, 0, 1, 0, 24])]), unexpected);
    assert_eq!(alert_of(TLS13, &[(22, &[24, 0]), (23, b"x")]), unexpected);
    let fragmented = sealed(TLS13, &[(22, &[24]), (22, &[0, 0, 1]), (22, &[1])]);
    let event = read(&mut inbound(TLS13), &fragmented).1;
    assert_eq!(event, Ok(Event::KeyUpdate { requested: true }));
}

#[test]
fn nothing_is_read_between_a_key_update_and_the_next_key() {
    let mut inbound = inbound(TLS13);
    let mut write = WriteKey::new(TLS13, Generation::FIRST, &key(1)).unwrap();
    let mut rekeying = Rekeying::new(ConnectionId([1; 32]), Direction::Read, vec![0]);
    // Two KeyUpdates in one segment, each followed by data under its key (security rule T2).
    let mut bytes = Vec::new();
    for generation in 1..=2u8 {
        write.seal(22, UPDATE, &mut bytes).unwrap();
        write = WriteKey::new(TLS13, Generation(generation.into()), &key(1 + generation)).unwrap();
        write.seal(23, &[generation], &mut bytes).unwrap();
    }
    let mut batch = Batch::default();
    let mut start = 0;
    for generation in 1..=2u8 {
        let event = inbound.read(Instant::now(), &mut bytes[start..], &mut batch);
        assert_eq!(event, Ok(Event::KeyUpdate { requested: false }));
        start += batch.consumed;
        let waiting = inbound.read(Instant::now(), &mut bytes[start..], &mut batch);
        assert_eq!((waiting, batch.consumed), (Ok(Event::More), 0));
        inbound
            .install(next_key(&mut rekeying, 1 + generation))
            .unwrap();
        assert_eq!(inbound.generation(), Generation(generation.into()));
    }
    let event = inbound.read(Instant::now(), &mut bytes[start..], &mut batch);
    assert_eq!((event, batch.data.len()), (Ok(Event::More), 1));
}

#[test]
fn a_key_is_installed_only_after_a_key_update_and_never_the_same_again() {
    let mut inbound = inbound(TLS13);
    let mut rekeying = Rekeying::new(ConnectionId([1; 32]), Direction::Read, vec![0]);
    let early = next_key(&mut rekeying, 2);
    assert_eq!(inbound.install(early), Err(RekeyError::Unfit));

    let mut rekeying = Rekeying::new(ConnectionId([1; 32]), Direction::Read, vec![0]);
    let event = read(&mut inbound, &sealed(TLS13, &[(22, UPDATE)])).1;
    assert_eq!(event, Ok(Event::KeyUpdate { requested: false }));
    let same = next_key(&mut rekeying, 1);
    assert_eq!(inbound.install(same), Err(RekeyError::Unfit));
}

#[test]
fn key_updates_are_budgeted_but_for_the_one_we_asked_for() {
    let mut inbound = inbound(TLS13);
    let mut rekeying = Rekeying::new(ConnectionId([1; 32]), Direction::Read, vec![0]);
    let mut update = |inbound: &mut Inbound, generation: u8| {
        let key_now = key(1 + generation);
        let mut write = WriteKey::new(TLS13, Generation(0), &key_now).unwrap();
        let mut bytes = Vec::new();
        write.seal(22, UPDATE, &mut bytes).unwrap();
        let event = read(inbound, &bytes).1?;
        inbound
            .install(next_key(&mut rekeying, 2 + generation))
            .unwrap();
        Ok::<Event, Fault>(event)
    };
    inbound.expect_update();
    for generation in 0..5 {
        assert!(update(&mut inbound, generation).is_ok(), "{generation}");
    }
    assert!(matches!(update(&mut inbound, 5), Err(Fault::Refused(_))));
}

#[test]
fn the_writer_says_a_key_update_under_the_old_key() {
    let write = WriteKey::new(TLS13, Generation::FIRST, &key(1)).unwrap();
    let mut outbound = Outbound::new(write, TLS13, 6);
    let mut rekeying = Rekeying::new(ConnectionId([1; 32]), Direction::Write, vec![0]);
    let mut sent = Vec::new();
    for _ in 0..4 {
        assert!(!outbound.is_key_spent());
        outbound.slots()[0][..2].copy_from_slice(b"ok");
        outbound.seal_slots(2).unwrap();
        sent.extend_from_slice(outbound.pending());
        outbound.advance(usize::MAX);
    }
    assert!(outbound.is_key_spent() && outbound.slots().is_empty());
    outbound
        .update_key(next_key(&mut rekeying, 2), true)
        .unwrap();
    outbound.close_notify().unwrap();
    assert!(
        outbound.fatal_alert(80).is_err(),
        "nothing follows close_notify"
    );
    sent.extend_from_slice(outbound.pending());

    let mut reader = inbound(TLS13);
    let (data, event) = read(&mut reader, &sent);
    assert_eq!(
        (data.as_slice(), event),
        (&b"okokokok"[..], Ok(Event::KeyUpdate { requested: true }))
    );
    let mut same = Rekeying::new(ConnectionId([1; 32]), Direction::Read, vec![0]);
    reader.install(next_key(&mut same, 2)).unwrap();
    let last = sent.len() - (5 + 2 + 1 + 16);
    assert_eq!(read(&mut reader, &sent[last..]).1, Ok(Event::CloseNotify));
}

#[test]
fn full_slots_are_one_unbroken_run_of_records() {
    for (version, aead) in [
        (TLS12, AeadAlgorithm::Aes256Gcm),
        (TLS12, AeadAlgorithm::Chacha20Poly1305),
        (TLS13, AeadAlgorithm::Aes256Gcm),
    ] {
        let traffic = || TrafficKey {
            aead,
            key: Secret::new(vec![1; 32]),
            ..key(1)
        };
        let write = WriteKey::new(version, Generation::FIRST, &traffic()).unwrap();
        let mut outbound = Outbound::new(write, version, 1000);
        let mut plain = Vec::new();
        for (number, slot) in outbound.slots().into_iter().enumerate() {
            slot.fill(number as u8);
            plain.extend_from_slice(slot);
        }
        let bytes = plain.len() - 1000;
        outbound.seal_slots(bytes).unwrap();
        let read_key = ReadKey::new(version, Generation::FIRST, &traffic()).unwrap();
        let mut inbound = Inbound::new(read_key, version, Instant::now());
        let (data, event) = read(&mut inbound, outbound.pending());
        assert_eq!((data.len(), event), (bytes, Ok(Event::More)));
        assert!(data == plain[..bytes]);
    }
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), tls13 in any::<bool>()) {
        let version = if tls13 { TLS13 } else { TLS12 };
        let (data, _) = read(&mut inbound(version), &bytes);
        prop_assert!(data.is_empty());
    }

    #[test]
    fn no_handshake_content_makes_it_panic(content in prop::collection::vec(any::<u8>(), 0..12)) {
        let (data, _) = read(&mut inbound(TLS13), &sealed(TLS13, &[(22, &content)]));
        prop_assert!(data.is_empty());
    }
}
