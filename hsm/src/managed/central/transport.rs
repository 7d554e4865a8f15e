//! Keys from other tokens: they come wrapped under a key that came wrapped under a transport pair of ours.
//!
//! Where they were before, only people know. Templates do not nest: whoever is in this process while a transport pair
//! lives can bring the carrying key in without the template that binds what it unwraps. So a pair is for one import.
//! Invariant: the pair's private part lives as long as the value that stands for it, and unwraps nothing but keys that
//! unwrap.

use cryptoki::{mechanism::Mechanism, object::ObjectHandle};
use keyhaven_types::{KekId, KeyKind};

use super::{
    CentralToken,
    keys::Keys,
    make::{At, Made},
};
use crate::{
    Error, Worker,
    exchange::Ephemeral,
    generation::Counted,
    managed::{
        PublicPart, Spec, kcv, part,
        scoped::Scoped,
        template::{self, AES_LEN},
    },
    raw::Way,
    spki::PublicKey,
};

/// A transport pair whose private part is an object of the token. Dropping it destroys the object, on whatever thread.
#[derive(Debug)]
pub struct Transport {
    object: Ephemeral,
    spki: Vec<u8>,
}

impl Transport {
    /// The public part, DER SubjectPublicKeyInfo: RSA with 3072 bits, for RSA-OAEP with SHA-1 and MGF1 with SHA-1.
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }
}

impl CentralToken {
    /// Makes a transport pair.
    ///
    /// # Errors
    /// Failures of the token.
    pub fn transport(&self, worker: &Worker) -> Result<Transport, Error> {
        worker.twice(self.token(), |own| {
            let (public, private) = own
                .session
                .raw()
                .and_then(|raw| {
                    raw.generate_pair(
                        &own.session,
                        &Mechanism::RsaPkcsKeyPairGen,
                        &template::transport_public(),
                        &template::transport_private(),
                    )
                })
                .map_err(|source| Error::token("making a transport pair", source))?;
            let object = Ephemeral::new(self.token(), Counted::new(private, &own.owner));
            let public = Scoped::new(&own.session, public);
            let spki = part::read_rsa(&own.session, public.handle())?;
            let spki =
                spki.ok_or_else(|| Error::answer("making a transport pair", "no public part"))?;
            Ok(Transport { object, spki })
        })
    }

    /// Takes a key over: `wrapped_kek` is an AES-256 key under the transport pair (RSA-OAEP), `wrapped_key` the PKCS#8
    /// of a pair or the bytes of a secret under that key (RFC 5649). For a pair on a curve the public part must be
    /// given; for all others it is compared when it is: DER SubjectPublicKeyInfo, or eight bytes of a check value.
    ///
    /// # Errors
    /// [`Error::Blob`] when either does not open; [`Error::Substituted`] when the key is of another kind or not the
    /// expected one; [`Error::UnsupportedKey`] when the public part is wanted; [`Error::Unwrappable`] when the module
    /// gives no such key wrapped, before it was looked at (Ed25519 on SoftHSM2); [`Error::KekNotFound`]; failures of the
    /// token.
    // Seven things make a key that comes from elsewhere, and none of them has a default.
    #[allow(clippy::too_many_arguments, reason = "see above")]
    pub fn import(
        &self,
        worker: &Worker,
        transport: &Transport,
        spec: &Spec,
        kek: KekId,
        wrapped_kek: &[u8],
        wrapped_key: &[u8],
        expected_public: Option<&[u8]>,
    ) -> Result<Made, Error> {
        spec.check()?;
        // The blob tells the length of a secret to eight bytes, and an AES key's exactly. Nothing else does: SoftHSM2
        // has no CKA_VALUE_LEN of what it has unwrapped.
        if !spec.kind.is_pair() && wrapped_key.len() != AES_LEN + WRAPPING_LEN {
            return Err(Error::Substituted {
                key: spec.id.to_string(),
                reason: "it is not 32 bytes long",
            });
        }
        worker.on_object(&transport.object, |own, private| {
            let keys = self.keys(own)?;
            let class = self.class_kek(own, &keys, spec.purpose, kek)?;
            let at = self.at(own);
            if spec.kind == KeyKind::Ed25519 {
                at.try_kind(&keys, spec)?;
            }
            let carrier = at.unwrap_carrier(private.handle, spec, wrapped_kek)?;
            let key = at.unwrap(
                carrier.handle(),
                spec,
                wrapped_key,
                "unwrapping a key that is imported",
            )?;
            let public = at.recognise(key.handle(), spec, expected_public)?;
            at.give(&keys, spec, key.handle(), public, class)
        })
    }
}

impl<'a> At<'a> {
    /// Whether the module wraps keys of this kind at all, by one of its own: else it would say of a good key that it does
    /// not open.
    fn try_kind(&self, keys: &Keys, spec: &Spec) -> Result<(), Error> {
        let (own, _) = self.make(spec)?;
        self.wrap(keys.root(spec.purpose)?, own.handle(), spec)
            .map(drop)
    }

    fn unwrap_carrier(
        &self,
        private: ObjectHandle,
        spec: &Spec,
        wrapped: &[u8],
    ) -> Result<Scoped<'a>, Error> {
        let template = template::carrier(self.quirks, spec.purpose, self.kwp);
        let oaep = template::oaep();
        let operation = "unwrapping the key that carries another";
        self.session
            .raw()
            .and_then(|raw| {
                raw.unwrap_to(self.session, Way::Known(&oaep), private, wrapped, &template)
            })
            .map(|key| Scoped::new(self.session, key))
            .map_err(|source| part::blame(self.session, operation, source))
    }

    /// The public part of a key from elsewhere, seen to be its own.
    fn recognise(
        &self,
        key: ObjectHandle,
        spec: &Spec,
        expected: Option<&[u8]>,
    ) -> Result<PublicPart, Error> {
        let another = |reason| Error::Substituted {
            key: spec.id.to_string(),
            reason,
        };
        if !spec.kind.is_pair() {
            let value = kcv::of(self.session, self.kwp, key, spec.purpose)?;
            if expected.is_some_and(|expected| expected != value) {
                return Err(another("its check value is not the expected one"));
            }
            return Ok(PublicPart::Kcv(value));
        }
        let spki = match expected {
            Some(spki) => Some(spki.to_vec()),
            None => part::read_rsa(self.session, key)?,
        };
        let spki = spki.ok_or_else(|| Error::UnsupportedKey {
            key: spec.id.to_string(),
            reason: "its public part must be given, since the token does not tell it".to_owned(),
        })?;
        let is_of_kind = PublicKey::parse(&spki)
            .is_ok_and(|public| Some(public.algorithm()) == spec.kind.algorithm());
        if !is_of_kind {
            return Err(another("its public part is of another kind"));
        }
        let public = PublicPart::Spki(spki.clone());
        part::check(self.session, self.kwp, key, spec, &public)?;
        part::prove(self.session, key, spec.purpose, &spki).map_err(|error| match error {
            Error::Answer { .. } => another("it does not do what its public part says"),
            error => error,
        })?;
        Ok(public)
    }
}

/// RFC 5649: the wrapping's own eight bytes.
const WRAPPING_LEN: usize = 8;
