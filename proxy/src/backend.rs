//! The way to the backend: a connection, and first on it a header if the backend wants one.
//!
//! Opened only when the handshake is over. What is in the header is `proxy_protocol`'s business.

use std::{io, time::Duration};

use tokio::{net::TcpStream, time::timeout};

use crate::client::write_all;

/// Connects within the time, and says who the client is if asked to.
pub(crate) async fn connect(
    address: &str,
    at_most: Duration,
    header: Option<Vec<u8>>,
) -> io::Result<TcpStream> {
    let connecting = async {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        if let Some(header) = header {
            write_all(&stream, &header).await?;
        }
        Ok(stream)
    };
    timeout(at_most, connecting)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
