//! Which pairs of keys a vault has: today's and yesterday's, made when first needed and destroyed when old.
//!
//! Leaves wrapping and sealing to `keys`. Token objects are shared by every signer of the token: several may make a
//! pair for the same day, all of them are good for opening, and the one with the smallest id seals. Invariant: a pair
//! belongs to one login, and none is used that was not made in the token as sensitive and not extractable.

use std::{
    cmp::Ordering,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use cryptoki::object::{Attribute, AttributeType, ObjectClass, ObjectHandle};

use super::{
    VaultPurpose,
    keys::{self, Keys, Name},
};
use crate::{Error, generation::Generation, quirks::Ways, session::OpenSession};

pub(super) type KeyId = [u8; KEY_ID_LEN];

/// The pairs of one purpose in one token.
#[derive(Debug)]
pub(crate) struct Store {
    purpose: VaultPurpose,
    persistent: bool,
    /// The login to which the pairs belong.
    login: u64,
    pairs: Vec<Pair>,
    /// The latest day on which old keys were looked for.
    swept: Option<u64>,
    searched: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Pair {
    day: u64,
    id: KeyId,
    keys: Keys,
    /// What it has sealed in this process: with random nonces a key is good for 2^32.
    sealed: u64,
}

/// The keys of a token's vaults, which outlive whoever asked for one.
#[derive(Debug, Default)]
pub(crate) struct Stores(Mutex<Vec<Arc<Mutex<Store>>>>);

impl Stores {
    /// The keys of a vault; the same for the same purpose and kind.
    pub(crate) fn of(&self, purpose: VaultPurpose, persistent: bool) -> Arc<Mutex<Store>> {
        let mut stores = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = |store: &&Arc<Mutex<Store>>| {
            let store = store.lock().unwrap_or_else(PoisonError::into_inner);
            (store.purpose, store.persistent) == (purpose, persistent)
        };
        if let Some(store) = stores.iter().find(wanted) {
            return Arc::clone(store);
        }
        let store = Arc::new(Mutex::new(Store::new(purpose, persistent)));
        stores.push(Arc::clone(&store));
        store
    }
}

impl Store {
    fn new(purpose: VaultPurpose, persistent: bool) -> Self {
        Self {
            purpose,
            persistent,
            login: 0,
            pairs: Vec::new(),
            swept: None,
            searched: None,
        }
    }

    /// The pair that seals today.
    pub(super) fn for_sealing(
        &mut self,
        generation: &Generation,
        ways: &Ways,
        day: u64,
    ) -> Result<(KeyId, Keys), Error> {
        self.be_of(generation, day)?;
        if self.sealing(day).is_none() {
            self.search(generation, day)?;
        }
        if self.sealing(day).is_none() {
            let pair = self.make(&generation.anchor(), ways, day)?;
            self.pairs.push(pair);
            // Whoever made one at the same time is seen now, and the smaller id is chosen by both.
            self.search(generation, day)?;
        }
        let none = Error::answer("making a vault's key", "no key that is found again");
        let pair = self.sealing(day).ok_or(none)?;
        pair.sealed += 1;
        Ok((pair.id, pair.keys))
    }

    /// The pair with this id, if it is of today or a day next to it: a fellow signer's clock may be ahead. An
    /// unknown id costs a search now and then where keys are shared, and nothing elsewhere.
    pub(super) fn for_opening(
        &mut self,
        generation: &Generation,
        day: u64,
        id: KeyId,
    ) -> Result<Option<Keys>, Error> {
        self.be_of(generation, day)?;
        let known = |store: &Self| {
            let pair = store.pairs.iter().find(|pair| pair.id == id)?;
            is_current(pair.day, day).then_some(pair.keys)
        };
        let is_due = self
            .searched
            .is_none_or(|last| last.elapsed() >= SEARCH_EVERY);
        if known(self).is_none() && is_due {
            self.search(generation, day)?;
        }
        Ok(known(self))
    }

    /// Forgets a pair whose keys another process has destroyed.
    pub(super) fn forget(&mut self, id: KeyId) {
        self.pairs.retain(|pair| pair.id != id);
    }

    fn sealing(&mut self, day: u64) -> Option<&mut Pair> {
        self.pairs
            .iter_mut()
            .filter(|pair| pair.day == day && pair.sealed < SEALED_MAX)
            .min_by_key(|pair| pair.id)
    }

    /// Forgets the pairs of a lost login, and destroys old ones once a day. Days do not go backwards here: a caller
    /// may be late, since a handshake stays on the day on which it began, and clocks are set back. So nothing is
    /// destroyed that is not too old for the latest day that was seen.
    fn be_of(&mut self, generation: &Generation, day: u64) -> Result<(), Error> {
        match generation.number.cmp(&self.login) {
            Ordering::Less => return Err(Error::lost_login()),
            Ordering::Greater => {
                *self = Self {
                    login: generation.number,
                    ..Self::new(self.purpose, self.persistent)
                }
            }
            Ordering::Equal => {}
        }
        if self.swept.is_some_and(|swept| swept >= day) {
            return Ok(());
        }
        let session = generation.anchor();
        let mut old = Vec::new();
        self.pairs.retain(|pair| {
            let is_old = is_old(pair.day, day);
            if is_old {
                old.extend([pair.keys.wrap, pair.keys.seal]);
            }
            !is_old
        });
        if self.persistent {
            // Those of signers that are no more, too.
            old = find(&session, self.purpose)?
                .into_iter()
                .filter(|found| is_old(found.day, day))
                .map(|found| found.handle)
                .collect();
        }
        self.swept = Some(day);
        for handle in old {
            if let Err(error) = session.destroy_object(handle) {
                let error = crate::TokenFault::new(error);
                tracing::debug!(%error, "an old key of a vault was not destroyed here");
            }
        }
        Ok(())
    }

    /// Looks for the pairs of other signers.
    fn search(&mut self, generation: &Generation, day: u64) -> Result<(), Error> {
        self.searched = Some(Instant::now());
        if !self.persistent {
            return Ok(());
        }
        let found = find(&generation.anchor(), self.purpose)?;
        for wrap in found.iter().filter(|key| key.role == WRAP) {
            let of_pair =
                |key: &&Found| key.role == SEAL && (key.id, key.day) == (wrap.id, wrap.day);
            let Some(seal) = found.iter().find(of_pair) else {
                continue;
            };
            let is_new = self.pairs.iter().all(|pair| pair.id != wrap.id);
            if is_new && is_current(wrap.day, day) {
                self.pairs.push(Pair {
                    day: wrap.day,
                    id: wrap.id,
                    keys: Keys {
                        wrap: wrap.handle,
                        seal: seal.handle,
                    },
                    sealed: 0,
                });
            }
        }
        Ok(())
    }

    fn make(&self, session: &OpenSession, ways: &Ways, day: u64) -> Result<Pair, Error> {
        let mut id = KeyId::default();
        SystemRandom::new()
            .fill(&mut id)
            .map_err(|_| Error::answer("making a vault's key", "no random number"))?;
        let [wrap, seal] = [WRAP, SEAL].map(|role| format!("{}{role} {day}", prefix(self.purpose)));
        // NSS takes two keys with one CKA_ID for one key.
        let ids = [WRAP, SEAL].map(|role| [&id[..], &role.as_bytes()[..1]].concat());
        let [wrap, seal] = [(&wrap, &ids[0]), (&seal, &ids[1])].map(|(label, id)| Name {
            label,
            id,
            persistent: self.persistent,
        });
        let seal = keys::make_sealing(session, ways, seal)?;
        // A pair is found by its wrapping key, which comes last: half a pair is none.
        match keys::make_wrapping(session, ways, wrap) {
            Ok(wrap) => Ok(Pair {
                day,
                id,
                keys: Keys { wrap, seal },
                sealed: 0,
            }),
            Err(error) => {
                // The first failure is the one that is told.
                let _ = session.destroy_object(seal);
                Err(error)
            }
        }
    }
}

/// A key of a vault, found in the token.
struct Found {
    handle: ObjectHandle,
    day: u64,
    id: KeyId,
    role: &'static str,
}

/// The token's keys of this purpose that were made in it and never could be read. CKA_LOCAL is not asked: NSS says it
/// of none.
fn find(session: &OpenSession, purpose: VaultPurpose) -> Result<Vec<Found>, Error> {
    let template = [
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::Token(true),
        Attribute::Sensitive(true),
    ];
    let failed = |source| Error::token("finding a vault's keys", source);
    let objects = session.find_objects(&template).map_err(failed)?;
    let types = [
        AttributeType::Label,
        AttributeType::Id,
        AttributeType::AlwaysSensitive,
        AttributeType::NeverExtractable,
    ];
    let mut found = Vec::new();
    for handle in objects {
        // Another process may have destroyed it meanwhile.
        let Ok(attributes) = session.get_attributes(handle, &types) else {
            continue;
        };
        if let [
            Attribute::Label(label),
            Attribute::Id(id),
            Attribute::AlwaysSensitive(true),
            Attribute::NeverExtractable(true),
        ] = &attributes[..]
            && let Some((role, day)) = read_label(label, purpose)
            && let Some((id, _)) = id.split_first_chunk::<KEY_ID_LEN>()
        {
            found.push(Found {
                handle,
                day,
                id: *id,
                role,
            });
        }
    }
    Ok(found)
}

fn read_label(label: &[u8], purpose: VaultPurpose) -> Option<(&'static str, u64)> {
    let rest = std::str::from_utf8(label)
        .ok()?
        .strip_prefix(prefix(purpose))?;
    let (role, day) = rest.split_once(' ')?;
    let role = [WRAP, SEAL].into_iter().find(|known| *known == role)?;
    Some((role, day.parse().ok()?))
}

fn prefix(purpose: VaultPurpose) -> &'static str {
    match purpose {
        VaultPurpose::Ticket => "keyhaven ticket ",
        VaultPurpose::Rekey => "keyhaven rekey ",
    }
}

/// Today's, yesterday's, or that of whoever lives in tomorrow already.
fn is_current(key_day: u64, day: u64) -> bool {
    key_day.abs_diff(day) <= 1
}

/// Older than yesterday.
fn is_old(key_day: u64, day: u64) -> bool {
    key_day.saturating_add(1) < day
}

const WRAP: &str = "wrap";
const SEAL: &str = "seal";
pub(super) const KEY_ID_LEN: usize = 8;
/// Strangers' ids lead to no more searches than this.
const SEARCH_EVERY: Duration = Duration::from_secs(5);
/// Random nonces: far below 2^32 (NIST SP 800-38D, section 8.3), for eight signers that share a key.
const SEALED_MAX: u64 = 1 << 29;

#[cfg(test)]
mod tests {
    use keyhaven_softhsm_test::ModuleKind;

    use super::*;
    use crate::{Module, Pin, quirks::Quirks, slot};

    #[test]
    fn a_label_is_read_for_its_purpose_alone() {
        let read = |label: &str| read_label(label.as_bytes(), VaultPurpose::Ticket);
        assert_eq!(read("keyhaven ticket wrap 20780"), Some((WRAP, 20780)));
        assert_eq!(read("keyhaven ticket seal 1"), Some((SEAL, 1)));
        for other in [
            "keyhaven rekey wrap 20780",
            "keyhaven ticket wrap",
            "keyhaven ticket open 20780",
            "keyhaven ticket wrap 20780 ",
            "keyhaven ticket wrap -1",
        ] {
            assert_eq!(read(other), None, "{other}");
        }
    }

    #[test]
    fn the_days_next_to_today_are_current() {
        assert!(is_current(5, 5) && is_current(4, 5) && is_current(6, 5));
        assert!(!is_current(3, 5) && !is_current(7, 5) && !is_current(u64::MAX, 0));
    }

    #[test]
    fn what_is_of_today_yesterday_or_later_is_not_old() {
        assert!(is_old(3, 5) && is_old(0, 5));
        assert!(!is_old(4, 5) && !is_old(5, 5) && !is_old(9, 5) && !is_old(u64::MAX, 0));
    }

    /// A thread that is still in a login that was lost takes nothing from the one after it.
    #[test]
    fn a_late_login_is_refused_and_forgets_nothing() {
        let test = keyhaven_softhsm_test::fresh_token!(kind: ModuleKind::Kryoptic);
        let module = Module::load_with(Some(test.module()), test.init_args().as_deref()).unwrap();
        let uri = test.uri().parse().unwrap();
        let pin = Pin::new(test.pin().to_owned());
        let [first, second] =
            [1, 2].map(|number| Generation::open(&module, &uri, &pin, number).unwrap().0);
        let mut store = Store::new(VaultPurpose::Ticket, false);
        let ways = Ways::first_of(Quirks::of(&slot::find_slot(&module, &uri).unwrap().1));
        let (id, keys) = store.for_sealing(&second, &ways, 5).unwrap();
        assert!(store.for_sealing(&first, &ways, 5).is_err());
        assert!(store.for_opening(&first, 5, id).is_err());
        assert_eq!(store.for_opening(&second, 5, id).unwrap(), Some(keys));
    }
}
