//! The acts that central's module must refuse, and the same acts where they are allowed.
//!
//! Invariant: every object is a session object and is destroyed at the end of its test.

use cryptoki::object::{Attribute, KeyType, ObjectClass};
use cryptoki_sys::{CKA_UNWRAP_TEMPLATE, CKA_WRAP_TEMPLATE, CKM_AES_KEY_WRAP};
use keyhaven_types::{KeyId, KeyKind, Purpose};

use super::bench::{Probes, untried, usages};
use crate::{
    Error,
    managed::{
        Spec,
        scoped::Scoped,
        template::{self, Home, LOCKED, plain},
    },
    raw::Item,
};

/// Whether the module refused what it must refuse.
pub(super) enum Refused {
    Yes,
    /// How it did not.
    No(&'static str),
}

use Refused::{No, Yes};

type Outcome = Result<Refused, Error>;

impl Probes<'_> {
    /// By birth, by a change, and by a copy.
    pub(super) fn trusts_nobody(&self) -> Outcome {
        let trusted = Attribute::Trusted(true);
        let born = self.try_aes([vec![Attribute::Wrap(true)], vec![trusted.clone()]].concat());
        if born.is_ok_and(|key| self.has(&key, &trusted)) {
            return Ok(No("a user's key was born trusted"));
        }
        let key = self.aes(vec![Attribute::Wrap(true)])?;
        if self.changes(&key, &trusted) {
            return Ok(No("a user's key was marked"));
        }
        if self.copies(&key, &trusted) {
            return Ok(No("a copy of a user's key was marked"));
        }
        Ok(Yes)
    }

    pub(super) fn wraps_with_trusted_alone(&self) -> Outcome {
        let own = self.aes(vec![Attribute::Wrap(true)])?;
        let free = [Attribute::Extractable(true)];
        let held = [
            Attribute::Extractable(true),
            Attribute::WrapWithTrusted(true),
        ];
        self.wrap(&own, &self.aes(free.to_vec())?)
            .map_err(untried)?;
        self.wrap(&own, &self.pair(free.to_vec())?)
            .map_err(untried)?;
        let secret = self.aes(held.to_vec())?;
        if self.wrap(&own, &secret).is_ok() {
            return Ok(No("a secret key was wrapped under an untrusted one"));
        }
        if self.changes(&secret, &Attribute::WrapWithTrusted(false))
            && self.wrap(&own, &secret).is_ok()
        {
            return Ok(No("the flag was taken away"));
        }
        if self.wrap(&own, &self.pair(held.to_vec())?).is_ok() {
            return Ok(No("a private key was wrapped under an untrusted one"));
        }
        Ok(Yes)
    }

    pub(super) fn keeps_what_is_not_extractable(&self) -> Outcome {
        let own = self.aes(vec![Attribute::Wrap(true)])?;
        let free = vec![Attribute::Extractable(true)];
        self.wrap(&own, &self.aes(free)?).map_err(untried)?;
        let held = vec![Attribute::Extractable(false)];
        let (secret, pair) = (self.aes(held.clone())?, self.pair(held)?);
        if self.wrap(&own, &secret).is_ok() || self.wrap(&own, &pair).is_ok() {
            return Ok(No("a key that is not extractable was wrapped"));
        }
        let extractable = Attribute::Extractable(true);
        if self.changes(&secret, &extractable) || self.copies(&secret, &extractable) {
            return Ok(No("a key was made extractable"));
        }
        Ok(Yes)
    }

    /// As a root key unwraps: a private key for handshakes, and a key for data.
    pub(super) fn unwraps_by_template(&self) -> Outcome {
        for purpose in [Purpose::Handshake, Purpose::Data] {
            let mut own = usages(&[Attribute::Wrap(true), Attribute::Unwrap(true)]);
            let inner = template::managed(self.quirks, purpose, Home::Central);
            own.push(Item::Allowed(vec![self.kwp]));
            own.push(Item::Template(CKA_UNWRAP_TEMPLATE, inner));
            own.extend(plain(LOCKED));
            let own = self.generate(own).map_err(untried)?;
            let free = vec![Attribute::Extractable(true)];
            let (key, kind) = match purpose {
                Purpose::Data => (self.aes(free)?, KeyKind::Aes256),
                _ => (self.pair(free)?, KeyKind::EcP256),
            };
            let blob = self.wrap(&own, &key).map_err(untried)?;
            let id = KeyId([0; 16]);
            let spec = Spec {
                id,
                version: 1,
                kind,
                purpose,
            };
            let honest = template::unwrapped(self.quirks, &spec, Home::Central);
            self.unwrap(&own, self.kwp, &blob, &honest)
                .map_err(untried)?;
            for weaker in [
                Attribute::Sensitive(false),
                Attribute::WrapWithTrusted(false),
                Attribute::Derive(true),
                Attribute::Unwrap(true),
            ] {
                if self.unwraps_weaker(&own, &blob, &honest, &weaker) {
                    return Ok(No("a key came out weaker than the template says"));
                }
            }
            let generic = plain([
                Attribute::Class(ObjectClass::SECRET_KEY),
                Attribute::KeyType(KeyType::GENERIC_SECRET),
                Attribute::Token(false),
                Attribute::Sensitive(false),
                Attribute::Extractable(true),
            ]);
            if self.unwrap(&own, self.kwp, &blob, &generic).is_ok() {
                return Ok(No("a key came out as a secret that can be read"));
            }
        }
        Ok(Yes)
    }

    /// As a class's key for data wraps: another such key must not go out under it.
    pub(super) fn wraps_by_template(&self) -> Outcome {
        let mut own = usages(&[Attribute::Wrap(true)]);
        own.push(Item::Allowed(vec![self.kwp]));
        own.push(Item::Template(
            CKA_WRAP_TEMPLATE,
            vec![
                Attribute::Class(ObjectClass::SECRET_KEY),
                Attribute::Encrypt(true),
                Attribute::Wrap(false),
            ],
        ));
        own.extend(plain(LOCKED));
        let own = self.generate(own).map_err(untried)?;
        let free = Attribute::Extractable(true);
        let data = self.aes(vec![free.clone(), Attribute::Encrypt(true)])?;
        self.wrap(&own, &data).map_err(untried)?;
        let kek = self.aes(vec![free.clone(), Attribute::Wrap(true)])?;
        if self.wrap(&own, &kek).is_ok() {
            return Ok(No("a key that wraps was wrapped as data"));
        }
        if self.wrap(&own, &self.pair(vec![free])?).is_ok() {
            return Ok(No("a private key was wrapped as data"));
        }
        Ok(Yes)
    }

    /// Two keys of one value: what the free one has wrapped in another way, the bound one does not unwrap.
    pub(super) fn unwraps_by_one_mechanism(&self) -> Outcome {
        let known = |more: Vec<Item>| {
            let mut template = usages(&[Attribute::Wrap(true), Attribute::Unwrap(true)]);
            template.retain(|item| !matches!(item, Item::Plain(Attribute::ValueLen(_))));
            template.extend(plain([
                Attribute::Class(ObjectClass::SECRET_KEY),
                Attribute::KeyType(KeyType::AES),
                Attribute::Value(KNOWN.to_vec()),
            ]));
            template.extend(more);
            let raw = self.session.raw()?;
            let key = raw.create_object(self.session, &template)?;
            Ok(Scoped::new(self.session, key))
        };
        let free = known(Vec::new()).map_err(untried)?;
        let bound = known(vec![Item::Allowed(vec![self.kwp])]).map_err(untried)?;
        let secret = self.aes(vec![Attribute::Extractable(true)])?;
        let as_secret = plain([
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(KeyType::AES),
            Attribute::Token(false),
        ]);
        let padded = self.wrap(&free, &secret).map_err(untried)?;
        let bare = self
            .wrap_by(CKM_AES_KEY_WRAP, &free, &secret)
            .map_err(untried)?;
        self.unwrap(&bound, self.kwp, &padded, &as_secret)
            .map_err(untried)?;
        self.unwrap(&free, CKM_AES_KEY_WRAP, &bare, &as_secret)
            .map_err(untried)?;
        if self
            .unwrap(&bound, CKM_AES_KEY_WRAP, &bare, &as_secret)
            .is_ok()
        {
            return Ok(No("a key unwrapped by a mechanism that it is not allowed"));
        }
        Ok(Yes)
    }

    /// As the ceremony leaves a key that wraps: no usage is added, neither to it nor to a copy.
    pub(super) fn changes_nothing_locked(&self) -> Outcome {
        let mut own = usages(&[Attribute::Wrap(true)]);
        own.extend(plain([Attribute::Modifiable(false)]));
        let key = self.generate(own).map_err(untried)?;
        for more in [
            Attribute::Decrypt(true),
            Attribute::Unwrap(true),
            Attribute::Modifiable(true),
        ] {
            if self.changes(&key, &more) {
                return Ok(No("a locked key was changed"));
            }
            if self.copies(&key, &more) {
                return Ok(No("a copy of a locked key was changed"));
            }
        }
        let emptied = [Item::Template(CKA_UNWRAP_TEMPLATE, Vec::new())];
        let raw = self.session.raw().map_err(untried)?;
        if raw
            .set_attributes(self.session, key.handle(), &emptied)
            .is_ok()
        {
            return Ok(No("a locked key was given a template"));
        }
        Ok(Yes)
    }

    fn unwraps_weaker(
        &self,
        own: &Scoped<'_>,
        blob: &[u8],
        honest: &[Item],
        weaker: &Attribute,
    ) -> bool {
        let kind = weaker.attribute_type();
        let mut template = honest.to_vec();
        template.retain(
            |item| !matches!(item, Item::Plain(attribute) if attribute.attribute_type() == kind),
        );
        template.insert(0, Item::Plain(weaker.clone()));
        match self.unwrap(own, self.kwp, blob, &template) {
            // A module may let the template win.
            Ok(key) => self.has(&key, weaker),
            Err(_) => false,
        }
    }
}

/// No secret.
const KNOWN: &[u8; 32] = b"keyhaven: a key that all know...";
