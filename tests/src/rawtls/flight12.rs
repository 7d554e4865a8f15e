//! TLS 1.2 from the ClientHello to where the server waits, or to its Finished when a session is resumed.
//!
//! Only reads and sorts; keys and what the client says next are `tls12`'s business.

use std::net::TcpStream;

use super::messages::{ServerHello, split_messages};
use super::record::{ALERT, CHANGE_CIPHER_SPEC, HANDSHAKE, Stop, read_record, record};

/// What the server said.
#[derive(Debug)]
pub(crate) struct Flight12 {
    pub(crate) hello: ServerHello,
    /// ServerKeyExchange; none when a session is resumed.
    pub(crate) exchange: Option<Vec<u8>>,
    /// CertificateRequest.
    pub(crate) request: Option<Vec<u8>>,
    /// NewSessionTicket, which comes here only when a session is resumed.
    pub(crate) ticket: Option<Vec<u8>>,
    /// Every message, one after the other.
    pub(crate) transcript: Vec<u8>,
    /// The records as they came.
    pub(crate) bytes: Vec<u8>,
}

impl Flight12 {
    /// Reads ServerHello to ServerHelloDone, or to the ChangeCipherSpec of a resumed session.
    pub(crate) fn read(stream: &mut TcpStream) -> Result<Flight12, Stop> {
        let (mut hello, mut buffer) = (None, Vec::new());
        let (mut exchange, mut request, mut ticket) = (None, None, None);
        let (mut transcript, mut bytes) = (Vec::new(), Vec::new());
        let mut is_done = false;
        while !is_done {
            let incoming = read_record(stream)?;
            bytes.extend(record(incoming.kind, &incoming.bytes));
            match incoming.kind {
                CHANGE_CIPHER_SPEC => {
                    is_done = true;
                    exchange = None;
                }
                ALERT => return Err(Stop::Alert(incoming.bytes.get(1).copied().unwrap_or(0))),
                HANDSHAKE => buffer.extend(incoming.bytes),
                _ => return Err(Stop::Nonsense("no handshake record")),
            }
            for (kind, message) in split_messages(&mut buffer) {
                transcript.extend_from_slice(&message);
                match kind {
                    2 => hello = Some(ServerHello::parse(&message)?),
                    4 => ticket = Some(message),
                    12 => exchange = Some(message),
                    13 => request = Some(message),
                    14 => is_done = true,
                    _ => {}
                }
            }
        }
        Ok(Flight12 {
            hello: hello.ok_or(Stop::Nonsense("a flight without a ServerHello"))?,
            exchange,
            request,
            ticket,
            transcript,
            bytes,
        })
    }
}
