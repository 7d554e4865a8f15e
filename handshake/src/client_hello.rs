//! Reads from a ClientHello what must be known before rustls is given it: the name, the versions, the groups.
//!
//! rustls stays the judge of the message: this reader chooses a configuration, and where it cannot read,
//! rustls is left to find the right alert. It is strict and never panics (RFC 8446, section 4.1.2).

/// What a ClientHello says, as far as a configuration is chosen by it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientHello {
    /// The client's random.
    pub random: [u8; 32],
    /// The name in SNI, lower case.
    pub server_name: Option<String>,
    /// Whether TLS 1.3 is offered.
    pub offers_tls13: bool,
    /// Application protocols (RFC 7301); `None` when the client names none.
    pub alpn: Option<Vec<Vec<u8>>>,
    /// Cipher suite code points.
    pub suites: Vec<u16>,
    /// Group code points of `supported_groups`.
    pub groups: Vec<u16>,
    /// Group code points of `key_share`.
    pub shares: Vec<u16>,
}

/// Why a ClientHello could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ClientHelloError {
    /// Not whole TLS records of type handshake.
    #[error("not a sequence of whole handshake records")]
    Records,
    /// The handshake message is not one whole ClientHello.
    #[error("not one whole ClientHello")]
    Message,
}

impl ClientHello {
    /// Reads the message from whole TLS records that hold it and nothing else.
    pub fn from_records(records: &[u8]) -> Result<Self, ClientHelloError> {
        let message = join_records(records)?;
        Self::from_message(&message).ok_or(ClientHelloError::Message)
    }

    fn from_message(message: &[u8]) -> Option<Self> {
        let mut outer = Reader(message);
        if outer.u8()? != CLIENT_HELLO {
            return None;
        }
        let length = outer.u24()?;
        let mut body = Reader(outer.take(length)?);
        if !outer.0.is_empty() {
            return None;
        }
        let mut hello = Self::default();
        body.u16()?;
        hello.random.copy_from_slice(body.take(32)?);
        body.vector8()?;
        hello.suites = Reader(body.vector16()?).u16_list()?;
        body.vector8()?;
        if !body.0.is_empty() {
            let mut extensions = Reader(body.vector16()?);
            while !extensions.0.is_empty() {
                let kind = extensions.u16()?;
                let data = Reader(extensions.vector16()?);
                hello.extension(kind, data)?;
            }
        }
        body.0.is_empty().then_some(hello)
    }

    fn extension(&mut self, kind: u16, mut data: Reader<'_>) -> Option<()> {
        match kind {
            EXTENSION_SERVER_NAME => self.server_name = host_name(data)?,
            EXTENSION_SUPPORTED_GROUPS => self.groups = Reader(data.vector16()?).u16_list()?,
            EXTENSION_ALPN => {
                let mut names = Reader(data.vector16()?);
                let protocols = self.alpn.get_or_insert_default();
                while !names.0.is_empty() {
                    protocols.push(names.vector8()?.to_vec());
                }
            }
            EXTENSION_SUPPORTED_VERSIONS => {
                self.offers_tls13 = Reader(data.vector8()?).u16_list()?.contains(&0x0304);
            }
            EXTENSION_KEY_SHARE => {
                let mut shares = Reader(data.vector16()?);
                while !shares.0.is_empty() {
                    self.shares.push(shares.u16()?);
                    shares.vector16()?;
                }
            }
            _ => {}
        }
        Some(())
    }
}

/// The `host_name` of a server_name extension (RFC 6066, section 3), lower case.
fn host_name(mut data: Reader<'_>) -> Option<Option<String>> {
    let mut names = Reader(data.vector16()?);
    let kind = names.u8()?;
    let name = names.vector16()?;
    if kind != 0 || !names.0.is_empty() {
        return None;
    }
    let name = std::str::from_utf8(name).ok()?.to_ascii_lowercase();
    // An address is not a host name; rustls treats such a ClientHello as one without a name.
    Some((name.parse::<std::net::IpAddr>().is_err()).then_some(name))
}

fn join_records(mut records: &[u8]) -> Result<Vec<u8>, ClientHelloError> {
    let mut message = Vec::with_capacity(records.len());
    while !records.is_empty() {
        let mut reader = Reader(records);
        let kind = reader.u8().ok_or(ClientHelloError::Records)?;
        reader.u16().ok_or(ClientHelloError::Records)?;
        let body = reader.vector16().ok_or(ClientHelloError::Records)?;
        match kind {
            CONTENT_HANDSHAKE => message.extend_from_slice(body),
            // Middlebox compatibility: may stand before a second ClientHello (RFC 8446, appendix D.4).
            CONTENT_CHANGE_CIPHER_SPEC => {}
            _ => return Err(ClientHelloError::Records),
        }
        records = reader.0;
    }
    Ok(message)
}

/// Takes fields off the front of a slice; `None` when it ends too early.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(length)?;
        self.0 = tail;
        Some(head)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2)
            .map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn u24(&mut self) -> Option<usize> {
        self.take(3)
            .map(|b| usize::from(b[0]) << 16 | usize::from(b[1]) << 8 | usize::from(b[2]))
    }

    fn vector8(&mut self) -> Option<&'a [u8]> {
        let length = self.u8()?;
        self.take(length.into())
    }

    fn vector16(&mut self) -> Option<&'a [u8]> {
        let length = self.u16()?;
        self.take(length.into())
    }

    fn u16_list(mut self) -> Option<Vec<u16>> {
        let mut list = Vec::with_capacity(self.0.len() / 2);
        while !self.0.is_empty() {
            list.push(self.u16()?);
        }
        Some(list)
    }
}

const CONTENT_CHANGE_CIPHER_SPEC: u8 = 20;
const CONTENT_HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const EXTENSION_SERVER_NAME: u16 = 0;
const EXTENSION_SUPPORTED_GROUPS: u16 = 10;
const EXTENSION_ALPN: u16 = 16;
const EXTENSION_SUPPORTED_VERSIONS: u16 = 43;
const EXTENSION_KEY_SHARE: u16 = 51;

#[cfg(test)]
mod tests {
    use super::*;

    fn vector16(body: &[u8]) -> Vec<u8> {
        [&(body.len() as u16).to_be_bytes()[..], body].concat()
    }

    fn extension(kind: u16, body: &[u8]) -> Vec<u8> {
        [&kind.to_be_bytes()[..], &vector16(body)].concat()
    }

    fn sample() -> Vec<u8> {
        let name = [&[0][..], &vector16(b"Www.Example.ORG")].concat();
        let extensions = [
            extension(0, &vector16(&name)),
            extension(10, &vector16(&[0, 0x1d, 0, 0x17])),
            extension(16, &vector16(b"\x02h2")),
            extension(43, &[4, 3, 4, 3, 3]),
            extension(
                51,
                &vector16(&[&[0, 0x1d][..], &vector16(&[9; 32])].concat()),
            ),
        ]
        .concat();
        let body = [
            &[3, 3][..],
            &[7; 32],
            &[0],
            &vector16(&[0x13, 1, 0xc0, 0x2b]),
            &[1, 0],
            &vector16(&extensions),
        ]
        .concat();
        let length = (body.len() as u32).to_be_bytes();
        [&[1][..], &length[1..], &body].concat()
    }

    fn records(message: &[u8], fragment: usize) -> Vec<u8> {
        message
            .chunks(fragment)
            .flat_map(|part| [&[22, 3, 1][..], &vector16(part)].concat())
            .collect()
    }

    #[test]
    fn fields_are_read_from_any_fragmentation() {
        for fragment in [1, 3, 50, 16_384] {
            let hello = ClientHello::from_records(&records(&sample(), fragment)).unwrap();
            assert_eq!(hello.server_name.as_deref(), Some("www.example.org"));
            assert_eq!(hello.random, [7; 32]);
            assert!(hello.offers_tls13);
            assert_eq!(hello.alpn, Some(vec![b"h2".to_vec()]));
            assert_eq!(
                (hello.suites, hello.groups, hello.shares),
                (vec![0x1301, 0xc02b], vec![0x1d, 0x17], vec![0x1d])
            );
        }
    }

    #[test]
    fn every_truncation_and_addition_is_refused() {
        let message = sample();
        for end in 0..message.len() {
            assert!(
                ClientHello::from_records(&records(&message[..end], 100)).is_err(),
                "{end}"
            );
        }
        assert!(ClientHello::from_records(&records(&[&message[..], &[0]].concat(), 100)).is_err());
        let whole = records(&message, 100);
        for end in 1..whole.len() {
            assert!(ClientHello::from_records(&whole[..end]).is_err(), "{end}");
        }
    }

    #[test]
    fn no_flipped_byte_panics() {
        let whole = records(&sample(), 40);
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut altered = whole.clone();
                altered[at] ^= 1 << bit;
                let _ = ClientHello::from_records(&altered);
            }
        }
    }
}
