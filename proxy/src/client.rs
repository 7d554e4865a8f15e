//! Plain acts on a client's socket: fill a bounded buffer, write all, close so that the last alert arrives.
//!
//! Knows nothing of TLS. Everything takes `&TcpStream`, so that both directions can work at once in one task. No act
//! waits longer than its caller's deadline or the one named here.

use std::{io, net, time::Duration};

use keyhaven_service::shutdown::Shutdown;
use tokio::{net::TcpStream, time::timeout};

/// Bytes that a handshake may have in the receive buffer.
const INBOX_BYTES_MAX: usize = 60 * 1024;
const READ_BYTES: usize = 4096;
/// How long the last bytes may take to leave. With the drain it is less than tasks have when they are cut.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
/// How long, and how many bytes, unread input is drained before a close.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(750);
const DRAIN_BYTES_MAX: usize = 256 * 1024;

/// What a client has sent and nobody has used yet, during its handshake.
#[derive(Default)]
pub(crate) struct Inbox {
    bytes: Vec<u8>,
}

impl Inbox {
    /// The unused bytes.
    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// Drops the first bytes.
    pub(crate) fn consume(&mut self, bytes: usize) {
        self.bytes.drain(..bytes.min(self.bytes.len()));
    }

    /// Puts bytes back in front.
    pub(crate) fn put_back(&mut self, bytes: &[u8]) {
        self.bytes.splice(..0, bytes.iter().copied());
    }

    /// Whether more has come than a handshake has.
    pub(crate) fn is_full(&self) -> bool {
        self.bytes.len() >= INBOX_BYTES_MAX
    }

    /// Reads what there is, at least a byte; an end of the stream is an error of its own.
    pub(crate) async fn fill(&mut self, client: &TcpStream) -> io::Result<()> {
        loop {
            client.readable().await?;
            let len = self.bytes.len();
            self.bytes.resize(len + READ_BYTES, 0);
            let read = client.try_read(&mut self.bytes[len..]);
            self.bytes
                .truncate(len + read.as_ref().map_or(0, |&read| read));
            match read {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// What is left when the handshake is over.
    pub(crate) fn into_rest(self) -> Vec<u8> {
        self.bytes
    }
}

/// Writes everything.
pub(crate) async fn write_all(stream: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match stream.try_write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => stream.writable().await?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Ends the writing side; the reading side goes on. A peer that is gone already has nothing left to be told: whether
/// it left too early shows where it is read.
pub(crate) fn shutdown_write(stream: &TcpStream) -> io::Result<()> {
    match socket2::SockRef::from(stream).shutdown(net::Shutdown::Write) {
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
        ended => ended,
    }
}

/// Makes the coming close a reset, so that the peer does not take what it has for the whole.
pub(crate) fn abort_on_close(stream: &TcpStream) {
    // An error means that the connection is gone already.
    let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// Sends the last bytes, ends the writing side, and drains what the client still sends, a little: a close with
/// unread input would reset the connection, and the reset can overtake the alert. At a second stop signal only what
/// the socket takes at once is sent.
pub(crate) async fn say_goodbye(client: &TcpStream, last_bytes: &[u8], shutdown: &Shutdown) {
    tokio::select! {
        biased;
        () = take_leave(client, last_bytes) => {}
        () = shutdown.at_once() => {}
    }
}

async fn take_leave(client: &TcpStream, last_bytes: &[u8]) {
    let sent = timeout(FLUSH_TIMEOUT, write_all(client, last_bytes)).await;
    if !matches!(sent, Ok(Ok(()))) || shutdown_write(client).is_err() {
        return;
    }
    let _ = timeout(DRAIN_TIMEOUT, drain(client)).await;
}

async fn drain(client: &TcpStream) {
    let mut unwanted = vec![0; READ_BYTES];
    let mut left = DRAIN_BYTES_MAX;
    while left > 0 && client.readable().await.is_ok() {
        match client.try_read(&mut unwanted) {
            Ok(0) => return,
            Ok(read) => left = left.saturating_sub(read),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn the_writing_side_of_a_connection_that_is_gone_is_ended() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let peer = TcpStream::connect(address).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        abort_on_close(&peer);
        drop(peer);
        stream.readable().await.unwrap();
        // Not connected any more, as the system says it.
        let raw = socket2::SockRef::from(&stream).shutdown(net::Shutdown::Write);
        assert_eq!(raw.unwrap_err().kind(), io::ErrorKind::NotConnected);
        assert!(shutdown_write(&stream).is_ok());
    }
}
