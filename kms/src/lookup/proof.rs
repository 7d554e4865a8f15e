//! The caller's own proof that a batch is its own: what makes passing on no deputy to be confused (security rule M1).
//!
//! No I/O; times are given. Whether the caller may do what it asks is decided where it runs. Invariant: a body leaves here
//! only when its caller signed it, for this pair of servers, for now, and this server has not taken it before.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{Mutex, PoisonError},
};

use keyhaven_service::{
    Credentials,
    signed::{self, VerifyError},
};
use keyhaven_types::Identity;
use keyhaven_wire::{
    ErrorCode,
    kms::{BatchBody, SignedBatch, batch_text, validate_tasks},
};

use crate::records::sha256;

/// How far ahead a batch may end, in milliseconds.
pub(crate) const AHEAD_MS_MAX: u64 = 60_000;
/// Batches that may be remembered at once: 2,000 a second for a minute.
const NONCES_MAX: usize = 131_072;
/// Of these, one caller's.
const NONCES_PER_CALLER_MAX: u32 = 32_768;

/// Why a batch is not believed. The caller gets a code; the log gets this.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("the body of the batch cannot be read")]
    Unreadable,
    #[error("the batch breaks a bound")]
    Bounds(#[from] keyhaven_wire::Invalid),
    #[error("the batch numbers an operation that it does not have")]
    Which,
    #[error("the batch is for {named}, and {expected} brought it")]
    Server { named: Identity, expected: Identity },
    #[error("the batch is of {named}, and {found} sent or signed it")]
    Caller { named: Identity, found: Identity },
    #[error("the batch has ended")]
    Ended,
    #[error("the batch ends more than a minute ahead; are the clocks right?")]
    TooFarAhead,
    #[error("the batch is not signed by its caller")]
    Signature(#[from] VerifyError),
    #[error("the batch was taken before")]
    Replayed,
    #[error("too many batches are remembered already")]
    Full,
    #[error("{0} is no server that may pass on")]
    Stranger(Identity),
}

impl Refusal {
    /// What the other end is told.
    pub(crate) fn code(&self) -> ErrorCode {
        match self {
            Self::Unreadable | Self::Bounds(_) | Self::Which => ErrorCode::Malformed,
            Self::Full => ErrorCode::Busy,
            _ => ErrorCode::Denied,
        }
    }
}

/// Whom a batch must name, as this server sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parties<'a> {
    /// The server that was asked: this one, or the one that passed it on.
    pub(crate) server: &'a Identity,
    /// Who sent it to this server, when that must be its caller.
    pub(crate) sender: Option<&'a Identity>,
}

/// Judges a batch: cheap things first, the signature before anything is remembered, its nonce last.
pub(crate) fn believe(
    credentials: &Credentials,
    nonces: &Mutex<Nonces>,
    now_ms: u64,
    parties: Parties<'_>,
    batch: &SignedBatch,
) -> Result<BatchBody, Refusal> {
    let (body, rest): (BatchBody, _) =
        postcard::take_from_bytes(&batch.body).map_err(|_| Refusal::Unreadable)?;
    if !rest.is_empty() {
        return Err(Refusal::Unreadable);
    }
    validate_tasks(&body.tasks)?;
    if body.server != *parties.server {
        return Err(Refusal::Server {
            named: body.server,
            expected: parties.server.clone(),
        });
    }
    if let Some(sender) = parties.sender
        && *sender != body.caller
    {
        return Err(Refusal::Caller {
            named: body.caller,
            found: sender.clone(),
        });
    }
    in_time(body.expires_ms, now_ms)?;
    let signature = signed::Signature {
        chain: batch.chain.clone(),
        scheme: batch.scheme,
        signature: batch.signature.clone(),
    };
    let signer = signed::verify(credentials, &batch_text(&batch.body), &signature)?;
    if signer != body.caller {
        return Err(Refusal::Caller {
            named: body.caller,
            found: signer,
        });
    }
    // Nothing panics while it holds the lock. A signature is judged outside of it.
    let mut nonces = nonces.lock().unwrap_or_else(PoisonError::into_inner);
    nonces.take(now_ms, &body.caller, body.nonce, body.expires_ms)?;
    Ok(body)
}

fn in_time(expires_ms: u64, now_ms: u64) -> Result<(), Refusal> {
    if expires_ms <= now_ms {
        Err(Refusal::Ended)
    } else if expires_ms - now_ms > AHEAD_MS_MAX {
        Err(Refusal::TooFarAhead)
    } else {
        Ok(())
    }
}

/// Batches that were taken and have not ended. A restart forgets them: for a minute after it, who brought a batch before can
/// bring it once more, and gets what it got then.
#[derive(Debug, Default)]
pub(crate) struct Nonces {
    taken: HashSet<[u8; 32]>,
    by_end: BTreeSet<(u64, [u8; 32], [u8; 32])>,
    by_caller: HashMap<[u8; 32], u32>,
    /// The latest end that was forgotten: a clock that goes back brings nothing back.
    forgotten_ms: u64,
}

impl Nonces {
    /// Takes a nonce of a caller, once.
    fn take(
        &mut self,
        now_ms: u64,
        caller: &Identity,
        nonce: [u8; 16],
        expires_ms: u64,
    ) -> Result<(), Refusal> {
        self.forget(now_ms);
        if expires_ms <= self.forgotten_ms {
            return Err(Refusal::Ended);
        }
        let whose = sha256(caller.as_str().as_bytes());
        let digest = sha256(&[&whose[..], &nonce].concat());
        if self.taken.contains(&digest) {
            return Err(Refusal::Replayed);
        }
        let of_caller = self.by_caller.get(&whose).copied().unwrap_or(0);
        if self.taken.len() >= NONCES_MAX || of_caller >= NONCES_PER_CALLER_MAX {
            return Err(Refusal::Full);
        }
        self.taken.insert(digest);
        self.by_end.insert((expires_ms, digest, whose));
        self.by_caller.insert(whose, of_caller + 1);
        Ok(())
    }

    fn forget(&mut self, now_ms: u64) {
        while let Some((expires_ms, ..)) = self.by_end.first()
            && *expires_ms <= now_ms
            && let Some((expires_ms, digest, whose)) = self.by_end.pop_first()
        {
            self.forgotten_ms = self.forgotten_ms.max(expires_ms);
            self.taken.remove(&digest);
            if let Some(count) = self.by_caller.get_mut(&whose) {
                *count -= 1;
                if *count == 0 {
                    self.by_caller.remove(&whose);
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "proof_tests.rs"]
mod tests;
