//! Any message that is within its bounds.

#![allow(
    missing_docs,
    unreachable_pub,
    reason = "shared by the tests beside it"
)]

use keyhaven_types::{AeadAlgorithm, CustodyLevel, Direction, Secret, TlsVersion};
use keyhaven_wire::{
    Binding, ClientCertificate, ConnectionId, Continue, ErrorCode, Established, Expect,
    HandshakeId, HandshakeReply, Locked, Next, Outcome, REKEY_STATE_BYTES_MAX, Refuse, Rekey,
    Rekeyed, Reply, Request, Start, TrafficKey,
};
use proptest::{collection::vec, option, prelude::*};

fn aead() -> impl Strategy<Value = AeadAlgorithm> {
    prop_oneof![
        Just(AeadAlgorithm::Aes128Gcm),
        Just(AeadAlgorithm::Aes256Gcm),
        Just(AeadAlgorithm::Chacha20Poly1305),
    ]
}

pub fn key() -> impl Strategy<Value = TrafficKey> {
    (
        aead(),
        vec(any::<u8>(), 32),
        vec(any::<u8>(), 12),
        any::<u64>(),
    )
        .prop_map(|(aead, mut key, iv, seq)| {
            key.truncate(aead.key_len());
            TrafficKey {
                aead,
                key: Secret::new(key),
                iv: Secret::new(iv),
                seq,
            }
        })
}

fn direction() -> impl Strategy<Value = Direction> {
    prop_oneof![Just(Direction::Read), Just(Direction::Write)]
}

pub fn request() -> impl Strategy<Value = Request> {
    let id = any::<[u8; 32]>;
    prop_oneof![
        (id(), "[ -~]{0,64}", vec(any::<u8>(), 1..2000)).prop_map(
            |(handshake, client, records)| {
                Request::Start(Start {
                    handshake: HandshakeId(handshake),
                    client,
                    records,
                })
            }
        ),
        (id(), vec(any::<u8>(), 1..2000)).prop_map(|(handshake, records)| {
            Request::Continue(Continue {
                handshake: HandshakeId(handshake),
                records,
            })
        }),
        (id(), option::of(id())).prop_map(|(handshake, proof)| {
            Request::Outcome(Outcome {
                handshake: HandshakeId(handshake),
                proof,
            })
        }),
        (id(), any::<u8>()).prop_map(|(handshake, alert)| {
            Request::Refuse(Refuse {
                handshake: HandshakeId(handshake),
                alert,
            })
        }),
        (
            id(),
            direction(),
            1..u32::MAX,
            vec(any::<u8>(), 1..REKEY_STATE_BYTES_MAX)
        )
            .prop_map(|(connection, direction, generation, state)| {
                Request::Rekey(Rekey {
                    connection: ConnectionId(connection),
                    direction,
                    generation,
                    state,
                })
            }),
        Just(()).prop_map(|()| Request::Ping),
    ]
}

/// Ticket records and how many there are.
fn tickets() -> impl Strategy<Value = (Vec<u8>, u64)> {
    vec(vec(any::<u8>(), 17..300), 0..4).prop_map(|fragments| {
        let count = fragments.len() as u64;
        let record = |fragment: Vec<u8>| {
            let len = u16::try_from(fragment.len()).unwrap().to_be_bytes();
            [&[23, 3, 3][..], &len, &fragment].concat()
        };
        (fragments.into_iter().flat_map(record).collect(), count)
    })
}

fn client() -> impl Strategy<Value = Option<ClientCertificate>> {
    option::of(
        (vec(any::<u8>(), 1..900), "\\PC{0,60}")
            .prop_map(|(leaf, common_name)| ClientCertificate { leaf, common_name }),
    )
}

fn read_key(write: &TrafficKey, iv: Vec<u8>, seq: u64) -> TrafficKey {
    TrafficKey {
        aead: write.aead,
        key: Secret::copy_from(write.key.expose_secret()),
        iv: Secret::new(iv),
        seq,
    }
}

prop_compose! {
    fn tls12()(connection: [u8; 32], write in key(), iv in vec(any::<u8>(), 12), suite: u16,
               lifetime_s in 1..=86_400_u32, server_name in "[a-z.]{0,255}", alpn in option::of(vec(any::<u8>(), 1..255)),
               resumed: bool, client in client())
        -> Established {
        let read = read_key(&write, iv, 1);
        Established {
            connection: ConnectionId(connection), version: TlsVersion::Tls12, suite, write, read,
            rekey_write: Vec::new(), rekey_read: Vec::new(), lifetime_s, server_name, alpn,
            level: CustodyLevel::Signature, tickets: Vec::new(), resumed, client,
        }
    }
}

prop_compose! {
    fn tls13()(tls12 in tls12(), (tickets, count) in tickets(), rekey_write in vec(any::<u8>(), 0..300),
               rekey_read in vec(any::<u8>(), 0..300))
        -> Established {
        let mut established = Established {
            version: TlsVersion::Tls13, level: CustodyLevel::Schedule, tickets, rekey_write, rekey_read, ..tls12
        };
        established.write.seq = count;
        established.read.seq = 0;
        established
    }
}

fn next() -> impl Strategy<Value = Next> {
    prop_oneof![
        prop_oneof![
            Just(Expect::ClientHello),
            Just(Expect::KeyExchange),
            Just(Expect::ClientFlight),
            Just(Expect::Finished),
        ]
        .prop_map(Next::More),
        (
            key(),
            prop_oneof![Just(32), Just(48)],
            vec(any::<u8>(), 17..900)
        )
            .prop_map(|(handshake_read, verify_data_len, sealed_box)| {
                Next::Locked(Locked {
                    handshake_read,
                    verify_data_len,
                    sealed_box,
                })
            }),
        prop_oneof![tls12(), tls13()].prop_map(|established| Next::Open(Box::new(established))),
        any::<u8>().prop_map(|alert| Next::Refused { alert }),
    ]
}

pub fn reply() -> impl Strategy<Value = Reply> {
    let id = any::<[u8; 32]>;
    prop_oneof![
        (id(), 0..16_000_u32, vec(any::<u8>(), 0..3000), next()).prop_map(
            |(binding, consumed, to_client, next)| {
                Reply::Handshake(HandshakeReply {
                    binding: Binding(binding),
                    consumed,
                    to_client,
                    next,
                })
            }
        ),
        Just(()).prop_map(|()| Reply::Noted),
        (id(), vec(any::<u8>(), 1..64)).prop_map(|(handshake, record)| {
            Reply::Alert {
                handshake: HandshakeId(handshake),
                record,
            }
        }),
        (
            id(),
            direction(),
            1..u32::MAX,
            key(),
            vec(any::<u8>(), 1..REKEY_STATE_BYTES_MAX)
        )
            .prop_map(|(connection, direction, generation, mut key, state)| {
                key.seq = 0;
                Reply::Rekeyed(Rekeyed {
                    connection: ConnectionId(connection),
                    direction,
                    generation,
                    key,
                    state,
                })
            }),
        Just(()).prop_map(|()| Reply::Pong),
        prop_oneof![
            Just(ErrorCode::Busy),
            Just(ErrorCode::Denied),
            Just(ErrorCode::Malformed),
            Just(ErrorCode::UnknownHandshake),
            Just(ErrorCode::StateRefused),
            Just(ErrorCode::Unavailable),
            Just(ErrorCode::Internal),
        ]
        .prop_map(Reply::Error),
    ]
}
