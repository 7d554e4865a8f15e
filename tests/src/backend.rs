//! The plaintext server behind the proxy.
//!
//! Speaks plain TCP and knows nothing of TLS. What it does is chosen when it starts; it counts every byte that
//! reaches it, so that a test can say that none did.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use aws_lc_rs::digest::{Context, SHA256};

/// What the backend does with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// HTTP/1.1 with keep-alive and pipelining: `GET /bytes/N`, `POST /sha256`, `POST /echo`, anything else is 404.
    Http,
    /// Sends back what comes, until the end.
    Echo,
    /// Reads to the end of the stream, then answers `COUNT SHA256\n` and closes.
    Digest,
    /// Sends so many bytes of [`pattern`] at once, then closes without reading.
    Send(usize),
    /// Sends a line first, then echoes.
    Greet,
    /// Accepts and never reads or writes.
    Mute,
}

/// A running backend.
#[derive(Debug)]
pub struct Backend {
    address: SocketAddr,
    counts: Arc<Counts>,
    stop: Arc<AtomicBool>,
}

#[derive(Debug, Default)]
struct Counts {
    connections: AtomicU64,
    open: AtomicU64,
    received: AtomicU64,
}

impl Backend {
    /// Starts on a free port of the loopback.
    pub fn start(manner: Manner) -> Backend {
        let listener = TcpListener::bind("127.0.0.1:0").expect("the loopback has a free port");
        let backend = Backend {
            address: listener.local_addr().expect("it is bound"),
            counts: Arc::default(),
            stop: Arc::default(),
        };
        let (counts, stop) = (backend.counts.clone(), backend.stop.clone());
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                counts.connections.fetch_add(1, Ordering::SeqCst);
                counts.open.fetch_add(1, Ordering::SeqCst);
                let counts = counts.clone();
                thread::spawn(move || {
                    let _ = stream.set_nodelay(true);
                    let counted = Counted {
                        stream: &stream,
                        counts: &counts,
                    };
                    // A connection that breaks is a test's business, not an error here.
                    let _ = serve(manner, counted);
                    counts.open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        backend
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> u64 {
        self.counts.connections.load(Ordering::SeqCst)
    }

    /// Connections open now.
    pub fn open(&self) -> u64 {
        self.counts.open.load(Ordering::SeqCst)
    }

    /// Bytes received so far.
    pub fn received(&self) -> u64 {
        self.counts.received.load(Ordering::SeqCst)
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

/// `count` bytes that do not repeat soon, the same each time.
pub fn pattern(count: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(count + 8);
    while bytes.len() < count {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(count);
    bytes
}

/// SHA-256 in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    hex(aws_lc_rs::digest::digest(&SHA256, bytes).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

struct Counted<'a> {
    stream: &'a TcpStream,
    counts: &'a Counts,
}

impl Read for Counted<'_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let count = self.stream.read(into)?;
        self.counts
            .received
            .fetch_add(count as u64, Ordering::SeqCst);
        Ok(count)
    }
}

fn serve(manner: Manner, mut input: Counted<'_>) -> std::io::Result<()> {
    let mut output = input.stream;
    match manner {
        Manner::Http => return http(input),
        Manner::Send(count) => output.write_all(&pattern(count))?,
        Manner::Echo => echo(&mut input, output)?,
        Manner::Greet => {
            output.write_all(b"220 hello\r\n")?;
            echo(&mut input, output)?;
        }
        Manner::Mute => {
            // Ends when the peer does; `peek` takes nothing, so what was sent stays unread.
            let mut byte = [0];
            while output.peek(&mut byte)? > 0 {
                thread::sleep(std::time::Duration::from_millis(20));
            }
        }
        Manner::Digest => {
            let mut context = Context::new(&SHA256);
            let mut buffer = vec![0; 64 * 1024];
            let mut total = 0;
            loop {
                let count = input.read(&mut buffer)?;
                if count == 0 {
                    break;
                }
                total += count;
                context.update(&buffer[..count]);
            }
            output.write_all(format!("{total} {}\n", hex(context.finish().as_ref())).as_bytes())?;
        }
    }
    output.shutdown(Shutdown::Write)
}

fn echo(input: &mut Counted<'_>, mut output: &TcpStream) -> std::io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = input.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        output.write_all(&buffer[..count])?;
    }
}

fn http(input: Counted<'_>) -> std::io::Result<()> {
    let output = input.stream;
    let mut input = BufReader::new(input);
    while let Some(request) = read_request(&mut input)? {
        let (status, answer) = answer(&request.line, &request.body);
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n",
            answer.len()
        );
        (&*output).write_all(&[head.as_bytes(), &answer].concat())?;
        if request.is_last {
            break;
        }
    }
    output.shutdown(Shutdown::Write)
}

struct Request {
    line: String,
    body: Vec<u8>,
    /// `Connection: close`.
    is_last: bool,
}

/// The next request; nothing at the end of the stream.
fn read_request(input: &mut impl BufRead) -> std::io::Result<Option<Request>> {
    let mut first = String::new();
    if input.read_line(&mut first)? == 0 {
        return Ok(None);
    }
    let (mut length, mut is_last) = (0, false);
    loop {
        let mut line = String::new();
        if input.read_line(&mut line)? == 0 || line.trim().is_empty() {
            break;
        }
        let line = line.to_ascii_lowercase();
        is_last |= line.starts_with("connection: close");
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
    }
    let mut body = vec![0; length];
    input.read_exact(&mut body)?;
    Ok(Some(Request {
        line: first,
        body,
        is_last,
    }))
}

fn answer(request: &str, body: &[u8]) -> (&'static str, Vec<u8>) {
    let path = request.split_whitespace().nth(1).unwrap_or("/");
    if let Some(count) = path
        .strip_prefix("/bytes/")
        .and_then(|count| count.parse().ok())
    {
        return ("200 OK", pattern(count));
    }
    match path {
        "/sha256" => ("200 OK", sha256(body).into_bytes()),
        "/echo" => ("200 OK", body.to_vec()),
        "/" => ("200 OK", b"hello from the backend\n".to_vec()),
        _ => ("404 Not Found", Vec::new()),
    }
}
