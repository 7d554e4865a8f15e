//! Key files cut at every offset and with bytes exchanged: an error each time, never a panic, never a key.

use keyhaven_signer::admin::keyfile;

use crate::support::{Bench, PASSWORD};

/// One file of each format.
fn files(bench: &Bench) -> Vec<(String, Vec<u8>)> {
    bench.make("ec-p256");
    bench.make("ed25519");
    bench.make("rsa-2048");
    for command in [
        "pkcs8 -topk8 -in ec-p256.pem -nocrypt -outform DER -out pkcs8.der",
        "pkcs8 -topk8 -in ed25519.pem -nocrypt -outform DER -out ed25519.der",
        "pkcs8 -topk8 -in ec-p256.pem -iter 2 -passout pass:~ -outform DER -out encrypted.der",
        "ec -in ec-p256.pem -outform DER -out sec1.der",
        "ec -in ec-p256.pem -out sec1.pem",
        "rsa -traditional -in rsa-2048.pem -outform DER -out pkcs1.der",
        "pkcs12 -export -inkey ec-p256.pem -in ec-p256.crt -iter 2 -passout pass:~ -out modern.p12",
    ] {
        bench.openssl(command);
    }
    [
        "pkcs8.der",
        "ed25519.der",
        "encrypted.der",
        "sec1.der",
        "sec1.pem",
        "pkcs1.der",
        "modern.p12",
    ]
    .map(|name| (name.to_owned(), std::fs::read(bench.path(name)).unwrap()))
    .into()
}

#[test]
fn a_cut_file_is_never_a_key() {
    let bench = Bench::new();
    for (name, whole) in files(&bench) {
        assert!(keyfile::parse(&whole, Some(PASSWORD)).is_ok(), "{name}");
        // The newline at the end of PEM may go.
        let end = whole.len() - usize::from(name.ends_with("pem"));
        for length in 0..end {
            let found = keyfile::parse(&whole[..length], Some(PASSWORD));
            assert!(found.is_err(), "{name} cut to {length} bytes");
        }
        let longer = [&whole[..], &[0]].concat();
        if !name.ends_with("pem") {
            assert!(
                keyfile::parse(&longer, Some(PASSWORD)).is_err(),
                "{name} with a byte more"
            );
        }
    }
}

#[test]
fn exchanged_bytes_give_the_same_key_or_none() {
    let bench = Bench::new();
    for (name, whole) in files(&bench) {
        let spki = keyfile::parse(&whole, Some(PASSWORD)).unwrap().key.spki();
        for place in 0..whole.len() {
            let mut changed = whole.clone();
            changed[place] ^= 0x41;
            let Ok(found) = keyfile::parse(&changed, Some(PASSWORD)) else {
                continue;
            };
            // A seed is a key whatever its bytes, and so is most of a scalar without its point.
            if name != "ed25519.der" {
                assert_eq!(found.key.spki(), spki, "{name}, byte {place}");
            }
        }
    }
}

#[test]
fn a_key_derivation_without_end_is_refused_before_it_starts() {
    let bench = Bench::new();
    bench.make("ec-p256");
    bench.openssl(
        "pkcs8 -topk8 -in ec-p256.pem -iter 65536 -passout pass:~ -outform DER -out slow.der",
    );
    let mut file = std::fs::read(bench.path("slow.der")).unwrap();
    let iterations = [2, 3, 1, 0, 0];
    let place = file
        .windows(iterations.len())
        .position(|part| part == iterations)
        .unwrap();
    file[place + 2..place + 5].copy_from_slice(&[0x7f, 0xff, 0xff]);
    let error = keyfile::parse(&file, Some(PASSWORD)).unwrap_err();
    assert!(
        matches!(error, keyfile::KeyFileError::TooExpensive { .. }),
        "{error}"
    );
}
