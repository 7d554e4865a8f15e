//! Records against another implementation's bytes, against RFC 8448, and against their own limits.

use super::*;
use keyhaven_types::Secret;
use proptest::prelude::*;

const SEQ: u64 = 0x0102;
const PLAIN: &[u8] = b"keyhaven record";
const AEADS: [AeadAlgorithm; 3] = [
    AeadAlgorithm::Aes128Gcm,
    AeadAlgorithm::Aes256Gcm,
    AeadAlgorithm::Chacha20Poly1305,
];
const VERSIONS: [TlsVersion; 2] = [TlsVersion::Tls12, TlsVersion::Tls13];

fn traffic_key(aead: AeadAlgorithm, seq: u64) -> TrafficKey {
    TrafficKey {
        aead,
        key: Secret::new((0..aead.key_len() as u8).collect()),
        iv: Secret::new((0x40..0x4c).collect()),
        seq,
    }
}

fn writer(version: TlsVersion, aead: AeadAlgorithm, seq: u64) -> WriteKey {
    WriteKey::new(version, Generation::FIRST, &traffic_key(aead, seq)).unwrap()
}

fn reader(version: TlsVersion, aead: AeadAlgorithm, seq: u64) -> ReadKey {
    ReadKey::new(version, Generation::FIRST, &traffic_key(aead, seq)).unwrap()
}

fn bytes(hex: &str) -> Vec<u8> {
    let hex: String = hex.split_whitespace().collect();
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
        .collect()
}

/// Made with Python's `cryptography` (OpenSSL): key 00.., iv 40..4b, sequence number 0x0102, application data.
const FOREIGN_RECORDS: [(TlsVersion, AeadAlgorithm, &str); 6] = [
    (
        TlsVersion::Tls13,
        AeadAlgorithm::Aes128Gcm,
        "1703030020a9542e5151561d3769ddf403b9d8fbbdf6c1262fafd8b4bf7959c5ef748e8c93",
    ),
    (
        TlsVersion::Tls13,
        AeadAlgorithm::Aes256Gcm,
        "170303002006c8dde9cd471ab1351d5541f6f4c47d234051eeffc638840bd9c7c55e58a8e5",
    ),
    (
        TlsVersion::Tls13,
        AeadAlgorithm::Chacha20Poly1305,
        "17030300204df8a52c8be3210796e1a117499b23a968b1cb9479c8001c1f82f7ec777cd11f",
    ),
    (
        TlsVersion::Tls12,
        AeadAlgorithm::Aes128Gcm,
        "17030300274445464748494b49a9542e5151561d3769ddf403b9d8fb421698aadd87d20d3949962b9a0da1af",
    ),
    (
        TlsVersion::Tls12,
        AeadAlgorithm::Aes256Gcm,
        "17030300274445464748494b4906c8dde9cd471ab1351d5541f6f4c4734075ee6c0f1489737acf360bb956dc",
    ),
    (
        TlsVersion::Tls12,
        AeadAlgorithm::Chacha20Poly1305,
        "170303001f4df8a52c8be3210796e1a117499b23c934da144b955866e62009d53b80f823",
    ),
];

#[test]
fn records_are_those_of_another_implementation() {
    for (version, aead, expected) in FOREIGN_RECORDS {
        let mut record = Vec::new();
        let mut key = writer(version, aead, SEQ);
        key.seal(content_type::APPLICATION_DATA, PLAIN, &mut record)
            .unwrap();
        assert_eq!(record, bytes(expected), "{version} {aead:?}");
        assert_eq!(key.records(), SEQ + 1);

        let opened = reader(version, aead, SEQ).open(&mut record).unwrap();
        assert_eq!(opened.content_type, content_type::APPLICATION_DATA);
        assert_eq!(&record[opened.plaintext], PLAIN);
    }
}

#[test]
fn the_record_of_rfc_8448_opens() {
    let key = TrafficKey {
        aead: AeadAlgorithm::Aes128Gcm,
        key: Secret::new(bytes("17 42 2d da 59 6e d5 d9 ac d8 90 e3 c6 3f 50 51")),
        iv: Secret::new(bytes("5b 78 92 3d ee 08 57 90 33 e5 23 d9")),
        seq: 0,
    };
    let mut record = bytes(
        "17 03 03 00 43 a2 3f 70 54 b6 2c 94 d0 af fa fe 82 28 ba 55 cb ef ac ea 42 f9 14 aa 66 bc ab 3f 2b 98 19 \
         a8 a5 b4 6b 39 5b d5 4a 9a 20 44 1e 2b 62 97 4e 1f 5a 62 92 a2 97 70 14 bd 1e 3d ea e6 3a ee bb 21 69 49 \
         15 e4",
    );
    let mut reader = ReadKey::new(TlsVersion::Tls13, Generation::FIRST, &key).unwrap();
    let opened = reader.open(&mut record).unwrap();
    let expected: Vec<u8> = (0..50).collect();
    assert_eq!(opened.content_type, content_type::APPLICATION_DATA);
    assert_eq!(record[opened.plaintext], expected[..]);
}

/// A TLS 1.3 record whose inner plaintext is exactly `inner`.
fn sealed_inner(aead: AeadAlgorithm, inner: &[u8]) -> Vec<u8> {
    let key = RecordKey::new(TlsVersion::Tls13, Generation::FIRST, &traffic_key(aead, 0)).unwrap();
    let len = inner.len() + TAG_LEN;
    let header = [23, 3, 3, (len >> 8) as u8, len as u8];
    let mut body = inner.to_vec();
    let nonce = Nonce::assume_unique_for_key(key.next_nonce().unwrap());
    key.aead
        .seal_in_place_append_tag(nonce, Aad::from(header), &mut body)
        .unwrap();
    [header.as_slice(), &body].concat()
}

#[test]
fn padding_is_stripped_and_bounded() {
    let aead = AeadAlgorithm::Aes128Gcm;
    let open = |inner: &[u8]| {
        let mut record = sealed_inner(aead, inner);
        let opened = reader(TlsVersion::Tls13, aead, 0).open(&mut record)?;
        Ok((opened.content_type, record[opened.plaintext].to_vec()))
    };
    assert_eq!(open(&[7, 0, 8, 22, 0, 0, 0]), Ok((22, vec![7, 0, 8])));
    assert_eq!(open(&[23, 0, 0]), Ok((23, vec![])));
    assert_eq!(open(&[0; 9]), Err(RecordError::OnlyPadding));
    assert_eq!(open(&[]), Err(RecordError::OnlyPadding));
    let mut longest = vec![9; PLAINTEXT_MAX];
    longest.push(23);
    assert_eq!(open(&longest), Ok((23, vec![9; PLAINTEXT_MAX])));
    longest.push(0);
    assert_eq!(open(&longest), Err(RecordError::Overflow));
}

#[test]
fn the_longest_plaintext_is_2_to_the_14() {
    for version in VERSIONS {
        for aead in AEADS {
            let mut out = Vec::new();
            let mut key = writer(version, aead, 0);
            key.seal(23, &vec![1; PLAINTEXT_MAX], &mut out).unwrap();
            assert_eq!(out.len(), PLAINTEXT_MAX + key.overhead());
            assert_eq!(
                key.seal(23, &vec![1; PLAINTEXT_MAX + 1], &mut out),
                Err(RecordError::Overflow)
            );
            assert_eq!(out.len(), PLAINTEXT_MAX + key.overhead());
        }
    }
}

#[test]
fn a_key_ends_with_the_last_record_of_its_aead() {
    for version in VERSIONS {
        for aead in [AeadAlgorithm::Aes128Gcm, AeadAlgorithm::Aes256Gcm] {
            let last = GCM_RECORDS_MAX - 1;
            let mut record = Vec::new();
            let mut write = writer(version, aead, last);
            let mut read = reader(version, aead, last);
            write.seal(23, PLAIN, &mut record).unwrap();
            let mut again = record.clone();
            read.open(&mut record).unwrap();
            let spent = Err(RecordError::KeySpent);
            assert_eq!(write.seal(23, PLAIN, &mut Vec::new()), spent);
            assert_eq!(read.open(&mut again).map(|_| ()), spent);
        }
    }
}

#[test]
fn a_record_that_does_not_open_does_not_count() {
    for version in VERSIONS {
        for aead in AEADS {
            let mut record = Vec::new();
            writer(version, aead, 5)
                .seal(23, PLAIN, &mut record)
                .unwrap();
            let mut read = reader(version, aead, 5);
            // TLS 1.2 authenticates the length that the record has, whatever its header says (RFC 5246, 6.2.3.3).
            let header: &[usize] = if version == TlsVersion::Tls13 {
                &[3, 4]
            } else {
                &[0, 1]
            };
            for &at in header.iter().chain(&[HEADER_LEN, record.len() - 1]) {
                let mut broken = record.clone();
                broken[at] ^= 1;
                assert_eq!(read.open(&mut broken), Err(RecordError::Mac));
            }
            for cut in 0..record.len() {
                assert!(read.open(&mut record[..cut].to_vec()).is_err());
            }
            assert_eq!(read.records(), 5);
            assert!(read.open(&mut record).is_ok());
        }
    }
}

#[test]
fn the_explicit_nonce_of_tls_12_is_the_senders_choice() {
    let aead = AeadAlgorithm::Aes128Gcm;
    let sent = writer(TlsVersion::Tls12, aead, 3);
    let mut other_offset = traffic_key(aead, 3);
    other_offset.iv = Secret::new([(0x40..0x44).collect(), vec![0xaa; 8]].concat());
    let mut record = Vec::new();
    let mut key = WriteKey::new(TlsVersion::Tls12, Generation::FIRST, &other_offset).unwrap();
    key.seal(23, PLAIN, &mut record).unwrap();
    let opened = reader(TlsVersion::Tls12, aead, 3)
        .open(&mut record)
        .unwrap();
    assert_eq!(&record[opened.plaintext], PLAIN);
    assert_eq!(sent.prefix_len(), 13);
}

#[test]
fn a_key_of_the_wrong_length_is_no_key() {
    let mut short = traffic_key(AeadAlgorithm::Aes256Gcm, 0);
    short.key = Secret::new(vec![0; 16]);
    let made = WriteKey::new(TlsVersion::Tls13, Generation::FIRST, &short);
    assert_eq!(made.err(), Some(KeyError::KeyLen));
    let mut short = traffic_key(AeadAlgorithm::Aes256Gcm, 0);
    short.iv = Secret::new(vec![0; 11]);
    let made = ReadKey::new(TlsVersion::Tls13, Generation::FIRST, &short);
    assert_eq!(made.err(), Some(KeyError::IvLen));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_sealed_opens(
        version in prop::sample::select(&VERSIONS[..]),
        aead in prop::sample::select(&AEADS[..]),
        kind in 20u8..24,
        plains in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..600), 1..8),
    ) {
        let (mut write, mut read) = (writer(version, aead, 0), reader(version, aead, 0));
        for plain in plains {
            let mut record = Vec::new();
            write.seal(kind, &plain, &mut record).unwrap();
            let opened = read.open(&mut record).unwrap();
            prop_assert_eq!(opened.content_type, kind);
            prop_assert_eq!(&record[opened.plaintext], &plain[..]);
        }
        prop_assert_eq!(write.records(), read.records());
    }

    #[test]
    fn no_bytes_make_it_panic(
        version in prop::sample::select(&VERSIONS[..]),
        aead in prop::sample::select(&AEADS[..]),
        mut record in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        prop_assert!(reader(version, aead, 0).open(&mut record).is_err());
    }
}
