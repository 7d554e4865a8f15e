//! A small plaintext HTTP/1.1 server, for the demo to have something to serve.
//!
//! Answers every request with one page and closes. It is no web server: it bounds what it reads and waits for,
//! and has no other feature.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use crate::Error;

/// Starts the server on a free port of the loopback interface, for the rest of the process's life.
pub fn start() -> Result<SocketAddr, Error> {
    start_with(WELCOME)
}

/// The same with a page of the caller's.
pub fn start_with(page: Page) -> Result<SocketAddr, Error> {
    let address = SocketAddr::from(([127, 0, 0, 1], 0));
    let failed = |source| Error::Listen { address, source };
    let listener = TcpListener::bind(address).map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    thread::spawn(move || {
        let open = Arc::new(AtomicUsize::new(0));
        for stream in listener.incoming().flatten() {
            if open.fetch_add(1, Ordering::SeqCst) >= CONNECTIONS_MAX {
                open.fetch_sub(1, Ordering::SeqCst);
                continue;
            }
            let open = Arc::clone(&open);
            thread::spawn(move || {
                // A client that goes away in mid-request concerns nobody else.
                let _ = serve(&stream, page);
                open.fetch_sub(1, Ordering::SeqCst);
            });
        }
    });
    Ok(bound)
}

/// What every request is answered with.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    /// Code and reason, as in `200 OK`.
    pub status: &'static str,
    /// The body's first line; the second one repeats the request.
    pub greeting: &'static str,
}

/// The demo's page.
pub const WELCOME: Page = Page {
    status: "200 OK",
    greeting: "This page came to you over TLS, and no program that could see it ever saw the private key.",
};

fn serve(stream: &TcpStream, page: Page) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.set_write_timeout(Some(Duration::from_secs(10)))?;
    let mut lines = BufReader::new(stream.take(HEAD_BYTES_MAX)).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    for line in lines {
        if line?.is_empty() {
            break;
        }
    }
    let Page { status, greeting } = page;
    let body = format!(
        "{greeting}\nThe request was: {}\n",
        request.escape_default()
    );
    let mut stream = stream;
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )?;
    stream.flush()
}

const CONNECTIONS_MAX: usize = 64;
const HEAD_BYTES_MAX: u64 = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_and_closes() {
        let mut stream = TcpStream::connect(start().unwrap()).unwrap();
        stream
            .write_all(b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n")
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(
            answer.contains(WELCOME.greeting) && answer.contains("GET /x"),
            "{answer}"
        );
    }
}
