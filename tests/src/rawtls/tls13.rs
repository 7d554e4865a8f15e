//! TLS 1.3 as a client, up to the server's Finished; from there the test decides.
//!
//! After [`Client13::connect`] the write key is the client's handshake key and the read key is the server's
//! application key, which is what a server uses for the alert that refuses a Finished.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use aws_lc_rs::agreement::{ECDH_P256, EphemeralPrivateKey, UnparsedPublicKey, agree_ephemeral};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rand::SystemRandom;

use super::hello::Hello;
use super::keys::{Hash, RecordKeys};
use super::messages::{ServerHello, handshake_message, split_messages};
use super::record::{
    ALERT, APPLICATION_DATA, CHANGE_CIPHER_SPEC, HANDSHAKE, Incoming, Stop, read_record,
};

/// A connection whose server has finished and whose client has not.
#[derive(Debug)]
pub struct Client13 {
    /// The socket.
    pub stream: TcpStream,
    /// Protects what the client sends.
    pub write: RecordKeys,
    /// Opens what the server sends.
    pub read: RecordKeys,
    suite: u16,
    hash: Hash,
    client_handshake: Vec<u8>,
    client_application: Vec<u8>,
    server_application: Vec<u8>,
    verify_data: Vec<u8>,
    server_bytes: Vec<u8>,
    /// The shared secret, the handshake secret, the server's handshake traffic secret, the main secret.
    upstream: [Vec<u8>; 4],
}

impl Client13 {
    /// Connects and runs the handshake up to the server's Finished, whose verify_data is checked.
    pub fn connect(address: SocketAddr, hello: &Hello) -> Result<Client13, Stop> {
        Client13::connect_with(address, hello, |stream, message| {
            stream.write_all(&super::record::record(HANDSHAKE, message))
        })
    }

    /// The same, with another way to send the ClientHello.
    pub fn connect_with(
        address: SocketAddr,
        hello: &Hello,
        send: impl FnOnce(&mut TcpStream, &[u8]) -> io::Result<()>,
    ) -> Result<Client13, Stop> {
        let mut stream = dial(address)?;
        let private = ephemeral();
        let point = private.compute_public_key().map_err(no_key)?;
        let message = hello.message(point.as_ref());
        send(&mut stream, &message)?;
        Client13::go_on(stream, private, message)
    }

    fn go_on(
        mut stream: TcpStream,
        private: EphemeralPrivateKey,
        hello: Vec<u8>,
    ) -> Result<Client13, Stop> {
        let first = plain(&mut stream)?;
        let mut server_bytes = super::record::record(HANDSHAKE, &first.bytes);
        let mut transcript = hello;
        transcript.extend_from_slice(&first.bytes);
        let server = ServerHello::parse(&first.bytes)?;
        let hash = if server.suite == 0x1302 {
            Hash::Sha384
        } else {
            Hash::Sha256
        };
        let peer = UnparsedPublicKey::new(&ECDH_P256, server.key_share()?);
        let shared = agree_ephemeral(private, peer, Unspecified, |shared| Ok(shared.to_vec()))
            .map_err(no_key)?;

        let zeros = vec![0; hash.len()];
        let early = hash.hmac(&zeros, &zeros);
        let handshake = hash.hmac(&hash.derive_secret(&early, "derived", b""), &shared);
        let client_handshake = hash.derive_secret(&handshake, "c hs traffic", &transcript);
        let server_handshake = hash.derive_secret(&handshake, "s hs traffic", &transcript);
        let mut read = RecordKeys::tls13(server.suite, hash, &server_handshake);
        read_flight(
            &mut stream,
            &mut read,
            hash,
            &server_handshake,
            &mut transcript,
            &mut server_bytes,
        )?;

        let main = hash.hmac(&hash.derive_secret(&handshake, "derived", b""), &zeros);
        let client_application = hash.derive_secret(&main, "c ap traffic", &transcript);
        let server_application = hash.derive_secret(&main, "s ap traffic", &transcript);
        let finished_key = hash.expand_label(&client_handshake, "finished", &[], hash.len());
        Ok(Client13 {
            write: RecordKeys::tls13(server.suite, hash, &client_handshake),
            read: RecordKeys::tls13(server.suite, hash, &server_application),
            verify_data: hash.hmac(&finished_key, &hash.digest(&transcript)),
            stream,
            suite: server.suite,
            hash,
            client_handshake,
            client_application,
            server_application,
            server_bytes,
            upstream: [shared, handshake, server_handshake, main],
        })
    }

    /// The server's flight as it came, records and all.
    pub fn server_bytes(&self) -> &[u8] {
        &self.server_bytes
    }

    /// The right verify_data of the client's Finished.
    pub fn verify_data(&self) -> &[u8] {
        &self.verify_data
    }

    /// The right Finished.
    pub fn finished(&self) -> Vec<u8> {
        handshake_message(20, &self.verify_data)
    }

    /// Encrypts `content` into one record and sends it.
    pub fn send(&mut self, kind: u8, content: &[u8]) -> Result<(), Stop> {
        let record = self.write.seal(kind, content);
        Ok(self.stream.write_all(&record)?)
    }

    /// Sends the right Finished and goes on with the application keys.
    pub fn finish(&mut self) -> Result<(), Stop> {
        let finished = self.finished();
        self.send(HANDSHAKE, &finished)?;
        self.use_application_write_key();
        Ok(())
    }

    /// From here on the client encrypts with its application key.
    pub fn use_application_write_key(&mut self) {
        self.write = RecordKeys::tls13(self.suite, self.hash, &self.client_application);
    }

    /// From here on the client encrypts with the next application key (RFC 8446, section 7.2).
    pub fn next_write_key(&mut self) {
        self.client_application = self.hash.expand_label(
            &self.client_application,
            "traffic upd",
            &[],
            self.hash.len(),
        );
        self.use_application_write_key();
    }

    /// From here on the client decrypts with the server's next application key.
    pub fn next_read_key(&mut self) {
        self.server_application = self.hash.expand_label(
            &self.server_application,
            "traffic upd",
            &[],
            self.hash.len(),
        );
        self.read = RecordKeys::tls13(self.suite, self.hash, &self.server_application);
    }

    /// Reads and opens the next record; an alert, encrypted or not, is [`Stop::Alert`].
    pub fn receive(&mut self) -> Result<Incoming, Stop> {
        loop {
            let incoming = read_record(&mut self.stream)?;
            let incoming = match incoming.kind {
                CHANGE_CIPHER_SPEC => continue,
                APPLICATION_DATA => self.read.open(incoming)?,
                _ => incoming,
            };
            if incoming.kind == ALERT {
                return Err(Stop::Alert(incoming.bytes.get(1).copied().unwrap_or(0)));
            }
            return Ok(incoming);
        }
    }

    /// Everything that must not be seen outside the two ends: the shared secret, the secrets of the schedule and
    /// both verify_data keys' sources.
    pub fn secrets(&self) -> Vec<&[u8]> {
        let mut all: Vec<&[u8]> = self.upstream.iter().map(Vec::as_slice).collect();
        all.extend(
            [
                &self.client_handshake,
                &self.client_application,
                &self.server_application,
            ]
            .map(Vec::as_slice),
        );
        all
    }

    /// The key that opens the client's handshake records, which the proxy does get.
    pub fn handshake_write_key(&self) -> Vec<u8> {
        self.hash
            .expand_label(&self.client_handshake, "key", &[], self.write.key_len())
    }

    /// The first application keys of client and server, which the proxy gets in the locked box alone.
    pub fn application_keys(&self) -> [Vec<u8>; 2] {
        let length = self.write.key_len();
        [&self.client_application, &self.server_application]
            .map(|secret| self.hash.expand_label(secret, "key", &[], length))
    }
}

/// Reads EncryptedExtensions to Finished and checks the server's verify_data.
fn read_flight(
    stream: &mut TcpStream,
    read: &mut RecordKeys,
    hash: Hash,
    server_handshake: &[u8],
    transcript: &mut Vec<u8>,
    bytes: &mut Vec<u8>,
) -> Result<(), Stop> {
    let mut buffer = Vec::new();
    loop {
        let incoming = read_record(stream)?;
        bytes.extend(super::record::record(incoming.kind, &incoming.bytes));
        match incoming.kind {
            CHANGE_CIPHER_SPEC => continue,
            ALERT => return Err(Stop::Alert(incoming.bytes.get(1).copied().unwrap_or(0))),
            _ => {}
        }
        let opened = read.open(incoming)?;
        if opened.kind == ALERT {
            return Err(Stop::Alert(opened.bytes.get(1).copied().unwrap_or(0)));
        }
        if opened.kind != HANDSHAKE {
            return Err(Stop::Nonsense(
                "no handshake message in the server's flight",
            ));
        }
        buffer.extend(opened.bytes);
        for (kind, message) in split_messages(&mut buffer) {
            if kind == 20 {
                let key = hash.expand_label(server_handshake, "finished", &[], hash.len());
                if hash.hmac(&key, &hash.digest(transcript)) != message[4..] {
                    return Err(Stop::Nonsense("the server's Finished is wrong"));
                }
                transcript.extend(message);
                return Ok(());
            }
            transcript.extend(message);
        }
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

/// A fresh P-256 key.
pub(crate) fn ephemeral() -> EphemeralPrivateKey {
    EphemeralPrivateKey::generate(&ECDH_P256, &SystemRandom::new())
        .expect("the system gives random bytes")
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

pub(crate) fn no_key(_: Unspecified) -> Stop {
    Stop::Nonsense("a public value that gives no shared secret")
}

const DEADLINE: Duration = Duration::from_secs(20);
