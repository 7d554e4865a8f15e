//! Self-tests: what a token can do, shown by known answers and by attacks that must fail.
//!
//! A mechanism list proves nothing, so nothing here reads one. All objects are made for the test and destroyed.
//! Invariant: a level is claimed only when the right value came out of the token and the secret itself did not.

mod attack;
mod hybrid;
mod schedule12;
mod schedule13;
mod software;
mod vault;
mod vectors;

use cryptoki::object::ObjectHandle;
use keyhaven_types::{CustodyLevel, HashAlgorithm, NamedGroup};
use zeroize::Zeroizing;

use self::{
    attack::Weakness,
    software::{Bytes, same},
};
use crate::{
    Check, Error, Kept, Profile, TokenFault, exchange, kdf,
    quirks::{Quirks, Ways},
    session::OpenSession,
};

/// Runs every test on a session that is used for nothing else. Also says which of the module's ways were proven.
pub(crate) fn run(session: &OpenSession, quirks: &Quirks) -> (Profile, Ways) {
    let mut run = Run {
        session,
        quirks,
        ways: Ways::first_of(quirks),
        profile: nothing(),
    };
    if quirks.derives_in_host {
        let detail = format!("{} keeps derived secrets in the host's memory", quirks.name);
        run.note::<()>("shared secrets stay in the token".to_owned(), Err(detail));
        return (run.profile, run.ways);
    }
    for group in quirks.group_order {
        run.group(group);
    }
    run.vectors();
    let Run {
        mut profile, ways, ..
    } = run;
    profile.tls12 = highest(&profile, Profile::level12);
    profile.tls13 = highest(&profile, Profile::level13);
    (profile, ways)
}

/// The profile of a token that proved nothing.
fn nothing() -> Profile {
    Profile {
        tls12: CustodyLevel::Signature,
        tls13: CustodyLevel::Signature,
        groups: Vec::new(),
        prf: Vec::new(),
        extract: Vec::new(),
        master13: Vec::new(),
        schedule13: Vec::new(),
        schedule12: Vec::new(),
        vault: false,
        vault_guarded: false,
        prepends: false,
        ml_kem: false,
        checks: Vec::new(),
    }
}

type Level = fn(&Profile, NamedGroup, HashAlgorithm) -> CustodyLevel;

fn highest(profile: &Profile, level: Level) -> CustodyLevel {
    let groups = profile.groups.iter();
    groups
        .flat_map(|&group| HASHES.map(|hash| level(profile, group, hash)))
        .max()
        .unwrap_or(CustodyLevel::Signature)
}

struct Run<'a> {
    session: &'a OpenSession,
    quirks: &'a Quirks,
    ways: Ways,
    profile: Profile,
}

type Pairs = Vec<(NamedGroup, HashAlgorithm)>;

/// What one group's secret was proven for.
#[derive(Default)]
struct Derivations {
    extract: Pairs,
    prf: Pairs,
    master13: Pairs,
    schedule13: Pairs,
    schedule12: Pairs,
}

impl Derivations {
    fn is_above_premaster(&self) -> bool {
        !(self.master13.is_empty() && self.schedule12.is_empty())
    }

    fn is_empty(&self) -> bool {
        self.extract.is_empty() && self.prf.is_empty() && !self.is_above_premaster()
    }
}

impl Run<'_> {
    /// A key pair, its secret, both attacked, and every derivation. Nothing of the group counts when the value
    /// of one object could be read or an object could not be destroyed.
    fn group(&mut self, group: NamedGroup) {
        let name = group.as_str();
        let made = self.generate(group);
        let Some((private, point)) = self.note(format!("{name}: make a key pair"), made) else {
            return;
        };
        let mut sound = self.attack(
            format!("{name}: the ephemeral private key cannot be read"),
            private,
        );
        let mut proven = Derivations::default();
        // First as a base of derivations, which it is in handshakes above `premaster` alone.
        self.ways.set_derives(group, true);
        sound &= self.secret(group, private, &point, &mut proven, Self::above_premaster);
        if !proven.is_above_premaster() {
            self.ways.set_derives(group, false);
        }
        sound &= self.secret(group, private, &point, &mut proven, Self::premaster);
        sound &= self.destroy(group, private);
        if !sound {
            self.profile.prepends = false;
            self.profile.ml_kem = false;
            self.profile.vault = false;
            self.profile.vault_guarded = false;
        }
        if sound && !proven.is_empty() {
            self.profile.groups.push(group);
            self.profile.extract.extend(proven.extract);
            self.profile.prf.extend(proven.prf);
            self.profile.master13.extend(proven.master13);
            self.profile.schedule13.extend(proven.schedule13);
            self.profile.schedule12.extend(proven.schedule12);
        }
    }

    /// A key pair, by the first way that makes one.
    fn generate(&mut self, group: NamedGroup) -> Result<(ObjectHandle, Vec<u8>), String> {
        let ways = match group {
            NamedGroup::X25519 => self.quirks.x25519,
            _ => &[self.ways.x25519],
        };
        let mut failures = Vec::new();
        for &way in ways {
            self.ways.x25519 = way;
            match exchange::generate(self.session, &self.ways, group) {
                Ok(made) => return Ok(made),
                Err(error) => failures.push(told(error)),
            }
        }
        failures.dedup();
        Err(failures.join("; "))
    }

    /// An exchange with software, its secret attacked, and what `test` proves with it. False when something was
    /// readable or stayed.
    fn secret(
        &mut self,
        group: NamedGroup,
        private: ObjectHandle,
        point: &[u8],
        proven: &mut Derivations,
        test: fn(&mut Self, NamedGroup, ObjectHandle, &[u8], &mut Derivations) -> bool,
    ) -> bool {
        let name = group.as_str();
        let agreed = software::peer(group, point).and_then(|(peer, expected)| {
            exchange::agree(self.session, &self.ways, group, private, &peer)
                .map(|handle| (handle, expected))
                .map_err(told)
        });
        let purpose = if self.ways.derives_from(group) {
            " to derive from"
        } else {
            ""
        };
        let check = format!("{name}: derive a shared secret{purpose}");
        let Some((handle, expected)) = self.note(check, agreed) else {
            return true;
        };
        let check = format!("{name}: the shared secret{purpose} cannot be read");
        let hidden = self.attack(check, handle);
        let sound = test(self, group, handle, &expected, proven);
        self.destroy(group, handle) && hidden && sound
    }

    /// The schedules on handles, with each hash.
    fn above_premaster(
        &mut self,
        group: NamedGroup,
        secret: ObjectHandle,
        expected: &[u8],
        proven: &mut Derivations,
    ) -> bool {
        let mut sound = true;
        for hash in HASHES {
            sound &= self.schedule13(group, hash, secret, expected, proven);
            sound &= self.schedule12(group, hash, secret, expected, proven);
        }
        if !proven.master13.is_empty() && !self.profile.vault {
            sound &= self.vault(secret, expected, proven);
        }
        if group == NamedGroup::X25519 && !proven.master13.is_empty() {
            sound &= self.hybrid(secret, expected, proven);
        }
        sound
    }

    /// HKDF-Extract and the PRF whose results come out, with each hash.
    fn premaster(
        &mut self,
        group: NamedGroup,
        secret: ObjectHandle,
        expected: &[u8],
        proven: &mut Derivations,
    ) -> bool {
        for hash in HASHES {
            let name = group.as_str();
            let mut extracts = self.extract(group, hash, b"", secret, expected);
            if group == NamedGroup::X25519 {
                // The other half of a hybrid exchange goes before it.
                extracts &= self.extract(group, hash, &SALT[..32], secret, expected);
            }
            if extracts {
                proven.extract.push((group, hash));
            }
            let mut master = Zeroizing::new([0; 48]);
            let seed = &SALT[..hash.output_len()];
            let derived = kdf::prf(self.session, hash, secret, EMS_LABEL, seed, &mut master[..])
                .map_err(told)
                .and_then(|()| same(&master[..], &software_ems(hash, expected, seed)));
            let check = format!("{name}: extended master secret with {hash:?} equals software");
            if self.note(check, derived).is_some() {
                proven.prf.push((group, hash));
            }
        }
        true
    }

    /// HKDF-Extract whose result comes out, of the secret after a prefix.
    fn extract(
        &mut self,
        group: NamedGroup,
        hash: HashAlgorithm,
        prefix: &[u8],
        secret: ObjectHandle,
        expected: &[u8],
    ) -> bool {
        let salt = &SALT[..hash.output_len()];
        let whole = Zeroizing::new([prefix, expected].concat());
        let derived = kdf::extract(self.session, hash, salt, prefix, secret)
            .map_err(told)
            .and_then(|prk| same(prk.expose_secret(), &software::hmac(hash, salt, &whole)));
        let after = if prefix.is_empty() {
            ""
        } else {
            " after other bytes"
        };
        let name = group.as_str();
        let check = format!("{name}: HKDF-Extract{after} with {hash:?} equals software");
        self.note(check, derived).is_some()
    }

    /// Tries to read a value in every way, and notes the outcome.
    fn attack(&mut self, name: String, object: ObjectHandle) -> bool {
        let outcome = attack::try_to_read(self.session, &self.ways, object, Kept::Never);
        self.note(name, outcome.map_err(Weakness::into_detail))
            .is_some()
    }

    fn destroy(&mut self, group: NamedGroup, object: ObjectHandle) -> bool {
        match self.session.destroy_object(object) {
            Ok(()) => true,
            Err(error) => {
                let detail = TokenFault::new(error).to_string();
                self.note(
                    format!("{}: destroy an object", group.as_str()),
                    Err::<(), _>(detail),
                );
                false
            }
        }
    }

    fn note<T>(&mut self, name: String, outcome: Result<T, String>) -> Option<T> {
        let (passed, detail) = match &outcome {
            Ok(_) => (true, "ok".to_owned()),
            Err(detail) => (false, detail.clone()),
        };
        self.profile.checks.push(Check {
            name,
            passed,
            detail,
        });
        outcome.ok()
    }
}

/// The objects of one test: each is attacked as it comes, and all are destroyed.
struct Made<'a> {
    session: &'a OpenSession,
    ways: Ways,
    objects: Vec<ObjectHandle>,
    /// What was readable or stayed.
    unsound: Vec<String>,
}

impl<'a> Made<'a> {
    fn new(session: &'a OpenSession, ways: Ways) -> Self {
        Self {
            session,
            ways,
            objects: Vec::new(),
            unsound: Vec::new(),
        }
    }

    /// Takes an object in, and attacks it. One with other flags than were asked for proves nothing; one that is
    /// readable is unsound beyond that.
    fn keep(
        &mut self,
        what: &str,
        made: Result<ObjectHandle, Error>,
        kept: Kept,
    ) -> Result<ObjectHandle, String> {
        let object = made.map_err(|error| format!("{what}: {}", told(error)))?;
        self.objects.push(object);
        let attacked = attack::try_to_read(self.session, &self.ways, object, kept);
        attacked.map(|()| object).map_err(|weakness| {
            let is_open = matches!(weakness, Weakness::Open(_));
            let detail = format!("{what}: {}", weakness.into_detail());
            if is_open {
                self.unsound.push(detail.clone());
            }
            detail
        })
    }

    /// Destroys everything; what was unsound, if anything was.
    fn end(mut self) -> Result<(), String> {
        for object in std::mem::take(&mut self.objects) {
            if let Err(error) = self.session.destroy_object(object) {
                self.unsound.push(TokenFault::new(error).to_string());
            }
        }
        if self.unsound.is_empty() {
            Ok(())
        } else {
            Err(self.unsound.join("; "))
        }
    }
}

fn told(error: Error) -> String {
    match &error {
        Error::Token { source, .. } | Error::Derivation { source, .. } => source.to_string(),
        other => other.to_string(),
    }
}

fn software_ems(hash: HashAlgorithm, premaster: &[u8], session_hash: &[u8]) -> Bytes {
    software::prf(hash, premaster, EMS_LABEL, session_hash, 48)
}

const HASHES: [HashAlgorithm; 2] = [HashAlgorithm::Sha256, HashAlgorithm::Sha384];
/// RFC 7627, section 4.
const EMS_LABEL: &[u8] = b"extended master secret";
/// Any bytes do: a salt of TLS 1.3, a hash of either version.
const SALT: [u8; 48] = *b"keyhaven self-test: a salt that is not a secret!";

#[cfg(test)]
mod tests;
