//! Handshake messages: putting them together and taking them apart.
//!
//! Knows only what the two clients need of each message. All lengths are checked.

use super::record::Stop;

/// A handshake message with its header.
pub fn handshake_message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend_from_slice(&(body.len() as u32).to_be_bytes()[1..]);
    bytes.extend_from_slice(body);
    bytes
}

/// Takes the whole messages off the front of `buffer`: kind, and the message with its header.
pub fn split_messages(buffer: &mut Vec<u8>) -> Vec<(u8, Vec<u8>)> {
    let mut messages = Vec::new();
    while buffer.len() >= 4 {
        let length = 4 + u32::from_be_bytes([0, buffer[1], buffer[2], buffer[3]]) as usize;
        if buffer.len() < length {
            break;
        }
        let rest = buffer.split_off(length);
        let message = std::mem::replace(buffer, rest);
        messages.push((message[0], message));
    }
    messages
}

/// What the clients need of a ServerHello.
#[derive(Clone, Debug)]
pub(crate) struct ServerHello {
    pub(crate) random: [u8; 32],
    pub(crate) suite: u16,
    pub(crate) extensions: Vec<(u16, Vec<u8>)>,
}

impl ServerHello {
    /// Reads the message with its header.
    pub(crate) fn parse(message: &[u8]) -> Result<ServerHello, Stop> {
        let mut reader = Reader { left: message };
        reader.take(4 + 2)?;
        let random = reader.take(32)?.try_into().map_err(|_| NONSENSE)?;
        let session_id = usize::from(reader.u8()?);
        reader.take(session_id)?;
        let suite = reader.u16()?;
        reader.take(1)?;
        let mut extensions = Vec::new();
        if !reader.left.is_empty() {
            reader.u16()?;
        }
        while !reader.left.is_empty() {
            let kind = reader.u16()?;
            let length = usize::from(reader.u16()?);
            extensions.push((kind, reader.take(length)?.to_vec()));
        }
        Ok(ServerHello {
            random,
            suite,
            extensions,
        })
    }

    /// The server's public value in key_share, with its group's code point.
    pub(crate) fn key_share(&self) -> Result<(u16, &[u8]), Stop> {
        let share = self.extension(51).ok_or(NONSENSE)?;
        let mut reader = Reader { left: share };
        let group = reader.u16()?;
        reader.u16()?;
        Ok((group, reader.left))
    }

    /// Which of the client's identities the server took (RFC 8446, section 4.2.11).
    pub(crate) fn selected_identity(&self) -> Option<usize> {
        let bytes: [u8; 2] = self.extension(41)?.try_into().ok()?;
        Some(usize::from(u16::from_be_bytes(bytes)))
    }

    pub(crate) fn extension(&self, kind: u16) -> Option<&[u8]> {
        self.extensions
            .iter()
            .find(|(known, _)| *known == kind)
            .map(|(_, bytes)| bytes.as_slice())
    }
}

/// The named curve in a TLS 1.2 ServerKeyExchange, and the public value.
pub(crate) fn server_key_exchange_point(message: &[u8]) -> Result<(u16, &[u8]), Stop> {
    let mut reader = Reader { left: message };
    reader.take(4 + 1)?;
    let group = reader.u16()?;
    let length = usize::from(reader.u8()?);
    Ok((group, reader.take(length)?))
}

/// What the clients need of a NewSessionTicket of TLS 1.3 (RFC 8446, section 4.6.1).
#[derive(Clone, Debug)]
pub(crate) struct NewTicket {
    pub(crate) lifetime: u32,
    pub(crate) age_add: u32,
    pub(crate) nonce: Vec<u8>,
    pub(crate) ticket: Vec<u8>,
}

impl NewTicket {
    /// Reads the message with its header.
    pub(crate) fn parse(message: &[u8]) -> Result<NewTicket, Stop> {
        let mut reader = Reader { left: message };
        reader.take(4)?;
        let lifetime = reader.u32()?;
        let age_add = reader.u32()?;
        let length = usize::from(reader.u8()?);
        let nonce = reader.take(length)?.to_vec();
        let length = usize::from(reader.u16()?);
        let ticket = reader.take(length)?.to_vec();
        Ok(NewTicket {
            lifetime,
            age_add,
            nonce,
            ticket,
        })
    }
}

/// Lifetime in seconds and ticket of a NewSessionTicket of TLS 1.2 (RFC 5077, section 3.3).
pub(crate) fn ticket12(message: &[u8]) -> Result<(u32, Vec<u8>), Stop> {
    let mut reader = Reader { left: message };
    reader.take(4)?;
    let lifetime = reader.u32()?;
    let length = usize::from(reader.u16()?);
    Ok((lifetime, reader.take(length)?.to_vec()))
}

/// A CertificateRequest: the context of TLS 1.3, and the signature schemes that it allows.
#[derive(Clone, Debug)]
pub(crate) struct CertificateRequest {
    pub(crate) context: Vec<u8>,
    pub(crate) schemes: Vec<u16>,
}

impl CertificateRequest {
    /// Reads the message of TLS 1.3 (RFC 8446, section 4.3.2) with its header.
    pub(crate) fn parse13(message: &[u8]) -> Result<CertificateRequest, Stop> {
        let mut reader = Reader { left: message };
        reader.take(4)?;
        let length = usize::from(reader.u8()?);
        let context = reader.take(length)?.to_vec();
        reader.u16()?;
        let mut schemes = Vec::new();
        while !reader.left.is_empty() {
            let kind = reader.u16()?;
            let length = usize::from(reader.u16()?);
            let body = reader.take(length)?;
            if kind == 13 {
                schemes = u16s(body.get(2..).ok_or(NONSENSE)?);
            }
        }
        Ok(CertificateRequest { context, schemes })
    }

    /// Reads the message of TLS 1.2 (RFC 5246, section 7.4.4) with its header.
    pub(crate) fn parse12(message: &[u8]) -> Result<CertificateRequest, Stop> {
        let mut reader = Reader { left: message };
        reader.take(4)?;
        let kinds = usize::from(reader.u8()?);
        reader.take(kinds)?;
        let length = usize::from(reader.u16()?);
        Ok(CertificateRequest {
            context: Vec::new(),
            schemes: u16s(reader.take(length)?),
        })
    }
}

fn u16s(bytes: &[u8]) -> Vec<u16> {
    bytes
        .chunks_exact(2)
        .map(|pair| u16::from_be_bytes([pair[0], pair[1]]))
        .collect()
}

struct Reader<'a> {
    left: &'a [u8],
}

impl<'a> Reader<'a> {
    fn u32(&mut self) -> Result<u32, Stop> {
        let bytes = self.take(4)?;
        Ok(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Stop> {
        let (taken, left) = self.left.split_at_checked(count).ok_or(NONSENSE)?;
        self.left = left;
        Ok(taken)
    }

    fn u8(&mut self) -> Result<u8, Stop> {
        Ok(self.take(1)?[0])
    }

    fn u16(&mut self) -> Result<u16, Stop> {
        let bytes = self.take(2)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }
}

const NONSENSE: Stop = Stop::Nonsense("a handshake message that cannot be read");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_whole_messages_and_keeps_the_rest() {
        let mut buffer = handshake_message(8, &[1, 2]);
        buffer.extend(handshake_message(20, &[]));
        buffer.extend([11, 0, 0]);
        let kinds: Vec<u8> = split_messages(&mut buffer)
            .into_iter()
            .map(|(kind, _)| kind)
            .collect();
        assert_eq!(kinds, [8, 20]);
        assert_eq!(buffer, [11, 0, 0]);
    }
}
