//! The protocol between our own programs: messages, codec, limits and the Finished-lock.
//!
//! `PROTOCOL.md` is normative; this room turns it into types. It never awaits and never opens a socket.

mod message;

pub use message::*;
