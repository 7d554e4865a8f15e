//! Who opens the lock and who does not, with known answers; and what may not be locked up.

use keyhaven_types::{AeadAlgorithm, CustodyLevel, Secret};

use super::*;
use crate::message::{ClientCertificate, ConnectionId, TrafficKey};

/// 0, 1, 2 … 31.
fn handshake() -> HandshakeId {
    HandshakeId(std::array::from_fn(|index| u8::try_from(index).unwrap()))
}

fn proxy(name: &str) -> Identity {
    format!("spiffe://keyhaven.test/proxy/{name}")
        .parse()
        .unwrap()
}

fn key(byte: u8) -> TrafficKey {
    TrafficKey {
        aead: AeadAlgorithm::Aes128Gcm,
        key: Secret::new(vec![byte; 16]),
        iv: Secret::new(vec![byte; 12]),
        seq: 0,
    }
}

fn established() -> Established {
    Established {
        connection: ConnectionId([9; 32]),
        version: TlsVersion::Tls13,
        suite: 0x1301,
        write: key(1),
        read: key(2),
        rekey_write: vec![3; 200],
        rekey_read: vec![4; 200],
        lifetime_s: 86_400,
        server_name: "demo.keyhaven.test".to_owned(),
        alpn: Some(b"http/1.1".to_vec()),
        level: CustodyLevel::Premaster,
        tickets: Vec::new(),
        resumed: false,
        client: None,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Computed with Python's hmac and hashlib from RFC 5869 and RFC 2104.
#[test]
fn keys_and_proofs_have_known_answers() {
    for (verify_data, key, proof) in [
        (
            vec![0x42; 32],
            "6d61e11a2acc3d39a09e6a8b824a534cc39ff4d42a68b1e486e04786c6ac2910",
            "47ee5297a1744cb47625c8a8407719822f2897cc96d119c8a57ece34031774d9",
        ),
        (
            vec![0x43; 48],
            "440ac745f68157df27a29b6226ff1be117a4e15501e095e6c53decb605f315d8",
            "f3dd1f8fa3332540da8a86f6625b0b4b16f911ce87a2cdcf483446812cd36a54",
        ),
    ] {
        let derived = derive(&handshake(), &verify_data, BOX_INFO).unwrap();
        assert_eq!(hex(&*derived), key);
        assert_eq!(
            hex(&outcome_proof(&handshake(), &verify_data).unwrap()),
            proof
        );
    }
}

/// The box as `PROTOCOL.md` describes it, taken apart without this file's functions.
#[test]
fn the_box_is_what_the_protocol_says() {
    let sealed = seal(
        &handshake(),
        &[0x42; 32],
        b"flight",
        &proxy("a"),
        &established(),
    )
    .unwrap();
    let key = derive(&handshake(), &[0x42; 32], BOX_INFO).unwrap();
    let mut aad = digest::digest(&digest::SHA256, b"flight").as_ref().to_vec();
    aad.extend_from_slice(b"spiffe://keyhaven.test/proxy/a");
    let mut buffer = sealed;
    let plaintext = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &*key).unwrap())
        .open_in_place(
            Nonce::assume_unique_for_key([0; 12]),
            Aad::from(aad),
            &mut buffer,
        )
        .unwrap();
    assert_eq!(plaintext, postcard::to_allocvec(&established()).unwrap());
}

#[test]
fn only_the_right_finished_opens_the_box() {
    let (id, data, flight, who) = (handshake(), [0x42; 32], b"flight", proxy("a"));
    let sealed = seal(&id, &data, flight, &who, &established()).unwrap();
    let opened = open(&id, &data, flight, &who, &sealed).unwrap();
    assert_eq!(opened.write.key.expose_secret(), [1; 16]);
    assert_eq!(opened.server_name, "demo.keyhaven.test");

    let mut other_id = id;
    other_id.0[31] ^= 1;
    let mut other_data = data;
    other_data[0] ^= 1;
    let shut = |result| matches!(result, Err(LockError::Shut));
    assert!(shut(open(&other_id, &data, flight, &who, &sealed)));
    assert!(shut(open(&id, &other_data, flight, &who, &sealed)));
    assert!(shut(open(&id, &data, b"flighT", &who, &sealed)));
    assert!(shut(open(&id, &data, flight, &proxy("b"), &sealed)));
    for index in 0..sealed.len() {
        let mut altered = sealed.clone();
        altered[index] ^= 0x80;
        assert!(shut(open(&id, &data, flight, &who, &altered)));
        assert!(shut(open(&id, &data, flight, &who, &sealed[..index])));
    }
    assert!(shut(open(
        &id,
        &data,
        flight,
        &who,
        &vec![0; SEALED_BOX_BYTES_MAX + 1]
    )));
}

#[test]
fn verify_data_of_another_length_is_refused() {
    for bytes in [0, 12, 31, 33, 47, 49, 64] {
        let data = vec![0; bytes];
        let refused =
            |error| matches!(error, LockError::VerifyData { bytes: found } if found == bytes);
        assert!(refused(outcome_proof(&handshake(), &data).unwrap_err()));
        assert!(refused(
            open(&handshake(), &data, b"", &proxy("a"), &[0; 64]).unwrap_err()
        ));
    }
}

/// Seals what [`seal`] refuses, as another program might.
fn seal_anything(established: &Established) -> Vec<u8> {
    let mut bytes = postcard::to_allocvec(established).unwrap();
    box_key(&handshake(), &[0; 32])
        .unwrap()
        .seal_in_place_append_tag(only_nonce(), bound_to(b"", &proxy("a")), &mut bytes)
        .unwrap();
    bytes
}

#[test]
fn only_what_the_finished_alone_proves_is_locked_up() {
    let tls12 = Established {
        version: TlsVersion::Tls12,
        rekey_read: Vec::new(),
        rekey_write: Vec::new(),
        ..established()
    };
    let with_certificate = Established {
        client: Some(ClientCertificate {
            leaf: vec![1],
            common_name: String::new(),
        }),
        ..established()
    };
    for wrong in [tls12, with_certificate] {
        let sealed = seal(&handshake(), &[0; 32], b"", &proxy("a"), &wrong);
        assert!(matches!(sealed, Err(LockError::Contents)));
        let sealed = seal_anything(&wrong);
        let opened = open(&handshake(), &[0; 32], b"", &proxy("a"), &sealed);
        assert!(matches!(opened, Err(LockError::Contents)));
    }
}

#[test]
fn tickets_that_the_write_key_does_not_count_are_not_locked_up() {
    let record = [&[23, 3, 3, 0, 17][..], &[0; 17]].concat();
    let with = |tickets: Vec<u8>, seq| Established {
        tickets,
        write: TrafficKey { seq, ..key(1) },
        ..established()
    };
    for good in [with(Vec::new(), 0), with(record.repeat(2), 2)] {
        let sealed = seal(&handshake(), &[0; 32], b"", &proxy("a"), &good).unwrap();
        assert!(open(&handshake(), &[0; 32], b"", &proxy("a"), &sealed).is_ok());
    }
    for wrong in [
        with(record.repeat(2), 1),
        with(record.repeat(2), 3),
        with(Vec::new(), 1),
        with(record[..21].to_vec(), 1),
    ] {
        let sealed = seal(&handshake(), &[0; 32], b"", &proxy("a"), &wrong);
        assert!(matches!(sealed, Err(LockError::Invalid(_))));
        let sealed = seal_anything(&wrong);
        let opened = open(&handshake(), &[0; 32], b"", &proxy("a"), &sealed);
        assert!(matches!(opened, Err(LockError::Invalid(_))));
    }
}

#[test]
fn a_proof_is_of_one_handshake_and_one_finished() {
    let proof = outcome_proof(&handshake(), &[1; 32]).unwrap();
    assert!(proof_matches(&proof, &proof));
    assert!(!proof_matches(
        &proof,
        &outcome_proof(&handshake(), &[2; 32]).unwrap()
    ));
    assert!(!proof_matches(
        &proof,
        &outcome_proof(&HandshakeId([0; 32]), &[1; 32]).unwrap()
    ));
}
