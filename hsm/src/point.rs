//! Peers' public values, judged in software before a token sees them.
//!
//! Tokens answer a bad point with whatever return value they like, CKR_DEVICE_ERROR included, so that it cannot
//! be told from a dead token afterwards. Invariant: a value that passes here is a point of its group, uncompressed,
//! not the identity, and not of small order.

use keyhaven_types::NamedGroup;

/// Whether the value may be given to a token.
pub(crate) fn is_valid(group: NamedGroup, value: &[u8]) -> bool {
    if value.len() != group.public_len() {
        return false;
    }
    match group {
        // RFC 8446, section 4.2.8.2: uncompressed only. Parsing checks the curve equation.
        NamedGroup::Secp256r1 => value[0] == 4 && p256::PublicKey::from_sec1_bytes(value).is_ok(),
        NamedGroup::Secp384r1 => value[0] == 4 && p384::PublicKey::from_sec1_bytes(value).is_ok(),
        NamedGroup::X25519 => !has_small_order(value),
    }
}

/// Whether an X25519 value gives the all-zero secret (RFC 7748, section 6.1). The highest bit is not part of the
/// value. The bytes are public, so the time that comparing takes tells nothing.
fn has_small_order(value: &[u8]) -> bool {
    let Some((&last, head)) = value.split_last() else {
        return true;
    };
    SMALL_ORDER
        .iter()
        .any(|bad| bad[..31] == *head && bad[31] == last & 0x7f)
}

/// The u-coordinates of order 1, 2, 4 and 8 on the curve and its twist: 0, 1, two of order 8, and p-1, p, p+1 for
/// the encodings that are not reduced.
const SMALL_ORDER: [[u8; 32]; 7] = [
    [0; 32],
    [
        1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        0, 0,
    ],
    [
        0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4,
        0x6a, 0xda, 0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49,
        0xb8, 0x00,
    ],
    [
        0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef,
        0x5b, 0x04, 0x44, 0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f,
        0x11, 0x57,
    ],
    near_p(0xec),
    near_p(0xed),
    near_p(0xee),
];

const fn near_p(low: u8) -> [u8; 32] {
    let mut value = [0xff; 32];
    value[0] = low;
    value[31] = 0x7f;
    value
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::agreement::{
        ECDH_P256, ECDH_P384, PrivateKey, UnparsedPublicKey, X25519, agree,
    };

    use super::*;

    #[test]
    fn fresh_public_values_are_good() {
        for (group, algorithm) in [
            (NamedGroup::Secp256r1, &ECDH_P256),
            (NamedGroup::Secp384r1, &ECDH_P384),
            (NamedGroup::X25519, &X25519),
        ] {
            let key = PrivateKey::generate(algorithm).unwrap();
            assert!(is_valid(group, key.compute_public_key().unwrap().as_ref()));
        }
    }

    /// The table against another implementation, which refuses an all-zero secret.
    #[test]
    fn every_small_order_value_gives_an_all_zero_secret() {
        let key = PrivateKey::generate(&X25519).unwrap();
        for value in SMALL_ORDER {
            for high in [0, 0x80] {
                let mut value = value;
                value[31] |= high;
                assert!(!is_valid(NamedGroup::X25519, &value));
                let secret = agree(&key, UnparsedPublicKey::new(&X25519, value), (), |z| {
                    Ok(z.to_vec())
                });
                assert!(secret.is_err(), "{value:02x?}");
            }
        }
    }

    #[test]
    fn points_off_the_curve_compressed_and_cut_ones_are_bad() {
        for (group, algorithm) in [
            (NamedGroup::Secp256r1, &ECDH_P256),
            (NamedGroup::Secp384r1, &ECDH_P384),
        ] {
            let key = PrivateKey::generate(algorithm).unwrap();
            let good = key.compute_public_key().unwrap().as_ref().to_vec();
            let mut off = good.clone();
            *off.last_mut().unwrap() ^= 1;
            assert!(!is_valid(group, &off));
            let mut hybrid = good.clone();
            hybrid[0] = 6 | (good[good.len() - 1] & 1);
            assert!(!is_valid(group, &hybrid));
            let mut compressed = good[..=group.secret_len()].to_vec();
            compressed[0] = 2 | (good[good.len() - 1] & 1);
            assert!(!is_valid(group, &compressed));
            for len in 0..good.len() {
                assert!(!is_valid(group, &good[..len]));
            }
            assert!(!is_valid(group, &vec![0xff; good.len()]));
            assert!(!is_valid(group, &[&good[..], &[0]].concat()));
        }
        assert!(!is_valid(NamedGroup::X25519, &[9; 31]));
    }
}
