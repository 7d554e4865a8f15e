//! TLS 1.3 from the ClientHello to the server's Finished, which is checked.
//!
//! Follows a HelloRetryRequest once. What comes after is `tls13`'s business.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};

use super::group::{Group, Share};
use super::hash::Hash;
use super::hello::Hello;
use super::keys::RecordKeys;
use super::messages::{ServerHello, handshake_message, split_messages};
use super::record::{
    ALERT, CHANGE_CIPHER_SPEC, HANDSHAKE, Incoming, Stop, dial, plain, read_record, record,
};
use super::secrets::{Psk, Schedule};
use super::ticket::binders;

/// A connection whose server has finished.
#[derive(Debug)]
pub(crate) struct Begun {
    pub(crate) stream: TcpStream,
    pub(crate) schedule: Schedule,
    pub(crate) suite: u16,
    pub(crate) group: Group,
    pub(crate) transcript: Vec<u8>,
    /// The server's flight as it came.
    pub(crate) server_bytes: Vec<u8>,
    /// The messages of the encrypted flight.
    pub(crate) messages: Vec<(u8, Vec<u8>)>,
    /// The identity that the server took.
    pub(crate) resumed: Option<usize>,
}

impl Begun {
    pub(crate) fn connect(
        address: SocketAddr,
        hello: &Hello,
        send: impl FnOnce(&mut TcpStream, &[u8]) -> io::Result<()>,
    ) -> Result<Begun, Stop> {
        let mut stream = dial(address)?;
        let mut share = Share::generate(hello.share_group);
        let message = hello.message(&share.public());
        send(&mut stream, &message)?;
        let mut first = plain(&mut stream)?;
        let mut server = ServerHello::parse(&first.bytes)?;
        let mut transcript = message;
        if server.random == RETRY {
            let asked = retry_group(&server)?;
            // RFC 8446, section 4.4.1: the first message is replaced by its hash.
            let hashed = Hash::of_suite(server.suite).digest(&transcript);
            transcript = [handshake_message(254, &hashed), first.bytes].concat();
            share = Share::generate(asked);
            let again = Hello {
                share: true,
                share_group: asked,
                ..hello.clone()
            };
            let message = again.message_after(&transcript, &share.public());
            stream.write_all(&record(HANDSHAKE, &message))?;
            transcript.extend(message);
            first = next_plain(&mut stream)?;
            server = ServerHello::parse(&first.bytes)?;
        }
        // The ClientHello, the last one, ends with its binders.
        let binders = binders(&transcript, &hello.resume);
        let psk = match server.selected_identity() {
            None => None,
            Some(index) => {
                let chosen = hello.resume.get(index).zip(binders.get(index));
                let (offer, binder) =
                    chosen.ok_or(Stop::Nonsense("an identity that was not offered"))?;
                Some(Psk {
                    secret: offer.psk.clone(),
                    binder: binder.clone(),
                })
            }
        };
        transcript.extend_from_slice(&first.bytes);
        Begun::go_on(stream, psk, &share, &server, &first.bytes, transcript)
    }

    fn go_on(
        stream: TcpStream,
        psk: Option<Psk>,
        share: &Share,
        server: &ServerHello,
        first: &[u8],
        transcript: Vec<u8>,
    ) -> Result<Begun, Stop> {
        let (group, public) = server.key_share()?;
        if group != share.group().code() {
            return Err(Stop::Nonsense("a share of a group that was not offered"));
        }
        let shared = share.agree(public)?;
        let mut begun = Begun {
            stream,
            schedule: Schedule::begin(server.suite, psk, &shared, &transcript),
            suite: server.suite,
            group: share.group(),
            transcript,
            server_bytes: record(HANDSHAKE, first),
            messages: Vec::new(),
            resumed: server.selected_identity(),
        };
        begun.read_flight()?;
        begun.schedule.go_on(&begun.transcript);
        Ok(begun)
    }

    /// Reads EncryptedExtensions to Finished and checks the server's verify_data.
    fn read_flight(&mut self) -> Result<(), Stop> {
        let secret = self.schedule.server_handshake.clone();
        let mut read = RecordKeys::tls13(self.suite, self.schedule.hash, &secret);
        let mut buffer = Vec::new();
        loop {
            let incoming = read_record(&mut self.stream)?;
            self.server_bytes
                .extend(record(incoming.kind, &incoming.bytes));
            match incoming.kind {
                CHANGE_CIPHER_SPEC => continue,
                ALERT => return Err(alert(&incoming)),
                _ => {}
            }
            let opened = read.open(incoming)?;
            match opened.kind {
                ALERT => return Err(alert(&opened)),
                HANDSHAKE => {}
                _ => {
                    return Err(Stop::Nonsense(
                        "no handshake message in the server's flight",
                    ));
                }
            }
            buffer.extend(opened.bytes);
            for (kind, message) in split_messages(&mut buffer) {
                let is_last = kind == 20;
                if is_last && self.schedule.verify_data(&secret, &self.transcript) != message[4..] {
                    return Err(Stop::Nonsense("the server's Finished is wrong"));
                }
                self.transcript.extend_from_slice(&message);
                self.messages.push((kind, message));
                if is_last {
                    return Ok(());
                }
            }
        }
    }
}

fn retry_group(server: &ServerHello) -> Result<Group, Stop> {
    let asked = server
        .extension(51)
        .and_then(|bytes| bytes.try_into().ok())
        .map(u16::from_be_bytes);
    asked
        .and_then(Group::of)
        .ok_or(Stop::Nonsense("a retry without a group that we know"))
}

/// The next plain handshake record, behind the ChangeCipherSpec of middlebox compatibility.
fn next_plain(stream: &mut TcpStream) -> Result<Incoming, Stop> {
    let incoming = read_record(stream)?;
    match incoming.kind {
        CHANGE_CIPHER_SPEC => plain(stream),
        HANDSHAKE => Ok(incoming),
        ALERT => Err(alert(&incoming)),
        _ => Err(Stop::Nonsense("no handshake record")),
    }
}

fn alert(incoming: &Incoming) -> Stop {
    Stop::Alert(incoming.bytes.get(1).copied().unwrap_or(0))
}

/// The random of a HelloRetryRequest (RFC 8446, section 4.1.3).
const RETRY: [u8; 32] = [
    0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91,
    0xc2, 0xa2, 0x11, 0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
];
