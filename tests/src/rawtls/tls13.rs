//! TLS 1.3 as a client, up to the server's Finished; from there the test decides.
//!
//! After [`Client13::connect`] the write key is the client's handshake key and the read key is the server's
//! application key, which is what a server uses for the alert that refuses a Finished.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};

use super::flight13::Begun;
use super::group::Group;
use super::hello::Hello;
use super::identity::Identity;
use super::keys::RecordKeys;
use super::messages::{CertificateRequest, NewTicket, handshake_message, split_messages};
use super::record::{
    ALERT, APPLICATION_DATA, CHANGE_CIPHER_SPEC, HANDSHAKE, Incoming, Stop, read_record, record,
};
use super::secrets::{Named, Schedule};
use super::ticket::Ticket;

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
    group: Group,
    schedule: Schedule,
    transcript: Vec<u8>,
    verify_data: Vec<u8>,
    server_bytes: Vec<u8>,
    messages: Vec<(u8, Vec<u8>)>,
    resumed: Option<usize>,
    /// The server's wish for a certificate, until it is answered.
    request: Option<CertificateRequest>,
    tickets: Vec<Ticket>,
}

impl Client13 {
    /// Connects and runs the handshake up to the server's Finished, whose verify_data is checked.
    pub fn connect(address: SocketAddr, hello: &Hello) -> Result<Client13, Stop> {
        Client13::connect_with(address, hello, |stream, message| {
            stream.write_all(&record(HANDSHAKE, message))
        })
    }

    /// The same, with another way to send the ClientHello.
    pub fn connect_with(
        address: SocketAddr,
        hello: &Hello,
        send: impl FnOnce(&mut TcpStream, &[u8]) -> io::Result<()>,
    ) -> Result<Client13, Stop> {
        let begun = Begun::connect(address, hello, send)?;
        let request = begun.messages.iter().find(|(kind, _)| *kind == 13);
        let request = request.map(|(_, message)| CertificateRequest::parse13(message));
        let schedule = begun.schedule;
        let keys = |secret| RecordKeys::tls13(begun.suite, schedule.hash, secret);
        Ok(Client13 {
            write: keys(&schedule.client_handshake),
            read: keys(&schedule.server_application),
            verify_data: schedule.verify_data(&schedule.client_handshake, &begun.transcript),
            stream: begun.stream,
            suite: begun.suite,
            group: begun.group,
            schedule,
            transcript: begun.transcript,
            server_bytes: begun.server_bytes,
            messages: begun.messages,
            resumed: begun.resumed,
            request: request.transpose()?,
            tickets: Vec::new(),
        })
    }

    /// The server's flight as it came, records and all.
    pub fn server_bytes(&self) -> &[u8] {
        &self.server_bytes
    }

    /// The messages of the server's flight behind the ServerHello, each with its kind.
    pub fn server_messages(&self) -> &[(u8, Vec<u8>)] {
        &self.messages
    }

    /// The cipher suite.
    pub fn suite(&self) -> u16 {
        self.suite
    }

    /// The group of the exchange.
    pub fn group(&self) -> Group {
        self.group
    }

    /// Which of the offered sessions was resumed, if one was.
    pub fn resumed(&self) -> Option<usize> {
        self.resumed
    }

    /// Whether the server wants a certificate that it has not got yet.
    pub fn is_asked(&self) -> bool {
        self.request.is_some()
    }

    /// The right verify_data of the client's Finished, as long as no certificate is sent.
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

    /// Sends a certificate, or an empty one, and the proof that the key is here, in one record each.
    pub fn authenticate(&mut self, identity: Option<&Identity>) -> Result<(), Stop> {
        let request = self
            .request
            .take()
            .ok_or(Stop::Nonsense("the server wants no certificate"))?;
        let certificate = Identity::certificate13(identity, &request.context);
        self.say(&certificate)?;
        if let Some(identity) = identity {
            let hash = self.schedule.hash.digest(&self.transcript);
            let verify = identity.verify13(&request.schemes, &hash)?;
            self.say(&verify)?;
        }
        Ok(())
    }

    /// Sends a handshake message that belongs to the transcript.
    pub fn say(&mut self, message: &[u8]) -> Result<(), Stop> {
        self.send(HANDSHAKE, message)?;
        self.transcript.extend_from_slice(message);
        self.verify_data = self
            .schedule
            .verify_data(&self.schedule.client_handshake, &self.transcript);
        Ok(())
    }

    /// Sends the right Finished, before it an empty certificate if one is due, and goes on with the application
    /// keys.
    pub fn finish(&mut self) -> Result<(), Stop> {
        if self.is_asked() {
            self.authenticate(None)?;
        }
        let finished = self.finished();
        self.send(HANDSHAKE, &finished)?;
        self.transcript.extend(finished);
        self.schedule.end(&self.transcript);
        self.use_application_write_key();
        Ok(())
    }

    /// From here on the client encrypts with its application key.
    pub fn use_application_write_key(&mut self) {
        self.write = self.keys(&self.schedule.client_application);
    }

    /// From here on the client encrypts with the next application key (RFC 8446, section 7.2).
    pub fn next_write_key(&mut self) {
        self.schedule.client_application = self.next(&self.schedule.client_application);
        self.use_application_write_key();
    }

    /// From here on the client decrypts with the server's next application key.
    pub fn next_read_key(&mut self) {
        self.schedule.server_application = self.next(&self.schedule.server_application);
        self.read = self.keys(&self.schedule.server_application);
    }

    /// Reads and opens the next record that is not a NewSessionTicket, which is kept; an alert, encrypted or not,
    /// is [`Stop::Alert`].
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
            if incoming.kind == HANDSHAKE && incoming.bytes.first() == Some(&4) {
                self.keep_tickets(incoming.bytes)?;
                continue;
            }
            return Ok(incoming);
        }
    }

    /// The tickets received so far.
    pub fn tickets(&self) -> &[Ticket] {
        &self.tickets
    }

    /// Every secret of the connection by its name; traffic secrets of the generation in use.
    pub fn named_secrets(&self) -> Vec<Named> {
        let mut all = self.schedule.named();
        all.push(Named::leaving("MAC of the client", &self.verify_data));
        if let Some((_, finished)) = self.messages.last() {
            all.push(Named::leaving("MAC of the server", &finished[4..]));
        }
        for ticket in &self.tickets {
            all.push(Named::kept(
                "PSK of a ticket",
                keyhaven_types::CustodyLevel::Master,
                &ticket.psk,
            ));
        }
        all
    }

    /// Everything that must not be seen outside the two ends: the secrets of the schedule, without keys and IVs.
    pub fn secrets(&self) -> Vec<Vec<u8>> {
        let all = self.schedule.named().into_iter();
        all.filter(|secret| secret.kept_from.is_some())
            .map(|secret| secret.bytes)
            .collect()
    }

    /// The key that opens the client's handshake records, which the proxy does get.
    pub fn handshake_write_key(&self) -> Vec<u8> {
        self.key(&self.schedule.client_handshake)
    }

    /// The application keys in use of client and server, the first of which the proxy gets in the locked box alone.
    pub fn application_keys(&self) -> [Vec<u8>; 2] {
        [
            self.key(&self.schedule.client_application),
            self.key(&self.schedule.server_application),
        ]
    }

    fn keep_tickets(&mut self, mut bytes: Vec<u8>) -> Result<(), Stop> {
        for (_, message) in split_messages(&mut bytes) {
            let message = NewTicket::parse(&message)?;
            let psk = self
                .schedule
                .psk(&message.nonce)
                .ok_or(Stop::Nonsense("a ticket before the client's Finished"))?;
            self.tickets.push(Ticket::new(message, psk, self.suite));
        }
        Ok(())
    }

    fn key(&self, secret: &[u8]) -> Vec<u8> {
        self.schedule
            .hash
            .expand_label(secret, "key", &[], self.write.key_len())
    }

    fn keys(&self, secret: &[u8]) -> RecordKeys {
        RecordKeys::tls13(self.suite, self.schedule.hash, secret)
    }

    fn next(&self, secret: &[u8]) -> Vec<u8> {
        let hash = self.schedule.hash;
        hash.expand_label(secret, "traffic upd", &[], hash.len())
    }
}
