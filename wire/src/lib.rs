//! The protocol between our own programs: messages, codec, limits and the Finished-lock.
//!
//! `PROTOCOL.md` is normative; this room turns it into types. It never awaits and never opens a socket. One
//! invariant: what `Decoder` hands out has passed every bound that `PROTOCOL.md` states.

mod answer;
mod bounds;
mod frame;
pub mod kms;
pub mod lock;
mod message;

pub use answer::Expected;
pub use bounds::{
    ALERT_RECORD_BYTES_MAX, ALPN_BYTES_MAX, CLIENT_LEAF_BYTES_MAX, CLIENT_TEXT_BYTES_MAX,
    COMMON_NAME_BYTES_MAX, Invalid, LIFETIME_S_MAX, Message, SEALED_BOX_BYTES_MAX,
    SERVER_NAME_BYTES_MAX, TICKETS_BYTES_MAX,
};
pub use frame::{Decoder, FRAME_HEADER_BYTES, FrameError, encode};
pub use message::*;
