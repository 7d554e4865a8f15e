//! What a token has proved, and that it goes on proving it.
//!
//! The tests are `selftest`'s and the attacks `hold`'s. Invariant: what was proven once is proven again in every later
//! login, before anybody gets to work in it.

use std::sync::{Mutex, PoisonError, RwLock};

use keyhaven_types::HashAlgorithm;

use crate::{
    Error, HoldCheck, Profile, Token,
    generation::Generation,
    hold,
    quirks::{Quirks, Ways},
    selftest,
    session::OpenSession,
};

/// A token's proofs.
pub(crate) struct Proof {
    /// The module's ways, as the self-tests last chose them.
    ways: RwLock<Ways>,
    /// What the token proved when it was last asked to, and must prove after every loss.
    proven: Mutex<Option<Profile>>,
}

impl Proof {
    pub(crate) fn new(quirks: &Quirks) -> Self {
        Self {
            ways: RwLock::new(Ways::first_of(quirks)),
            proven: Mutex::new(None),
        }
    }
}

impl Token {
    /// Runs the self-tests, on objects that are thrown away, and says what the token proved. From then on the token
    /// is there only as long as it proves as much: the self-tests are run again after each reconnection, and a token
    /// that proves less stays away.
    ///
    /// # Errors
    /// When the token is away, or proves less than it did. What it cannot do is in the [`Profile`].
    pub fn prove(&self) -> Result<Profile, Error> {
        let generation = self.generation()?;
        let _inside = self.enter(&generation)?;
        let profile = self
            .prove_in(&generation)
            .map_err(|error| self.failed(&generation, error))?;
        let mut proven = self
            .inner()
            .proof
            .proven
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *proven = Some(profile.clone());
        Ok(profile)
    }

    /// The self-tests in this login.
    pub(crate) fn prove_in(&self, generation: &Generation) -> Result<Profile, Error> {
        let _inside = self.module().enter()?;
        let session = OpenSession::open(self.module(), generation.slot)?;
        let (profile, ways) = selftest::run(&session, self.quirks());
        let before = self.proven();
        let lost = before.map(|before| before.lost_in(&profile));
        let lost = lost.unwrap_or_default();
        if !lost.is_empty() {
            let reason = format!("it no longer proves {}", lost.join(", "));
            return Err(self.unavailable(&reason));
        }
        if !profile.master13.is_empty() {
            for hash in [HashAlgorithm::Sha256, HashAlgorithm::Sha384] {
                generation.zeros(hash)?;
            }
        }
        *self
            .inner()
            .proof
            .ways
            .write()
            .unwrap_or_else(PoisonError::into_inner) = ways;
        Ok(profile)
    }

    /// Attacks throw-away objects as somebody could who has the login, and says what the module refused. The
    /// self-tests are run first where they were not yet, since they find out how the module wants to be spoken to.
    ///
    /// # Errors
    /// When the token is away.
    pub fn examine_hold(&self) -> Result<Vec<HoldCheck>, Error> {
        if self.proven().is_none() {
            self.prove()?;
        }
        let generation = self.generation()?;
        let session = self.open_session(&generation)?;
        let _inside = self.enter(&generation)?;
        Ok(hold::examine(&session, &self.ways()))
    }

    /// What the token must prove after each loss; nothing before [`Token::prove`].
    pub(crate) fn proven(&self) -> Option<Profile> {
        let proven = self.inner().proof.proven.lock();
        proven.unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn ways(&self) -> Ways {
        *self
            .inner()
            .proof
            .ways
            .read()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
