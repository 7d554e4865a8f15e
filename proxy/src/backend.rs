//! The way to the backend: a connection, and the PROXY protocol header if the backend wants one.
//!
//! Opened only after the Finished-lock is open. Header format: the PROXY protocol specification, version 2.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use tokio::{net::TcpStream, time::timeout};

use crate::client::write_all;

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const VERSION_2_PROXY: u8 = 0x21;
const TCP_OVER_IPV4: u8 = 0x11;
const TCP_OVER_IPV6: u8 = 0x21;

/// Connects within the time, and says who the client is if asked to.
pub(crate) async fn connect(
    address: &str,
    at_most: Duration,
    header: Option<Vec<u8>>,
) -> io::Result<TcpStream> {
    let connecting = async {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        if let Some(header) = header {
            write_all(&stream, &header).await?;
        }
        Ok(stream)
    };
    timeout(at_most, connecting)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// The header for a connection from `client` to our address `server`.
pub(crate) fn proxy_protocol_v2(client: SocketAddr, server: SocketAddr) -> Vec<u8> {
    let (family, mut addresses) = match (client.ip().to_canonical(), server.ip().to_canonical()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            (TCP_OVER_IPV4, [from.octets(), to.octets()].concat())
        }
        (from, to) => (TCP_OVER_IPV6, [v6(from).octets(), v6(to).octets()].concat()),
    };
    addresses.extend_from_slice(&client.port().to_be_bytes());
    addresses.extend_from_slice(&server.port().to_be_bytes());
    let mut header = SIGNATURE.to_vec();
    header.extend_from_slice(&[VERSION_2_PROXY, family]);
    header.extend_from_slice(&(addresses.len() as u16).to_be_bytes());
    header.extend_from_slice(&addresses);
    header
}

fn v6(address: IpAddr) -> std::net::Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_of_version_2_is_written_for_both_families() {
        let v4 = proxy_protocol_v2(
            "192.0.2.1:4660".parse().unwrap(),
            "[::ffff:192.0.2.2]:443".parse().unwrap(),
        );
        let expected = [
            SIGNATURE.as_slice(),
            &[
                0x21, 0x11, 0, 12, 192, 0, 2, 1, 192, 0, 2, 2, 0x12, 0x34, 1, 0xbb,
            ],
        ]
        .concat();
        assert_eq!(v4, expected);

        let v6 = proxy_protocol_v2("[::1]:1".parse().unwrap(), "[::2]:2".parse().unwrap());
        assert_eq!((v6[13], v6[15], v6.len()), (0x21, 36, 16 + 36));
        assert_eq!((v6[31], v6[47], &v6[48..]), (1, 2, &[0, 1, 0, 2][..]));
    }
}
