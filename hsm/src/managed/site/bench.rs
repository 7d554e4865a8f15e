//! A transport pair and class keys that are thrown away, whose values are known outside: what is proven on them is proven
//! of the real ones, which have the same templates.
//!
//! What is tried is in `role` and `proof`. Invariant: every object is a session object and is destroyed at the end.

use aws_lc_rs::{
    key_wrap::{AES_256, AesKek, KeyWrapPadded as _},
    rand::{SecureRandom as _, SystemRandom},
    rsa::{OAEP_SHA1_MGF1SHA1, OaepPublicEncryptingKey, PublicEncryptingKey},
};
use cryptoki::{error::Error as CryptokiError, object::Attribute};
use cryptoki_sys::CK_MECHANISM_TYPE;
use keyhaven_types::{KekId, Purpose};
use zeroize::Zeroizing;

use super::{enrol, keks::with};
use crate::{
    Error,
    managed::{
        Spec,
        central::find,
        scoped::Scoped,
        template::{self, AES_LEN, Home},
    },
    quirks::Quirks,
    raw::{Item, Way},
    session::OpenSession,
};

/// A transport pair; its private part is an object of this session, and every other one can use it.
pub(super) struct Transport<'a> {
    private: Scoped<'a>,
    public: OaepPublicEncryptingKey,
}

/// A session to try things in.
#[derive(Clone, Copy)]
pub(super) struct Bench<'a> {
    pub(super) session: &'a OpenSession,
    pub(super) quirks: &'static Quirks,
    pub(super) kwp: CK_MECHANISM_TYPE,
    transport: &'a Transport<'a>,
}

/// A class's key, as the token has it and as it is.
pub(super) struct Class<'a> {
    pub(super) key: Scoped<'a>,
    value: Zeroizing<[u8; AES_LEN]>,
}

impl<'a> Transport<'a> {
    /// Makes a pair: a smaller one than for an enrolment, since it is made at each start.
    pub(super) fn new(session: &'a OpenSession) -> Result<Self, Error> {
        let bits = Attribute::ModulusBits(BITS.into());
        let (private, spki) = enrol::make(session, &with(&template::transport_public(), bits))?;
        let private = Scoped::new(session, private);
        let public = PublicEncryptingKey::from_der(&spki)
            .map_err(drop)
            .and_then(|public| OaepPublicEncryptingKey::new(public).map_err(drop))
            .map_err(|()| Error::answer(TEST, "a public key that cannot be read"))?;
        Ok(Self { private, public })
    }
}

impl<'a> Bench<'a> {
    pub(super) fn new(
        session: &'a OpenSession,
        quirks: &'static Quirks,
        transport: &'a Transport<'a>,
    ) -> Self {
        Self {
            session,
            quirks,
            kwp: find::kwp(quirks),
            transport,
        }
    }

    /// A class's key for this purpose.
    pub(super) fn class(&self, purpose: Purpose) -> Result<Class<'a>, Error> {
        let (value, wrapped) = self.delivery()?;
        let key = self.receive(&wrapped, &self.class_template(purpose));
        Ok(Class {
            key: key.map_err(failed)?,
            value,
        })
    }

    /// The template of a class's key, but that it is an object of the session.
    pub(super) fn class_template(&self, purpose: Purpose) -> Vec<Item> {
        let id = KekId([0; 16]);
        let template = template::site_kek(self.quirks, purpose, self.kwp, "keyhaven-test", id);
        with(&template, Attribute::Token(false))
    }

    /// A new key, and the same under the transport key.
    pub(super) fn delivery(&self) -> Result<(Zeroizing<[u8; AES_LEN]>, Vec<u8>), Error> {
        let mut value = Zeroizing::new([0; AES_LEN]);
        let mut wrapped = vec![0; self.transport.public.ciphertext_size()];
        let len = SystemRandom::new()
            .fill(&mut value[..])
            .and_then(|()| {
                let wrapped = &mut wrapped[..];
                self.transport
                    .public
                    .encrypt(&OAEP_SHA1_MGF1SHA1, &value[..], wrapped, None)
                    .map(|wrapped| wrapped.len())
            })
            .map_err(|_| Error::answer(TEST, "no key to begin with"))?;
        wrapped.truncate(len);
        Ok((value, wrapped))
    }

    /// C_UnwrapKey with the transport key.
    pub(super) fn receive(
        &self,
        wrapped: &[u8],
        template: &[Item],
    ) -> Result<Scoped<'a>, CryptokiError> {
        let oaep = template::oaep();
        self.unwrap_by(
            Way::Known(&oaep),
            &self.transport.private,
            wrapped,
            template,
        )
    }

    /// C_UnwrapKey with a class's key.
    pub(super) fn unwrap(
        &self,
        class: &Class<'_>,
        blob: &[u8],
        template: &[Item],
    ) -> Result<Scoped<'a>, CryptokiError> {
        self.unwrap_by(Way::Bare(self.kwp), &class.key, blob, template)
    }

    pub(super) fn unwrap_by(
        &self,
        way: Way<'_>,
        with: &Scoped<'_>,
        blob: &[u8],
        template: &[Item],
    ) -> Result<Scoped<'a>, CryptokiError> {
        let raw = self.session.raw()?;
        let key = raw.unwrap_to(self.session, way, with.handle(), blob, template)?;
        Ok(Scoped::new(self.session, key))
    }

    /// The template by which managed keys are unwrapped here.
    pub(super) fn managed_template(&self, spec: &Spec) -> Vec<Item> {
        template::unwrapped(self.quirks, spec, Home::Site)
    }
}

impl Class<'_> {
    /// Wraps a key as central does (RFC 5649).
    pub(super) fn wrap(&self, key: &[u8]) -> Result<Vec<u8>, Error> {
        let mut out = vec![0; key.len().next_multiple_of(8) + 8];
        let wrapped = AesKek::new(&AES_256, &self.value[..])
            .and_then(|kek| kek.wrap_with_padding(key, &mut out).map(|blob| blob.len()));
        let len = wrapped.map_err(|_| Error::answer(TEST, "a key that is not wrapped"))?;
        out.truncate(len);
        Ok(out)
    }
}

pub(super) fn failed(source: CryptokiError) -> Error {
    Error::token(TEST, source)
}

pub(super) const TEST: &str = "a test of a site's role";
const BITS: std::ffi::c_ulong = 2048;
