//! Messages as frames and back, and what a hostile peer may send in their place.

#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "shared by the tests beside it"
)]

use keyhaven_types::{AeadAlgorithm, Secret};
use keyhaven_wire::{Decoder, FrameError, Message, TrafficKey, encode};

pub fn frame<T: Message>(id: u64, message: &T) -> Vec<u8> {
    let mut out = Vec::new();
    encode(id, message, &mut out).unwrap();
    out
}

/// A frame with any payload, as a hostile peer may send it.
pub fn raw(payload: &[u8]) -> Vec<u8> {
    let mut out = u32::try_from(payload.len()).unwrap().to_be_bytes().to_vec();
    out.extend_from_slice(&7_u64.to_be_bytes());
    out.extend_from_slice(payload);
    out
}

/// Everything a decoder gives for a stream that comes in pieces of this size.
pub fn decode_all<T: Message>(stream: &[u8], piece: usize) -> Result<Vec<(u64, T)>, FrameError> {
    let mut decoder = Decoder::new();
    let mut messages = Vec::new();
    for piece in stream.chunks(piece.max(1)) {
        let mut rest = piece;
        while !rest.is_empty() {
            rest = &rest[decoder.push(rest)..];
            while let Some(message) = decoder.next()? {
                messages.push(message);
            }
        }
    }
    Ok(messages)
}

pub fn good_key() -> TrafficKey {
    TrafficKey {
        aead: AeadAlgorithm::Aes256Gcm,
        key: Secret::new(vec![1; 32]),
        iv: Secret::new(vec![2; 12]),
        seq: 0,
    }
}

/// Out of bounds is refused where it is made and, since a peer need not be ours, where it arrives.
pub fn refused<T: Message>(message: &T) {
    assert!(
        matches!(
            encode(1, message, &mut Vec::new()),
            Err(FrameError::Invalid(_))
        ),
        "{:?}",
        message.validate()
    );
    let payload = postcard::to_allocvec(message).unwrap();
    assert!(decode_all::<T>(&raw(&payload), usize::MAX).is_err());
}
