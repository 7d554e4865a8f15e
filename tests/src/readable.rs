//! Which keys of a token could be read right after their creation, and whether that was meant.
//!
//! A key may never be readable, with two exceptions by design: the key block of TLS 1.2, which a module hands out as
//! an object that can do nothing else, and a key of zeros, which is the input of an extraction and no secret. The
//! self-tests before a signer is ready work with known keys, so a look begins at a [`Mark`].

use keyhaven_softhsm_test::{Direction, TestToken};

/// How far a token's record had come.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mark {
    readable: u64,
    objects: usize,
    tapped: usize,
}

impl Mark {
    /// Now.
    pub fn of(token: &TestToken) -> Mark {
        let shim = token.shim();
        Mark {
            readable: shim.report().readable(),
            objects: shim.objects().len(),
            tapped: shim.tapped().len(),
        }
    }
}

/// The keys since the mark that could be read and must not, each in words.
pub fn readable_keys(token: &TestToken, since: Mark) -> Vec<String> {
    let shim = token.shim();
    if shim.report().readable() == since.readable {
        return Vec::new();
    }
    if !is_tapped(token) {
        return vec!["a key of a token that was not listened to".to_owned()];
    }
    let zeros_alone = shim.tapped()[since.tapped..]
        .iter()
        .filter(|tapped| tapped.direction == Direction::In && tapped.function == "C_CreateObject")
        // Public keys go in this way as well; no secret is as long.
        .filter(|tapped| tapped.bytes.len() <= SECRET_MAX)
        .all(|tapped| tapped.bytes.iter().all(|byte| *byte == 0));
    shim.objects()[since.objects..]
        .iter()
        .filter(|object| object.readable && is_key(&object.class))
        .filter(|object| {
            let is_key_block = object.mechanism.as_deref() == Some("CKM_TLS_KDF")
                && [object.derive, object.sign, object.encrypt, object.wrap]
                    .iter()
                    .all(|use_of_it| *use_of_it == Some(false));
            let is_zeros = object.function == "C_CreateObject" && zeros_alone;
            !is_key_block && !is_zeros
        })
        .map(ToString::to_string)
        .collect()
}

/// Whether all that a token gives was listened to.
pub fn is_tapped(token: &TestToken) -> bool {
    token.dir().join("objects").exists()
}

fn is_key(class: &str) -> bool {
    class == "CKO_PRIVATE_KEY" || class == "CKO_SECRET_KEY"
}

/// Bytes of the longest secret of a key schedule, and more.
const SECRET_MAX: usize = 64;
