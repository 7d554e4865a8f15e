//! The endpoint for metrics: HTTP/1.1, one request a connection, `GET /metrics` and nothing else.
//!
//! Meant for a collector on the same machine or behind a firewall: it asks nobody who they are. Invariant: a request,
//! its time and the number of connections are bounded.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use keyhaven_service::shutdown::Shutdown;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpListener,
    sync::Semaphore,
    time::{sleep, timeout},
};

use super::Metrics;

/// A listener that tells metrics.
pub(crate) struct Endpoint {
    listener: TcpListener,
    address: SocketAddr,
}

impl Endpoint {
    pub(crate) async fn bind(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address })
    }

    /// Where it listens.
    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until the signer stops.
    pub(crate) async fn serve(self, metrics: Metrics, shutdown: Shutdown) {
        let metrics = Arc::new(metrics);
        let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let accepted = tokio::select! {
                () = shutdown.stopping() => return,
                accepted = self.listener.accept() => accepted,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection for metrics");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            // Over the limit it is closed at once.
            let Ok(permit) = permits.clone().try_acquire_owned() else {
                continue;
            };
            let metrics = metrics.clone();
            tokio::spawn(async move {
                let _permit = permit;
                match timeout(DEADLINE, answer(stream, &metrics)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::debug!(%error, "a connection for metrics broke"),
                    Err(_) => tracing::debug!("a connection for metrics took too long"),
                }
            });
        }
    }
}

async fn answer<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    metrics: &Metrics,
) -> io::Result<()> {
    let reply = match judge(&read_head(&mut stream).await?) {
        Verdict::Metrics => reply("200 OK", "", &metrics.text().await),
        Verdict::Elsewhere => reply("404 Not Found", "", "metrics are at /metrics\n"),
        Verdict::OtherMethod => reply("405 Method Not Allowed", "Allow: GET\r\n", "GET alone\n"),
        Verdict::TooLong => reply("431 Request Header Fields Too Large", "", "too long\n"),
        Verdict::NoRequest => reply("400 Bad Request", "", "no HTTP/1.1 request\n"),
    };
    stream.write_all(reply.as_bytes()).await?;
    stream.shutdown().await
}

/// Reads until the empty line, the bound, or the end.
async fn read_head<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(512);
    let mut limited = stream.take(REQUEST_BYTES_MAX);
    while !has_end(&head) && limited.read_buf(&mut head).await? > 0 {}
    Ok(head)
}

fn has_end(head: &[u8]) -> bool {
    head.windows(4).any(|four| four == b"\r\n\r\n")
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Metrics,
    Elsewhere,
    OtherMethod,
    TooLong,
    NoRequest,
}

/// Looks at a request's first line; its fields mean nothing here.
fn judge(head: &[u8]) -> Verdict {
    if !has_end(head) {
        let is_full = head.len() as u64 >= REQUEST_BYTES_MAX;
        return if is_full {
            Verdict::TooLong
        } else {
            Verdict::NoRequest
        };
    }
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let parts: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    let [method, target, b"HTTP/1.1" | b"HTTP/1.0"] = parts[..] else {
        return Verdict::NoRequest;
    };
    let path = target.split(|byte| *byte == b'?').next();
    match (method, path) {
        (b"GET", Some(b"/metrics")) => Verdict::Metrics,
        (b"GET", _) => Verdict::Elsewhere,
        _ => Verdict::OtherMethod,
    }
}

fn reply(status: &str, fields: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: {}\r\n\
         {fields}Connection: close\r\n\r\n{body}",
        body.len()
    )
}

const REQUEST_BYTES_MAX: u64 = 4096;
const CONNECTIONS_MAX: usize = 16;
/// For a whole connection.
const DEADLINE: Duration = Duration::from_secs(5);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_alone_are_served() {
        for (request, verdict) in [
            ("GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n", Verdict::Metrics),
            ("GET /metrics?x=1 HTTP/1.0\r\n\r\n", Verdict::Metrics),
            ("GET / HTTP/1.1\r\n\r\n", Verdict::Elsewhere),
            ("GET /metrics/ HTTP/1.1\r\n\r\n", Verdict::Elsewhere),
            ("POST /metrics HTTP/1.1\r\n\r\n", Verdict::OtherMethod),
            ("GET  /metrics HTTP/1.1\r\n\r\n", Verdict::NoRequest),
            ("GET /metrics HTTP/2\r\n\r\n", Verdict::NoRequest),
            ("GET /metrics HTTP/1.1\r\n", Verdict::NoRequest),
            ("\u{16}\u{3}\u{1}\r\n\r\n", Verdict::NoRequest),
            ("", Verdict::NoRequest),
        ] {
            assert_eq!(judge(request.as_bytes()), verdict, "{request:?}");
        }
        assert_eq!(judge(&[b'a'; 4096]), Verdict::TooLong);
    }

    #[tokio::test]
    async fn a_request_is_read_to_its_empty_line_and_no_further_than_the_bound() {
        let mut whole = &b"GET / HTTP/1.1\r\n\r\n"[..];
        assert_eq!(read_head(&mut whole).await.unwrap().len(), 18);
        let endless = [b'x'; 10_000];
        let mut endless = &endless[..];
        assert_eq!(read_head(&mut endless).await.unwrap().len(), 4096);
        assert_eq!(endless.len(), 10_000 - 4096);
    }

    #[test]
    fn a_reply_tells_its_length() {
        let reply = reply("200 OK", "", "ab\n");
        assert!(reply.contains("\r\nContent-Length: 3\r\n") && reply.ends_with("\r\n\r\nab\n"));
    }
}
