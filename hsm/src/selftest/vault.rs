//! Secrets on the road: wrapping shown by a known blob, sealing by an altered one, both by what they refuse.
//!
//! Invariant: a wrapping is proven by a blob of RFC 5649 that the token opens, never by a round trip: the same name
//! is another padding in another module.

use cryptoki::{
    mechanism::hkdf::HkdfSalt,
    object::{Attribute, KeyType, ObjectClass, ObjectHandle},
};
use keyhaven_types::HashAlgorithm;
use zeroize::Zeroizing;

use super::{
    Derivations, Made, Run, SALT,
    software::{self, Bytes, same},
    software_ems, told,
};
use crate::{
    Error, Finished12, Kept, VaultPurpose, hkdf,
    quirks::{Guards, Ways},
    session::OpenSession,
    template::Usage,
    tls12,
    vault::keys::{self, Keys, Name},
};

impl Run<'_> {
    /// False when something was readable or stayed. `proven`: what the group's secret was proven for, all of which may
    /// come to go through a vault.
    pub(super) fn vault(
        &mut self,
        secret: ObjectHandle,
        expected: &[u8],
        proven: &Derivations,
    ) -> bool {
        let known = self.known_blob();
        let check = "vault: AES key wrapping opens a known blob".to_owned();
        if self.note(check, known).is_none() {
            return true;
        }
        let mut failures = Vec::new();
        let mut unsound = Vec::new();
        let mut found = None;
        let (quirks, ways) = (self.quirks, self.ways);
        let candidates = quirks.guards.iter().flat_map(|&guards| {
            quirks.wrappable.iter().map(move |&wrappable| Ways {
                guards,
                wrappable,
                ..ways
            })
        });
        for ways in candidates {
            let test = Test {
                session: self.session,
                ways,
            };
            let mut made = Made::new(self.session, test.ways);
            let outcome = test.all(&mut made, secret, expected, proven);
            unsound.extend(made.end().err());
            match outcome {
                Ok(()) => {
                    found = Some(test.ways);
                    break;
                }
                Err(detail) => failures.push(detail),
            }
        }
        let check = "vault: a secret goes out wrapped and sealed, and comes back".to_owned();
        let outcome = found.ok_or_else(|| failures.join("; "));
        if let Some(ways) = self.note(check, outcome) {
            self.ways = ways;
            self.profile.vault = unsound.is_empty();
            self.profile.vault_guarded = self.profile.vault && ways.guards == Guards::Full;
        }
        if unsound.is_empty() {
            return true;
        }
        let check = "vault: objects are sensitive and destroyed".to_owned();
        self.note(check, Err::<(), _>(unsound.join("; ")));
        false
    }

    /// Finds the mechanism that is RFC 5649.
    fn known_blob(&mut self) -> Result<(), String> {
        let mut failures = Vec::new();
        for &wrap in self.quirks.wrap {
            let ways = Ways { wrap, ..self.ways };
            match known_blob(self.session, &ways) {
                Ok(()) => {
                    self.ways = ways;
                    return Ok(());
                }
                Err(detail) => failures.push(format!("{wrap:?}: {detail}")),
            }
        }
        Err(failures.join("; "))
    }
}

/// RFC 5649, section 6, first example.
fn known_blob(session: &OpenSession, ways: &Ways) -> Result<(), String> {
    let failed = |source| told(Error::token("making a known key", source));
    let key = [
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::AES),
        Attribute::Token(false),
        Attribute::Private(false),
        Attribute::Unwrap(true),
        Attribute::Value(KNOWN_KEY.to_vec()),
    ];
    let key = session.create_object(&key).map_err(failed)?;
    let template = [
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::GENERIC_SECRET),
        Attribute::Token(false),
        Attribute::Private(false),
        Attribute::Sensitive(false),
        Attribute::Extractable(true),
    ];
    let id = ways.wrap.mechanism();
    let unwrapped = session
        .raw()
        .and_then(|raw| raw.unwrap_key(session, id, key, &KNOWN_BLOB, &template));
    let outcome = unwrapped.map_err(failed).and_then(|object| {
        let value = session.value(object).map_err(failed);
        session.destroy_object(object).map_err(failed)?;
        same(&value?, &KNOWN_VALUE)
    });
    session.destroy_object(key).map_err(failed)?;
    outcome
}

struct Test<'a> {
    session: &'a OpenSession,
    ways: Ways,
}

impl Test<'_> {
    fn all(
        &self,
        made: &mut Made<'_>,
        secret: ObjectHandle,
        expected: &[u8],
        proven: &Derivations,
    ) -> Result<(), String> {
        let (session, ways) = (self.session, &self.ways);
        let name = Name {
            label: "keyhaven self-test",
            id: b"selftest",
            persistent: false,
        };
        let wrap = keys::make_wrapping(session, ways, name);
        let seal = keys::make_sealing(session, ways, name);
        let keys = Keys {
            wrap: made.keep("the key that wraps", wrap, Kept::Never)?,
            seal: made.keep("the key that seals", seal, Kept::Never)?,
        };
        for (at, &(_, hash)) in proven.master13.iter().enumerate() {
            let (wrappable, software) = self.resumption(made, hash, secret, expected)?;
            if at == 0 {
                self.purposes(made, &keys, wrappable)?;
            }
            let len = hash.output_len();
            let mut usages = PURPOSES.map(|purpose| purpose.usage(len)).to_vec();
            usages.dedup();
            for usage in usages {
                let back = self.there_and_back(made, &keys, wrappable, len, usage)?;
                self.derives(hash, back, &software)
                    .map_err(|detail| format!("{len} bytes that came back: {detail}"))?;
            }
        }
        let Some(&(_, hash)) = proven.schedule12.first() else {
            return Ok(());
        };
        let seed = &SALT[..hash.output_len()];
        let derived = tls12::extended_master(session, ways, hash, secret, seed, Kept::Wrappable);
        let master = made.keep("a wrappable master secret", derived, Kept::Wrappable)?;
        let back = self.there_and_back(made, &keys, master, 48, Usage::SignAndDerive)?;
        self.finishes(hash, back, expected)
    }

    /// A secret of TLS 1.3 that may be wrapped, and the same in software.
    fn resumption(
        &self,
        made: &mut Made<'_>,
        hash: HashAlgorithm,
        secret: ObjectHandle,
        expected: &[u8],
    ) -> Result<(ObjectHandle, Bytes), String> {
        let (session, ways, len) = (self.session, &self.ways, hash.output_len());
        let salt = &SALT[..len];
        let extracted = hkdf::extract(session, ways, hash, HkdfSalt::Data(salt), secret);
        let base = made.keep("the base secret", extracted, Kept::Never)?;
        let info = software::label("res master", salt, len);
        let expanded = hkdf::expand(session, ways, hash, base, &info, len, Kept::Wrappable);
        let wrappable = made.keep("a wrappable secret", expanded, Kept::Wrappable)?;
        let software = software::hmac(hash, salt, expected);
        Ok((wrappable, software::expand(hash, &software, &info, len)))
    }

    /// A secret of TLS 1.3 that came back is the one that went.
    fn derives(
        &self,
        hash: HashAlgorithm,
        secret: ObjectHandle,
        expected: &[u8],
    ) -> Result<(), String> {
        let info = software::label("key", b"", 16);
        let mut out = Zeroizing::new([0; 16]);
        hkdf::expand_bytes(self.session, hash, secret, &info, &mut out[..]).map_err(told)?;
        same(&out[..], &software::expand(hash, expected, &info, 16))
    }

    /// A master secret that came back makes the same Finished.
    fn finishes(
        &self,
        hash: HashAlgorithm,
        master: ObjectHandle,
        expected: &[u8],
    ) -> Result<(), String> {
        let (session, ways) = (self.session, &self.ways);
        let (whose, seed) = (Finished12::Server, &SALT[..hash.output_len()]);
        let mut mac = [0; 12];
        tls12::finished(session, ways, hash, master, whose, seed, &mut mac).map_err(told)?;
        let software = software_ems(hash, expected, seed);
        same(
            &mac,
            &software::prf(hash, &software, b"server finished", seed, 12),
        )
    }

    /// No key does the other's work: either would give away what was wrapped.
    fn purposes(
        &self,
        made: &mut Made<'_>,
        keys: &Keys,
        secret: ObjectHandle,
    ) -> Result<(), String> {
        let (session, ways) = (self.session, &self.ways);
        let nonce = [0; keys::NONCE_LEN];
        let wrapped = keys::wrap(session, ways, keys.wrap, secret).map_err(told)?;
        if keys::decrypts(session, keys.wrap, &wrapped) {
            return Err("the key that wraps also decrypts".to_owned());
        }
        if keys::seal(session, keys.wrap, &nonce, b"", b"plain").is_ok() {
            return Err("the key that wraps also encrypts".to_owned());
        }
        if keys::wrap(session, ways, keys.seal, secret).is_ok() {
            return Err("the key that seals also wraps".to_owned());
        }
        let sealed = keys::seal(session, keys.seal, &nonce, b"", &SALT[..32]).map_err(told)?;
        let (usage, kept) = (Usage::Derive, Kept::Never);
        let unwrapped = [
            keys::unwrap_sealed(session, ways, keys.seal, &nonce, &sealed),
            keys::unwrap(session, ways, keys.seal, &wrapped, usage, kept),
        ];
        let unwrapped: Vec<_> = unwrapped.into_iter().flatten().collect();
        made.objects.extend(&unwrapped);
        if !unwrapped.is_empty() {
            return Err("the key that seals also unwraps".to_owned());
        }
        if ways.guards == Guards::Full
            && let Ok(readable) = keys::unwrap_readable(session, ways, keys.wrap, &wrapped)
        {
            made.objects.push(readable);
            return Err("the key that wraps heeds no template".to_owned());
        }
        Ok(())
    }

    /// Wraps, seals, opens an altered copy in vain, opens and unwraps.
    fn there_and_back(
        &self,
        made: &mut Made<'_>,
        keys: &Keys,
        secret: ObjectHandle,
        len: usize,
        usage: Usage,
    ) -> Result<ObjectHandle, String> {
        let (session, ways) = (self.session, &self.ways);
        let wrapped = keys::wrap(session, ways, keys.wrap, secret).map_err(told)?;
        if wrapped.len() != len + 8 {
            return Err("a wrapped secret of the wrong length".to_owned());
        }
        let nonce = [7; keys::NONCE_LEN];
        let mut sealed = keys::seal(session, keys.seal, &nonce, b"aad", &wrapped).map_err(told)?;
        sealed[0] ^= 1;
        if keys::unseal(session, keys.seal, &nonce, b"aad", &sealed).is_ok() {
            return Err("an altered blob was opened".to_owned());
        }
        sealed[0] ^= 1;
        if keys::unseal(session, keys.seal, &nonce, b"AAD", &sealed).is_ok() {
            return Err("a blob was opened for something else".to_owned());
        }
        let plain = keys::unseal(session, keys.seal, &nonce, b"aad", &sealed).map_err(told)?;
        same(&plain, &wrapped)?;
        let kept = Kept::Wrappable;
        let unwrapped = keys::unwrap(session, ways, keys.wrap, &wrapped, usage, kept);
        made.keep("the secret that came back", unwrapped, kept)
    }
}

const PURPOSES: [VaultPurpose; 2] = [VaultPurpose::Ticket, VaultPurpose::Rekey];
const KNOWN_KEY: [u8; 24] = [
    0x58, 0x40, 0xdf, 0x6e, 0x29, 0xb0, 0x2a, 0xf1, 0xab, 0x49, 0x3b, 0x70, 0x5b, 0xf1, 0x6e, 0xa1,
    0xae, 0x83, 0x38, 0xf4, 0xdc, 0xc1, 0x76, 0xa8,
];
const KNOWN_VALUE: [u8; 20] = [
    0xc3, 0x7b, 0x7e, 0x64, 0x92, 0x58, 0x43, 0x40, 0xbe, 0xd1, 0x22, 0x07, 0x80, 0x89, 0x41, 0x15,
    0x50, 0x68, 0xf7, 0x38,
];
const KNOWN_BLOB: [u8; 32] = [
    0x13, 0x8b, 0xde, 0xaa, 0x9b, 0x8f, 0xa7, 0xfc, 0x61, 0xf9, 0x77, 0x42, 0xe7, 0x22, 0x48, 0xee,
    0x5a, 0xe6, 0xae, 0x53, 0x60, 0xd1, 0xae, 0x6a, 0x5f, 0x54, 0xf3, 0x73, 0xfa, 0x54, 0x3b, 0x6a,
];
