//! Frames: a length, a request id, and one message in postcard.
//!
//! Works on byte buffers; whoever owns the socket fills and empties them. Buffers hold session keys, so bytes
//! are wiped as soon as they are consumed, and no buffer is ever left behind by a reallocation unwiped.

use std::marker::PhantomData;

use zeroize::Zeroize;

use crate::{
    bounds::{Invalid, Message},
    message::FRAME_BYTES_MAX,
};

/// Length of what precedes a payload: 4 bytes of payload length, 8 bytes of request id, both big-endian.
pub const FRAME_HEADER_BYTES: usize = 12;

/// Why a frame was not written or not read. Each is fatal for the connection: the boundary of the next frame
/// cannot be trusted after it.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The payload is longer than [`FRAME_BYTES_MAX`], or there is none.
    #[error("a frame of {bytes} bytes is out of bounds: 1 to {FRAME_BYTES_MAX}")]
    Length {
        /// The length that the frame has or claims.
        bytes: usize,
    },
    /// The payload is not a message: unknown variant, cut field, impossible length.
    #[error("the frame holds no message of this protocol")]
    Malformed(#[source] postcard::Error),
    /// The message ends before its frame.
    #[error("{bytes} bytes follow the message in its frame")]
    Trailing {
        /// How many.
        bytes: usize,
    },
    /// A field is out of its bounds.
    #[error("the message breaks a bound")]
    Invalid(#[from] Invalid),
}

/// Appends one frame to `out`. On an error `out` is as it was.
pub fn encode<T: Message>(id: u64, message: &T, out: &mut Vec<u8>) -> Result<(), FrameError> {
    message.validate()?;
    let bytes = postcard::experimental::serialized_size(message).map_err(FrameError::Malformed)?;
    let length = match u32::try_from(bytes) {
        Ok(length) if (1..=FRAME_BYTES_MAX).contains(&bytes) => length,
        _ => return Err(FrameError::Length { bytes }),
    };
    let start = out.len();
    grow_and_wipe(out, FRAME_HEADER_BYTES + bytes);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&id.to_be_bytes());
    out.resize(start + FRAME_HEADER_BYTES + bytes, 0);
    let payload = &mut out[start + FRAME_HEADER_BYTES..];
    match postcard::to_slice(message, payload) {
        Ok(written) if written.len() == bytes => Ok(()),
        outcome => {
            let source = outcome
                .err()
                .unwrap_or(postcard::Error::SerializeBufferFull);
            out[start..].zeroize();
            out.truncate(start);
            Err(FrameError::Malformed(source))
        }
    }
}

/// Cuts a stream of bytes into messages.
///
/// Fill [`Decoder::room`], then call [`Decoder::next`] until it gives nothing.
pub struct Decoder<T> {
    /// Never reallocated: its capacity is that of the largest frame with its header.
    buffer: Vec<u8>,
    /// How many bytes at the start of the buffer are consumed and wiped.
    consumed: usize,
    message: PhantomData<fn() -> T>,
}

impl<T: Message> Decoder<T> {
    /// A decoder at the start of a stream.
    pub fn new() -> Self {
        Self {
            buffer: Vec::with_capacity(FRAME_HEADER_BYTES + FRAME_BYTES_MAX),
            consumed: 0,
            message: PhantomData,
        }
    }

    /// Where to append what the socket gave. It has room for at least one byte as long as [`Decoder::next`]
    /// was called until it gave nothing; do not append more than its spare capacity.
    pub fn room(&mut self) -> &mut Vec<u8> {
        if self.consumed > 0 {
            let rest = self.buffer.len() - self.consumed;
            self.buffer.copy_within(self.consumed.., 0);
            self.buffer[rest..].zeroize();
            self.buffer.truncate(rest);
            self.consumed = 0;
        }
        &mut self.buffer
    }

    /// Appends as many of these bytes as there is room for, and says how many.
    pub fn push(&mut self, bytes: &[u8]) -> usize {
        let room = self.room();
        let taken = bytes.len().min(room.capacity() - room.len());
        room.extend_from_slice(&bytes[..taken]);
        taken
    }

    /// Whether the stream stands between two frames: an end of the stream is clean only here.
    pub fn is_empty(&self) -> bool {
        self.buffer.len() == self.consumed
    }

    /// The next message with its request id, or nothing when more bytes are needed.
    ///
    /// After an error the stream cannot be resumed.
    #[allow(
        clippy::should_implement_trait,
        reason = "an iterator would end at the first gap; a stream does not"
    )]
    pub fn next(&mut self) -> Result<Option<(u64, T)>, FrameError> {
        let Some((header, rest)) =
            self.buffer[self.consumed..].split_first_chunk::<FRAME_HEADER_BYTES>()
        else {
            return Ok(None);
        };
        let [l0, l1, l2, l3, id @ ..] = *header;
        let bytes = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
        if !(1..=FRAME_BYTES_MAX).contains(&bytes) {
            return Err(FrameError::Length { bytes });
        }
        let Some(payload) = rest.get(..bytes) else {
            return Ok(None);
        };
        let decoded = decode(payload);
        let end = self.consumed + FRAME_HEADER_BYTES + bytes;
        self.buffer[self.consumed..end].zeroize();
        self.consumed = end;
        decoded.map(|message| Some((u64::from_be_bytes(id), message)))
    }
}

impl<T: Message> Default for Decoder<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Drop for Decoder<T> {
    fn drop(&mut self) {
        self.buffer.zeroize();
    }
}

fn decode<T: Message>(payload: &[u8]) -> Result<T, FrameError> {
    let (message, rest) = postcard::take_from_bytes::<T>(payload).map_err(FrameError::Malformed)?;
    if !rest.is_empty() {
        return Err(FrameError::Trailing { bytes: rest.len() });
    }
    message.validate()?;
    Ok(message)
}

/// Makes room for `more` bytes; if the bytes must move, the place they leave is wiped.
fn grow_and_wipe(out: &mut Vec<u8>, more: usize) {
    if out.capacity() - out.len() >= more {
        return;
    }
    let mut larger = Vec::with_capacity((out.len() + more).max(out.capacity() * 2));
    larger.extend_from_slice(out);
    out.zeroize();
    *out = larger;
}
