//! Arbitrary bytes as a stream of frames: no panic, no difference by how the stream is cut, and every message
//! that is taken can be written and read again.

#![no_main]

use keyhaven_wire::{Decoder, Message, Reply, Request, encode};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, &[u8])| {
    let (piece, stream) = input;
    check::<Request>(stream, usize::from(piece) + 1);
    check::<Reply>(stream, usize::from(piece) + 1);
});

fn check<T: Message>(stream: &[u8], piece: usize) {
    let whole = read::<T>(stream, stream.len().max(1));
    assert_eq!(whole, read::<T>(stream, piece));
    for (id, frame) in whole.frames {
        let again = read::<T>(&frame, frame.len());
        assert!(again.is_clean, "what we wrote, we must read");
        assert_eq!(again.frames, [(id, frame)]);
    }
}

#[derive(Debug, PartialEq)]
struct Read {
    /// The messages, as we would write them.
    frames: Vec<(u64, Vec<u8>)>,
    is_clean: bool,
}

fn read<T: Message>(stream: &[u8], piece: usize) -> Read {
    let mut decoder = Decoder::<T>::new();
    let mut frames = Vec::new();
    for piece in stream.chunks(piece) {
        let mut rest = piece;
        while !rest.is_empty() {
            rest = &rest[decoder.push(rest)..];
            loop {
                match decoder.next() {
                    Ok(Some((id, message))) => {
                        let mut frame = Vec::new();
                        encode(id, &message, &mut frame).expect("it passed the same bounds");
                        frames.push((id, frame));
                    }
                    Ok(None) => break,
                    Err(_) => {
                        return Read {
                            frames,
                            is_clean: false,
                        };
                    }
                }
            }
        }
    }
    Read {
        frames,
        is_clean: decoder.is_empty(),
    }
}
