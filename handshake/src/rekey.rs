//! The sealed state from which the next traffic key of a connection is made (RFC 8446, section 7.2).
//!
//! A proxy holds keys, not traffic secrets: it brings the sealed state back and gets the next key with the
//! next state. The seal binds connection, proxy, direction, generation, suite and site, and ends with the
//! connection's lifetime. Up to `master` the traffic secret is bytes in this process and is sealed here; at `schedule`
//! it is wrapped and sealed by two keys of the token, see `hsm`'s vault. Whether the proxy may still have a key is
//! decided by the caller, each time.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey},
    hkdf,
    rand::{SecureRandom as _, SystemRandom},
};
use keyhaven_hsm::{Kept, Vault, Worker};
use keyhaven_types::{AeadAlgorithm, Direction, HashAlgorithm, Secret};
use zeroize::Zeroizing;

use crate::{
    engine::TrafficSecret,
    keys::{self, SessionKey},
};

/// What a site's signers share: at least 32 random bytes, from which a sealing key comes each day.
pub struct SealKey(hkdf::Prk);

impl SealKey {
    /// Takes the site's secret; `None` when it is shorter than 32 bytes.
    pub fn new(secret: &Secret) -> Option<Self> {
        (secret.len() >= 32).then(|| {
            let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, b"keyhaven rekey seal 1");
            Self(salt.extract(secret.expose_secret()))
        })
    }

    /// A key for this process alone; `None` when there is no randomness.
    pub fn generate() -> Option<Self> {
        let mut bytes = Zeroizing::new(vec![0; 32]);
        SystemRandom::new().fill(&mut bytes).ok()?;
        Self::new(&Secret::copy_from(&bytes))
    }

    fn of_day(&self, day: u64) -> Result<RandomizedNonceKey, RekeyError> {
        let mut key = Zeroizing::new([0; 32]);
        self.0
            .expand(&[b"day", &day.to_be_bytes()], hkdf::HKDF_SHA256)
            .and_then(|okm| okm.fill(&mut *key))
            .and_then(|()| RandomizedNonceKey::new(&AES_256_GCM, &*key))
            .map_err(|_| RekeyError::Crypto)
    }
}

/// What a state belongs to, beside what it says itself.
#[derive(Clone, Copy, Debug)]
pub struct RekeyBinding<'a> {
    /// The connection's name.
    pub connection: &'a [u8; 32],
    /// The proxy's identity.
    pub proxy: &'a str,
    /// Which of the connection's two keys.
    pub direction: Direction,
}

/// The facts of a connection that its states carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RekeyFacts {
    /// Names the site and the key that authenticated the connection; the caller's, opaque here.
    pub site: [u8; 32],
    /// The AEAD.
    pub aead: AeadAlgorithm,
    /// The suite's hash.
    pub hash: HashAlgorithm,
    /// When the connection ends.
    pub not_after: SystemTime,
}

/// Why no next key is given.
#[derive(Debug, thiserror::Error)]
pub enum RekeyError {
    /// Too short, of another format, or not sealed here for this connection, proxy and direction.
    #[error("the state does not open")]
    Unopened,
    /// The state gives another generation than the one asked for.
    #[error("the state is of another generation")]
    Generation,
    /// The connection's lifetime is over, or the state is from the future.
    #[error("the state has expired")]
    Expired,
    /// The caller's decision.
    #[error("the proxy may no longer use the site")]
    Denied,
    /// The sealing itself failed.
    #[error("the seal failed")]
    Crypto,
    /// The traffic secret is in a token, and no keys of that token are given for it.
    #[error("the site keeps no keys for rekey states in its token")]
    NoVault,
    /// The token failed.
    #[error("the token failed")]
    Token(#[from] keyhaven_hsm::Error),
}

/// The next key, and the state for the one after it.
#[derive(Debug)]
pub struct Rekeyed {
    /// The key.
    pub key: SessionKey,
    /// Its sealed successor.
    pub state: Vec<u8>,
    /// What the state said.
    pub facts: RekeyFacts,
}

/// Seals and opens states.
pub struct Sealer(SealKey);

impl Sealer {
    /// Seals under this key.
    pub fn new(key: SealKey) -> Self {
        Self(key)
    }

    /// Seals the traffic secret in use so that it gives the key of `generation`. `vault` is the site's; only a secret
    /// in the token needs it, and `worker`.
    pub fn seal(
        &self,
        worker: Option<(&Worker, &Vault)>,
        now: SystemTime,
        binding: RekeyBinding<'_>,
        facts: RekeyFacts,
        generation: u32,
        secret: &TrafficSecret,
    ) -> Result<Vec<u8>, RekeyError> {
        let header = |format| {
            Header {
                format,
                issued: seconds(now),
                generation,
                facts,
            }
            .encode()
        };
        match secret {
            TrafficSecret::Bytes(secret) => {
                self.seal_here(now, header(FORMAT_HERE), binding, secret)
            }
            TrafficSecret::Token(secret) => {
                let (worker, vault) = worker.ok_or(RekeyError::NoVault)?;
                let header = header(FORMAT_TOKEN);
                let aad = aad(&header, binding);
                let day = seconds(now) / DAY;
                let sealed = worker.vault_seal(vault, day, &aad, &[], secret)?;
                Ok([&header[..], &sealed].concat())
            }
        }
    }

    fn seal_here(
        &self,
        now: SystemTime,
        header: [u8; HEADER_LEN],
        binding: RekeyBinding<'_>,
        secret: &Secret,
    ) -> Result<Vec<u8>, RekeyError> {
        let key = self.0.of_day(seconds(now) / DAY)?;
        // Sealed in a buffer with room for the tag, so that no copy of the secret is left by a reallocation.
        let mut sealed = Vec::with_capacity(secret.len() + 16);
        sealed.extend_from_slice(secret.expose_secret());
        let nonce = key
            .seal_in_place_append_tag(Aad::from(aad(&header, binding)), &mut sealed)
            .map_err(|_| RekeyError::Crypto)?;
        Ok([&header[..], nonce.as_ref(), &sealed].concat())
    }

    /// Whether a state can be opened in its site's token alone, on a worker thread.
    pub fn needs_token(state: &[u8]) -> bool {
        state.first() == Some(&FORMAT_TOKEN)
    }

    /// Opens a state and makes the key of `generation`. `worker` is there when the state needs a token. `site` gives the vault of a site that the proxy may still
    /// use: `None` refuses it, `Some(None)` is a site whose traffic secrets are not in a token.
    pub fn next<'v>(
        &self,
        worker: Option<&Worker>,
        now: SystemTime,
        binding: RekeyBinding<'_>,
        generation: u32,
        state: &[u8],
        site: impl FnOnce(&[u8; 32]) -> Option<Option<&'v Vault>>,
    ) -> Result<Rekeyed, RekeyError> {
        let (header_bytes, sealed) = state
            .split_first_chunk::<HEADER_LEN>()
            .ok_or(RekeyError::Unopened)?;
        let header = Header::decode(header_bytes).ok_or(RekeyError::Unopened)?;
        let facts = header.facts;
        let aad = aad(header_bytes, binding);
        // Nothing is opened in a token for whoever may not use the site.
        let vault = site(&facts.site).ok_or(RekeyError::Denied);
        let secret = match header.format {
            FORMAT_HERE => TrafficSecret::Bytes(self.open_here(&header, aad, sealed)?),
            _ => {
                let vault = vault.as_ref().map_err(|_| RekeyError::Denied)?;
                let (vault, worker) = vault.zip(worker).ok_or(RekeyError::NoVault)?;
                let (day, len) = (seconds(now) / DAY, facts.hash.output_len());
                let opened = worker.vault_open(vault, day, &aad, sealed, len, Kept::Never)?;
                TrafficSecret::Token(opened.ok_or(RekeyError::Unopened)?.secret)
            }
        };
        if generation != header.generation {
            return Err(RekeyError::Generation);
        }
        if now >= facts.not_after || header.issued > seconds(now) + CLOCK_SKEW {
            return Err(RekeyError::Expired);
        }
        let vault = vault?;
        let after = generation.checked_add(1).ok_or(RekeyError::Expired)?;
        let (key, next) = update(worker, facts, &secret)?;
        let with = worker.zip(vault);
        Ok(Rekeyed {
            key,
            state: self.seal(with, now, binding, facts, after, &next)?,
            facts,
        })
    }

    fn open_here(
        &self,
        header: &Header,
        aad: Vec<u8>,
        sealed: &[u8],
    ) -> Result<Secret, RekeyError> {
        let (nonce, sealed) = sealed
            .split_first_chunk::<12>()
            .ok_or(RekeyError::Unopened)?;
        let key = self.0.of_day(header.issued / DAY)?;
        let mut body = Zeroizing::new(sealed.to_vec());
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let secret = key
            .open_in_place(nonce, Aad::from(aad), &mut body)
            .map_err(|_| RekeyError::Unopened)?;
        if secret.len() != header.facts.hash.output_len() {
            return Err(RekeyError::Unopened);
        }
        Ok(Secret::copy_from(secret))
    }
}

/// The next traffic secret with its key (RFC 8446, section 7.2), on whichever side the present one is.
fn update(
    worker: Option<&Worker>,
    facts: RekeyFacts,
    secret: &TrafficSecret,
) -> Result<(SessionKey, TrafficSecret), RekeyError> {
    let RekeyFacts { aead, hash, .. } = facts;
    match secret {
        TrafficSecret::Bytes(secret) => {
            let next = keys::expand_label(hash, secret, b"traffic upd", hash.output_len());
            let key = SessionKey::from_traffic_secret(aead, hash, &next);
            Ok((key, TrafficSecret::Bytes(next)))
        }
        TrafficSecret::Token(secret) => {
            let worker = worker.ok_or(RekeyError::NoVault)?;
            let len = hash.output_len();
            let info = keys::label_info(b"traffic upd", len);
            let next = worker.expand_secret(hash, secret, &info, len, Kept::Wrappable)?;
            let take = |label: &[u8], len: usize| {
                let mut bytes = Zeroizing::new(vec![0; len]);
                worker.expand_bytes(hash, &next, &keys::label_info(label, len), &mut bytes)?;
                Ok::<_, RekeyError>(Secret::copy_from(&bytes))
            };
            let key = SessionKey {
                aead,
                key: take(b"key", aead.key_len())?,
                iv: take(b"iv", 12)?,
                seq: 0,
            };
            Ok((key, TrafficSecret::Token(next)))
        }
    }
}

/// What stands in clear before the sealed secret; authenticated with it.
struct Header {
    format: u8,
    issued: u64,
    generation: u32,
    facts: RekeyFacts,
}

impl Header {
    fn encode(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[0] = self.format;
        bytes[1] = match self.facts.aead {
            AeadAlgorithm::Aes128Gcm => 1,
            AeadAlgorithm::Aes256Gcm => 2,
            AeadAlgorithm::Chacha20Poly1305 => 3,
        };
        bytes[2] = match self.facts.hash {
            HashAlgorithm::Sha256 => 1,
            HashAlgorithm::Sha384 => 2,
        };
        bytes[4..8].copy_from_slice(&self.generation.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.issued.to_be_bytes());
        bytes[16..24].copy_from_slice(&seconds(self.facts.not_after).to_be_bytes());
        bytes[24..].copy_from_slice(&self.facts.site);
        bytes
    }

    fn decode(bytes: &[u8; HEADER_LEN]) -> Option<Self> {
        let aead = match bytes[1] {
            1 => AeadAlgorithm::Aes128Gcm,
            2 => AeadAlgorithm::Aes256Gcm,
            3 => AeadAlgorithm::Chacha20Poly1305,
            _ => return None,
        };
        let hash = match bytes[2] {
            1 => HashAlgorithm::Sha256,
            2 => HashAlgorithm::Sha384,
            _ => return None,
        };
        if !matches!(bytes[0], FORMAT_HERE | FORMAT_TOKEN) || bytes[3] != 0 {
            return None;
        }
        let not_after = UNIX_EPOCH.checked_add(Duration::from_secs(u64_at(bytes, 16)))?;
        Some(Self {
            format: bytes[0],
            issued: u64_at(bytes, 8),
            generation: u32::from_be_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
            facts: RekeyFacts {
                site: *bytes.last_chunk()?,
                aead,
                hash,
                not_after,
            },
        })
    }
}

fn u64_at(bytes: &[u8; HEADER_LEN], at: usize) -> u64 {
    let mut value = [0; 8];
    value.copy_from_slice(&bytes[at..at + 8]);
    u64::from_be_bytes(value)
}

fn aad(header: &[u8; HEADER_LEN], binding: RekeyBinding<'_>) -> Vec<u8> {
    let direction = match binding.direction {
        Direction::Read => b'r',
        Direction::Write => b'w',
    };
    [
        &header[..],
        binding.connection,
        &[direction],
        binding.proxy.as_bytes(),
    ]
    .concat()
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// Sealed in the signer's process, or by the token.
const FORMAT_HERE: u8 = 1;
const FORMAT_TOKEN: u8 = 2;
const HEADER_LEN: usize = 56;
const DAY: u64 = 86_400;
/// How far a fellow signer's clock may be ahead, in seconds.
const CLOCK_SKEW: u64 = 120;

#[cfg(test)]
#[path = "rekey_tests.rs"]
mod tests;
