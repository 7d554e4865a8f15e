//! Reads the header of the PROXY protocol, version 2, with its TLVs.
//!
//! Written after the specification ("The PROXY protocol", 2.2) and apart from the product. Strict: whatever is not
//! exactly right fails the test.

use std::net::{Ipv4Addr, SocketAddr};

/// What a header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The client.
    pub from: SocketAddr,
    /// Where it connected.
    pub to: SocketAddr,
    /// PP2_TYPE_ALPN.
    pub alpn: Option<Vec<u8>>,
    /// PP2_TYPE_AUTHORITY: the name that it asked for.
    pub authority: Option<String>,
    /// PP2_TYPE_SSL.
    pub tls: Option<Tls>,
}

/// PP2_TYPE_SSL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// PP2_CLIENT_SSL 1, PP2_CLIENT_CERT_CONN 2, PP2_CLIENT_CERT_SESS 4.
    pub client: u8,
    /// Zero when a certificate was shown and is good.
    pub verify: u32,
    /// PP2_SUBTYPE_SSL_VERSION.
    pub version: Option<String>,
    /// PP2_SUBTYPE_SSL_CN.
    pub common_name: Option<String>,
    /// PP2_SUBTYPE_SSL_CIPHER.
    pub cipher: Option<String>,
    /// PP2_SUBTYPE_SSL_CLIENT_CERT: the certificate, DER.
    pub certificate: Option<Vec<u8>>,
}

impl Header {
    /// Takes a header off the front of `bytes`, of a connection over IPv4.
    ///
    /// # Panics
    /// When there is none, or it is not right.
    pub fn take(bytes: &mut Vec<u8>) -> Header {
        assert!(bytes.starts_with(SIGNATURE), "no header: {bytes:02x?}");
        assert_eq!(bytes[12..14], [0x21, 0x11], "PROXY, TCP over IPv4");
        let length = 16 + usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
        let rest = bytes.split_off(length);
        let header = std::mem::replace(bytes, rest);
        let mut read = Header {
            from: address(&header[16..20], &header[24..26]),
            to: address(&header[20..24], &header[26..28]),
            alpn: None,
            authority: None,
            tls: None,
        };
        for (kind, value) in vectors(&header[28..]) {
            match kind {
                0x01 => once(&mut read.alpn, value.to_vec()),
                0x02 => once(&mut read.authority, text(value)),
                0x20 => once(&mut read.tls, Tls::read(value)),
                other => panic!("a vector that nobody asked for: {other:#x}"),
            }
        }
        read
    }
}

impl Tls {
    fn read(value: &[u8]) -> Tls {
        let verify = value[1..5].try_into().expect("four bytes");
        let mut tls = Tls {
            client: value[0],
            verify: u32::from_be_bytes(verify),
            version: None,
            common_name: None,
            cipher: None,
            certificate: None,
        };
        for (kind, value) in vectors(&value[5..]) {
            match kind {
                0x21 => once(&mut tls.version, text(value)),
                0x22 => once(&mut tls.common_name, text(value)),
                0x23 => once(&mut tls.cipher, text(value)),
                0x28 => once(&mut tls.certificate, value.to_vec()),
                other => panic!("a vector that nobody asked for: {other:#x}"),
            }
        }
        tls
    }
}

fn once<T>(place: &mut Option<T>, value: T) {
    assert!(place.replace(value).is_none(), "a vector twice");
}

fn text(value: &[u8]) -> String {
    String::from_utf8(value.to_vec()).expect("a text")
}

fn address(ip: &[u8], port: &[u8]) -> SocketAddr {
    let ip: [u8; 4] = ip.try_into().expect("four bytes");
    let port = port.try_into().expect("two bytes");
    SocketAddr::from((Ipv4Addr::from(ip), u16::from_be_bytes(port)))
}

/// Types with their values.
fn vectors(mut bytes: &[u8]) -> Vec<(u8, &[u8])> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let length = usize::from(u16::from_be_bytes([bytes[1], bytes[2]]));
        let (value, rest) = bytes[3..].split_at(length);
        all.push((bytes[0], value));
        bytes = rest;
    }
    all
}

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_specification_says() {
        let ssl = [
            &[0x20, 0, 16, 3, 0, 0, 0, 0][..],
            &[0x21, 0, 2, b'v', b'3', 0x22, 0, 3, b'a', b'n', b'n'],
        ]
        .concat();
        let vectors = [&[0x02, 0, 1, b'x'][..], &ssl].concat();
        let length = 12 + vectors.len() as u8;
        let mut bytes = [
            SIGNATURE,
            &[
                0x21, 0x11, 0, length, 127, 0, 0, 1, 10, 0, 0, 2, 1, 0, 0, 80,
            ],
            &vectors,
            b"GET",
        ]
        .concat();
        let header = Header::take(&mut bytes);
        assert_eq!(bytes, b"GET");
        assert_eq!(header.from, "127.0.0.1:256".parse().unwrap());
        assert_eq!(header.authority.as_deref(), Some("x"));
        let tls = header.tls.unwrap();
        assert_eq!((tls.client, tls.verify), (3, 0));
        assert_eq!(tls.common_name.as_deref(), Some("ann"));
    }
}
