//! Tickets of TLS 1.3 as a client has them, and what it makes of them in a ClientHello.
//!
//! Leaves their reading off the wire to `tls13`. Every part can be altered by the test that offers it.

use std::time::Instant;

use super::hash::Hash;
use super::messages::NewTicket;

/// A ticket with the secret that belongs to it.
#[derive(Clone, Debug)]
pub struct Ticket {
    /// What the server gave, to be given back.
    pub identity: Vec<u8>,
    /// The PSK.
    pub psk: Vec<u8>,
    /// The suite of the session.
    pub suite: u16,
    /// ticket_lifetime in seconds.
    pub lifetime: u32,
    age_add: u32,
    since: Instant,
}

impl Ticket {
    pub(crate) fn new(message: NewTicket, psk: Vec<u8>, suite: u16) -> Ticket {
        Ticket {
            identity: message.ticket,
            psk,
            suite,
            lifetime: message.lifetime,
            age_add: message.age_add,
            since: Instant::now(),
        }
    }

    /// What an honest client offers.
    pub fn offer(&self) -> Offered {
        let age = self.since.elapsed().as_millis() as u32;
        Offered {
            identity: self.identity.clone(),
            age: age.wrapping_add(self.age_add),
            psk: self.psk.clone(),
            hash: Hash::of_suite(self.suite),
        }
    }
}

/// One identity of pre_shared_key (RFC 8446, section 4.2.11), with what its binder is made of.
#[derive(Clone, Debug)]
pub struct Offered {
    /// The identity.
    pub identity: Vec<u8>,
    /// obfuscated_ticket_age in milliseconds.
    pub age: u32,
    /// The PSK.
    pub psk: Vec<u8>,
    /// The hash of the session's suite.
    pub hash: Hash,
}

impl Offered {
    /// An identity that nobody gave, of so many bytes.
    pub fn stranger(length: usize) -> Offered {
        Offered {
            identity: (0..length).map(|at| at as u8).collect(),
            age: 0,
            psk: vec![0; 32],
            hash: Hash::Sha256,
        }
    }

    /// The binder over a ClientHello without its binders.
    fn binder(&self, truncated: &[u8]) -> Vec<u8> {
        let hash = self.hash;
        let early = hash.hmac(&vec![0; hash.len()], &self.psk);
        let key = hash.derive_secret(&early, "res binder", b"");
        let finished = hash.expand_label(&key, "finished", &[], hash.len());
        hash.hmac(&finished, &hash.digest(truncated))
    }
}

/// The body of pre_shared_key with binders of zeros.
pub(crate) fn pre_shared_key(offered: &[Offered]) -> Vec<u8> {
    let mut identities = Vec::new();
    for offer in offered {
        identities.extend((offer.identity.len() as u16).to_be_bytes());
        identities.extend(&offer.identity);
        identities.extend(offer.age.to_be_bytes());
    }
    let mut body = (identities.len() as u16).to_be_bytes().to_vec();
    body.extend(identities);
    let binders = binders_len(offered);
    body.extend(((binders - 2) as u16).to_be_bytes());
    for offer in offered {
        body.push(offer.hash.len() as u8);
        body.extend(vec![0; offer.hash.len()]);
    }
    body
}

/// Puts the right binders into a ClientHello that ends with pre_shared_key. `before` is what precedes it in the
/// transcript: nothing, or the messages of a HelloRetryRequest.
pub(crate) fn fill_binders(before: &[u8], message: &mut [u8], offered: &[Offered]) {
    let truncated = message.len() - binders_len(offered);
    let bound = [before, &message[..truncated]].concat();
    let mut at = truncated + 2;
    for offer in offered {
        let binder = offer.binder(&bound);
        message[at + 1..at + 1 + binder.len()].copy_from_slice(&binder);
        at += 1 + binder.len();
    }
}

/// The binders of a ClientHello that ends with them.
pub(crate) fn binders(message: &[u8], offered: &[Offered]) -> Vec<Vec<u8>> {
    if offered.is_empty() {
        return Vec::new();
    }
    let mut at = message.len() - binders_len(offered) + 2;
    let take = |offer: &Offered| {
        let from = at + 1;
        at = from + offer.hash.len();
        message[from..at].to_vec()
    };
    offered.iter().map(take).collect()
}

/// Bytes of the list of binders with its length.
fn binders_len(offered: &[Offered]) -> usize {
    2 + offered
        .iter()
        .map(|offer| 1 + offer.hash.len())
        .sum::<usize>()
}
