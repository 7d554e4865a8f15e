//! What the tests of a role are made with: keys of the session, and what is done to them.
//!
//! Which of it must be refused is said in `probes`. Invariant: every object is a session object and is destroyed with the
//! value that stands for it.

use cryptoki::{
    error::Error as CryptokiError,
    mechanism::Mechanism,
    object::{Attribute, AttributeType},
};
use cryptoki_sys::CK_MECHANISM_TYPE;

use crate::{
    Error,
    admin::public::P256_PARAMS,
    managed::{
        central::find,
        scoped::Scoped,
        template::{self, AES_LEN, plain},
    },
    quirks::Quirks,
    raw::{Item, Way},
    session::OpenSession,
    template::value_len,
};

/// A session for the tests.
pub(super) struct Probes<'a> {
    pub(super) session: &'a OpenSession,
    pub(super) quirks: &'static Quirks,
    pub(super) kwp: CK_MECHANISM_TYPE,
}

impl<'a> Probes<'a> {
    pub(super) fn new(session: &'a OpenSession, quirks: &'static Quirks) -> Self {
        Self {
            session,
            quirks,
            kwp: find::kwp(quirks),
        }
    }

    /// Whether C_SetAttributeValue changes it.
    pub(super) fn changes(&self, key: &Scoped<'_>, to: &Attribute) -> bool {
        let set = self
            .session
            .update_attributes(key.handle(), std::slice::from_ref(to));
        set.is_ok() && self.has(key, to)
    }

    /// Whether C_CopyObject changes it.
    pub(super) fn copies(&self, key: &Scoped<'_>, to: &Attribute) -> bool {
        let copy = self
            .session
            .copy_object(key.handle(), std::slice::from_ref(to));
        copy.is_ok_and(|copy| self.has(&Scoped::new(self.session, copy), to))
    }

    pub(super) fn has(&self, key: &Scoped<'_>, flag: &Attribute) -> bool {
        let kind: AttributeType = flag.attribute_type();
        let found = self.session.get_attributes(key.handle(), &[kind]);
        found.is_ok_and(|found| found.contains(flag))
    }

    pub(super) fn aes(&self, with: Vec<Attribute>) -> Result<Scoped<'a>, Error> {
        self.try_aes(with).map_err(untried)
    }

    pub(super) fn try_aes(&self, with: Vec<Attribute>) -> Result<Scoped<'a>, CryptokiError> {
        self.generate(usages(&with))
    }

    pub(super) fn generate(&self, template: Vec<Item>) -> Result<Scoped<'a>, CryptokiError> {
        let raw = self.session.raw()?;
        let key = raw.generate_key(self.session, &Mechanism::AesKeyGen, &template)?;
        Ok(Scoped::new(self.session, key))
    }

    /// The private key of a pair that signs.
    pub(super) fn pair(&self, with: Vec<Attribute>) -> Result<Scoped<'a>, Error> {
        let mut private = vec![
            Attribute::Token(false),
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Sign(true),
            Attribute::SignRecover(false),
            Attribute::Decrypt(false),
            Attribute::Unwrap(false),
            Attribute::Derive(false),
        ];
        private.extend(with);
        let public = template::made_public(vec![Attribute::EcParams(P256_PARAMS.to_vec())]);
        let (public, private) = self
            .session
            .raw()
            .and_then(|raw| {
                raw.generate_pair(
                    self.session,
                    &Mechanism::EccKeyPairGen,
                    &public,
                    &plain(private),
                )
            })
            .map_err(untried)?;
        drop(Scoped::new(self.session, public));
        Ok(Scoped::new(self.session, private))
    }

    pub(super) fn wrap(
        &self,
        with: &Scoped<'_>,
        key: &Scoped<'_>,
    ) -> Result<Vec<u8>, CryptokiError> {
        self.wrap_by(self.kwp, with, key)
    }

    pub(super) fn wrap_by(
        &self,
        mechanism: CK_MECHANISM_TYPE,
        with: &Scoped<'_>,
        key: &Scoped<'_>,
    ) -> Result<Vec<u8>, CryptokiError> {
        let mut out = vec![0; BLOB_MAX];
        let way = Way::Bare(mechanism);
        let raw = self.session.raw()?;
        let len = raw.wrap_by(self.session, way, with.handle(), key.handle(), &mut out)?;
        out.truncate(len);
        Ok(out)
    }

    pub(super) fn unwrap(
        &self,
        with: &Scoped<'_>,
        mechanism: CK_MECHANISM_TYPE,
        blob: &[u8],
        template: &[Item],
    ) -> Result<Scoped<'a>, CryptokiError> {
        let raw = self.session.raw()?;
        let way = Way::Bare(mechanism);
        let key = raw.unwrap_to(self.session, way, with.handle(), blob, template)?;
        Ok(Scoped::new(self.session, key))
    }
}

/// A session key of AES-256 with these attributes; every usage that is not among them is denied.
pub(super) fn usages(with: &[Attribute]) -> Vec<Item> {
    let mut template = vec![
        value_len(AES_LEN),
        Attribute::Token(false),
        Attribute::Private(true),
        Attribute::Sensitive(true),
    ];
    for usage in [
        Attribute::Encrypt as fn(bool) -> Attribute,
        Attribute::Decrypt,
        Attribute::Wrap,
        Attribute::Unwrap,
        Attribute::Sign,
        Attribute::Verify,
        Attribute::Derive,
    ] {
        if !with.contains(&usage(true)) {
            template.push(usage(false));
        }
    }
    template.extend(with.iter().cloned());
    plain(template)
}

pub(super) fn untried(source: CryptokiError) -> Error {
    Error::token("a test of central's role", source)
}

/// A P-256 key in PKCS#8 has 138 bytes.
const BLOB_MAX: usize = 512;
