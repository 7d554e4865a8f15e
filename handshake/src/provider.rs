//! The parts of rustls' `CryptoProvider` with ours in the place of its own: groups, suites, randomness.
//!
//! The parts are the same for every site and every level; each handshake's context says where they run.

use std::sync::LazyLock;

use keyhaven_types::{HashAlgorithm, NamedGroup};
use rustls::{
    CipherSuiteCommon, SupportedCipherSuite, Tls12CipherSuite, Tls13CipherSuite,
    crypto::{CryptoProvider, GetRandomFailed, SecureRandom, SupportedKxGroup, aws_lc_rs},
};

use crate::{
    context, exchange::Group, hybrid::Hybrid, schedule12::Schedule12, schedule13::Schedule13,
};

/// A cipher suite with what a choice between configurations turns on.
#[derive(Clone, Copy)]
pub(crate) struct Suite {
    pub(crate) rustls: SupportedCipherSuite,
    pub(crate) hash: HashAlgorithm,
}

impl Suite {
    pub(crate) fn code(&self) -> u16 {
        self.rustls.suite().into()
    }

    pub(crate) fn is_tls13(&self) -> bool {
        matches!(self.rustls, SupportedCipherSuite::Tls13(_))
    }
}

/// Every suite that can be offered: TLS 1.3, and the AEAD suites of TLS 1.2 with ECDHE.
pub(crate) fn suites() -> &'static [Suite] {
    static SUITES: LazyLock<Vec<Suite>> = LazyLock::new(|| {
        aws_lc_rs::ALL_CIPHER_SUITES
            .iter()
            .map(|suite| ours(*suite))
            .collect()
    });
    &SUITES
}

/// How a shared secret is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exchange {
    /// One group.
    Classic(NamedGroup),
    /// X25519MLKEM768.
    Hybrid,
}

/// A provider that offers these suites with this one exchange.
pub(crate) fn provider(exchange: Exchange, suites: Vec<SupportedCipherSuite>) -> CryptoProvider {
    let group: &'static dyn SupportedKxGroup = match exchange {
        Exchange::Classic(NamedGroup::Secp256r1) => &SECP256R1,
        Exchange::Classic(NamedGroup::Secp384r1) => &SECP384R1,
        Exchange::Classic(NamedGroup::X25519) => &X25519,
        Exchange::Hybrid => &Hybrid,
    };
    CryptoProvider {
        cipher_suites: suites,
        kx_groups: vec![group],
        secure_random: &RecordingRandom,
        ..aws_lc_rs::default_provider()
    }
}

static SECP256R1: Group = Group::new(NamedGroup::Secp256r1, aws_lc_rs::kx_group::SECP256R1);
static SECP384R1: Group = Group::new(NamedGroup::Secp384r1, aws_lc_rs::kx_group::SECP384R1);
static X25519: Group = Group::new(NamedGroup::X25519, aws_lc_rs::kx_group::X25519);

/// rustls' suite with our schedule in it. Made once a process, so the leak is bounded by the number of suites.
fn ours(suite: SupportedCipherSuite) -> Suite {
    match suite {
        SupportedCipherSuite::Tls13(inner) => {
            let hash = hash(&inner.common);
            let hkdf_provider = Box::leak(Box::new(Schedule13 {
                hash,
                software: inner.hkdf_provider,
            }));
            let suite = Box::leak(Box::new(Tls13CipherSuite {
                common: common(&inner.common),
                hkdf_provider,
                aead_alg: inner.aead_alg,
                quic: None,
            }));
            Suite {
                rustls: SupportedCipherSuite::Tls13(suite),
                hash,
            }
        }
        SupportedCipherSuite::Tls12(inner) => {
            let hash = hash(&inner.common);
            let prf_provider = Box::leak(Box::new(Schedule12 {
                hash,
                software: inner.prf_provider,
            }));
            let suite = Box::leak(Box::new(Tls12CipherSuite {
                common: common(&inner.common),
                prf_provider,
                kx: inner.kx,
                sign: inner.sign,
                aead_alg: inner.aead_alg,
            }));
            Suite {
                rustls: SupportedCipherSuite::Tls12(suite),
                hash,
            }
        }
    }
}

fn common(inner: &CipherSuiteCommon) -> CipherSuiteCommon {
    CipherSuiteCommon {
        suite: inner.suite,
        hash_provider: inner.hash_provider,
        confidentiality_limit: inner.confidentiality_limit,
    }
}

fn hash(inner: &CipherSuiteCommon) -> HashAlgorithm {
    match inner.hash_provider.output_len() {
        48 => HashAlgorithm::Sha384,
        _ => HashAlgorithm::Sha256,
    }
}

/// rustls' own randomness, with each 32-byte draw noted: one of them is the server's random.
#[derive(Debug)]
struct RecordingRandom;

impl SecureRandom for RecordingRandom {
    fn fill(&self, buffer: &mut [u8]) -> Result<(), GetRandomFailed> {
        aws_lc_rs::default_provider().secure_random.fill(buffer)?;
        if let Ok(random) = <[u8; 32]>::try_from(&*buffer) {
            context::with(|context| context.randoms.push(random));
        }
        Ok(())
    }
}
