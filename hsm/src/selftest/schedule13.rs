//! The key schedule of TLS 1.3 on handles, from the shared secret to keys, IVs and MACs (RFC 8446, section 7.1).
//!
//! Invariant: each secret on the way is attacked, and what comes out at its end is compared with software.

use cryptoki::{mechanism::hkdf::HkdfSalt, object::ObjectHandle};
use keyhaven_types::{HashAlgorithm, NamedGroup};
use zeroize::Zeroizing;

use super::{
    Derivations, Made, Run, SALT,
    software::{self, Bytes, same},
    told,
};
use crate::{Kept, hkdf, quirks::Ways, session::OpenSession};

impl Run<'_> {
    /// Level `master`, then level `schedule`. False when something was readable or stayed.
    pub(super) fn schedule13(
        &mut self,
        group: NamedGroup,
        hash: HashAlgorithm,
        secret: ObjectHandle,
        expected: &[u8],
        proven: &mut Derivations,
    ) -> bool {
        let mut made = Made::new(self.session, self.ways);
        let test = Test {
            session: self.session,
            ways: self.ways,
            hash,
        };
        let master = test.master(&mut made, secret, expected);
        let schedule = match &master {
            Ok(secrets) => Some(test.traffic(&mut made, secrets)),
            Err(_) => None,
        };
        let ended = made.end();
        let name = group.as_str();
        let check = format!("{name}: TLS 1.3 secrets with {hash:?} stay and equal software");
        if self.note(check, master.map(drop)).is_some() {
            proven.master13.push((group, hash));
        }
        if let Some(schedule) = schedule {
            let check = format!("{name}: TLS 1.3 traffic secrets with {hash:?} stay, too");
            if self.note(check, schedule).is_some() {
                proven.schedule13.push((group, hash));
            }
        }
        match ended {
            Ok(()) => true,
            Err(detail) => {
                let check = format!("{name}: objects of TLS 1.3 are sensitive and destroyed");
                self.note(check, Err::<(), _>(detail));
                false
            }
        }
    }
}

struct Test<'a> {
    session: &'a OpenSession,
    ways: Ways,
    hash: HashAlgorithm,
}

/// Two secrets of a schedule, as handles and as software has them.
struct Secrets {
    handshake: (ObjectHandle, Bytes),
    master: (ObjectHandle, Bytes),
}

impl Test<'_> {
    /// Handshake and master secret as handles; traffic secrets come out of both.
    fn master(
        &self,
        made: &mut Made<'_>,
        secret: ObjectHandle,
        expected: &[u8],
    ) -> Result<Secrets, String> {
        let (session, ways, hash) = (self.session, &self.ways, self.hash);
        let salt = &SALT[..hash.output_len()];
        let extracted = hkdf::extract(session, ways, hash, HkdfSalt::Data(salt), secret);
        let handshake = made.keep("the handshake secret", extracted, Kept::Never)?;
        let software = software::hmac(hash, salt, expected);
        self.comes_out(handshake, "c hs traffic", hash.output_len(), &software)?;

        let (derived, software_derived) =
            self.goes_on(made, handshake, "derived", &software, Kept::Never)?;
        let zeros = hkdf::zeros(session, hash).map_err(told)?;
        made.objects.push(zeros);
        let extracted = hkdf::extract(session, ways, hash, HkdfSalt::Key(derived), zeros);
        let master = made.keep("the master secret", extracted, Kept::Never)?;
        let software_master = software::hmac(hash, &software_derived, &vec![0; hash.output_len()]);
        self.comes_out(master, "s ap traffic", hash.output_len(), &software_master)?;

        // A resumed handshake's salt is a secret, too.
        let extracted = hkdf::extract(session, ways, hash, HkdfSalt::Key(derived), secret);
        let resumed = made.keep("a resumed handshake's secret", extracted, Kept::Never)?;
        let software_resumed = software::hmac(hash, &software_derived, expected);
        self.comes_out(
            resumed,
            "s hs traffic",
            hash.output_len(),
            &software_resumed,
        )?;
        Ok(Secrets {
            handshake: (handshake, software),
            master: (master, software_master),
        })
    }

    /// A traffic secret and a Finished key as handles; key, IV, next traffic secret and MAC come out of them.
    fn traffic(&self, made: &mut Made<'_>, secrets: &Secrets) -> Result<(), String> {
        let hash = self.hash;
        for (label, (base, software)) in [
            ("s hs traffic", &secrets.handshake),
            ("c ap traffic", &secrets.master),
        ] {
            let (traffic, software) = self.goes_on(made, *base, label, software, Kept::Never)?;
            for (label, len) in [("key", 16), ("key", 32), ("iv", 12)] {
                self.comes_out(traffic, label, len, &software)?;
            }
            let (finished, software) =
                self.goes_on(made, traffic, "finished", &software, Kept::Never)?;
            let mut mac = Zeroizing::new(vec![0; hash.output_len()]);
            hkdf::hmac(self.session, hash, finished, &SALT, &mut mac)
                .map_err(|error| format!("a Finished: {}", told(error)))?;
            same(&mac, &software::hmac(hash, &software, &SALT))?;
        }
        Ok(())
    }

    /// An expansion to a secret.
    fn goes_on(
        &self,
        made: &mut Made<'_>,
        base: ObjectHandle,
        label: &str,
        software: &[u8],
        kept: Kept,
    ) -> Result<(ObjectHandle, Bytes), String> {
        let (hash, len) = (self.hash, self.hash.output_len());
        let info = software::label(label, context(label, hash), len);
        let expanded = hkdf::expand(self.session, &self.ways, hash, base, &info, len, kept);
        let handle = made.keep(label, expanded, kept)?;
        Ok((handle, software::expand(hash, software, &info, len)))
    }

    /// An expansion to bytes, compared with software.
    fn comes_out(
        &self,
        base: ObjectHandle,
        label: &str,
        len: usize,
        software: &[u8],
    ) -> Result<(), String> {
        let info = software::label(label, context(label, self.hash), len);
        let mut out = Zeroizing::new(vec![0; len]);
        hkdf::expand_bytes(self.session, self.hash, base, &info, &mut out)
            .map_err(|error| format!("{label}: {}", told(error)))?;
        same(&out, &software::expand(self.hash, software, &info, len))
            .map_err(|detail| format!("{label}: {detail}"))
    }
}

/// Keys, IVs and Finished keys have none; any hash does for the others.
fn context(label: &str, hash: HashAlgorithm) -> &'static [u8] {
    match label {
        "key" | "iv" | "finished" => &[],
        _ => &SALT[..hash.output_len()],
    }
}
