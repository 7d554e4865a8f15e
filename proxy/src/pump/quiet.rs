//! Whether nothing is under way on a connection, so that ending it cuts nothing off.
//!
//! The proxy does not know the protocol inside. It takes a connection for quiet only when nothing is buffered
//! anywhere on its way, both sides are still open, nobody has spoken for a moment, and the last word was not the
//! client's: behind that an upload may go on or an answer may be due. When in doubt it is not quiet.

use std::{io, mem::MaybeUninit, time::Duration};

use tokio::net::TcpStream;

use super::Session;

/// Without a byte for so long, nobody is in the middle of a word.
const SILENCE: Duration = Duration::from_millis(250);

/// Which ways have not ended.
#[derive(Clone, Copy)]
pub(super) struct Open {
    pub(super) up: bool,
    pub(super) down: bool,
}

impl Session<'_> {
    /// Whether both ends can take the end of the connection for the end of what they said.
    pub(super) fn is_quiet(&self, open: Open, backend: &TcpStream) -> bool {
        open.up
            && open.down
            && self.outbound.pending().is_empty()
            && self.received.is_empty()
            && self.inbound.is_between_messages()
            && !self.traffic.was_last_up()
            && self.traffic.idle_left(SILENCE).is_zero()
            && !has_unread(self.client)
            && !has_unread(backend)
    }
}

/// Whether the socket has bytes, or an end, that nobody has read.
fn has_unread(stream: &TcpStream) -> bool {
    let mut byte = [MaybeUninit::uninit()];
    match socket2::SockRef::from(stream).peek(&mut byte) {
        Ok(_) => true,
        Err(error) => error.kind() != io::ErrorKind::WouldBlock,
    }
}
