//! The key that seals tickets in this process: one secret, from which a key comes each day.
//!
//! What a ticket holds and when it is good is the business of `tickets`. Invariant: a key seals on its day and opens on
//! the next, and no longer.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, PoisonError, RwLock},
};

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey},
    hkdf,
    rand::{SecureRandom as _, SystemRandom},
};
use keyhaven_types::Secret;
use zeroize::Zeroizing;

/// What seals tickets in this process: at least 32 random bytes, from which a key comes each day. Clones are the
/// same key.
#[derive(Clone)]
pub struct TicketKey(Source);

/// Where the keys of the days come from.
#[derive(Clone)]
enum Source {
    /// One secret for all days.
    One(Arc<hkdf::Prk>),
    /// A secret for each day.
    Days(TicketDays),
}

/// Secrets of days, as they are given from outside: without that of a day nothing is sealed or opened on it. Clones are
/// the same.
#[derive(Clone, Default)]
pub struct TicketDays(Arc<RwLock<BTreeMap<u64, Arc<hkdf::Prk>>>>);

impl TicketDays {
    /// Takes these days, each with at least 32 random bytes, in place of all others.
    pub fn replace(&self, days: Vec<(u64, Secret)>) {
        let days = days
            .into_iter()
            .map(|(day, secret)| (day, extract(&secret)));
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = days.collect();
    }

    /// Forgets all of them.
    pub fn clear(&self) {
        self.replace(Vec::new());
    }

    fn of(&self, day: u64) -> Option<Arc<hkdf::Prk>> {
        let days = self.0.read().unwrap_or_else(PoisonError::into_inner);
        days.get(&day).cloned()
    }
}

impl fmt::Debug for TicketDays {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TicketDays")
    }
}

fn extract(secret: &Secret) -> Arc<hkdf::Prk> {
    let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, b"keyhaven ticket seal 1");
    Arc::new(salt.extract(secret.expose_secret()))
}

impl TicketKey {
    /// Takes a secret that the site's signers share; `None` when it is shorter than 32 bytes.
    pub fn new(secret: &Secret) -> Option<Self> {
        (secret.len() >= 32).then(|| Self(Source::One(extract(secret))))
    }

    /// Takes the secrets of days that are given from outside.
    pub fn of_days(days: TicketDays) -> Self {
        Self(Source::Days(days))
    }

    fn secret(&self, day: u64) -> Option<Arc<hkdf::Prk>> {
        match &self.0 {
            Source::One(secret) => Some(Arc::clone(secret)),
            Source::Days(days) => days.of(day),
        }
    }

    /// A key for this process alone; `None` when there is no randomness.
    pub fn generate() -> Option<Self> {
        let mut bytes = Zeroizing::new(vec![0; 32]);
        SystemRandom::new().fill(&mut bytes).ok()?;
        Self::new(&Secret::copy_from(&bytes))
    }

    fn of_day(&self, day: u64) -> Option<RandomizedNonceKey> {
        let key = self.expand::<32>(b"key", day)?;
        RandomizedNonceKey::new(&AES_256_GCM, &*key).ok()
    }

    /// What a ticket calls the key of a day, so that a stranger's ticket costs no decryption.
    fn name(&self, day: u64) -> Option<Zeroizing<[u8; NAME_LEN]>> {
        self.expand(b"name", day)
    }

    fn expand<const N: usize>(&self, label: &[u8], day: u64) -> Option<Zeroizing<[u8; N]>> {
        struct Length(usize);
        impl hkdf::KeyType for Length {
            fn len(&self) -> usize {
                self.0
            }
        }
        let mut out = Zeroizing::new([0; N]);
        self.secret(day)?
            .expand(&[label, &day.to_be_bytes()], Length(N))
            .and_then(|okm| okm.fill(&mut *out))
            .ok()?;
        Some(out)
    }

    pub(crate) fn seal(&self, day: u64, aad: &[u8], content: &[u8]) -> Option<Vec<u8>> {
        let (key, name) = (self.of_day(day)?, self.name(day)?);
        let mut sealed = Vec::with_capacity(content.len() + 16);
        sealed.extend_from_slice(content);
        let nonce = key
            .seal_in_place_append_tag(Aad::from(aad), &mut sealed)
            .ok()?;
        Some([&name[..], nonce.as_ref(), &sealed].concat())
    }

    /// Opens what was sealed today or yesterday.
    pub(crate) fn open(&self, today: u64, aad: &[u8], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (name, rest) = sealed.split_first_chunk::<NAME_LEN>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let day = [today, today.checked_sub(1)?]
            .into_iter()
            .find(|day| self.name(*day).is_some_and(|known| *known == *name))?;
        let mut content = Zeroizing::new(sealed.to_vec());
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let len = self
            .of_day(day)?
            .open_in_place(nonce, Aad::from(aad), &mut content)
            .ok()?
            .len();
        content.truncate(len);
        Some(content)
    }
}

impl fmt::Debug for TicketKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TicketKey")
    }
}

const NAME_LEN: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> TicketKey {
        TicketKey::new(&Secret::new(vec![7; 32])).unwrap()
    }

    #[test]
    fn s4_days_from_outside_seal_while_they_are_there() {
        let (days, other) = (TicketDays::default(), TicketDays::default());
        let key = TicketKey::of_days(days.clone());
        assert!(key.seal(100, b"aad", b"content").is_none());
        days.replace(vec![
            (100, Secret::new(vec![1; 32])),
            (101, Secret::new(vec![2; 32])),
        ]);
        let sealed = key.seal(100, b"aad", b"content").unwrap();
        assert_eq!(*key.open(101, b"aad", &sealed).unwrap(), *b"content");
        // Another signer with the same days.
        other.replace(vec![
            (100, Secret::new(vec![1; 32])),
            (101, Secret::new(vec![2; 32])),
        ]);
        let same = TicketKey::of_days(other);
        assert_eq!(*same.open(100, b"aad", &sealed).unwrap(), *b"content");
        days.clear();
        assert!(key.open(100, b"aad", &sealed).is_none());
    }

    #[test]
    fn s4_a_ticket_key_lives_two_days_and_is_shared_by_its_secret() {
        let sealed = key().seal(100, b"aad", b"content").unwrap();
        for today in [100, 101] {
            assert_eq!(*key().open(today, b"aad", &sealed).unwrap(), *b"content");
        }
        for today in [99, 102, 200] {
            assert!(key().open(today, b"aad", &sealed).is_none(), "{today}");
        }
        assert!(key().open(100, b"aaD", &sealed).is_none());
        let other = TicketKey::generate().unwrap();
        assert!(other.open(100, b"aad", &sealed).is_none());
        for at in 0..sealed.len() {
            let mut altered = sealed.clone();
            altered[at] ^= 1;
            assert!(key().open(100, b"aad", &altered).is_none(), "{at}");
            assert!(key().open(100, b"aad", &sealed[..at]).is_none(), "{at}");
        }
        assert!(TicketKey::new(&Secret::new(vec![1; 31])).is_none());
    }
}
