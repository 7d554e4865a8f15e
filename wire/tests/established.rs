//! The bounds of what a signer releases, and that the largest of it fits a frame.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod frames;

use frames::{frame, good_key, refused};
use keyhaven_types::{CustodyLevel, TlsVersion};
use keyhaven_wire::{
    ALPN_BYTES_MAX, Binding, CLIENT_LEAF_BYTES_MAX, COMMON_NAME_BYTES_MAX, ClientCertificate,
    ConnectionId, Continue, Established, Expected, FRAME_BYTES_MAX, FRAME_HEADER_BYTES,
    HandshakeId, HandshakeReply, LIFETIME_S_MAX, Locked, Next, REKEY_STATE_BYTES_MAX, Reply,
    Request, SEALED_BOX_BYTES_MAX, SERVER_NAME_BYTES_MAX, Start, TICKETS_BYTES_MAX, TrafficKey,
    lock,
};

const TO_CLIENT_BYTES_MAX: usize = 114_688;

fn established(version: TlsVersion) -> Established {
    Established {
        connection: ConnectionId([0; 32]),
        version,
        suite: 0x1302,
        write: good_key(),
        read: good_key(),
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

fn tls13() -> Established {
    established(TlsVersion::Tls13)
}

fn counting(seq: u64) -> TrafficKey {
    TrafficKey { seq, ..good_key() }
}

fn reply(to_client: usize, next: Next) -> Reply {
    Reply::Handshake(HandshakeReply {
        binding: Binding([0; 32]),
        consumed: 34_816,
        to_client: vec![0; to_client],
        next,
    })
}

fn open(established: Established) -> Reply {
    reply(0, Next::Open(Box::new(established)))
}

/// One protected record of this length, header included.
fn record(len: usize) -> Vec<u8> {
    let fragment = u16::try_from(len - 5).unwrap().to_be_bytes();
    let mut record = [&[23, 3, 3][..], &fragment].concat();
    record.resize(len, 9);
    record
}

fn client(leaf: usize, common_name: usize) -> Option<ClientCertificate> {
    Some(ClientCertificate {
        leaf: vec![1; leaf],
        common_name: "n".repeat(common_name),
    })
}

#[test]
fn both_versions_may_be_open_and_only_tls_1_3_has_next_keys_and_tickets() {
    frame(1, &open(established(TlsVersion::Tls12)));
    frame(1, &open(tls13()));
    for version in [TlsVersion::Tls12, TlsVersion::Tls13] {
        let check = match version {
            TlsVersion::Tls12 => |message: &Reply| refused(message),
            TlsVersion::Tls13 => |message: &Reply| drop(frame(1, message)),
        };
        check(&open(Established {
            rekey_read: vec![0; 1],
            ..established(version)
        }));
        check(&open(Established {
            tickets: record(40),
            write: counting(1),
            ..established(version)
        }));
    }
}

#[test]
fn tickets_are_whole_records_and_each_is_counted_by_the_write_key() {
    let with = |tickets: Vec<u8>, seq| {
        open(Established {
            tickets,
            write: counting(seq),
            ..tls13()
        })
    };
    let two = [record(22), record(300)].concat();
    frame(1, &with(two.clone(), 2));
    for seq in [0, 1, 3] {
        refused(&with(two.clone(), seq));
    }
    frame(1, &with(record(TICKETS_BYTES_MAX), 1));
    refused(&with(record(TICKETS_BYTES_MAX + 1), 1));
    // Cut, followed by something, too short to be sealed, of another type, of another version.
    refused(&with(two[..two.len() - 1].to_vec(), 2));
    refused(&with([&two[..], &[23, 3, 3, 0]].concat(), 2));
    refused(&with(record(21), 1));
    for at in 0..3 {
        let mut other = record(40);
        other[at] ^= 1;
        refused(&with(other, 1));
    }
    let read_too_far = Established {
        read: counting(1),
        ..tls13()
    };
    refused(&open(read_too_far));
}

#[test]
fn a_clients_certificate_has_bounds_in_both_versions() {
    for version in [TlsVersion::Tls12, TlsVersion::Tls13] {
        let with = |leaf, common_name| {
            open(Established {
                client: client(leaf, common_name),
                ..established(version)
            })
        };
        frame(1, &with(1, 0));
        frame(1, &with(CLIENT_LEAF_BYTES_MAX, COMMON_NAME_BYTES_MAX));
        refused(&with(0, 0));
        refused(&with(CLIENT_LEAF_BYTES_MAX + 1, 0));
        refused(&with(1, COMMON_NAME_BYTES_MAX + 1));
    }
}

/// As large as every bound allows at once, but for a client's certificate.
fn largest() -> Established {
    Established {
        tickets: record(TICKETS_BYTES_MAX),
        write: counting(1),
        rekey_write: vec![0; REKEY_STATE_BYTES_MAX],
        rekey_read: vec![0; REKEY_STATE_BYTES_MAX],
        suite: u16::MAX,
        lifetime_s: LIFETIME_S_MAX,
        server_name: "s".repeat(SERVER_NAME_BYTES_MAX),
        alpn: Some(vec![b'a'; ALPN_BYTES_MAX]),
        ..tls13()
    }
}

#[test]
fn the_largest_replies_fit_a_frame_beside_the_largest_flight() {
    let with_client = Established {
        client: client(CLIENT_LEAF_BYTES_MAX, COMMON_NAME_BYTES_MAX),
        ..largest()
    };
    let opened = reply(TO_CLIENT_BYTES_MAX, Next::Open(Box::new(with_client)));
    let locked = reply(
        TO_CLIENT_BYTES_MAX,
        Next::Locked(Locked {
            handshake_read: counting(u64::MAX),
            verify_data_len: 48,
            sealed_box: vec![0; SEALED_BOX_BYTES_MAX],
        }),
    );
    for message in [opened, locked] {
        let bytes = frame(1, &message).len() - FRAME_HEADER_BYTES;
        // A sequence number may take 9 bytes more than here.
        assert!(bytes + 2 * 9 <= FRAME_BYTES_MAX, "{bytes}");
    }
    refused(&reply(TO_CLIENT_BYTES_MAX + 1, Next::Refused { alert: 40 }));
}

#[test]
fn the_largest_connection_fits_the_box() {
    let proxy = "spiffe://keyhaven.test/proxy/a".parse().unwrap();
    let sealed = lock::seal(&HandshakeId([0; 32]), &[0; 32], b"", &proxy, &largest()).unwrap();
    assert!(sealed.len() <= SEALED_BOX_BYTES_MAX, "{}", sealed.len());
}

#[test]
fn a_first_flight_is_never_answered_with_keys() {
    let start = Start {
        handshake: HandshakeId([1; 32]),
        client: String::new(),
        records: vec![22],
    };
    let next = Continue {
        handshake: HandshakeId([1; 32]),
        records: vec![22],
    };
    for (binding, request, is_accepted) in [
        (start.binding(), Request::Start(start), false),
        (next.binding(), Request::Continue(next), true),
    ] {
        let answer = |next| {
            Reply::Handshake(HandshakeReply {
                binding,
                consumed: 1,
                to_client: Vec::new(),
                next,
            })
        };
        let expected = Expected::of(&request);
        let opened = answer(Next::Open(Box::new(established(TlsVersion::Tls12))));
        assert_eq!(expected.accepts(&opened), is_accepted);
        assert!(expected.accepts(&answer(Next::Refused { alert: 40 })));
    }
}
