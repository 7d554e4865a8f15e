//! Just enough HTTP/1.1 to ask the backend something over any stream.
//!
//! Reads an answer exactly to its end, so that the connection can be used again.

use std::io::{self, Read, Write};

use crate::rawtls::{APPLICATION_DATA, Client12, Client13, Stop};

/// Sends a request on any stream and reads the answer's body.
pub fn exchange(stream: &mut (impl Read + Write), request: &[u8]) -> io::Result<Vec<u8>> {
    stream.write_all(request)?;
    stream.flush()?;
    read_answer(stream)
}

/// `GET path`.
pub fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: any\r\n\r\n").into_bytes()
}

/// `POST path` with this body.
pub fn post(path: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: any\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// Reads one answer and gives its body.
pub fn read_answer(stream: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
    let length = head
        .split("content-length:")
        .nth(1)
        .and_then(|rest| rest.lines().next());
    let length = length
        .and_then(|text| text.trim().parse().ok())
        .ok_or(io::ErrorKind::InvalidData)?;
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok(body)
}

impl Client13 {
    /// A client that has finished its handshake.
    pub fn established(
        address: std::net::SocketAddr,
        hello: &crate::rawtls::Hello,
    ) -> Result<Client13, Stop> {
        let mut client = Client13::connect(address, hello)?;
        client.finish()?;
        Ok(client)
    }

    /// Asks the backend for `/` and waits for its greeting.
    pub fn ask(&mut self) -> Result<Vec<u8>, Stop> {
        self.send(APPLICATION_DATA, &get("/"))?;
        until_greeting(|| {
            self.receive()
                .map(|incoming| (incoming.kind, incoming.bytes))
        })
    }
}

impl Client12 {
    /// Asks the backend for `/` and waits for its greeting.
    pub fn ask(&mut self) -> Result<Vec<u8>, Stop> {
        self.send(APPLICATION_DATA, &get("/"))?;
        until_greeting(|| {
            self.receive()
                .map(|incoming| (incoming.kind, incoming.bytes))
        })
    }
}

fn until_greeting(
    mut receive: impl FnMut() -> Result<(u8, Vec<u8>), Stop>,
) -> Result<Vec<u8>, Stop> {
    let mut answer = Vec::new();
    while !answer.ends_with(GREETING) {
        let (kind, bytes) = receive()?;
        if kind == APPLICATION_DATA {
            answer.extend(bytes);
        }
    }
    Ok(answer)
}

/// What the backend answers to `GET /`.
pub const GREETING: &[u8] = b"hello from the backend\n";
