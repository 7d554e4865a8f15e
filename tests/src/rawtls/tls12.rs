//! TLS 1.2 as a client, up to ServerHelloDone; from there the test decides.
//!
//! ECDHE with the AEAD suites, with or without the extended master secret, whichever the server agreed to. A resumed
//! session is complete but for the client's Finished.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};

use keyhaven_types::CustodyLevel;

use super::flight12::Flight12;
use super::group::{Group, Share};
use super::hash::Hash;
use super::hello::Hello;
use super::identity::Identity;
use super::keys::{RecordKeys, iv12_len, key_len};
use super::messages::{
    CertificateRequest, handshake_message, server_key_exchange_point, split_messages, ticket12,
};
use super::record::{
    ALERT, CHANGE_CIPHER_SPEC, HANDSHAKE, Incoming, Stop, dial, read_record, record,
};
use super::secrets::Named;

/// A session that can be resumed with its ticket (RFC 5077).
#[derive(Clone, Debug)]
pub struct Session12 {
    /// The ticket.
    pub ticket: Vec<u8>,
    /// Its lifetime in seconds, as the server says.
    pub lifetime: u32,
    /// The master secret.
    pub master: Vec<u8>,
}

/// A connection whose server waits for ClientKeyExchange, or for the Finished of a resumed session.
#[derive(Debug)]
pub struct Client12 {
    /// The socket.
    pub stream: TcpStream,
    /// Protects what the client sends after ChangeCipherSpec.
    pub write: RecordKeys,
    read: RecordKeys,
    encrypted: bool,
    suite: u16,
    hash: Hash,
    server_random: [u8; 32],
    transcript: Vec<u8>,
    /// The records of the client's messages up to ChangeCipherSpec.
    key_exchange: Vec<u8>,
    /// None when a session was resumed.
    premaster: Option<Vec<u8>>,
    master: Vec<u8>,
    block: Vec<u8>,
    server_bytes: Vec<u8>,
    is_asked: bool,
    session: Option<Session12>,
}

impl Client12 {
    /// Connects and runs the handshake up to ServerHelloDone. A wish for a certificate is answered with none.
    pub fn connect(address: SocketAddr, hello: &Hello) -> Result<Client12, Stop> {
        Client12::connect_as(address, hello, None)
    }

    /// The same with a certificate, which is sent when the server wants one.
    pub fn connect_as(
        address: SocketAddr,
        hello: &Hello,
        identity: Option<&Identity>,
    ) -> Result<Client12, Stop> {
        let mut stream = dial(address)?;
        let message = hello.message(&[]);
        stream.write_all(&record(HANDSHAKE, &message))?;
        let flight = Flight12::read(&mut stream)?;
        Client12::full(stream, hello, message, flight, identity)
    }

    /// Connects with a session's ticket. Whether it was resumed says [`Client12::is_resumed`]; the server's
    /// Finished is checked then.
    pub fn resume(
        address: SocketAddr,
        hello: &Hello,
        session: &Session12,
    ) -> Result<Client12, Stop> {
        let mut stream = dial(address)?;
        let mut hello = hello.clone();
        hello.extra.push((SESSION_TICKET, session.ticket.clone()));
        let message = hello.message(&[]);
        stream.write_all(&record(HANDSHAKE, &message))?;
        let flight = Flight12::read(&mut stream)?;
        if flight.exchange.is_some() {
            return Client12::full(stream, &hello, message, flight, None);
        }
        let transcript = [message, flight.transcript.clone()].concat();
        let master = session.master.clone();
        let mut client = Client12::begin(stream, &hello, &flight, transcript, master);
        client.encrypted = true;
        client.keep_ticket(flight.ticket.as_deref())?;
        let finished = client.receive()?;
        client.check_finished(&finished)?;
        client.transcript.extend(finished.bytes);
        Ok(client)
    }

    fn full(
        stream: TcpStream,
        hello: &Hello,
        message: Vec<u8>,
        flight: Flight12,
        identity: Option<&Identity>,
    ) -> Result<Client12, Stop> {
        let exchange = flight
            .exchange
            .as_deref()
            .ok_or(Stop::Nonsense("a session resumed that was not offered"))?;
        let (group, point) = server_key_exchange_point(exchange)?;
        let group = Group::of(group).ok_or(Stop::Nonsense("a group that was not offered"))?;
        let share = Share::generate(group);
        let shared = share.agree(point)?;
        let request = flight.request.as_deref();
        let request = request.map(CertificateRequest::parse12).transpose()?;

        let mut transcript = [message, flight.transcript.clone()].concat();
        let mut key_exchange = Vec::new();
        let mut say = |transcript: &mut Vec<u8>, message: Vec<u8>| {
            key_exchange.extend(record(HANDSHAKE, &message));
            transcript.extend(message);
        };
        if request.is_some() {
            say(&mut transcript, Identity::certificate12(identity));
        }
        let public = share.public();
        let body = [&[public.len() as u8], public.as_slice()].concat();
        say(&mut transcript, handshake_message(16, &body));
        let hash = Hash::of_suite(flight.hello.suite);
        let (label, seed) = if flight.hello.extension(23).is_some() {
            ("extended master secret", hash.digest(&transcript))
        } else {
            let seed = [hello.random, flight.hello.random].concat();
            ("master secret", seed)
        };
        let master = hash.prf(&shared, label, &seed, 48);
        if let (Some(request), Some(identity)) = (&request, identity) {
            let verify = identity.verify12(&request.schemes, &transcript)?;
            say(&mut transcript, verify);
        }
        Ok(Client12 {
            key_exchange,
            premaster: Some(shared),
            is_asked: request.is_some(),
            ..Client12::begin(stream, hello, &flight, transcript, master)
        })
    }

    fn begin(
        stream: TcpStream,
        hello: &Hello,
        flight: &Flight12,
        transcript: Vec<u8>,
        master: Vec<u8>,
    ) -> Client12 {
        let (suite, random) = (flight.hello.suite, flight.hello.random);
        let (key, iv) = (key_len(suite), iv12_len(suite));
        let hash = Hash::of_suite(suite);
        let seed = [random, hello.random].concat();
        let block = hash.prf(&master, "key expansion", &seed, 2 * (key + iv));
        let (keys, ivs) = block.split_at(2 * key);
        Client12 {
            stream,
            write: RecordKeys::tls12(suite, &keys[..key], &ivs[..iv]),
            read: RecordKeys::tls12(suite, &keys[key..], &ivs[iv..]),
            encrypted: false,
            suite,
            hash,
            server_random: random,
            transcript,
            key_exchange: Vec::new(),
            premaster: None,
            master,
            block: block.clone(),
            server_bytes: flight.bytes.clone(),
            is_asked: false,
            session: None,
        }
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

    /// The cipher suite.
    pub fn suite(&self) -> u16 {
        self.suite
    }

    /// Whether the session of the ticket goes on.
    pub fn is_resumed(&self) -> bool {
        self.premaster.is_none()
    }

    /// Whether the server asked for a certificate.
    pub fn is_asked(&self) -> bool {
        self.is_asked
    }

    /// The session with the ticket that the server gave last, if it gave one.
    pub fn session(&self) -> Option<&Session12> {
        self.session.as_ref()
    }

    /// The premaster and master secrets, which must not be seen outside the two ends.
    pub fn secrets(&self) -> Vec<&[u8]> {
        let premaster = self.premaster.iter().map(Vec::as_slice);
        premaster.chain([self.master.as_slice()]).collect()
    }

    /// Every secret of the connection by its name.
    pub fn named_secrets(&self) -> Vec<Named> {
        let mut all = vec![Named::kept(
            "master secret",
            CustodyLevel::Master,
            &self.master,
        )];
        if let Some(premaster) = &self.premaster {
            all.push(Named::kept(
                "premaster secret",
                CustodyLevel::Premaster,
                premaster,
            ));
        }
        let [client, server] = self.application_keys();
        all.push(Named::leaving("key block", &self.block));
        all.push(Named::leaving("client write key", client));
        all.push(Named::leaving("server write key", server));
        all
    }

    /// Both write keys, which the proxy does get once the Finished was accepted.
    pub fn application_keys(&self) -> [&[u8]; 2] {
        let key = key_len(self.suite);
        [&self.block[..key], &self.block[key..2 * key]]
    }

    /// The records of what the client says before ChangeCipherSpec: ClientKeyExchange, with a certificate around it
    /// when the server wants one.
    pub fn key_exchange(&self) -> Vec<u8> {
        self.key_exchange.clone()
    }

    /// The right Finished.
    pub fn finished(&self) -> Vec<u8> {
        handshake_message(20, &self.verify_data("client finished"))
    }

    /// ClientKeyExchange, ChangeCipherSpec and the encrypted `finished`, as bytes to send.
    pub fn second_flight(&mut self, finished: &[u8]) -> Vec<u8> {
        let mut flight = self.key_exchange();
        flight.extend(record(CHANGE_CIPHER_SPEC, &[1]));
        flight.extend(self.write.seal(HANDSHAKE, finished));
        flight
    }

    /// Sends the right second flight, and reads and checks the server's; of a resumed session that was before.
    pub fn finish(&mut self) -> Result<(), Stop> {
        let finished = self.finished();
        let flight = self.second_flight(&finished);
        self.stream.write_all(&flight)?;
        self.transcript.extend(finished);
        if self.is_resumed() {
            return Ok(());
        }
        let mut answer = self.receive()?;
        if !self.encrypted {
            self.transcript.extend_from_slice(&answer.bytes);
            self.keep_ticket(Some(&answer.bytes))?;
            answer = self.receive()?;
        }
        self.check_finished(&answer)
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

    fn keep_ticket(&mut self, message: Option<&[u8]>) -> Result<(), Stop> {
        if let Some(message) = message {
            if message.first() != Some(&4) {
                return Err(Stop::Nonsense("no ticket where only a ticket may be"));
            }
            let (lifetime, ticket) = ticket12(message)?;
            self.session = Some(Session12 {
                ticket,
                lifetime,
                master: self.master.clone(),
            });
        }
        Ok(())
    }

    fn check_finished(&self, incoming: &Incoming) -> Result<(), Stop> {
        let right = handshake_message(20, &self.verify_data("server finished"));
        if self.encrypted && incoming.kind == HANDSHAKE && incoming.bytes == right {
            return Ok(());
        }
        Err(Stop::Nonsense(
            "no Finished from the server, or a wrong one",
        ))
    }

    fn verify_data(&self, label: &str) -> Vec<u8> {
        let hash = self.hash;
        hash.prf(&self.master, label, &hash.digest(&self.transcript), 12)
    }
}

/// The extension session_ticket.
pub(crate) const SESSION_TICKET: u16 = 35;
