//! What a TLS client may send to the proxy, before and after the handshake: no panic, and no difference by how the
//! stream is cut. Records come raw or sealed under the right key, so that their contents are reached, too.

#![no_main]

use std::time::Instant;

use keyhaven_proxy::{
    flight::{
        ClientFlightReader, FinishedReader, FinishedStep, FlightPart, HelloReader,
        KeyExchangeReader, Tolerance,
    },
    record::{Generation, ReadKey, WriteKey},
    session::{Batch, Event, Inbound},
};
use keyhaven_types::{AeadAlgorithm, Secret, TlsVersion};
use keyhaven_wire::TrafficKey;
use libfuzzer_sys::fuzz_target;

/// Sealed with this content type, or raw.
type Part<'a> = (Option<u8>, &'a [u8]);

fuzz_target!(|input: (bool, u8, Vec<Part<'_>>)| {
    let (is_tls13, piece, parts) = input;
    let version = if is_tls13 {
        TlsVersion::Tls13
    } else {
        TlsVersion::Tls12
    };
    let stream = stream(version, &parts);
    let piece = usize::from(piece) + 1;
    let now = Instant::now();
    let whole = established(version, now, &stream, stream.len().max(1));
    assert_eq!(whole, established(version, now, &stream, piece));
    assert_eq!(
        finished(&stream, stream.len().max(1)),
        finished(&stream, piece)
    );
    for mut reader in [HelloReader::first(), HelloReader::second()] {
        let mut tolerance = Tolerance::default();
        tolerance.set_early_data(is_tls13);
        if let Ok(Some(hello)) = reader.read(&stream, &mut tolerance) {
            assert!(hello.end <= stream.len() && hello.records.len() <= hello.end);
        }
    }
    for mut reader in [KeyExchangeReader::default(), KeyExchangeReader::resumed()] {
        if let Ok(Some(len)) = reader.read(&stream) {
            assert!(len <= stream.len());
        }
    }
    assert_eq!(
        client_flight(&stream, stream.len().max(1)),
        client_flight(&stream, piece)
    );
});

fn key() -> TrafficKey {
    TrafficKey {
        aead: AeadAlgorithm::Aes128Gcm,
        key: Secret::new(vec![1; 16]),
        iv: Secret::new(vec![2; 12]),
        seq: 0,
    }
}

fn stream(version: TlsVersion, parts: &[Part<'_>]) -> Vec<u8> {
    let mut write = WriteKey::new(version, Generation::FIRST, &key()).expect("a good key");
    let mut out = Vec::new();
    for (content_type, bytes) in parts {
        match content_type {
            Some(content_type) => {
                // Too long a plaintext is refused and leaves nothing behind.
                let _ = write.seal(*content_type, bytes, &mut out);
            }
            None => out.extend_from_slice(bytes),
        }
    }
    out
}

/// All data, and the first thing that was none.
fn established(
    version: TlsVersion,
    now: Instant,
    stream: &[u8],
    piece: usize,
) -> (Vec<u8>, Option<String>) {
    let read = ReadKey::new(version, Generation::FIRST, &key()).expect("a good key");
    let mut inbound = Inbound::new(read, version, now);
    let (mut data, mut buffer, mut batch) = (Vec::new(), Vec::new(), Batch::default());
    for piece in stream.chunks(piece) {
        buffer.extend_from_slice(piece);
        loop {
            let event = inbound.read(now, &mut buffer, &mut batch);
            for range in &batch.data {
                data.extend_from_slice(&buffer[range.clone()]);
            }
            buffer.drain(..batch.consumed);
            match event {
                Ok(Event::More) => break,
                Ok(Event::Again) => {}
                other => return (data, Some(format!("{other:?}"))),
            }
        }
    }
    (data, None)
}

/// The verify_data or the refusal, if there is one.
fn finished(stream: &[u8], piece: usize) -> Option<Result<Vec<u8>, String>> {
    let read = ReadKey::new(TlsVersion::Tls13, Generation::FIRST, &key()).expect("a good key");
    let mut reader = FinishedReader::new(read, 32);
    let mut tolerance = Tolerance::default();
    let mut buffer = Vec::new();
    for piece in stream.chunks(piece) {
        buffer.extend_from_slice(piece);
        match reader.read(&mut buffer, &mut tolerance) {
            Ok(FinishedStep::More { consumed }) => drop(buffer.drain(..consumed)),
            Ok(FinishedStep::Done { verify_data, .. }) => {
                return Some(Ok(verify_data.expose_secret().to_vec()));
            }
            Err(error) => return Some(Err(format!("{error:?}"))),
        }
    }
    None
}

/// What goes on to the signer, and the first refusal.
fn client_flight(stream: &[u8], piece: usize) -> (Vec<Vec<u8>>, Option<String>) {
    let (mut reader, mut tolerance) = (ClientFlightReader::default(), Tolerance::default());
    let (mut passed, mut buffer) = (Vec::new(), Vec::new());
    for piece in stream.chunks(piece) {
        buffer.extend_from_slice(piece);
        loop {
            match reader.read(&buffer, &mut tolerance) {
                Ok(Some(FlightPart::Skipped { len })) => drop(buffer.drain(..len)),
                Ok(Some(FlightPart::Passed { len })) => passed.push(buffer.drain(..len).collect()),
                Ok(None) => break,
                Err(error) => return (passed, Some(format!("{error:?}"))),
            }
        }
    }
    (passed, None)
}
