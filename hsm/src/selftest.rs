//! Self-tests: what a token can do, shown by known answers and by attacks that must fail.
//!
//! A mechanism list proves nothing, so nothing here reads one. All objects are made for the test and destroyed.
//! Invariant: a level is claimed only when the right value came out of the token and the secret itself did not.

use aws_lc_rs::{
    agreement::{self, ECDH_P256, ECDH_P384, PrivateKey, UnparsedPublicKey, X25519},
    hmac,
};
use cryptoki::{
    object::{Attribute, AttributeType, ObjectHandle},
    session::Session,
};
use keyhaven_types::{CustodyLevel, HashAlgorithm, NamedGroup};
use zeroize::Zeroizing;

use crate::{Check, Error, Profile, TokenFault, exchange, kdf, quirks::Quirks};

/// Runs every test on a session that is used for nothing else.
pub(crate) fn run(session: &Session, quirks: &Quirks) -> Profile {
    let mut run = Run {
        session,
        quirks,
        profile: Profile {
            tls12: CustodyLevel::Signature,
            tls13: CustodyLevel::Signature,
            groups: Vec::new(),
            prf: Vec::new(),
            extract: Vec::new(),
            master13: Vec::new(),
            schedule13: Vec::new(),
            schedule12: Vec::new(),
            vault: false,
            prepends: false,
            ml_kem: false,
            checks: Vec::new(),
        },
    };
    if quirks.derives_in_host {
        let detail = format!("{} keeps derived secrets in the host's memory", quirks.name);
        run.note::<()>("shared secrets stay in the token".to_owned(), Err(detail));
        return run.profile;
    }
    for group in quirks.group_order {
        run.group(group);
    }
    let mut profile = run.profile;
    if !profile.prf.is_empty() {
        profile.tls12 = CustodyLevel::Premaster;
    }
    if !profile.extract.is_empty() {
        profile.tls13 = CustodyLevel::Premaster;
    }
    profile
}

struct Run<'a> {
    session: &'a Session,
    quirks: &'a Quirks,
    profile: Profile,
}

/// What one group's secret was proven for.
#[derive(Default)]
struct Derivations {
    extract: Vec<(NamedGroup, HashAlgorithm)>,
    prf: Vec<(NamedGroup, HashAlgorithm)>,
}

impl Run<'_> {
    /// A key pair, its secret, both attacked, and every derivation. Nothing of the group counts when the value
    /// of one object could be read or an object could not be destroyed.
    fn group(&mut self, group: NamedGroup) {
        let name = group.as_str();
        let made = exchange::generate(self.session, self.quirks, group);
        let Some((private, point)) = self.keep(format!("{name}: make a key pair"), made) else {
            return;
        };
        let hidden = self.attack(
            format!("{name}: the ephemeral private key cannot be read"),
            private,
        );
        let secret = software_peer(group, &point).and_then(|(peer, expected)| {
            exchange::agree(self.session, self.quirks, group, private, &peer)
                .map(|handle| (handle, expected))
                .map_err(told)
        });
        let secret = self.note(format!("{name}: derive a shared secret"), secret);
        let mut proven = Derivations::default();
        let mut sound = hidden;
        if let Some((handle, expected)) = secret {
            sound &= self.attack(format!("{name}: the shared secret cannot be read"), handle);
            proven = self.derivations(group, handle, &expected);
            sound &= self.destroy(group, handle);
        }
        sound &= self.destroy(group, private);
        if sound && !(proven.extract.is_empty() && proven.prf.is_empty()) {
            self.profile.groups.push(group);
            self.profile.extract.extend(proven.extract);
            self.profile.prf.extend(proven.prf);
        }
    }

    /// HKDF-Extract and the PRF with each hash, compared with software.
    fn derivations(
        &mut self,
        group: NamedGroup,
        handle: ObjectHandle,
        expected: &[u8],
    ) -> Derivations {
        let mut proven = Derivations::default();
        for hash in [HashAlgorithm::Sha256, HashAlgorithm::Sha384] {
            let salt = &SALT[..hash.output_len()];
            let derived = kdf::extract(self.session, hash, salt, &[], handle)
                .map_err(told)
                .and_then(|prk| same(prk.expose_secret(), &software_hmac(hash, salt, expected)));
            let name = group.as_str();
            let check = format!("{name}: HKDF-Extract with {hash:?} equals software");
            if self.note(check, derived).is_some() {
                proven.extract.push((group, hash));
            }
            let mut master = Zeroizing::new([0; 48]);
            let seed = &SALT[..hash.output_len()];
            let derived = kdf::prf(self.session, hash, handle, EMS_LABEL, seed, &mut master[..])
                .map_err(told)
                .and_then(|()| {
                    same(
                        &master[..],
                        &software_prf(hash, expected, EMS_LABEL, seed, 48),
                    )
                });
            let check = format!("{name}: extended master secret with {hash:?} equals software");
            if self.note(check, derived).is_some() {
                proven.prf.push((group, hash));
            }
        }
        proven
    }

    /// Tries to read a value: as it is, and from a copy that is asked to be readable.
    fn attack(&mut self, name: String, object: ObjectHandle) -> bool {
        let outcome = self.try_to_read(object);
        self.note(name, outcome).is_some()
    }

    fn try_to_read(&self, object: ObjectHandle) -> Result<(), String> {
        let types = [AttributeType::Sensitive, AttributeType::Extractable];
        let flags = self
            .session
            .get_attributes(object, &types)
            .map_err(|error| TokenFault::new(error).to_string())?;
        let guarded = [Attribute::Sensitive(true), Attribute::Extractable(false)];
        if flags != guarded {
            return Err(
                "the token does not keep CKA_SENSITIVE and CKA_EXTRACTABLE as asked".to_owned(),
            );
        }
        if self.is_readable(object) {
            return Err("CKA_VALUE was read".to_owned());
        }
        let open = [Attribute::Sensitive(false), Attribute::Extractable(true)];
        let _ = self.session.update_attributes(object, &open);
        if self.is_readable(object) {
            return Err("CKA_VALUE was read after the flags were changed".to_owned());
        }
        if let Ok(copy) = self.session.copy_object(object, &open) {
            let readable = self.is_readable(copy);
            let destroyed = self.session.destroy_object(copy);
            if readable || destroyed.is_err() {
                return Err("CKA_VALUE was read from a copy".to_owned());
            }
        }
        Ok(())
    }

    fn is_readable(&self, object: ObjectHandle) -> bool {
        let values = self.session.get_attributes(object, &[AttributeType::Value]);
        // An attribute that is refused is left out by the binding.
        values.is_ok_and(|values| {
            values
                .iter()
                .any(|value| !matches!(value, Attribute::Value(bytes) if bytes.is_empty()))
        })
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

    fn keep<T>(&mut self, name: String, outcome: Result<T, Error>) -> Option<T> {
        self.note(name, outcome.map_err(told))
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

fn told(error: Error) -> String {
    match &error {
        Error::Token { source, .. } => source.to_string(),
        Error::Derivation { .. } => {
            "the token's mechanism does not take a secret of this length".to_owned()
        }
        other => other.to_string(),
    }
}

fn same(got: &[u8], expected: &[u8]) -> Result<(), String> {
    if got == expected {
        Ok(())
    } else {
        Err("the value is not the one that software gets".to_owned())
    }
}

/// A peer's public value and the secret with it, chosen so that the secret starts with a zero byte: a token that
/// drops leading zeros would fail one handshake in 256, and must fail here.
fn software_peer(group: NamedGroup, token: &[u8]) -> Result<(Vec<u8>, Zeroizing<Vec<u8>>), String> {
    let algorithm = match group {
        NamedGroup::Secp256r1 => &ECDH_P256,
        NamedGroup::Secp384r1 => &ECDH_P384,
        NamedGroup::X25519 => &X25519,
    };
    let failed = || "software cannot agree with the token's public value".to_owned();
    let mut found = None;
    for _ in 0..TRIES_MAX {
        let key = PrivateKey::generate(algorithm).map_err(|_| failed())?;
        let token = UnparsedPublicKey::new(algorithm, token);
        let secret = agreement::agree(&key, token, (), |z| Ok(Zeroizing::new(z.to_vec())))
            .map_err(|()| failed())?;
        let public = key.compute_public_key().map_err(|_| failed())?;
        let leading_zero = secret.first() == Some(&0);
        found = Some((public.as_ref().to_vec(), secret));
        if leading_zero {
            break;
        }
    }
    found.ok_or_else(failed)
}

fn software_hmac(hash: HashAlgorithm, key: &[u8], data: &[u8]) -> Zeroizing<Vec<u8>> {
    let algorithm = match hash {
        HashAlgorithm::Sha256 => hmac::HMAC_SHA256,
        HashAlgorithm::Sha384 => hmac::HMAC_SHA384,
    };
    let tag = hmac::sign(&hmac::Key::new(algorithm, key), data);
    Zeroizing::new(tag.as_ref().to_vec())
}

fn software_prf(
    hash: HashAlgorithm,
    secret: &[u8],
    label: &[u8],
    seed: &[u8],
    len: usize,
) -> Zeroizing<Vec<u8>> {
    let label_and_seed = [label, seed].concat();
    let mut out = Zeroizing::new(Vec::with_capacity(len + hash.output_len()));
    let mut a = software_hmac(hash, secret, &label_and_seed);
    while out.len() < len {
        let block = software_hmac(hash, secret, &[&a[..], &label_and_seed[..]].concat());
        out.extend_from_slice(&block);
        a = software_hmac(hash, secret, &a);
    }
    out.truncate(len);
    out
}

/// RFC 7627, section 4.
const EMS_LABEL: &[u8] = b"extended master secret";
/// Any bytes do: a salt of TLS 1.3, a session hash of TLS 1.2.
const SALT: [u8; 48] = *b"keyhaven self-test: a salt that is not a secret!";
/// A leading zero is missed with a chance of 1 in e^8.
const TRIES_MAX: usize = 2048;

#[cfg(test)]
mod tests {
    use cryptoki::{
        mechanism::Mechanism,
        object::{KeyType, ObjectClass},
    };

    use super::*;
    use crate::{Module, TokenInfo, session::OpenSession, token};

    fn open(test: &keyhaven_softhsm_test::TestToken) -> (OpenSession, TokenInfo) {
        let module = Module::load(Some(test.module())).unwrap();
        let (slot, info) = token::find_slot(&module, &test.uri().parse().unwrap()).unwrap();
        (OpenSession::open(&module, slot).unwrap(), info)
    }

    fn profile() -> Profile {
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
            prepends: false,
            ml_kem: false,
            checks: Vec::new(),
        }
    }

    /// The attack must be able to succeed, or its failure proves nothing.
    #[test]
    fn a_readable_secret_is_noticed() {
        let test = keyhaven_softhsm_test::fresh_token!();
        let (session, info) = open(&test);
        for (sensitive, extractable) in [(false, true), (true, true), (false, false), (true, false)]
        {
            let template = [
                Attribute::Class(ObjectClass::SECRET_KEY),
                Attribute::KeyType(KeyType::GENERIC_SECRET),
                Attribute::ValueLen(32.into()),
                Attribute::Token(false),
                Attribute::Private(false),
                Attribute::Sensitive(sensitive),
                Attribute::Extractable(extractable),
            ];
            let object = session
                .generate_key(&Mechanism::GenericSecretKeyGen, &template)
                .unwrap();
            let mut run = Run {
                session: &session,
                quirks: Quirks::of(&info),
                profile: profile(),
            };
            let hidden = run.attack("attack".to_owned(), object);
            assert_eq!(
                hidden,
                sensitive && !extractable,
                "{:?}",
                run.profile.checks
            );
            // PKCS#11: refused when it is sensitive or not extractable.
            assert_eq!(run.is_readable(object), !sensitive && extractable);
        }
    }

    #[test]
    fn a_module_that_derives_in_the_host_proves_nothing() {
        let test = keyhaven_softhsm_test::fresh_token!();
        let (session, _) = open(&test);
        let info = TokenInfo {
            manufacturer: "Yubico (www.yubico.com)".to_owned(),
            model: "YubiHSM".to_owned(),
            ..TokenInfo::default()
        };
        let profile = run(&session, Quirks::of(&info));
        assert_eq!(
            (profile.tls12, profile.tls13),
            (CustodyLevel::Signature, CustodyLevel::Signature)
        );
        assert!(profile.groups.is_empty() && profile.checks.iter().any(|check| !check.passed));
    }

    /// A mechanism that is not there is a failed check and no claim.
    #[test]
    fn what_the_token_cannot_make_is_not_claimed() {
        let test = keyhaven_softhsm_test::fresh_token!();
        let (session, _) = open(&test);
        // The standard's way of making X25519 pairs, which SoftHSM2 does not know.
        let profile = run(&session, Quirks::of(&TokenInfo::default()));
        assert_eq!(
            profile.groups,
            [NamedGroup::Secp256r1, NamedGroup::Secp384r1]
        );
        assert!(
            profile
                .extract
                .iter()
                .all(|(group, _)| *group != NamedGroup::X25519)
        );
        assert_eq!(profile.tls13, CustodyLevel::Premaster);
    }
}
