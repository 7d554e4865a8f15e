//! A hybrid exchange's secret of two halves, joined in the token.
//!
//! Invariant: the joined secret is attacked like every other, and the handshake secret from it equals software's.

use aws_lc_rs::kem::{DecapsulationKey, ML_KEM_768};
use cryptoki::{mechanism::hkdf::HkdfSalt, object::ObjectHandle};
use zeroize::Zeroizing;

use super::{
    Derivations, Made, Run, SALT,
    software::{self, same},
    told,
};
use crate::{Kept, hkdf, hybrid};

impl Run<'_> {
    /// Bytes before a secret, and a secret of ML-KEM before it. False when something was readable or stayed.
    pub(super) fn hybrid(
        &mut self,
        secret: ObjectHandle,
        expected: &[u8],
        proven: &Derivations,
    ) -> bool {
        let mut made = Made::new(self.session, self.ways);
        let prepends = self.prepends(&mut made, secret, expected, proven);
        let ml_kem = self.ml_kem(&mut made, secret, expected, proven);
        let ended = made.end();
        let check = "hybrid: bytes go before a secret".to_owned();
        self.profile.prepends = self.note(check, prepends).is_some();
        let check = "hybrid: ML-KEM-768 secret stays and goes before another".to_owned();
        self.profile.ml_kem = self.note(check, ml_kem).is_some();
        if let Err(detail) = ended {
            let check = "hybrid: objects are sensitive and destroyed".to_owned();
            self.note(check, Err::<(), _>(detail));
            self.profile.prepends = false;
            self.profile.ml_kem = false;
            return false;
        }
        true
    }

    fn prepends(
        &self,
        made: &mut Made<'_>,
        secret: ObjectHandle,
        expected: &[u8],
        proven: &Derivations,
    ) -> Result<(), String> {
        let prefix = &SALT[..32];
        let joined = hybrid::prepend(self.session, &self.ways, prefix, secret);
        let joined = made.keep("the joined secret", joined, Kept::Never)?;
        let software = Zeroizing::new([prefix, expected].concat());
        self.extracts(made, joined, &software, proven)
    }

    fn ml_kem(
        &self,
        made: &mut Made<'_>,
        secret: ObjectHandle,
        expected: &[u8],
        proven: &Derivations,
    ) -> Result<(), String> {
        let failed = |_| "software cannot use ML-KEM".to_owned();
        let key = DecapsulationKey::generate(&ML_KEM_768).map_err(failed)?;
        let public = key.encapsulation_key().map_err(failed)?;
        let public = public.key_bytes().map_err(failed)?;
        let (ciphertext, first) =
            match hybrid::encapsulate(self.session, &self.ways, public.as_ref()) {
                Ok((ciphertext, first)) => (ciphertext, Ok(first)),
                Err(error) => (Vec::new(), Err(error)),
            };
        let first = made.keep("the encapsulated secret", first, Kept::Never)?;
        let software = key
            .decapsulate(ciphertext.as_slice().into())
            .map_err(failed)?;
        let joined = hybrid::concatenate(self.session, &self.ways, first, secret);
        let joined = made.keep("the joined secret", joined, Kept::Never)?;
        let software = Zeroizing::new([software.as_ref(), expected].concat());
        self.extracts(made, joined, &software, proven)
    }

    /// A handshake secret from it, seen by what comes out, with each hash that a handshake can have.
    fn extracts(
        &self,
        made: &mut Made<'_>,
        joined: ObjectHandle,
        expected: &[u8],
        proven: &Derivations,
    ) -> Result<(), String> {
        for &(_, hash) in &proven.master13 {
            let salt = &SALT[..hash.output_len()];
            let salted = HkdfSalt::Data(salt);
            let extracted = hkdf::extract(self.session, &self.ways, hash, salted, joined);
            let extracted = made.keep("the handshake secret", extracted, Kept::Never)?;
            let info = software::label("c hs traffic", salt, 32);
            let mut out = Zeroizing::new([0; 32]);
            hkdf::expand_bytes(self.session, hash, extracted, &info, &mut out[..]).map_err(told)?;
            let software = software::hmac(hash, salt, expected);
            same(&out[..], &software::expand(hash, &software, &info, 32))
                .map_err(|detail| format!("with {hash:?}: {detail}"))?;
        }
        Ok(())
    }
}
