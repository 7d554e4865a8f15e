//! Properties of the codec: every message survives the way, and nothing that arrives can do harm.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod frames;
mod strategies;

use frames::{decode_all, frame, good_key, raw, refused};
use keyhaven_types::{Direction, Secret};
use keyhaven_wire::{
    Binding, CLIENT_HELLO_BYTES_MAX, CONTINUE_BYTES_MAX, ConnectionId, Continue, Decoder,
    ErrorCode, Expect, Expected, FRAME_BYTES_MAX, FRAME_HEADER_BYTES, FrameError, HandshakeId,
    HandshakeReply, Locked, Message, Next, REKEY_STATE_BYTES_MAX, Rekey, Rekeyed, Reply, Request,
    Start, TrafficKey,
};
use proptest::{collection::vec, prelude::*, test_runner::FileFailurePersistence};
use strategies::{reply, request};

fn survives<T: Message>(messages: &[T], piece: usize) -> Result<(), TestCaseError> {
    let frames: Vec<Vec<u8>> = messages
        .iter()
        .zip(1..)
        .map(|(message, id)| frame(id, message))
        .collect();
    let arrived = decode_all::<T>(&frames.concat(), piece).unwrap();
    prop_assert_eq!(arrived.len(), messages.len());
    for ((id, message), sent) in arrived.iter().zip(&frames) {
        // Messages hold secrets, which do not compare; their encodings do.
        prop_assert_eq!(&frame(*id, message), sent);
    }
    Ok(())
}

fn cut_short_gives_nothing<T: Message>(message: &T) -> Result<(), TestCaseError> {
    let whole = frame(3, message);
    for end in 0..whole.len() {
        let mut decoder = Decoder::<T>::new();
        decoder.push(&whole[..end]);
        prop_assert!(matches!(decoder.next(), Ok(None)));
        prop_assert_eq!(decoder.is_empty(), end == 0);
    }
    // The same cut, with a length that owns up to it: never a message, since every byte belongs to a field.
    for end in 1..whole.len() - FRAME_HEADER_BYTES {
        let payload = &whole[FRAME_HEADER_BYTES..FRAME_HEADER_BYTES + end];
        prop_assert!(decode_all::<T>(&raw(payload), usize::MAX).is_err());
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 96,
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        ..ProptestConfig::default()
    })]

    #[test]
    fn requests_survive_the_way(messages in vec(request(), 1..6), piece in 1..5000_usize) {
        survives(&messages, piece)?;
    }

    #[test]
    fn replies_survive_the_way(messages in vec(reply(), 1..6), piece in 1..5000_usize) {
        survives(&messages, piece)?;
    }

    #[test]
    fn a_cut_request_is_never_a_message(message in request()) {
        cut_short_gives_nothing(&message)?;
    }

    #[test]
    fn a_cut_reply_is_never_a_message(message in reply()) {
        cut_short_gives_nothing(&message)?;
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..400), piece in 1..64_usize) {
        let _ = decode_all::<Request>(&bytes, piece);
        let _ = decode_all::<Reply>(&bytes, piece);
        if !bytes.is_empty() {
            let _ = decode_all::<Request>(&raw(&bytes), piece);
            let _ = decode_all::<Reply>(&raw(&bytes), piece);
        }
    }

    #[test]
    fn an_altered_byte_never_panics(message in reply(), at: prop::sample::Index, bit in 0..8_u8) {
        let mut bytes = frame(1, &message);
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        let _ = decode_all::<Reply>(&bytes, 17);
    }

    #[test]
    fn swapped_replies_fit_no_other_request(records in vec(vec(any::<u8>(), 1..100), 2..8), swap: prop::sample::Index) {
        let starts: Vec<Start> = records.iter().zip(0..).map(|(records, index)| Start {
            handshake: HandshakeId([index; 32]), client: String::new(), records: records.clone(),
        }).collect();
        let replies: Vec<Reply> = starts.iter().map(|start| Reply::Handshake(HandshakeReply {
            binding: start.binding(), consumed: 1, to_client: Vec::new(), next: Next::Refused { alert: 40 },
        })).collect();
        let shift = swap.index(starts.len());
        let count = starts.len();
        for (index, start) in starts.into_iter().enumerate() {
            let expected = Expected::of(&Request::Start(start));
            prop_assert_eq!(expected.accepts(&replies[(index + shift) % count]), shift == 0);
            prop_assert!(expected.accepts(&Reply::Error(ErrorCode::Busy)));
            prop_assert!(!expected.accepts(&Reply::Pong));
        }
    }
}

fn start(client: usize, records: usize) -> Request {
    Request::Start(Start {
        handshake: HandshakeId([1; 32]),
        client: "c".repeat(client),
        records: vec![0; records],
    })
}

fn locked(verify_data_len: u8, handshake_read: TrafficKey, sealed: usize) -> Reply {
    Reply::Handshake(HandshakeReply {
        binding: Binding([0; 32]),
        consumed: 0,
        to_client: Vec::new(),
        next: Next::Locked(Locked {
            handshake_read,
            verify_data_len,
            sealed_box: vec![0; sealed],
        }),
    })
}

#[test]
fn fields_out_of_bounds_are_refused() {
    frame(1, &start(64, CLIENT_HELLO_BYTES_MAX));
    refused(&start(65, 1));
    refused(&start(0, 0));
    refused(&start(0, CLIENT_HELLO_BYTES_MAX + 1));
    let next = |bytes| {
        Request::Continue(Continue {
            handshake: HandshakeId([0; 32]),
            records: vec![0; bytes],
        })
    };
    frame(1, &next(CONTINUE_BYTES_MAX));
    refused(&next(CONTINUE_BYTES_MAX + 1));
    let rekey = |generation, bytes| {
        Request::Rekey(Rekey {
            connection: ConnectionId([0; 32]),
            direction: Direction::Read,
            generation,
            state: vec![0; bytes],
        })
    };
    frame(1, &rekey(1, REKEY_STATE_BYTES_MAX));
    refused(&rekey(0, 1));
    refused(&rekey(1, REKEY_STATE_BYTES_MAX + 1));
    frame(1, &locked(32, good_key(), 17));
    refused(&locked(33, good_key(), 17));
    refused(&locked(48, good_key(), 16));
    refused(&locked(
        48,
        TrafficKey {
            key: Secret::new(vec![0; 16]),
            ..good_key()
        },
        17,
    ));
    refused(&locked(
        48,
        TrafficKey {
            iv: Secret::new(vec![0; 11]),
            ..good_key()
        },
        17,
    ));
    refused(&Reply::Alert {
        handshake: HandshakeId([0; 32]),
        record: vec![0; 65],
    });
    let rekeyed = |seq| {
        Reply::Rekeyed(Rekeyed {
            connection: ConnectionId([0; 32]),
            direction: Direction::Write,
            generation: 1,
            key: TrafficKey { seq, ..good_key() },
            state: vec![0; 1],
        })
    };
    frame(1, &rekeyed(0));
    refused(&rekeyed(1));
}

#[test]
fn frames_out_of_bounds_are_refused_by_their_header() {
    for bytes in [0, FRAME_BYTES_MAX + 1, u32::MAX as usize] {
        let mut header = u32::try_from(bytes).unwrap().to_be_bytes().to_vec();
        header.extend_from_slice(&[0; 8]);
        let error = decode_all::<Request>(&header, usize::MAX).unwrap_err();
        assert!(matches!(error, FrameError::Length { bytes: found } if found == bytes));
    }
}

#[test]
fn trailing_bytes_and_unknown_variants_are_refused() {
    let ping = postcard::to_allocvec(&Request::Ping).unwrap();
    let error = decode_all::<Request>(&raw(&[ping, vec![0]].concat()), usize::MAX).unwrap_err();
    assert!(matches!(error, FrameError::Trailing { bytes: 1 }));
    for payload in [[6], [0x7f]] {
        let error = decode_all::<Request>(&raw(&payload), usize::MAX).unwrap_err();
        assert!(matches!(error, FrameError::Malformed(_)));
    }
}

/// Numbers that `PROTOCOL.md` fixes: a reordered variant would change them.
#[test]
fn variants_keep_their_numbers() {
    let first = |bytes: Vec<u8>| bytes[0];
    assert_eq!(first(postcard::to_allocvec(&start(0, 1)).unwrap()), 0);
    assert_eq!(postcard::to_allocvec(&Request::Ping).unwrap(), [5]);
    assert_eq!(postcard::to_allocvec(&Reply::Noted).unwrap(), [1]);
    assert_eq!(postcard::to_allocvec(&Reply::Pong).unwrap(), [4]);
    assert_eq!(
        postcard::to_allocvec(&Reply::Error(ErrorCode::Internal)).unwrap(),
        [5, 6]
    );
    for (expect, number) in [
        (Expect::ClientHello, 0),
        (Expect::KeyExchange, 1),
        (Expect::ClientFlight, 2),
        (Expect::Finished, 3),
    ] {
        assert_eq!(postcard::to_allocvec(&expect).unwrap(), [number]);
    }
    assert_eq!(
        frame(0x0102, &Request::Ping),
        [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 2, 5]
    );
}

/// Computed with Python's hashlib.
#[test]
fn bindings_have_known_answers() {
    let handshake = HandshakeId(std::array::from_fn(|index| u8::try_from(index).unwrap()));
    let records = vec![0x16, 3, 1, 0, 1, 1];
    let hex = |binding: Binding| {
        binding
            .0
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    };
    let start = Start {
        handshake,
        client: "not bound".to_owned(),
        records: records.clone(),
    };
    assert_eq!(
        hex(start.binding()),
        "6a126fdbb2c26b2fbfe4b04da0cd9b3f3557938d63b1a4dba3882ef7d84a4d54"
    );
    let next = Continue { handshake, records };
    assert_eq!(
        hex(next.binding()),
        "152cd65d0f3e8c4698e89d67fad68d73183e380a62a23dcffb6e561ee2dd189c"
    );
}

#[test]
fn debug_output_shows_no_key() {
    let shown = format!("{:?}", locked(32, good_key(), 17));
    assert!(shown.contains("Secret(32 bytes)"), "{shown}");
    assert!(!shown.contains("1, 1, 1"), "{shown}");
}
