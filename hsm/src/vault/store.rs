//! Which pairs of keys a vault has: today's and yesterday's, made when first needed and destroyed when old.
//!
//! Leaves wrapping and sealing to `keys`, and finding to `search`. Token objects are shared by every signer of the token: several may make a
//! pair for the same day, all of them are good for opening, and the one with the smallest id seals. Invariant: a pair
//! belongs to one login, and none is used that was not made in the token as sensitive and not extractable.

use std::{
    cmp::Ordering,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use cryptoki::object::ObjectHandle;

use super::{
    VaultPurpose,
    blob::AtWork,
    keys::{self, Keys, Name},
    search::{self, Role, key_id},
};
use crate::{Error, TokenFault, generation::Generation, quirks::Ways, session::OpenSession};

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
        session: &OpenSession,
        generation: &Generation,
        ways: &Ways,
        day: u64,
    ) -> Result<(KeyId, Keys), Error> {
        self.be_of(generation, day)?;
        if self.sealing(day).is_none() {
            self.search(session, [day])?;
        }
        if self.sealing(day).is_none() {
            let pair = self.make(&generation.anchor(), ways, day)?;
            self.pairs.push(pair);
            // Whoever made one at the same time is seen now, and the smaller id is chosen by both.
            self.search(session, [day])?;
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
        session: &OpenSession,
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
            let days = [day.saturating_sub(1), day, day.saturating_add(1)];
            let found = self.search(session, days);
            // Counted from its end: a slow token is not to search without a pause.
            self.searched = Some(Instant::now());
            found?;
        }
        Ok(known(self))
    }

    /// Forgets a pair whose keys are gone, so that it is looked for, or another one made. What is left of it goes,
    /// too, where it is of use to nobody else.
    pub(super) fn forget(&mut self, pair: &AtWork<'_>) {
        self.searched = None;
        self.pairs.retain(|known| known.id != pair.id);
        if self.persistent {
            return;
        }
        for (handle, role) in [(pair.keys.wrap, Role::Wrap), (pair.keys.seal, Role::Seal)] {
            if keys::is_there(pair.session, handle, &key_id(pair.id, role)) {
                destroy(pair.session, handle);
            }
        }
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
            old = search::older(&session, self.purpose, day)?;
        }
        self.swept = Some(day);
        for handle in old {
            destroy(&session, handle);
        }
        Ok(())
    }

    /// Looks for the pairs of these days that other signers have made.
    fn search<const N: usize>(
        &mut self,
        session: &OpenSession,
        days: [u64; N],
    ) -> Result<(), Error> {
        if !self.persistent {
            return Ok(());
        }
        for day in days {
            for (id, keys) in search::pairs(session, self.purpose, day)? {
                if self.pairs.iter().all(|pair| pair.id != id) {
                    self.pairs.push(Pair {
                        day,
                        id,
                        keys,
                        sealed: 0,
                    });
                }
            }
        }
        Ok(())
    }

    fn make(&self, session: &OpenSession, ways: &Ways, day: u64) -> Result<Pair, Error> {
        let mut id = KeyId::default();
        SystemRandom::new()
            .fill(&mut id)
            .map_err(|_| Error::answer("making a vault's key", "no random number"))?;
        let roles = [Role::Wrap, Role::Seal];
        let labels = roles.map(|role| search::label(self.purpose, role, day));
        let ids = roles.map(|role| key_id(id, role));
        let [wrap, seal] = [0, 1].map(|at| Name {
            label: &labels[at],
            id: &ids[at],
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

/// Destroys a key that nobody is to use any more.
fn destroy(session: &OpenSession, key: ObjectHandle) {
    if let Err(error) = session.destroy_object(key) {
        let error = TokenFault::new(error);
        tracing::debug!(%error, "an old key of a vault was not destroyed here");
    }
}

/// Today's, yesterday's, or that of whoever lives in tomorrow already.
fn is_current(key_day: u64, day: u64) -> bool {
    key_day.abs_diff(day) <= 1
}

/// Older than yesterday.
pub(super) fn is_old(key_day: u64, day: u64) -> bool {
    key_day.saturating_add(1) < day
}

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
        let session = OpenSession::open(&module, second.slot).unwrap();
        let mut store = Store::new(VaultPurpose::Ticket, false);
        let ways = Ways::first_of(Quirks::of(&slot::find_slot(&module, &uri).unwrap().1));
        let (id, keys) = store.for_sealing(&session, &second, &ways, 5).unwrap();
        assert!(store.for_sealing(&session, &first, &ways, 5).is_err());
        assert!(store.for_opening(&session, &first, 5, id).is_err());
        assert_eq!(
            store.for_opening(&session, &second, 5, id).unwrap(),
            Some(keys)
        );
    }
}
