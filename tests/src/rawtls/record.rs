//! Plain TLS records on a socket.
//!
//! Leaves encryption to `keys`. Every read has the deadline that the socket was given.

use std::io::{self, Read};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Content type change_cipher_spec.
pub const CHANGE_CIPHER_SPEC: u8 = 20;
/// Content type alert.
pub const ALERT: u8 = 21;
/// Content type handshake.
pub const HANDSHAKE: u8 = 22;
/// Content type application_data.
pub const APPLICATION_DATA: u8 = 23;

/// Why the conversation ended.
#[derive(Debug, thiserror::Error)]
pub enum Stop {
    /// The server sent an alert.
    #[error("alert {0}")]
    Alert(u8),
    /// The server closed without a word.
    #[error("closed without an alert")]
    Closed,
    /// The server's bytes make no sense.
    #[error("nonsense from the server: {0}")]
    Nonsense(&'static str),
    /// The socket failed.
    #[error("the socket failed")]
    Io(#[from] io::Error),
}

impl Stop {
    /// The alert, if that is how it ended.
    pub fn alert(&self) -> Option<u8> {
        match self {
            Stop::Alert(description) => Some(*description),
            _ => None,
        }
    }
}

/// A record, decrypted if it was encrypted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incoming {
    /// Its content type.
    pub kind: u8,
    /// Its content.
    pub bytes: Vec<u8>,
}

/// A record with its header.
pub fn record(kind: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind, 3, 3];
    bytes.extend_from_slice(&(content.len() as u16).to_be_bytes());
    bytes.extend_from_slice(content);
    bytes
}

/// Reads one record as it is; [`Stop::Closed`] at the end of the stream.
pub fn read_record(from: &mut impl Read) -> Result<Incoming, Stop> {
    let mut header = [0; 5];
    from.read_exact(&mut header).map_err(ended)?;
    let mut bytes = vec![0; usize::from(u16::from_be_bytes([header[3], header[4]]))];
    from.read_exact(&mut bytes).map_err(ended)?;
    Ok(Incoming {
        kind: header[0],
        bytes,
    })
}

fn ended(error: io::Error) -> Stop {
    match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => Stop::Closed,
        _ => Stop::Io(error),
    }
}

/// A socket with a deadline on every read and write.
pub(crate) fn dial(address: SocketAddr) -> Result<TcpStream, Stop> {
    let stream = TcpStream::connect_timeout(&address, DEADLINE)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.set_write_timeout(Some(DEADLINE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The next record, which must be a plain handshake message.
pub(crate) fn plain(stream: &mut TcpStream) -> Result<Incoming, Stop> {
    let incoming = read_record(stream)?;
    match incoming.kind {
        HANDSHAKE => Ok(incoming),
        ALERT => Err(Stop::Alert(incoming.bytes.get(1).copied().unwrap_or(0))),
        _ => Err(Stop::Nonsense("no handshake record")),
    }
}

const DEADLINE: Duration = Duration::from_secs(20);
