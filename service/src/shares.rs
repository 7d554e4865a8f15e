//! Shares of something bounded, so that no identity takes all of it from the others.
//!
//! Counts and nothing else; what is shared, and what happens to those who get none, is the owner's business.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use keyhaven_types::Identity;

/// How much each identity has of something.
pub struct Shares {
    taken: Mutex<HashMap<Identity, usize>>,
    share: usize,
}

/// One part of an identity's share, given back when it is dropped.
pub struct Share<'a> {
    shares: &'a Shares,
    identity: Identity,
}

impl Shares {
    /// Each identity may have `share` parts, and one in any case.
    pub fn new(share: usize) -> Self {
        Self {
            taken: Mutex::default(),
            share: share.max(1),
        }
    }

    /// One more part for an identity, if it has any left.
    pub fn take(&self, identity: &Identity) -> Option<Share<'_>> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let count = taken.entry(identity.clone()).or_default();
        if *count >= self.share {
            return None;
        }
        *count += 1;
        Some(Share {
            shares: self,
            identity: identity.clone(),
        })
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        let mut taken = self
            .shares
            .taken
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.identity) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.identity);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_ends_and_comes_back() {
        let identity = |name: &str| {
            format!("spiffe://a.test/proxy/{name}")
                .parse::<Identity>()
                .unwrap()
        };
        let shares = Shares::new(2);
        let first = shares.take(&identity("a"));
        let second = shares.take(&identity("a"));
        assert!(first.is_some() && second.is_some());
        assert!(shares.take(&identity("a")).is_none());
        assert!(shares.take(&identity("b")).is_some());
        drop(first);
        assert!(shares.take(&identity("a")).is_some());
    }
}
