//! Collects a ClientHello: whole records, fragmented as the client likes, and not a byte more.
//!
//! Knows the two things that the proxy needs from the message, the offered name (for the log, and to find signers) and whether
//! early data follows, and leaves its judgement to the signer. At most 16 KiB with record headers are ever collected.

use keyhaven_types::alert;
use keyhaven_wire::CLIENT_HELLO_BYTES_MAX;

use super::{FlightError, Refused, Tolerance, is_content_type, plain_alert_description};
use crate::record::{Bound, HEADER_LEN, RecordError, content_type, next_record};

/// The most records that one ClientHello may be spread over.
const FRAGMENTS_MAX: usize = 1024;
const CLIENT_HELLO: u8 = 1;
const MESSAGE_HEADER_LEN: usize = 4;

/// A collected ClientHello.
#[derive(Debug, PartialEq, Eq)]
pub struct Hello {
    /// The records that hold it, exactly as they came.
    pub records: Vec<u8>,
    /// How many bytes of the buffer are done with, skipped records included.
    pub end: usize,
    /// What the proxy reads from it.
    pub facts: HelloFacts,
}

/// What the proxy reads from a ClientHello.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HelloFacts {
    /// The name asked for, as the client wrote it; for the log, and to find its signers.
    pub server_name: Option<String>,
    /// Whether early data was offered (RFC 8446, section 4.2.10).
    pub early_data: bool,
}

/// Reads one ClientHello from the start of a buffer that grows.
#[derive(Debug, Default)]
pub struct HelloReader {
    is_second: bool,
    position: usize,
    fragments: usize,
    records: Vec<u8>,
    message: Vec<u8>,
}

impl HelloReader {
    /// Reads the first message of a connection.
    pub fn first() -> Self {
        Self::default()
    }

    /// Reads the answer to a HelloRetryRequest, before which ChangeCipherSpec and refused early data may stand.
    pub fn second() -> Self {
        Self {
            is_second: true,
            ..Self::default()
        }
    }

    /// Looks at the buffer, whose start is the same as in the call before. `None` while bytes are missing.
    pub fn read(
        &mut self,
        buffer: &[u8],
        tolerance: &mut Tolerance,
    ) -> Result<Option<Hello>, FlightError> {
        if !self.is_second && self.position == 0 && !starts_like_tls(buffer)? {
            return Ok(None);
        }
        loop {
            let rest = buffer.get(self.position..).unwrap_or_default();
            // Early data is protected and may be longer than a plain record.
            let bound = match rest.first() {
                Some(&content_type::APPLICATION_DATA) => Bound::Tls13,
                _ => Bound::Plain,
            };
            let record = next_record(rest, bound)?;
            self.check_size(rest)?;
            let Some(record) = record else {
                return Ok(None);
            };
            let bytes = &rest[..record.len];
            self.position += record.len;
            match record.content_type {
                content_type::HANDSHAKE => {
                    if self.append(bytes)? {
                        return Ok(Some(self.finish()));
                    }
                }
                content_type::ALERT => {
                    let description = plain_alert_description(&bytes[HEADER_LEN..])?;
                    return Err(FlightError::ClientAlert(description));
                }
                content_type::CHANGE_CIPHER_SPEC if self.is_between_hellos() => {
                    tolerance.compat_ccs(&bytes[HEADER_LEN..])?;
                }
                content_type::APPLICATION_DATA
                    if self.is_between_hellos() && tolerance.skip(record.len) => {}
                _ => {
                    return Err(
                        Refused::unexpected("a record that is no part of a ClientHello").into(),
                    );
                }
            }
        }
    }

    fn is_between_hellos(&self) -> bool {
        self.is_second && self.message.is_empty()
    }

    /// Refuses on the announced lengths, before the bytes come.
    fn check_size(&self, rest: &[u8]) -> Result<(), Refused> {
        let mut total = self.records.len();
        if let Some(&[content_type::HANDSHAKE, _, _, high, low]) = rest.first_chunk() {
            total += HEADER_LEN + usize::from(u16::from_be_bytes([high, low]));
        }
        if total > CLIENT_HELLO_BYTES_MAX {
            return Err(Refused::malformed("a ClientHello of more than 16 KiB"));
        }
        Ok(())
    }

    /// Adds one handshake record; `true` when the message is complete.
    fn append(&mut self, record: &[u8]) -> Result<bool, Refused> {
        let fragment = &record[HEADER_LEN..];
        self.fragments += 1;
        if fragment.is_empty() {
            return Err(Refused::unexpected("an empty handshake record"));
        }
        if self.fragments > FRAGMENTS_MAX {
            return Err(Refused::malformed("a ClientHello in too many records"));
        }
        self.records.extend_from_slice(record);
        self.message.extend_from_slice(fragment);
        if self.message[0] != CLIENT_HELLO {
            return Err(Refused::unexpected(
                "a handshake message that is no ClientHello",
            ));
        }
        let Some(&[_, a, b, c]) = self.message.first_chunk() else {
            return Ok(false);
        };
        let len = MESSAGE_HEADER_LEN + u32::from_be_bytes([0, a, b, c]) as usize;
        if len > CLIENT_HELLO_BYTES_MAX {
            return Err(Refused::malformed("a ClientHello of more than 16 KiB"));
        }
        if self.message.len() > len {
            return Err(Refused::unexpected(
                "bytes after the ClientHello in its record",
            ));
        }
        Ok(self.message.len() == len)
    }

    fn finish(&mut self) -> Hello {
        Hello {
            records: std::mem::take(&mut self.records),
            end: self.position,
            facts: facts(&self.message[MESSAGE_HEADER_LEN..]).unwrap_or_default(),
        }
    }
}

/// Whether the first byte could start a TLS record; refuses plaintext HTTP, SSLv2 and the like. `false` while that
/// cannot be told.
fn starts_like_tls(buffer: &[u8]) -> Result<bool, Refused> {
    let Some(&first) = buffer.first() else {
        return Ok(false);
    };
    if is_content_type(first) {
        return Ok(true);
    }
    // An SSLv2 record has its length first, with the top bit set, then a CLIENT-HELLO.
    if first & 0x80 != 0 {
        return match buffer.get(2) {
            None => Ok(false),
            Some(&CLIENT_HELLO) => Err(Refused {
                alert: alert::PROTOCOL_VERSION,
                what: "an SSLv2 ClientHello",
            }),
            Some(_) => Err(Refused::unexpected("bytes that are no TLS")),
        };
    }
    if first.is_ascii_uppercase() {
        return Err(Refused::unexpected("plaintext HTTP on the TLS port"));
    }
    Err(RecordError::ContentType(first).into())
}

/// Name and early data, or `None` when the body is malformed: then the signer refuses it.
fn facts(body: &[u8]) -> Option<HelloFacts> {
    const SERVER_NAME: u16 = 0;
    const EARLY_DATA: u16 = 42;
    let mut facts = HelloFacts::default();
    let (_version_and_random, rest) = body.split_at_checked(34)?;
    let (_session_id, rest) = split_vector(rest, 1)?;
    let (_suites, rest) = split_vector(rest, 2)?;
    let (_compression, rest) = split_vector(rest, 1)?;
    if rest.is_empty() {
        return Some(facts);
    }
    let (mut extensions, _) = split_vector(rest, 2)?;
    while !extensions.is_empty() {
        let (kind, rest) = extensions.split_first_chunk::<2>()?;
        let (content, rest) = split_vector(rest, 2)?;
        extensions = rest;
        match u16::from_be_bytes(*kind) {
            EARLY_DATA => facts.early_data = true,
            SERVER_NAME => facts.server_name = host_name(content),
            _ => {}
        }
    }
    Some(facts)
}

/// The host name of a server_name extension (RFC 6066, section 3), if it may stand in a log.
fn host_name(content: &[u8]) -> Option<String> {
    let (list, _) = split_vector(content, 2)?;
    let (0, rest) = list.split_first().map(|(kind, rest)| (*kind, rest))? else {
        return None;
    };
    let (name, _) = split_vector(rest, 2)?;
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    if name.len() > 253 || !name.iter().all(is_plain) {
        return None;
    }
    String::from_utf8(name.to_vec()).ok()
}

/// Splits a vector with a length of `len_bytes` bytes in front from what follows it.
fn split_vector(bytes: &[u8], len_bytes: usize) -> Option<(&[u8], &[u8])> {
    let (len, rest) = bytes.split_at_checked(len_bytes)?;
    let len = len
        .iter()
        .fold(0usize, |len, &byte| len << 8 | usize::from(byte));
    rest.split_at_checked(len)
}

#[cfg(test)]
#[path = "client_hello_tests.rs"]
mod tests;
