//! Key agreement as a client: the groups of TLS and the hybrid with ML-KEM.
//!
//! Leaves the placing of public values to `hello`. A private value serves one handshake.

use aws_lc_rs::agreement::{
    Algorithm, ECDH_P256, ECDH_P384, PrivateKey, UnparsedPublicKey, X25519, agree,
};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::kem::{Ciphertext, DecapsulationKey, ML_KEM_768};

use super::record::Stop;

/// A group that the raw clients can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Group {
    /// secp256r1.
    P256,
    /// secp384r1.
    P384,
    /// x25519.
    X25519,
    /// X25519MLKEM768 (draft-ietf-tls-ecdhe-mlkem): the ML-KEM half goes first.
    X25519MlKem768,
}

impl Group {
    /// Every group.
    pub const ALL: [Group; 4] = [
        Group::P256,
        Group::P384,
        Group::X25519,
        Group::X25519MlKem768,
    ];

    /// The code point.
    pub fn code(self) -> u16 {
        match self {
            Group::P256 => 23,
            Group::P384 => 24,
            Group::X25519 => 29,
            Group::X25519MlKem768 => 0x11ec,
        }
    }

    /// The group with this code point.
    pub fn of(code: u16) -> Option<Group> {
        Group::ALL.into_iter().find(|group| group.code() == code)
    }

    fn classical(self) -> &'static Algorithm {
        match self {
            Group::P256 => &ECDH_P256,
            Group::P384 => &ECDH_P384,
            Group::X25519 | Group::X25519MlKem768 => &X25519,
        }
    }
}

/// A client's private value.
#[derive(Debug)]
pub(crate) struct Share {
    group: Group,
    ml_kem: Option<DecapsulationKey>,
    classical: PrivateKey,
}

impl Share {
    /// A fresh one.
    pub(crate) fn generate(group: Group) -> Share {
        let random = "the system gives random bytes";
        Share {
            group,
            ml_kem: (group == Group::X25519MlKem768)
                .then(|| DecapsulationKey::generate(&ML_KEM_768).expect(random)),
            classical: PrivateKey::generate(group.classical()).expect(random),
        }
    }

    /// Its public value, as in key_share.
    pub(crate) fn public(&self) -> Vec<u8> {
        let fresh = "a fresh key has a public part";
        let mut public = Vec::new();
        if let Some(key) = &self.ml_kem {
            let key = key.encapsulation_key().expect(fresh);
            public.extend_from_slice(key.key_bytes().expect(fresh).as_ref());
        }
        public.extend_from_slice(self.classical.compute_public_key().expect(fresh).as_ref());
        public
    }

    /// The group.
    pub(crate) fn group(&self) -> Group {
        self.group
    }

    /// The shared secret with the server's public value.
    pub(crate) fn agree(&self, server: &[u8]) -> Result<Vec<u8>, Stop> {
        let (mut shared, server) = match &self.ml_kem {
            None => (Vec::new(), server),
            Some(key) => {
                let (ciphertext, server) = server
                    .split_at_checked(CIPHERTEXT_BYTES)
                    .ok_or(Stop::Nonsense("a hybrid share that is too short"))?;
                let secret = key
                    .decapsulate(Ciphertext::from(ciphertext))
                    .map_err(no_key)?;
                (secret.as_ref().to_vec(), server)
            }
        };
        let peer = UnparsedPublicKey::new(self.group.classical(), server);
        agree(&self.classical, peer, Unspecified, |secret| {
            shared.extend_from_slice(secret);
            Ok(())
        })
        .map_err(no_key)?;
        Ok(shared)
    }
}

fn no_key(_: Unspecified) -> Stop {
    Stop::Nonsense("a public value that gives no shared secret")
}

/// An ML-KEM-768 ciphertext (FIPS 203, table 3).
const CIPHERTEXT_BYTES: usize = 1088;
