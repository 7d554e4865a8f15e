//! Session tickets: sealed here, carried by clients, and opened only where everything still fits.
//!
//! A ticket is bound to its site, the site's ways (client authentication, protocols), the key that authenticated it,
//! the TLS version, the level, and the time of the first full handshake (security rules S1 to S4). Up to `premaster`
//! its secret is bytes in this process anyway and is sealed here; above, two keys of the token wrap and seal it, see
//! `hsm`'s vault. Invariant: whatever does not fit ends in a full handshake.

use std::{
    ops::Range,
    time::{Duration, UNIX_EPOCH},
};

use keyhaven_hsm::{Kept, Vault, Worker};
use keyhaven_types::CustodyLevel;
use rustls::server::ProducesTickets;
use zeroize::Zeroizing;

use crate::{
    context::{self, Context},
    error::Failure,
    secrets::{HANDLE_LEN, from_handle, to_handle},
    ticket_key::TicketKey,
};

/// How a site's sessions are resumed.
#[derive(Debug)]
pub(crate) struct TicketPolicy {
    pub(crate) key: TicketKey,
    /// Above `premaster`; none where the token has proven none.
    pub(crate) vault: Option<Vault>,
    pub(crate) lifetime: Duration,
    pub(crate) tls12: bool,
    /// The site and its ways.
    pub(crate) binding: Vec<u8>,
}

/// A session that a ticket opened.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Resumed {
    /// When its first full handshake was, in seconds since 1970.
    first_authentication: u64,
}

/// Gives rustls tickets and takes them back, as the running handshake's context says.
#[derive(Debug)]
pub(crate) struct Ticketer;

impl ProducesTickets for Ticketer {
    fn enabled(&self) -> bool {
        context::with(|context| {
            let tls13 = context.facts.is_tls13;
            context
                .facts
                .tickets
                .as_ref()
                .is_some_and(|policy| tls13 || policy.tls12)
        })
        .unwrap_or(false)
    }

    fn lifetime(&self) -> u32 {
        let left = context::with(|context| {
            let policy = context.facts.tickets.clone()?;
            time_left(context, &policy, first_authentication(context)?)
        });
        left.flatten().map_or(0, |left| left.as_secs() as u32)
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let sealed = context::with_worker(|context, worker| Ok(seal(context, worker, plain)));
        // The handshake is good without a ticket.
        sealed.and_then(|sealed| sealed).unwrap_or_else(|failure| {
            tracing::warn!(error = %failure, "no ticket is given");
            None
        })
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let opened = context::with_worker(|context, worker| Ok(open(context, worker, ticket)));
        opened.and_then(|opened| opened).unwrap_or_else(|failure| {
            tracing::warn!(error = %failure, "a ticket is not looked at");
            None
        })
    }
}

fn seal(context: &mut Context, worker: &Worker, plain: &[u8]) -> Result<Option<Vec<u8>>, Failure> {
    let Some(policy) = context.facts.tickets.clone() else {
        return Ok(None);
    };
    let Some(place) = Session::read(plain) else {
        return Err(Failure::Engine("rustls writes sessions in another way"));
    };
    let Some(first) = first_authentication(context) else {
        return Ok(None);
    };
    let is_worth_it = time_left(context, &policy, first).is_some_and(|left| left >= WORTH_IT);
    let (Some(now), true) = (now(context), is_worth_it) else {
        return Ok(None);
    };
    let mut envelope = Zeroizing::new(Envelope::new(first, context.facts.level).encode());
    envelope.extend_from_slice(plain);
    let Some(index) = from_handle(&plain[place.secret.clone()]) else {
        let header = header(IN_PROCESS);
        let sealed = aad(context, &policy, place.is_tls13, header)
            .and_then(|aad| policy.key.seal(now / DAY, &aad, &envelope));
        return Ok(sealed.map(|sealed| [&header[..], &sealed].concat()));
    };
    let Some(vault) = &policy.vault else {
        return Ok(None);
    };
    let start = ENVELOPE_LEN + place.secret.start;
    envelope[start..start + place.secret.len()].fill(0);
    let header = header(place.vault_kind());
    let Some(aad) = aad(context, &policy, place.is_tls13, header) else {
        return Ok(None);
    };
    let secret = context.secrets.object(worker, index)?;
    let sealed = worker.vault_seal(vault, now / DAY, &aad, &envelope, secret)?;
    Ok(Some([&header[..], &sealed].concat()))
}

fn open(context: &mut Context, worker: &Worker, ticket: &[u8]) -> Result<Option<Vec<u8>>, Failure> {
    let (Some(policy), Some(now)) = (context.facts.tickets.clone(), now(context)) else {
        return Ok(None);
    };
    let Some((header, sealed)) = ticket.split_first_chunk::<HEADER_LEN>() else {
        return Ok(None);
    };
    // A client may bring many identities; two of ours are looked at, and a stranger's costs nothing.
    if header[..MAGIC.len()] != *MAGIC || context.tickets_tried >= TRIES_MAX {
        return Ok(None);
    }
    context.tickets_tried += 1;
    let kind = header[MAGIC.len()];
    let Some(aad) = aad(context, &policy, context.facts.is_tls13, *header) else {
        return Ok(None);
    };
    let (content, secret) = match (kind, &policy.vault) {
        (IN_PROCESS, _) if context.runs_at() <= CustodyLevel::Premaster => {
            match policy.key.open(now / DAY, &aad, sealed) {
                Some(content) => (content, None),
                None => return Ok(None),
            }
        }
        (IN_TOKEN_32 | IN_TOKEN_48, Some(vault)) if context.runs_at() > CustodyLevel::Premaster => {
            let len = if kind == IN_TOKEN_32 { 32 } else { 48 };
            // A master secret of TLS 1.2 goes into the next ticket as it is.
            let kept = if context.facts.is_tls13 {
                Kept::Never
            } else {
                Kept::Wrappable
            };
            match worker.vault_open(vault, now / DAY, &aad, sealed, len, kept)? {
                Some(opened) => (Zeroizing::new(opened.envelope), Some(opened.secret)),
                None => return Ok(None),
            }
        }
        _ => return Ok(None),
    };
    let Some((envelope, plain)) = Envelope::decode(&content) else {
        return Ok(None);
    };
    let is_young = time_left(context, &policy, envelope.first_authentication).is_some();
    if !is_young || envelope.level < context.facts.level {
        return Ok(None);
    }
    let mut plain = plain.to_vec();
    if let Some(secret) = secret {
        let Some(place) = Session::read(&plain) else {
            return Ok(None);
        };
        let handle = to_handle(context.secrets.keep(secret));
        plain[place.secret.start..place.secret.start + HANDLE_LEN].copy_from_slice(&handle);
    }
    context.resumed = Some(Resumed {
        first_authentication: envelope.first_authentication,
    });
    Ok(Some(plain))
}

/// When this session was first authenticated: now, if the key signed in this handshake.
fn first_authentication(context: &Context) -> Option<u64> {
    match context.resumed {
        Some(resumed) if !context.signed => Some(resumed.first_authentication),
        _ => now(context),
    }
}

/// How long a session that began then may still be resumed.
fn time_left(context: &Context, policy: &TicketPolicy, first: u64) -> Option<Duration> {
    let (_, certificate_end) = context.chosen?;
    let now = context.facts.now?;
    let first = UNIX_EPOCH.checked_add(Duration::from_secs(first))?;
    if first > now + CLOCK_SKEW {
        return None;
    }
    let end = first.checked_add(policy.lifetime)?.min(certificate_end);
    end.duration_since(now).ok().filter(|left| !left.is_zero())
}

fn now(context: &Context) -> Option<u64> {
    let since = context.facts.now?.duration_since(UNIX_EPOCH).ok()?;
    Some(since.as_secs())
}

fn aad(
    context: &Context,
    policy: &TicketPolicy,
    is_tls13: bool,
    header: [u8; HEADER_LEN],
) -> Option<Vec<u8>> {
    let (key, _) = context.chosen?;
    Some(
        [
            &b"keyhaven ticket\0"[..],
            &header,
            &[u8::from(is_tls13)],
            &key,
            &policy.binding,
        ]
        .concat(),
    )
}

fn header(kind: u8) -> [u8; HEADER_LEN] {
    let mut header = [kind; HEADER_LEN];
    header[..MAGIC.len()].copy_from_slice(MAGIC);
    header
}

/// What stands before rustls' session inside the seal.
struct Envelope {
    first_authentication: u64,
    level: CustodyLevel,
}

impl Envelope {
    fn new(first_authentication: u64, level: CustodyLevel) -> Self {
        Self {
            first_authentication,
            level,
        }
    }

    fn encode(&self) -> Vec<u8> {
        let level = LEVELS.iter().position(|level| *level == self.level);
        let mut bytes = self.first_authentication.to_be_bytes().to_vec();
        bytes.push(level.unwrap_or_default() as u8);
        bytes
    }

    fn decode(content: &[u8]) -> Option<(Self, &[u8])> {
        let (first, rest) = content.split_first_chunk()?;
        let (level, plain) = rest.split_first()?;
        let envelope = Self::new(
            u64::from_be_bytes(*first),
            *LEVELS.get(usize::from(*level))?,
        );
        Some((envelope, plain))
    }
}

/// Where the secret stands in a session as rustls encodes it: name, version, suite, secret, and more.
struct Session {
    is_tls13: bool,
    suite: u16,
    secret: Range<usize>,
}

impl Session {
    fn read(plain: &[u8]) -> Option<Self> {
        let mut at = 1;
        if *plain.first()? == 1 {
            at += 1 + usize::from(*plain.get(at)?);
        }
        let word = |at: usize| Some(u16::from_be_bytes([*plain.get(at)?, *plain.get(at + 1)?]));
        let is_tls13 = word(at)? == 0x0304;
        let suite = word(at + 2)?;
        let start = at + 5;
        let end = start + usize::from(*plain.get(at + 4)?);
        let is_whole = end <= plain.len() && end - start >= HANDLE_LEN;
        is_whole.then_some(Self {
            is_tls13,
            suite,
            secret: start..end,
        })
    }

    /// TLS 1.2 has a master secret of 48 bytes; the secret of TLS 1.3 is as long as its suite's hash.
    fn vault_kind(&self) -> u8 {
        if !self.is_tls13 || self.suite == TLS13_AES_256_GCM_SHA384 {
            IN_TOKEN_48
        } else {
            IN_TOKEN_32
        }
    }
}

const LEVELS: [CustodyLevel; 4] = [
    CustodyLevel::Signature,
    CustodyLevel::Premaster,
    CustodyLevel::Master,
    CustodyLevel::Schedule,
];
/// The first bytes of a ticket of ours, and then one that says how it is sealed.
const MAGIC: &[u8; 4] = b"khT1";
const HEADER_LEN: usize = 5;
const IN_PROCESS: u8 = 1;
const IN_TOKEN_32: u8 = 2;
const IN_TOKEN_48: u8 = 3;
const ENVELOPE_LEN: usize = 9;
/// Tickets of ours that are looked at in one ClientHello.
const TRIES_MAX: usize = 2;
const DAY: u64 = 86_400;
/// How far a fellow signer's clock may be ahead.
const CLOCK_SKEW: Duration = Duration::from_secs(120);
/// A ticket that ends sooner is not given.
const WORTH_IT: Duration = Duration::from_secs(10);
const TLS13_AES_256_GCM_SHA384: u16 = 0x1302;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_secret_is_found_in_rustls_session() {
        let with_name = [&[1, 3][..], b"a.b", &[3, 4, 0x13, 1, 32], &[9; 32], &[1, 0]].concat();
        let session = Session::read(&with_name).unwrap();
        assert!(session.is_tls13 && with_name[session.secret.clone()] == [9; 32]);
        assert_eq!(session.vault_kind(), IN_TOKEN_32);
        let without = [&[0, 3, 3, 0xc0, 0x2b, 48][..], &[9; 48]].concat();
        let session = Session::read(&without).unwrap();
        assert!(!session.is_tls13 && session.secret == (6..54));
        assert_eq!(session.vault_kind(), IN_TOKEN_48);
        for end in 0..38 {
            assert!(Session::read(&without[..end]).is_none(), "{end}");
        }
    }

    #[test]
    fn envelopes_say_time_and_level() {
        for level in LEVELS {
            let bytes = [Envelope::new(1_800_000_000, level).encode(), vec![1, 2]].concat();
            let (envelope, rest) = Envelope::decode(&bytes).unwrap();
            assert_eq!(
                (envelope.first_authentication, envelope.level, rest),
                (1_800_000_000, level, &[1, 2][..])
            );
        }
        assert!(Envelope::decode(&[0; 8]).is_none());
        assert!(Envelope::decode(&[9; 9]).is_none());
    }
}
