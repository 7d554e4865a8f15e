//! The secrets of one handshake that rustls holds as handles, and what of them is real.
//!
//! rustls asks for many secrets and uses few, so an expansion is only noted when it is asked for and done when its
//! result is used. What leaves the token leaves once: later askers get it from here. Invariant: a secret of the
//! schedule becomes bytes in this process only where the level says so.

use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use keyhaven_hsm::{Kept, Salt, TokenSecret, Worker};
use keyhaven_types::{CustodyLevel, HashAlgorithm, Secret};

use crate::error::Failure;

/// A place in the table. Handles of rustls name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Index(usize);

/// Every secret of one handshake that is not bytes.
#[derive(Default)]
pub(crate) struct Secrets {
    table: Vec<Entry>,
}

struct Entry {
    state: State,
    /// What it is an expansion of, also after it was made.
    origin: Option<(Index, Vec<u8>)>,
    /// What has left the token from this secret, by what was asked.
    left: Vec<(Vec<u8>, Secret)>,
}

enum State {
    /// An object of the token.
    Object(TokenSecret),
    /// `prefix || secret`, where the token joins the two only inside its hash.
    Prefixed(Secret, TokenSecret),
    /// HKDF-Expand of its origin, not done yet.
    Noted(HashAlgorithm, Kept),
    /// It was taken out.
    Taken,
}

impl Secrets {
    /// Keeps an object.
    pub(crate) fn keep(&mut self, secret: TokenSecret) -> Index {
        self.push(State::Object(secret))
    }

    /// Keeps an object behind bytes that are known here.
    pub(crate) fn keep_prefixed(&mut self, prefix: Secret, secret: TokenSecret) -> Index {
        self.push(State::Prefixed(prefix, secret))
    }

    /// Notes an expansion; the same one again is the same secret.
    pub(crate) fn expansion(
        &mut self,
        from: Index,
        hash: HashAlgorithm,
        info: Vec<u8>,
        kept: Kept,
    ) -> Index {
        let origin = Some((from, info));
        if let Some(at) = self.table.iter().position(|entry| entry.origin == origin) {
            return Index(at);
        }
        let index = self.push(State::Noted(hash, kept));
        self.table[index.0].origin = origin;
        index
    }

    fn push(&mut self, state: State) -> Index {
        self.table.push(Entry {
            state,
            origin: None,
            left: Vec::new(),
        });
        Index(self.table.len() - 1)
    }

    /// The object, made now if it was only noted.
    pub(crate) fn object(
        &mut self,
        worker: &Worker,
        index: Index,
    ) -> Result<&TokenSecret, Failure> {
        let entry = self.table.get(index.0).ok_or(UNKNOWN)?;
        if let (State::Noted(hash, kept), Some((from, info))) = (&entry.state, &entry.origin) {
            let (hash, kept, from, info) = (*hash, *kept, *from, info.clone());
            let base = self.object(worker, from)?;
            let made = worker.expand_secret(hash, base, &info, hash.output_len(), kept)?;
            self.table[index.0].state = State::Object(made);
        }
        match &self.table[index.0].state {
            State::Object(secret) => Ok(secret),
            State::Prefixed(..) => Err(Failure::Engine("a joined secret used as one object")),
            State::Noted(..) | State::Taken => Err(UNKNOWN),
        }
    }

    /// Destroys every object but these, which are made now: for a handshake that waits long for its client.
    pub(crate) fn keep_only(&mut self, worker: &Worker, wanted: &[Index]) -> Result<(), Failure> {
        for index in wanted {
            self.object(worker, *index)?;
        }
        for (at, entry) in self.table.iter_mut().enumerate() {
            if !wanted.contains(&Index(at)) && !matches!(entry.state, State::Noted(..)) {
                entry.state = State::Taken;
            }
        }
        Ok(())
    }

    /// Takes an object out of the table, to be sealed.
    pub(crate) fn take_object(
        &mut self,
        worker: &Worker,
        index: Index,
    ) -> Result<TokenSecret, Failure> {
        self.object(worker, index)?;
        match std::mem::replace(&mut self.table[index.0].state, State::Taken) {
            State::Object(secret) => Ok(secret),
            _ => Err(UNKNOWN),
        }
    }

    /// HKDF-Extract of the exchange's secret at `premaster`: the result is bytes in this process.
    pub(crate) fn extract_bytes(
        &mut self,
        worker: &Worker,
        hash: HashAlgorithm,
        salt: &[u8],
        index: Index,
    ) -> Result<Secret, Failure> {
        match &self.table.get(index.0).ok_or(UNKNOWN)?.state {
            State::Prefixed(prefix, secret) => {
                Ok(worker.hkdf_extract(hash, salt, prefix.expose_secret(), secret)?)
            }
            _ => {
                let secret = self.object(worker, index)?;
                Ok(worker.hkdf_extract(hash, salt, &[], secret)?)
            }
        }
    }

    /// HKDF-Extract to an object, with a salt of either kind.
    pub(crate) fn extract(
        &mut self,
        worker: &Worker,
        hash: HashAlgorithm,
        salt: Mixed<'_>,
        ikm: Index,
    ) -> Result<Index, Failure> {
        let made = match salt {
            Mixed::Bytes(salt) => {
                let ikm = self.object(worker, ikm)?;
                worker.extract_secret(hash, Salt::Bytes(salt), ikm)?
            }
            Mixed::Secret(salt) => {
                self.object(worker, salt)?;
                self.object(worker, ikm)?;
                let (salt, ikm) = (self.made(salt)?, self.made(ikm)?);
                worker.extract_secret(hash, Salt::Secret(salt), ikm)?
            }
        };
        Ok(self.keep(made))
    }

    /// HKDF-Extract of zeros to an object.
    pub(crate) fn extract_zeros(
        &mut self,
        worker: &Worker,
        hash: HashAlgorithm,
        salt: Index,
    ) -> Result<Index, Failure> {
        let salt = self.object(worker, salt)?;
        let made = worker.extract_zeros(hash, salt)?;
        Ok(self.keep(made))
    }

    fn made(&self, index: Index) -> Result<&TokenSecret, Failure> {
        match self.table.get(index.0).map(|entry| &entry.state) {
            Some(State::Object(secret)) => Ok(secret),
            _ => Err(UNKNOWN),
        }
    }

    /// Bytes that leave the token, once: `make` gets the object and writes them.
    pub(crate) fn leave(
        &mut self,
        worker: &Worker,
        index: Index,
        asked: &[u8],
        out: &mut [u8],
        make: impl FnOnce(&TokenSecret, &mut [u8]) -> Result<(), keyhaven_hsm::Error>,
    ) -> Result<(), Failure> {
        let entry = self.table.get(index.0).ok_or(UNKNOWN)?;
        let known = entry
            .left
            .iter()
            .find(|(what, bytes)| what == asked && bytes.len() == out.len());
        if let Some((_, bytes)) = known {
            out.copy_from_slice(bytes.expose_secret());
            return Ok(());
        }
        make(self.object(worker, index)?, out)?;
        let bytes = Secret::copy_from(out);
        self.table[index.0].left.push((asked.to_vec(), bytes));
        Ok(())
    }
}

/// A salt: bytes, or a secret of the table.
pub(crate) enum Mixed<'a> {
    Bytes(&'a [u8]),
    Secret(Index),
}

/// Whether the secret of a label (RFC 8446, section 7.1) comes out of the token as bytes at this level. Only the four
/// traffic secrets ever do: at `master`.
pub(crate) fn comes_out(level: CustodyLevel, label: &[u8]) -> bool {
    let is_traffic = matches!(
        label,
        b"c hs traffic" | b"s hs traffic" | b"c ap traffic" | b"s ap traffic"
    );
    level < CustodyLevel::Schedule && is_traffic
}

/// Which secrets are made so that they can be wrapped: for the rekey state, and for tickets.
pub(crate) fn kept(label: &[u8]) -> Kept {
    match label {
        b"c ap traffic" | b"s ap traffic" | b"resumption" => Kept::Wrappable,
        _ => Kept::Never,
    }
}

/// The bytes that stand for a secret: as long as the shorter of the two hashes.
pub(crate) fn to_handle(index: Index) -> [u8; HANDLE_LEN] {
    let mut handle = [0; HANDLE_LEN];
    handle[..16].copy_from_slice(handle_tag());
    handle[16..24].copy_from_slice(&(index.0 as u64).to_be_bytes());
    handle
}

/// The secret that some bytes stand for; `None` when they are just bytes.
pub(crate) fn from_handle(bytes: &[u8]) -> Option<Index> {
    let index = bytes.strip_prefix(handle_tag())?.first_chunk::<8>()?;
    usize::try_from(u64::from_be_bytes(*index)).ok().map(Index)
}

/// Random bytes, made once a process, by which a handle is told from anything else.
fn handle_tag() -> &'static [u8; 16] {
    static TAG: std::sync::OnceLock<[u8; 16]> = std::sync::OnceLock::new();
    TAG.get_or_init(|| {
        let mut tag = [0; 16];
        // Without randomness no handshake gets this far; a constant tag would still only name handles that exist.
        let _ = SystemRandom::new().fill(&mut tag);
        tag
    })
}

/// Length of a handle in bytes.
pub(crate) const HANDLE_LEN: usize = 32;
const UNKNOWN: Failure = Failure::Engine("a secret that is not in the table");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_are_told_from_bytes() {
        for index in [0, 1, 255, 70_000] {
            assert_eq!(from_handle(&to_handle(Index(index))), Some(Index(index)));
        }
        // A handle in the 48 bytes of a TLS 1.2 master secret.
        let mut long = [0; 48];
        long[..HANDLE_LEN].copy_from_slice(&to_handle(Index(7)));
        assert_eq!(from_handle(&long), Some(Index(7)));
        for bytes in [&[][..], &[0; 32], &[0xff; 48], &to_handle(Index(1))[..20]] {
            assert_eq!(from_handle(bytes), None);
        }
    }

    #[test]
    fn an_expansion_is_noted_once() {
        let mut secrets = Secrets::default();
        let note = |secrets: &mut Secrets, info: &[u8]| {
            secrets.expansion(Index(0), HashAlgorithm::Sha256, info.to_vec(), Kept::Never)
        };
        let first = note(&mut secrets, b"a");
        assert_eq!(note(&mut secrets, b"a"), first);
        assert_ne!(note(&mut secrets, b"b"), first);
    }

    #[test]
    fn only_traffic_secrets_come_out_and_only_below_schedule() {
        for label in [&b"c hs traffic"[..], b"s ap traffic"] {
            assert!(comes_out(CustodyLevel::Master, label));
            assert!(!comes_out(CustodyLevel::Schedule, label));
        }
        for label in [
            &b"derived"[..],
            b"exp master",
            b"res master",
            b"resumption",
            b"finished",
        ] {
            assert!(!comes_out(CustodyLevel::Master, label));
        }
    }
}
