//! Managed keys made, wrapped, and brought back to be wrapped for another class.
//!
//! Invariant: what a caller gets was opened again under the root key and compared, so that no key is recorded that
//! cannot be had again.

use cryptoki::{
    error::{Error as CryptokiError, RvError},
    mechanism::Mechanism,
    object::{Attribute, ObjectHandle},
};
use cryptoki_sys::CK_MECHANISM_TYPE;
use keyhaven_types::{KekId, KeyKind};

use super::{CentralToken, keys::Keys};
use crate::{
    Error, Worker,
    admin::public,
    managed::{
        PublicPart, Spec, kcv, part,
        scoped::Scoped,
        template::{self, Home},
    },
    quirks::Quirks,
    raw::Way,
    session::OpenSession,
};

/// A managed key as it is recorded: what tells it from others, and the key itself, wrapped twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// Its public part.
    pub public: PublicPart,
    /// Wrapped under the class's key, for the sites (RFC 5649).
    pub site_wrap: Vec<u8>,
    /// Wrapped under the root key of its purpose, for central alone (RFC 5649).
    pub root_wrap: Vec<u8>,
}

/// Where an operation is done.
#[derive(Clone, Copy)]
pub(super) struct At<'a> {
    pub(super) session: &'a OpenSession,
    pub(super) quirks: &'static Quirks,
    pub(super) kwp: CK_MECHANISM_TYPE,
}

impl CentralToken {
    /// Makes a key in the token and gives it wrapped. RSA takes up to seconds.
    ///
    /// # Errors
    /// [`Error::UnsupportedKey`] when the kind does not serve the purpose, [`Error::KekNotFound`], and
    /// [`Error::Unwrappable`] when the module gives no such key wrapped (Ed25519 on SoftHSM2); failures of the token.
    pub fn generate(&self, worker: &Worker, spec: &Spec, kek: KekId) -> Result<Made, Error> {
        spec.check()?;
        worker.twice(self.token(), |own| {
            let keys = self.keys(own)?;
            let class = self.class_kek(own, &keys, spec.purpose, kek)?;
            let at = self.at(own);
            let (key, public) = at.make(spec)?;
            at.give(&keys, spec, key.handle(), public, class)
        })
    }

    /// Wraps a key once more, for another class or another epoch of its class.
    ///
    /// # Errors
    /// [`Error::Blob`], [`Error::Substituted`] when the wrapped key is not the record's, [`Error::KekNotFound`];
    /// failures of the token.
    pub fn rewrap(
        &self,
        worker: &Worker,
        spec: &Spec,
        public: &PublicPart,
        root_wrap: &[u8],
        to: KekId,
    ) -> Result<Vec<u8>, Error> {
        spec.check()?;
        worker.twice(self.token(), |own| {
            let keys = self.keys(own)?;
            let class = self.class_kek(own, &keys, spec.purpose, to)?;
            let at = self.at(own);
            let key = open_root(&at, &keys, spec, public, root_wrap)?;
            at.wrap(class, key.handle(), spec)
        })
    }
}

/// Unwraps a key under the root key of its purpose and compares it with its record.
pub(super) fn open_root<'a>(
    at: &At<'a>,
    keys: &Keys,
    spec: &Spec,
    public: &PublicPart,
    root_wrap: &[u8],
) -> Result<Scoped<'a>, Error> {
    let root = keys.root(spec.purpose)?;
    let key = at.unwrap(root, spec, root_wrap, "unwrapping a key under its root key")?;
    part::check(at.session, at.kwp, key.handle(), spec, public)?;
    Ok(key)
}

impl<'a> At<'a> {
    /// A new key, and its public part.
    pub(super) fn make(&self, spec: &Spec) -> Result<(Scoped<'a>, PublicPart), Error> {
        let failed = |source| Error::token("making a managed key", source);
        let private = template::made(self.quirks, spec);
        let raw = self.session.raw().map_err(failed)?;
        let Some((mechanism, parameters)) = pair(spec.kind) else {
            let mechanism = match spec.kind {
                KeyKind::Aes256 => Mechanism::AesKeyGen,
                _ => Mechanism::GenericSecretKeyGen,
            };
            let key = raw
                .generate_key(self.session, &mechanism, &private)
                .map(|key| Scoped::new(self.session, key))
                .map_err(failed)?;
            let value = kcv::of(self.session, self.kwp, key.handle(), spec.purpose)?;
            return Ok((key, PublicPart::Kcv(value)));
        };
        let (public, key) = raw
            .generate_pair(
                self.session,
                &mechanism,
                &template::made_public(parameters),
                &private,
            )
            .map_err(failed)?;
        let public = Scoped::new(self.session, public);
        let key = Scoped::new(self.session, key);
        let spki = part::read_pair(self.session, public.handle(), spec.kind)?;
        part::prove(self.session, key.handle(), spec.purpose, &spki)?;
        Ok((key, PublicPart::Spki(spki)))
    }

    /// Wraps a key for its class and for central, and sees that central can have it again.
    pub(super) fn give(
        &self,
        keys: &Keys,
        spec: &Spec,
        key: ObjectHandle,
        public: PublicPart,
        class: ObjectHandle,
    ) -> Result<Made, Error> {
        let root_wrap = self.wrap(keys.root(spec.purpose)?, key, spec)?;
        let site_wrap = self.wrap(class, key, spec)?;
        drop(open_root(self, keys, spec, &public, &root_wrap)?);
        Ok(Made {
            public,
            site_wrap,
            root_wrap,
        })
    }

    pub(super) fn wrap(
        &self,
        with: ObjectHandle,
        key: ObjectHandle,
        spec: &Spec,
    ) -> Result<Vec<u8>, Error> {
        let mut out = vec![0; WRAPPED_MAX];
        let wrapped = self
            .session
            .raw()
            .and_then(|raw| raw.wrap_by(self.session, Way::Bare(self.kwp), with, key, &mut out));
        let len = wrapped.map_err(|source| match source {
            CryptokiError::Pkcs11(RvError::KeyNotWrappable | RvError::KeyUnextractable, _) => {
                Error::Unwrappable {
                    kind: spec.kind,
                    module: self.quirks.name.to_owned(),
                }
            }
            source => Error::token("wrapping a managed key", source),
        })?;
        out.truncate(len);
        Ok(out)
    }

    pub(super) fn unwrap(
        &self,
        with: ObjectHandle,
        spec: &Spec,
        wrapped: &[u8],
        operation: &'static str,
    ) -> Result<Scoped<'a>, Error> {
        let template = template::unwrapped(self.quirks, spec, Home::Central);
        let way = Way::Bare(self.kwp);
        self.session
            .raw()
            .and_then(|raw| raw.unwrap_to(self.session, way, with, wrapped, &template))
            .map(|key| Scoped::new(self.session, key))
            .map_err(|source| part::blame(self.session, operation, source))
    }
}

/// How a pair is made; none for a secret.
fn pair(kind: KeyKind) -> Option<(Mechanism<'static>, Vec<Attribute>)> {
    let rsa = |bits: std::ffi::c_ulong| {
        let parameters = vec![
            Attribute::ModulusBits(bits.into()),
            Attribute::PublicExponent(vec![1, 0, 1]),
        ];
        (Mechanism::RsaPkcsKeyPairGen, parameters)
    };
    let ec = |params: &[u8]| {
        let parameters = vec![Attribute::EcParams(params.to_vec())];
        (Mechanism::EccKeyPairGen, parameters)
    };
    match kind {
        KeyKind::Rsa2048 => Some(rsa(2048)),
        KeyKind::Rsa3072 => Some(rsa(3072)),
        KeyKind::Rsa4096 => Some(rsa(4096)),
        KeyKind::EcP256 => Some(ec(public::P256_PARAMS)),
        KeyKind::EcP384 => Some(ec(public::P384_PARAMS)),
        KeyKind::Ed25519 => Some((
            Mechanism::EccEdwardsKeyPairGen,
            vec![Attribute::EcParams(public::ED25519_PARAMS.to_vec())],
        )),
        KeyKind::Aes256 | KeyKind::Hmac => None,
    }
}

/// A PKCS#8 key of 4,096 bits has about 2,400 bytes.
const WRAPPED_MAX: usize = 4096;
