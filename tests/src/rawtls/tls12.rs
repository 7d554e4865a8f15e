//! TLS 1.2 as a client, up to ServerHelloDone; from there the test decides.
//!
//! ECDHE over P-256, AES-128-GCM, with or without the extended master secret, whichever the server agreed to.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};

use aws_lc_rs::agreement::{ECDH_P256, UnparsedPublicKey, agree_ephemeral};
use aws_lc_rs::error::Unspecified;

use super::hello::Hello;
use super::keys::{Hash, RecordKeys};
use super::messages::{ServerHello, handshake_message, server_key_exchange_point, split_messages};
use super::record::{ALERT, CHANGE_CIPHER_SPEC, HANDSHAKE, Incoming, Stop, read_record, record};
use super::tls13::{dial, ephemeral, no_key, plain};

/// A connection whose server waits for ClientKeyExchange.
#[derive(Debug)]
pub struct Client12 {
    /// The socket.
    pub stream: TcpStream,
    /// Protects what the client sends after ChangeCipherSpec.
    pub write: RecordKeys,
    read: RecordKeys,
    encrypted: bool,
    server_random: [u8; 32],
    transcript: Vec<u8>,
    key_exchange: Vec<u8>,
    premaster: Vec<u8>,
    master: Vec<u8>,
    block: Vec<u8>,
    server_bytes: Vec<u8>,
}

impl Client12 {
    /// Connects and runs the handshake up to ServerHelloDone.
    pub fn connect(address: SocketAddr, hello: &Hello) -> Result<Client12, Stop> {
        let mut stream = dial(address)?;
        let private = ephemeral();
        let point = private
            .compute_public_key()
            .map_err(no_key)?
            .as_ref()
            .to_vec();
        let mut transcript = hello.message(&point);
        stream.write_all(&record(HANDSHAKE, &transcript))?;
        let mut server_bytes = Vec::new();
        let (server, exchange) = read_flight(&mut stream, &mut transcript, &mut server_bytes)?;
        let peer = UnparsedPublicKey::new(&ECDH_P256, server_key_exchange_point(&exchange)?);
        let shared = agree_ephemeral(private, peer, Unspecified, |shared| Ok(shared.to_vec()))
            .map_err(no_key)?;

        let key_exchange =
            handshake_message(16, &[&[point.len() as u8], point.as_slice()].concat());
        let hash = Hash::Sha256;
        let confirmed = [transcript.as_slice(), &key_exchange].concat();
        let master = if server.extension(23).is_some() {
            hash.prf(
                &shared,
                "extended master secret",
                &hash.digest(&confirmed),
                48,
            )
        } else {
            let seed = [hello.random, server.random].concat();
            hash.prf(&shared, "master secret", &seed, 48)
        };
        let seed = [server.random, hello.random].concat();
        let block = hash.prf(&master, "key expansion", &seed, 40);
        Ok(Client12 {
            stream,
            write: RecordKeys::tls12(&block[..16], &block[32..36]),
            read: RecordKeys::tls12(&block[16..32], &block[36..40]),
            encrypted: false,
            server_random: server.random,
            transcript: confirmed,
            key_exchange,
            premaster: shared,
            master,
            block,
            server_bytes,
        })
    }

    /// The server's flight as it came, records and all.
    pub fn server_bytes(&self) -> &[u8] {
        &self.server_bytes
    }

    /// The messages of the server's flight, each with its kind.
    pub fn server_messages(&self) -> Vec<(u8, Vec<u8>)> {
        let mut records = self.server_bytes.as_slice();
        let mut bytes = Vec::new();
        while let Ok(incoming) = read_record(&mut records) {
            bytes.extend(incoming.bytes);
        }
        split_messages(&mut bytes)
    }

    /// The server's random; it ends with the downgrade sentinel when a TLS 1.3 server speaks TLS 1.2.
    pub fn server_random(&self) -> [u8; 32] {
        self.server_random
    }

    /// The premaster and master secrets, which must not be seen outside the two ends.
    pub fn secrets(&self) -> [&[u8]; 2] {
        [&self.premaster, &self.master]
    }

    /// Both write keys, which the proxy does get once the Finished was accepted.
    pub fn application_keys(&self) -> [&[u8]; 2] {
        [&self.block[..16], &self.block[16..32]]
    }

    /// The record that holds ClientKeyExchange.
    pub fn key_exchange(&self) -> Vec<u8> {
        record(HANDSHAKE, &self.key_exchange)
    }

    /// The right Finished.
    pub fn finished(&self) -> Vec<u8> {
        let hash = Hash::Sha256;
        let verify = hash.prf(
            &self.master,
            "client finished",
            &hash.digest(&self.transcript),
            12,
        );
        handshake_message(20, &verify)
    }

    /// ClientKeyExchange, ChangeCipherSpec and the encrypted `finished`, as bytes to send.
    pub fn second_flight(&mut self, finished: &[u8]) -> Vec<u8> {
        let mut flight = self.key_exchange();
        flight.extend(record(CHANGE_CIPHER_SPEC, &[1]));
        flight.extend(self.write.seal(HANDSHAKE, finished));
        flight
    }

    /// Sends the right second flight and reads the server's.
    pub fn finish(&mut self) -> Result<(), Stop> {
        let finished = self.finished();
        let flight = self.second_flight(&finished);
        self.stream.write_all(&flight)?;
        let answer = self.receive()?;
        if answer.kind == HANDSHAKE && answer.bytes.first() == Some(&20) {
            return Ok(());
        }
        Err(Stop::Nonsense("no Finished from the server"))
    }

    /// Encrypts `content` into one record and sends it.
    pub fn send(&mut self, kind: u8, content: &[u8]) -> Result<(), Stop> {
        let record = self.write.seal(kind, content);
        Ok(self.stream.write_all(&record)?)
    }

    /// Reads and opens the next record; an alert, encrypted or not, is [`Stop::Alert`].
    pub fn receive(&mut self) -> Result<Incoming, Stop> {
        loop {
            let mut incoming = read_record(&mut self.stream)?;
            if incoming.kind == CHANGE_CIPHER_SPEC {
                self.encrypted = true;
                continue;
            }
            if self.encrypted {
                incoming = self.read.open(incoming)?;
            }
            if incoming.kind == ALERT {
                return Err(Stop::Alert(incoming.bytes.get(1).copied().unwrap_or(0)));
            }
            return Ok(incoming);
        }
    }
}

/// Reads ServerHello to ServerHelloDone: what the client needs of it.
fn read_flight(
    stream: &mut TcpStream,
    transcript: &mut Vec<u8>,
    bytes: &mut Vec<u8>,
) -> Result<(ServerHello, Vec<u8>), Stop> {
    let (mut hello, mut exchange, mut buffer) = (None, None, Vec::new());
    loop {
        let incoming = plain(stream)?;
        bytes.extend(record(HANDSHAKE, &incoming.bytes));
        buffer.extend(incoming.bytes);
        for (kind, message) in split_messages(&mut buffer) {
            transcript.extend_from_slice(&message);
            match kind {
                2 => hello = Some(ServerHello::parse(&message)?),
                12 => exchange = Some(message),
                14 => {
                    return hello
                        .zip(exchange)
                        .ok_or(Stop::Nonsense("a flight without its messages"));
                }
                _ => {}
            }
        }
    }
}
