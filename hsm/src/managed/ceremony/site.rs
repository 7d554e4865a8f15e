//! Keys for a site: wrapped once under the public part of its transport pair.
//!
//! That the part is the site's own is for people to see: they compare fingerprints. Invariant: the public part is
//! trusted for one act and is an object of one session.

use keyhaven_types::KekId;
use x509_parser::{prelude::FromDer, public_key::PublicKey, x509::SubjectPublicKeyInfo};

use super::{Ceremony, CeremonyError, Result};
use crate::{
    Error,
    managed::{central::find, scoped::Scoped, template},
    raw::Way,
};

impl Ceremony {
    /// Trusts the site's public part (DER SubjectPublicKeyInfo, RSA of 3072 or 4096 bits) for this once, wraps these
    /// keys of the pool under it with RSA-OAEP (SHA-1, MGF1 with SHA-1), and destroys it.
    ///
    /// # Errors
    /// [`CeremonyError::SitePublic`], [`CeremonyError::NoSuchKek`]; failures of the token.
    pub fn wrap_for_site(
        &mut self,
        site_spki: &[u8],
        keks: &[KekId],
    ) -> Result<Vec<(KekId, Vec<u8>)>> {
        let (modulus, exponent) =
            numbers(site_spki).map_err(|reason| CeremonyError::SitePublic { reason })?;
        let quirks = self.login.quirks();
        let public = self.login.as_officer(|session| {
            let template = template::trusted_public(&modulus, &exponent);
            session
                .raw()
                .and_then(|raw| raw.create_object(session, &template))
                .map(|handle| Scoped::new(session, handle))
                .map_err(|source| Error::token("trusting a site's key", source).into())
        })?;
        self.login.as_user(|session| {
            let pool = find::pool(session, quirks)?;
            let wrap = |&id: &KekId| {
                let (_, kek) = pool
                    .iter()
                    .find(|(known, _)| known.id == id)
                    .ok_or(CeremonyError::NoSuchKek(id))?;
                let oaep = template::oaep();
                let mut out = vec![0; WRAPPED_MAX];
                let len = session
                    .raw()
                    .and_then(|raw| {
                        raw.wrap_by(session, Way::Known(&oaep), public.handle(), *kek, &mut out)
                    })
                    .map_err(|source| Error::token("wrapping a key for a site", source))?;
                out.truncate(len);
                Ok((id, out))
            };
            keks.iter().map(wrap).collect()
        })
    }
}

/// Modulus and exponent; the error is a half sentence.
fn numbers(spki: &[u8]) -> Result<(Vec<u8>, Vec<u8>), String> {
    let unreadable = || "it is not a SubjectPublicKeyInfo of an RSA key".to_owned();
    let (rest, info) = SubjectPublicKeyInfo::from_der(spki).map_err(|_| unreadable())?;
    let (true, Ok(PublicKey::RSA(key))) = (rest.is_empty(), info.parsed()) else {
        return Err(unreadable());
    };
    let modulus = crate::spki::strip_zeros(key.modulus);
    let bits = crate::admin::public::bit_length(modulus);
    if !(BITS_MIN..=BITS_MAX).contains(&bits) {
        return Err(format!(
            "its modulus has {bits} bits, and {BITS_MIN} to {BITS_MAX} are served"
        ));
    }
    let exponent = crate::spki::strip_zeros(key.exponent);
    if exponent != [1, 0, 1] {
        return Err("its exponent is not 65537".to_owned());
    }
    Ok((modulus.to_vec(), exponent.to_vec()))
}

const BITS_MIN: u16 = 3072;
const BITS_MAX: u16 = 4096;
/// As long as the longest modulus.
const WRAPPED_MAX: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::public::rsa_spki;

    #[test]
    fn short_keys_odd_exponents_and_other_kinds_are_no_transport_keys() {
        assert!(numbers(&rsa_spki(&[0xc1; 384], &[1, 0, 1])).is_ok());
        for bad in [
            rsa_spki(&[0xc1; 256], &[1, 0, 1]),
            rsa_spki(&[0xc1; 640], &[1, 0, 1]),
            rsa_spki(&[0xc1; 384], &[3]),
            crate::admin::public::ed25519_spki(&[1; 32]),
            [rsa_spki(&[0xc1; 384], &[1, 0, 1]), vec![0]].concat(),
            Vec::new(),
        ] {
            assert!(numbers(&bad).is_err());
        }
    }
}
