//! Headers as bytes, and read back by a reader that shares nothing with the writer.

use super::*;
use keyhaven_types::{AeadAlgorithm, CustodyLevel, Secret};
use keyhaven_wire::{ClientCertificate, ConnectionId, TrafficKey};

fn established() -> Established {
    let key = || TrafficKey {
        aead: AeadAlgorithm::Aes128Gcm,
        key: Secret::new(vec![1; 16]),
        iv: Secret::new(vec![1; 12]),
        seq: 0,
    };
    Established {
        connection: ConnectionId([1; 32]),
        version: TlsVersion::Tls13,
        suite: 0x1301,
        write: key(),
        read: key(),
        rekey_write: Vec::new(),
        rekey_read: Vec::new(),
        lifetime_s: 60,
        server_name: String::new(),
        alpn: None,
        level: CustodyLevel::Premaster,
        tickets: Vec::new(),
        resumed: false,
        client: None,
    }
}

fn client(leaf: usize, common_name: &str) -> Option<ClientCertificate> {
    Some(ClientCertificate {
        leaf: vec![0x30; leaf],
        common_name: common_name.to_owned(),
    })
}

fn write(wanted: ProxyProtocol, established: &Established) -> Vec<u8> {
    let (from, to) = ("192.0.2.1:4660", "[::ffff:192.0.2.2]:443");
    header(
        wanted,
        from.parse().unwrap(),
        to.parse().unwrap(),
        established,
    )
    .unwrap()
}

/// Every value by its type, in order; panics at anything that is left over or cut.
fn values(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut values = Vec::new();
    while !bytes.is_empty() {
        let len = usize::from(bytes[1]) << 8 | usize::from(bytes[2]);
        values.push((bytes[0], bytes[3..3 + len].to_vec()));
        bytes = &bytes[3 + len..];
    }
    values
}

/// The values of a header for IPv4, and those inside its SSL value with the flags and `verify` before them.
type Read = (Vec<(u8, Vec<u8>)>, u8, u32, Vec<(u8, Vec<u8>)>);

fn read(header: &[u8]) -> Read {
    assert_eq!(&header[..14], b"\r\n\r\n\0\r\nQUIT\n\x21\x11");
    let len = usize::from(header[14]) << 8 | usize::from(header[15]);
    assert_eq!(header.len(), 16 + len);
    let mut outer = values(&header[28..]);
    let (kind, ssl) = outer.pop().unwrap();
    assert_eq!(kind, 0x20);
    let verify = u32::from_be_bytes(ssl[1..5].try_into().unwrap());
    (outer, ssl[0], verify, values(&ssl[5..]))
}

#[test]
fn addresses_are_written_for_both_families() {
    let v4 = write(ProxyProtocol::V2, &established());
    let expected = [
        SIGNATURE.as_slice(),
        &[
            0x21, 0x11, 0, 12, 192, 0, 2, 1, 192, 0, 2, 2, 0x12, 0x34, 1, 0xbb,
        ],
    ]
    .concat();
    assert_eq!(v4, expected);

    let (from, to) = ("[::1]:1".parse().unwrap(), "[::2]:2".parse().unwrap());
    let v6 = header(ProxyProtocol::V2, from, to, &established()).unwrap();
    assert_eq!((v6[13], v6[15], v6.len()), (0x21, 36, 16 + 36));
    assert_eq!((v6[31], v6[47], &v6[48..]), (1, 2, &[0, 1, 0, 2][..]));

    assert_eq!(header(ProxyProtocol::None, from, to, &established()), None);
}

/// Put together by hand from the specification.
#[test]
fn a_header_with_everything_has_these_bytes() {
    let everything = Established {
        version: TlsVersion::Tls12,
        suite: 0xc02f,
        server_name: "a.test".to_owned(),
        alpn: Some(b"h2".to_vec()),
        client: client(2, "Ada"),
        ..established()
    };
    let mut expected = b"\r\n\r\n\0\r\nQUIT\n\x21\x11".to_vec();
    expected.extend_from_slice(&[0, 12 + 5 + 9 + 3 + 56]);
    expected.extend_from_slice(&[192, 0, 2, 1, 192, 0, 2, 2, 0x12, 0x34, 1, 0xbb]);
    expected.extend_from_slice(b"\x01\0\x02h2");
    expected.extend_from_slice(b"\x02\0\x06a.test");
    expected.extend_from_slice(b"\x20\0\x38\x07\0\0\0\0");
    expected.extend_from_slice(b"\x21\0\x07TLSv1.2");
    expected.extend_from_slice(b"\x23\0\x1bECDHE-RSA-AES128-GCM-SHA256");
    expected.extend_from_slice(b"\x22\0\x03Ada");
    expected.extend_from_slice(b"\x28\0\x0200");
    assert_eq!(write(ProxyProtocol::V2Tls, &everything), expected);
}

#[test]
fn only_a_verified_certificate_has_verify_zero() {
    let text = |text: &str| text.as_bytes().to_vec();
    let version = (0x21, text("TLSv1.3"));
    let cipher = (0x23, text("TLS_AES_128_GCM_SHA256"));

    let (outer, flags, verify, inner) = read(&write(ProxyProtocol::V2Tls, &established()));
    assert!(outer.is_empty());
    assert_eq!((flags, verify == 0), (1, false));
    assert_eq!(inner, [version.clone(), cipher.clone()]);

    for (resumed, expected) in [(false, 1 | 2 | 4), (true, 1 | 4)] {
        let nameless = Established {
            client: client(700, ""),
            resumed,
            ..established()
        };
        let (_, flags, verify, inner) = read(&write(ProxyProtocol::V2Tls, &nameless));
        assert_eq!((flags, verify), (expected, 0));
        let leaf = (0x28, vec![0x30; 700]);
        assert_eq!(inner, [version.clone(), cipher.clone(), leaf]);
    }
}

#[test]
fn the_longest_header_can_be_read() {
    let longest = Established {
        suite: 0xcca9,
        server_name: "s".repeat(SERVER_NAME_BYTES_MAX),
        alpn: Some(vec![b'a'; ALPN_BYTES_MAX]),
        client: client(CLIENT_LEAF_BYTES_MAX, &"n".repeat(COMMON_NAME_BYTES_MAX)),
        ..established()
    };
    let written = write(ProxyProtocol::V2Tls, &longest);
    let (outer, _, verify, inner) = read(&written);
    assert_eq!(verify, 0);
    assert_eq!(outer[0], (1, vec![b'a'; ALPN_BYTES_MAX]));
    assert_eq!(outer[1], (2, vec![b's'; SERVER_NAME_BYTES_MAX]));
    assert_eq!(inner[2], (0x22, vec![b'n'; COMMON_NAME_BYTES_MAX]));
    assert_eq!(inner[3], (0x28, vec![0x30; CLIENT_LEAF_BYTES_MAX]));
    assert!(written.len() <= 16 + LEN_MAX);
}
