//! What a proxy asks a signer, and what it gets back.
//!
//! The order of enum variants is part of the protocol (postcard numbers them): append, never reorder. Texts and
//! byte strings are bounded by the frame; tighter bounds stand beside the fields they bound.

use keyhaven_types::{AeadAlgorithm, CustodyLevel, Direction, Secret, TlsVersion};
use serde::{Deserialize, Serialize};

use crate::kms::{
    Batch, Changes, Fetch, Fetched, Follow, Found, LeaseGrant, LeaseRequest, Lookup, PassedOn,
    SignedBatch, SiteStatus, TaskResult,
    admin::{Answer, Ask},
};

/// ALPN of the channel; the number changes when old and new programs can no longer talk.
pub const ALPN: &[u8] = b"keyhaven/1";
/// The largest frame payload in bytes, either way.
pub const FRAME_BYTES_MAX: usize = 128 * 1024;
/// The largest ClientHello, with record headers, that a proxy passes on.
pub const CLIENT_HELLO_BYTES_MAX: usize = 16 * 1024;
/// The most bytes of client records in one [`Continue`].
pub const CONTINUE_BYTES_MAX: usize = 34 * 1024;
/// The longest sealed rekey state.
pub const REKEY_STATE_BYTES_MAX: usize = 1024;

/// Names one handshake: 32 random bytes, chosen by the proxy for each client connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HandshakeId(pub [u8; 32]);

/// Names one established connection: a hash of its transcript up to the server's Finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ConnectionId(pub [u8; 32]);

/// Ties a reply to the request it answers: [`Start::binding`], [`Continue::binding`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding(pub [u8; 32]);

/// What can be asked on the channel.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// Begin a handshake with the client's first records.
    Start(Start),
    /// Go on with the client's next records.
    Continue(Continue),
    /// Say how a handshake ended at the client.
    Outcome(Outcome),
    /// Ask for the encrypted alert that refuses a client's Finished.
    Refuse(Refuse),
    /// Ask for the next traffic key of one direction (RFC 8446, section 7.2).
    Rekey(Rekey),
    /// Ask whether the signer can serve: it answers after its token has signed.
    Ping,
    /// Have operations done with managed keys.
    Operate(Batch),
    /// The same, signed by the caller: the server may pass operations on.
    OperateSigned(SignedBatch),
    /// Between signers: operations that were passed on.
    OperatePassed(PassedOn),
    /// Ask which servers can do an operation with a key.
    Lookup(Lookup),
    /// Site to central: what changed.
    Follow(Follow),
    /// Site to central, or to a peer: one key.
    Fetch(Fetch),
    /// Site to central: may it go on serving.
    Lease(LeaseRequest),
    /// Site to site: how are you.
    Status,
    /// Operator to central.
    Admin(Box<Ask>),
}

/// Begins a handshake.
#[derive(Debug, Serialize, Deserialize)]
pub struct Start {
    /// The handshake's name.
    pub handshake: HandshakeId,
    /// The client's address as the proxy saw it; hearsay, for the log.
    pub client: String,
    /// Whole TLS records, exactly those that hold the ClientHello.
    pub records: Vec<u8>,
}

/// Goes on with a handshake. The state it meets at the signer is used up by it, even when it fails.
#[derive(Debug, Serialize, Deserialize)]
pub struct Continue {
    /// The handshake's name.
    pub handshake: HandshakeId,
    /// Whole TLS records that follow those sent before.
    pub records: Vec<u8>,
}

/// How a handshake ended at the client.
#[derive(Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// The handshake's name.
    pub handshake: HandshakeId,
    /// The proof that the client's Finished was seen, or nothing when there was none.
    pub proof: Option<[u8; 32]>,
}

/// Asks once for one encrypted alert record, in place of everything that the locked box holds.
#[derive(Debug, Serialize, Deserialize)]
pub struct Refuse {
    /// The handshake's name.
    pub handshake: HandshakeId,
    /// The alert description (RFC 8446, section 6).
    pub alert: u8,
}

/// Asks for the next key of one direction.
#[derive(Debug, Serialize, Deserialize)]
pub struct Rekey {
    /// The connection's name, from [`Established`].
    pub connection: ConnectionId,
    /// Which of its two keys.
    pub direction: Direction,
    /// The generation asked for: one more than the one in use (the first key is generation 0).
    pub generation: u32,
    /// The sealed state that came with the key in use.
    pub state: Vec<u8>,
}

/// What a signer answers.
#[derive(Debug, Serialize, Deserialize)]
pub enum Reply {
    /// To [`Request::Start`] and [`Request::Continue`].
    Handshake(HandshakeReply),
    /// To [`Request::Outcome`]: noted.
    Noted,
    /// To [`Request::Refuse`]: one encrypted alert record to send before closing.
    Alert {
        /// The handshake's name.
        handshake: HandshakeId,
        /// The record.
        record: Vec<u8>,
    },
    /// To [`Request::Rekey`].
    Rekeyed(Rekeyed),
    /// To [`Request::Ping`].
    Pong,
    /// To anything that could not be done.
    Error(ErrorCode),
    /// To [`Request::Operate`], [`Request::OperateSigned`] and [`Request::OperatePassed`]: one for each operation
    /// that was asked for, in that order.
    Results(Vec<TaskResult>),
    /// To [`Request::Lookup`].
    Found(Found),
    /// To [`Request::Follow`].
    Changes(Changes),
    /// To [`Request::Fetch`].
    Fetched(Fetched),
    /// To [`Request::Lease`].
    Leased(LeaseGrant),
    /// To [`Request::Status`].
    Status(Box<SiteStatus>),
    /// To [`Request::Admin`].
    Admin(Box<Answer>),
}

/// One step of a handshake, done.
#[derive(Debug, Serialize, Deserialize)]
pub struct HandshakeReply {
    /// Ties the reply to its request.
    pub binding: Binding,
    /// How many bytes of the request's records the handshake used; the rest follows in order.
    pub consumed: u32,
    /// Records to send to the client, as they are, before anything else.
    pub to_client: Vec<u8>,
    /// What comes next.
    pub next: Next,
}

/// What the proxy does after it has sent [`HandshakeReply::to_client`].
#[derive(Debug, Serialize, Deserialize)]
pub enum Next {
    /// Collect the client's next flight and send [`Continue`].
    More(Expect),
    /// TLS 1.3: read the client's Finished and open the box with it.
    Locked(Locked),
    /// The signer accepted the client's Finished: TLS 1.2, or TLS 1.3 with client authentication. Only to
    /// [`Continue`].
    Open(Box<Established>),
    /// The handshake is refused; `to_client` ends with the alert. Close.
    Refused {
        /// The alert description, for the proxy's log.
        alert: u8,
    },
}

/// Which flight of the client comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Expect {
    /// A second ClientHello, after HelloRetryRequest (RFC 8446, section 4.1.4).
    ClientHello,
    /// TLS 1.2: ClientKeyExchange, ChangeCipherSpec, Finished (RFC 5246, section 7.3); with a client certificate
    /// also Certificate before and CertificateVerify after the first.
    KeyExchange,
    /// TLS 1.3 with client authentication: the next protected record of the client's flight (Certificate,
    /// CertificateVerify, Finished), one record in each [`Continue`] (RFC 8446, section 4.4).
    ClientFlight,
    /// TLS 1.2, resumed: ChangeCipherSpec, Finished (RFC 5077, section 3.1).
    Finished,
}

/// Keys behind the Finished-lock. See `PROTOCOL.md`, "The Finished-lock".
#[derive(Debug, Serialize, Deserialize)]
pub struct Locked {
    /// Reads the client's handshake records.
    pub handshake_read: TrafficKey,
    /// Length of the client's verify_data: 32 or 48.
    pub verify_data_len: u8,
    /// An [`Established`], encrypted under a key that only the client's verify_data gives.
    pub sealed_box: Vec<u8>,
}

/// A record protection key with its IV and the sequence number of its next record.
#[derive(Debug, Serialize, Deserialize)]
pub struct TrafficKey {
    /// The AEAD.
    pub aead: AeadAlgorithm,
    /// The key.
    pub key: Secret,
    /// 12 bytes: the IV of RFC 8446, section 5.3. For AES-GCM in TLS 1.2: the 4-byte salt, then 8 bytes that
    /// are XORed with the sequence number to give the explicit nonce.
    pub iv: Secret,
    /// Sequence number of the next record.
    pub seq: u64,
}

/// Everything that a proxy holds for one connection.
#[derive(Debug, Serialize, Deserialize)]
pub struct Established {
    /// The connection's name, for [`Rekey`].
    pub connection: ConnectionId,
    /// TLS version.
    pub version: TlsVersion,
    /// Cipher suite code point.
    pub suite: u16,
    /// Encrypts to the client.
    pub write: TrafficKey,
    /// Decrypts from the client.
    pub read: TrafficKey,
    /// Sealed state for the next write key; empty in TLS 1.2.
    pub rekey_write: Vec<u8>,
    /// Sealed state for the next read key; empty in TLS 1.2.
    pub rekey_read: Vec<u8>,
    /// How many seconds the connection may live; the sealed states die with it.
    pub lifetime_s: u32,
    /// The name that the client asked for.
    pub server_name: String,
    /// The application protocol agreed on, or none.
    pub alpn: Option<Vec<u8>>,
    /// What the token kept to itself.
    pub level: CustodyLevel,
    /// TLS 1.3 records with tickets, already under the write key, to be sent before anything else; the write
    /// key's sequence number counts them. Not to be sent by a proxy that refuses the client's Finished. Empty in
    /// TLS 1.2, where a ticket is part of the handshake.
    pub tickets: Vec<u8>,
    /// Whether an earlier session was resumed.
    pub resumed: bool,
    /// The client's certificate, verified by the signer, when it was asked for and given. Never in a box: the
    /// client's flight proves it, which only the signer reads.
    pub client: Option<ClientCertificate>,
}

/// A client that proved a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientCertificate {
    /// The leaf, DER.
    pub leaf: Vec<u8>,
    /// The common name of its subject; empty when there is none.
    pub common_name: String,
}

/// The next key of one direction.
#[derive(Debug, Serialize, Deserialize)]
pub struct Rekeyed {
    /// The connection's name.
    pub connection: ConnectionId,
    /// Which of its two keys.
    pub direction: Direction,
    /// The key's generation.
    pub generation: u32,
    /// The key; its first record has sequence number 0.
    pub key: TrafficKey,
    /// Sealed state for the key after this one.
    pub state: Vec<u8>,
}

/// Why a request was not done. Details stay in the signer's log, under the request id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum ErrorCode {
    /// The signer is at its limit; another may take it.
    #[error("the signer is busy")]
    Busy,
    /// The identity may not do this.
    #[error("denied")]
    Denied,
    /// The request has the wrong form or size.
    #[error("the request is malformed")]
    Malformed,
    /// No such handshake here: unknown, over, or somebody else's.
    #[error("no such handshake")]
    UnknownHandshake,
    /// The sealed state is not accepted: too old, altered, another's, or sealed by another signer.
    #[error("the rekey state is refused")]
    StateRefused,
    /// The token does not answer; another signer may.
    #[error("the signer's token is unavailable")]
    Unavailable,
    /// Something failed inside the signer.
    #[error("the signer failed")]
    Internal,
    /// Central's history is behind what the asking site has seen, or another one: a store was restored or edited.
    #[error(
        "central's history is not the one that was seen before: its store was restored or edited"
    )]
    History,
    /// The asking site is not enrolled, or was thrown out.
    #[error("this site is not enrolled")]
    NotEnrolled,
}

impl Start {
    /// The binding that the reply to this request must carry.
    pub fn binding(&self) -> Binding {
        binding(b"kh1 start", &self.handshake, &self.records)
    }
}

impl Continue {
    /// The binding that the reply to this request must carry.
    pub fn binding(&self) -> Binding {
        binding(b"kh1 continue", &self.handshake, &self.records)
    }
}

fn binding(label: &[u8], handshake: &HandshakeId, records: &[u8]) -> Binding {
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    context.update(label);
    context.update(&[0]);
    context.update(&handshake.0);
    context.update(records);
    let mut bytes = [0; 32];
    bytes.copy_from_slice(context.finish().as_ref());
    Binding(bytes)
}
