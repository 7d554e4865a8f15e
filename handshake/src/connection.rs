//! Drives rustls' unbuffered server connection, exactly at record boundaries.
//!
//! Knows nothing of tokens or sites: it feeds records, collects what rustls wants to send, and takes the keys out at
//! the end. One invariant: rustls sees no record beyond the one that ends the handshake.

use std::sync::Arc;

use rustls::{
    Error, HandshakeKind, ServerConfig, SupportedCipherSuite,
    server::UnbufferedServerConnection,
    unbuffered::{ConnectionState, EncodeError},
};

use crate::{error::Failure, keys::SessionKey};

/// Whether rustls wants more.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Pumped {
    Blocked,
    Done,
}

/// rustls' connection with the bytes of a message that is not whole yet.
pub(crate) struct Connection {
    rustls: UnbufferedServerConnection,
    buffer: Vec<u8>,
}

impl Connection {
    pub(crate) fn new(config: Arc<ServerConfig>) -> Result<Self, Error> {
        Ok(Self {
            rustls: UnbufferedServerConnection::new(config)?,
            buffer: Vec::new(),
        })
    }

    pub(crate) fn suite(&self) -> Option<SupportedCipherSuite> {
        self.rustls.negotiated_cipher_suite()
    }

    pub(crate) fn alpn(&self) -> Option<Vec<u8>> {
        self.rustls.alpn_protocol().map(<[u8]>::to_vec)
    }

    /// The client's certificate, verified; DER.
    pub(crate) fn client_certificate(&self) -> Option<Vec<u8>> {
        let leaf = self.rustls.peer_certificates()?.first()?;
        Some(leaf.as_ref().to_vec())
    }

    /// Whether an earlier session is resumed.
    pub(crate) fn is_resumed(&self) -> bool {
        self.rustls.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// The keys of both directions, write first.
    pub(crate) fn into_keys(self) -> Result<(SessionKey, SessionKey), Failure> {
        if !self.buffer.is_empty() {
            return Err(Failure::Engine("input left at the end of the handshake"));
        }
        let (secrets, _kernel) = self
            .rustls
            .dangerous_into_kernel_connection()
            .map_err(Failure::Rustls)?;
        Ok((
            SessionKey::from_rustls(secrets.tx)?,
            SessionKey::from_rustls(secrets.rx)?,
        ))
    }

    /// Feeds record by record and stops at the end of the handshake, so that later records stay unread.
    pub(crate) fn pump_records(
        &mut self,
        records: &[u8],
        consumed: &mut usize,
        output: &mut Vec<u8>,
    ) -> Result<Pumped, Error> {
        let mut pumped = Pumped::Blocked;
        while pumped == Pumped::Blocked {
            let rest = &records[*consumed..];
            let Some(header) = rest.first_chunk::<5>() else {
                break;
            };
            let length = 5 + usize::from(u16::from_be_bytes([header[3], header[4]]));
            let Some(record) = rest.get(..length) else {
                break;
            };
            // The record belongs to this step even when rustls refuses it.
            *consumed += length;
            pumped = self.pump(record, output)?;
        }
        Ok(pumped)
    }

    /// Gives rustls one record, or none, and collects what it wants to send.
    pub(crate) fn pump(&mut self, record: &[u8], output: &mut Vec<u8>) -> Result<Pumped, Error> {
        self.buffer.extend_from_slice(record);
        loop {
            let status = self.rustls.process_tls_records(&mut self.buffer);
            let discard = status.discard;
            let finished = match status.state {
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    encode(output, |buffer| data.encode(buffer))?;
                    None
                }
                Ok(ConnectionState::TransmitTlsData(data)) => {
                    data.done();
                    None
                }
                Ok(ConnectionState::BlockedHandshake) => Some(Pumped::Blocked),
                Ok(ConnectionState::WriteTraffic(_)) => Some(Pumped::Done),
                Ok(_) => return Err(Error::General("an unexpected state in a handshake".into())),
                Err(error) => {
                    self.buffer.drain(..discard);
                    self.collect_alert(output);
                    return Err(error);
                }
            };
            self.buffer.drain(..discard);
            if let Some(pumped) = finished {
                return Ok(pumped);
            }
        }
    }

    /// After an error rustls may hold an alert; it takes the place of everything collected before.
    ///
    /// rustls is asked only while it has something to send: beyond that it would read the faulty input again.
    fn collect_alert(&mut self, output: &mut Vec<u8>) {
        output.clear();
        while self.rustls.wants_write() {
            match self.rustls.process_tls_records(&mut self.buffer).state {
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    if encode(output, |buffer| data.encode(buffer)).is_err() {
                        return;
                    }
                }
                _ => return,
            }
        }
    }
}

/// Appends what an encoder writes; it says itself how much room it needs.
fn encode(
    output: &mut Vec<u8>,
    mut encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
) -> Result<(), Error> {
    let start = output.len();
    let mut room = 512;
    loop {
        output.resize(start + room, 0);
        match encode(&mut output[start..]) {
            Ok(written) => {
                output.truncate(start + written);
                return Ok(());
            }
            Err(EncodeError::InsufficientSize(needed)) if needed.required_size > room => {
                room = needed.required_size;
            }
            Err(_) => {
                return Err(Error::General(
                    "rustls could not encode its own record".into(),
                ));
            }
        }
    }
}
