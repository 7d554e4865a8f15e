//! The PROXY protocol header, version 2: who the client is, and what TLS has found out about it.
//!
//! Format: the PROXY protocol specification, section 2.2. Only what the signer has vouched for is in it, so that a
//! backend may decide by it. A header never exceeds what its length field can say: every part is bounded by the wire.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use keyhaven_types::TlsVersion;
use keyhaven_wire::{
    ALPN_BYTES_MAX, CLIENT_LEAF_BYTES_MAX, COMMON_NAME_BYTES_MAX, Established,
    SERVER_NAME_BYTES_MAX,
};

use crate::{config::ProxyProtocol, suite};

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const VERSION_2_PROXY: u8 = 0x21;
const TCP_OVER_IPV4: u8 = 0x11;
const TCP_OVER_IPV6: u8 = 0x21;

/// Types of values by the specification's names.
mod pp2 {
    pub(super) const TYPE_ALPN: u8 = 0x01;
    pub(super) const TYPE_AUTHORITY: u8 = 0x02;
    pub(super) const TYPE_SSL: u8 = 0x20;
    pub(super) const SUBTYPE_SSL_VERSION: u8 = 0x21;
    pub(super) const SUBTYPE_SSL_CN: u8 = 0x22;
    pub(super) const SUBTYPE_SSL_CIPHER: u8 = 0x23;
    pub(super) const SUBTYPE_SSL_CLIENT_CERT: u8 = 0x28;
    pub(super) const CLIENT_SSL: u8 = 0x01;
    pub(super) const CLIENT_CERT_CONN: u8 = 0x02;
    pub(super) const CLIENT_CERT_SESS: u8 = 0x04;
}

/// The `verify` field of a client that has no verified certificate: anything but zero.
const NOT_VERIFIED: u32 = 1;

const TLV_HEADER_LEN: usize = 3;
const ADDRESSES_LEN_MAX: usize = 16 + 16 + 2 + 2;
/// Longer than any version's and any suite's name.
const NAME_LEN_MAX: usize = 64;
/// The longest value of all: beside it in the SSL value stand five bytes, a version, a suite and a common name.
const SSL_LEN_MAX: usize =
    5 + 4 * TLV_HEADER_LEN + 2 * NAME_LEN_MAX + COMMON_NAME_BYTES_MAX + CLIENT_LEAF_BYTES_MAX;
const LEN_MAX: usize =
    ADDRESSES_LEN_MAX + 3 * TLV_HEADER_LEN + ALPN_BYTES_MAX + SERVER_NAME_BYTES_MAX + SSL_LEN_MAX;
const _: () = assert!(LEN_MAX <= u16::MAX as usize);

/// The header that the backend wants for a connection from `client` to our address `server`, if it wants one.
pub(crate) fn header(
    wanted: ProxyProtocol,
    client: SocketAddr,
    server: SocketAddr,
    established: &Established,
) -> Option<Vec<u8>> {
    let tlvs = match wanted {
        ProxyProtocol::None => return None,
        ProxyProtocol::V2 => Vec::new(),
        ProxyProtocol::V2Tls => tls(established),
    };
    let (family, addresses) = addresses(client, server);
    let mut header = SIGNATURE.to_vec();
    header.extend_from_slice(&[VERSION_2_PROXY, family]);
    header.extend_from_slice(&((addresses.len() + tlvs.len()) as u16).to_be_bytes());
    header.extend_from_slice(&addresses);
    header.extend_from_slice(&tlvs);
    Some(header)
}

fn addresses(client: SocketAddr, server: SocketAddr) -> (u8, Vec<u8>) {
    let (family, mut addresses) = match (client.ip().to_canonical(), server.ip().to_canonical()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            (TCP_OVER_IPV4, [from.octets(), to.octets()].concat())
        }
        (from, to) => (TCP_OVER_IPV6, [v6(from).octets(), v6(to).octets()].concat()),
    };
    addresses.extend_from_slice(&client.port().to_be_bytes());
    addresses.extend_from_slice(&server.port().to_be_bytes());
    (family, addresses)
}

fn v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

fn tls(established: &Established) -> Vec<u8> {
    let mut out = Vec::new();
    if let Some(alpn) = &established.alpn {
        tlv(&mut out, pp2::TYPE_ALPN, alpn);
    }
    if !established.server_name.is_empty() {
        let name = established.server_name.as_bytes();
        tlv(&mut out, pp2::TYPE_AUTHORITY, name);
    }
    tlv(&mut out, pp2::TYPE_SSL, &ssl(established));
    out
}

fn ssl(established: &Established) -> Vec<u8> {
    let (flags, verify) = match (&established.client, established.resumed) {
        (None, _) => (pp2::CLIENT_SSL, NOT_VERIFIED),
        (Some(_), false) => (
            pp2::CLIENT_SSL | pp2::CLIENT_CERT_CONN | pp2::CLIENT_CERT_SESS,
            0,
        ),
        // Given in the session, and not over this connection.
        (Some(_), true) => (pp2::CLIENT_SSL | pp2::CLIENT_CERT_SESS, 0),
    };
    let version = match established.version {
        TlsVersion::Tls12 => "TLSv1.2",
        TlsVersion::Tls13 => "TLSv1.3",
    };
    let mut out = vec![flags];
    out.extend_from_slice(&verify.to_be_bytes());
    tlv(&mut out, pp2::SUBTYPE_SSL_VERSION, version.as_bytes());
    let cipher = suite::name(established.suite).openssl;
    tlv(&mut out, pp2::SUBTYPE_SSL_CIPHER, cipher.as_bytes());
    if let Some(client) = &established.client {
        if !client.common_name.is_empty() {
            let name = client.common_name.as_bytes();
            tlv(&mut out, pp2::SUBTYPE_SSL_CN, name);
        }
        tlv(&mut out, pp2::SUBTYPE_SSL_CLIENT_CERT, &client.leaf);
    }
    out
}

fn tlv(out: &mut Vec<u8>, kind: u8, value: &[u8]) {
    out.push(kind);
    out.extend_from_slice(&(value.len() as u16).to_be_bytes());
    out.extend_from_slice(value);
}

#[cfg(test)]
#[path = "proxy_protocol_tests.rs"]
mod tests;
