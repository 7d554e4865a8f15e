//! Keys of classes in a site's token: what they are called, and that each is held to its purpose.
//!
//! How they come in is `enrol`'s business. Whoever has the login can put a key of his own beside them, so a key counts
//! only if it has the attributes of an enrolment and refuses what its template forbids. Invariant: no key is used that
//! does not, and none that shares its id or its name with another.

use cryptoki::{
    error::{Error as CryptokiError, RvError},
    mechanism::Mechanism,
    object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle},
};
use cryptoki_sys::CK_MECHANISM_TYPE;
use keyhaven_types::{KekId, KeyId, KeyKind, Name, Purpose};

use crate::{
    Error,
    managed::{
        Spec,
        template::{self, Home, plain},
    },
    quirks::Quirks,
    raw::{Item, Way},
    session::OpenSession,
};

/// A key of a class at a site: it unwraps the class's keys of one purpose, in one epoch.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KekName {
    /// The class.
    pub class: Name,
    /// What the keys are for that it unwraps.
    pub purpose: Purpose,
    /// Which of the class's keys for this purpose it is, from 1.
    pub epoch: u32,
    /// Its CKA_ID, at central and here.
    pub id: KekId,
}

impl KekName {
    /// Its label in the token: `kh-kek:CLASS:PURPOSE:EPOCH`. No part has a colon in it.
    pub fn label(&self) -> String {
        format!("{PREFIX}{}:{}:{}", self.class, self.purpose, self.epoch)
    }

    fn parse(label: &str, id: KekId) -> Option<Self> {
        let mut parts = label.strip_prefix(PREFIX)?.split(':');
        let name = Self {
            class: parts.next()?.parse().ok()?,
            purpose: parts.next()?.parse().ok()?,
            epoch: parts.next()?.parse().ok()?,
            id,
        };
        // One spelling for one name.
        (name.label() == label).then_some(name)
    }
}

/// A key in one login.
#[derive(Clone, Debug)]
pub(super) struct Kek {
    pub(super) name: KekName,
    pub(super) handle: ObjectHandle,
}

/// Every key of a class that is fit for use. What is not is told to the log.
pub(super) fn find(
    session: &OpenSession,
    quirks: &Quirks,
    kwp: CK_MECHANISM_TYPE,
) -> Result<Vec<Kek>, Error> {
    let mut all = named(session)?;
    all.sort_by(|a, b| a.name.cmp(&b.name));
    let mut fit = Vec::new();
    for kek in &all {
        let is_same = |other: &&Kek| {
            let (a, b) = (&kek.name, &other.name);
            a.id == b.id || (&a.class, a.purpose, a.epoch) == (&b.class, b.purpose, b.epoch)
        };
        let unfit = if all.iter().filter(is_same).count() > 1 {
            Some("it is not the only one by this id or name".to_owned())
        } else {
            unfit(session, quirks, kwp, kek.name.purpose, kek.handle)?
        };
        match unfit {
            None => fit.push(kek.clone()),
            Some(reason) => {
                let key = kek.name.label();
                tracing::error!(key, reason, "a class's key may not be used");
            }
        }
    }
    Ok(fit)
}

/// Every secret key of the token with a label of ours, fit or not.
pub(super) fn named(session: &OpenSession) -> Result<Vec<Kek>, Error> {
    let failed = |source| Error::token("finding the keys of classes", source);
    let template = [
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::Token(true),
    ];
    let mut found = Vec::new();
    for handle in session.find_objects(&template).map_err(failed)? {
        let types = [AttributeType::Label, AttributeType::Id];
        let attributes = session.get_attributes(handle, &types).map_err(failed)?;
        let [Attribute::Label(label), Attribute::Id(id)] = &attributes[..] else {
            continue;
        };
        let id = id.as_slice().try_into().ok().map(KekId);
        let label = std::str::from_utf8(label).ok();
        let name = label
            .zip(id)
            .and_then(|(label, id)| KekName::parse(label, id));
        found.extend(name.map(|name| Kek { name, handle }));
    }
    Ok(found)
}

/// Why a key may not be used, if there is a reason: by its attributes, and then by what it does, since not every module
/// tells the templates of a key.
pub(super) fn unfit(
    session: &OpenSession,
    quirks: &Quirks,
    kwp: CK_MECHANISM_TYPE,
    purpose: Purpose,
    key: ObjectHandle,
) -> Result<Option<String>, Error> {
    let failed = |source| Error::token("looking at a class's key", source);
    // Label and id are what it was found by.
    for item in template::site_kek(quirks, purpose, kwp, "", KekId([0; 16])) {
        let Item::Plain(wanted) = item else { continue };
        let kind = wanted.attribute_type();
        if matches!(kind, AttributeType::Label | AttributeType::Id) {
            continue;
        }
        if session.get_attributes(key, &[kind]).map_err(failed)? != [wanted] {
            return Ok(Some(format!("its {kind} is not that of an enrolment")));
        }
    }
    if session.value(key).is_ok() {
        return Ok(Some("it can be read".to_owned()));
    }
    let raw = session.raw().map_err(failed)?;
    let mut out = [0; BLOCK_LEN];
    let by_block = raw.decrypt(session, &Mechanism::AesEcb, key, &[0; BLOCK_LEN], &mut out);
    if by_block.is_ok() {
        return Ok(Some("it decrypts".to_owned()));
    }
    heeds_template(session, quirks, kwp, purpose, key)
}

/// Both modules look at templates before they look at the blob, so that a blob that nobody has made tells whether the
/// key has its template: what obeys it fails in another way than what does not.
fn heeds_template(
    session: &OpenSession,
    quirks: &Quirks,
    kwp: CK_MECHANISM_TYPE,
    purpose: Purpose,
    key: ObjectHandle,
) -> Result<Option<String>, Error> {
    let honest = template::unwrapped(quirks, &sample(purpose), Home::Site);
    let is_by_template = |template: &[Item]| match try_unwrap(session, kwp, key, template) {
        Err(CryptokiError::Pkcs11(RvError::TemplateInconsistent, _)) => Ok(true),
        Ok(made) => {
            session
                .destroy_object(made)
                .map_err(|source| Error::token("destroying what a made-up blob became", source))?;
            Ok(false)
        }
        Err(_) => Ok(false),
    };
    if is_by_template(&honest)? {
        return Ok(Some("its template is not that of its purpose".to_owned()));
    }
    for (weaker, what) in [
        (Attribute::Sensitive(false), "keys that can be read"),
        (Attribute::Extractable(true), "keys that can be wrapped"),
        (Attribute::Derive(true), "keys that derive"),
    ] {
        if !is_by_template(&with(&honest, weaker))? {
            return Ok(Some(format!("it unwraps {what}")));
        }
    }
    let generic = plain([
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::GENERIC_SECRET),
        Attribute::Token(false),
        Attribute::Sensitive(false),
        Attribute::Extractable(true),
    ]);
    Ok((!is_by_template(&generic)?).then(|| "it unwraps what it likes".to_owned()))
}

fn try_unwrap(
    session: &OpenSession,
    kwp: CK_MECHANISM_TYPE,
    key: ObjectHandle,
    template: &[Item],
) -> Result<ObjectHandle, CryptokiError> {
    let raw = session.raw()?;
    raw.unwrap_to(session, Way::Bare(kwp), key, MADE_UP, template)
}

/// The template with this attribute in place of its own, at the beginning: what locks comes last.
pub(super) fn with(template: &[Item], attribute: Attribute) -> Vec<Item> {
    let kind = attribute.attribute_type();
    let is_other =
        |item: &&Item| !matches!(item, Item::Plain(plain) if plain.attribute_type() == kind);
    let mut changed: Vec<Item> = template.iter().filter(is_other).cloned().collect();
    changed.insert(0, Item::Plain(attribute));
    changed
}

/// A key of the purpose that is not there.
pub(super) fn sample(purpose: Purpose) -> Spec {
    let kind = match purpose {
        Purpose::Handshake | Purpose::Sign => KeyKind::EcP256,
        Purpose::Decrypt => KeyKind::Rsa2048,
        Purpose::Data | Purpose::Wrap => KeyKind::Aes256,
        Purpose::Mac | Purpose::Tickets => KeyKind::Hmac,
    };
    Spec {
        id: KeyId([0; 16]),
        version: 1,
        kind,
        purpose,
    }
}

/// How every label of a class's key begins.
const PREFIX: &str = "kh-kek:";
/// As long as a wrapped secret of 32 bytes.
const MADE_UP: &[u8] = b"keyhaven: no key has wrapped this blob..";
const BLOCK_LEN: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_read_back_and_has_one_spelling() {
        let name = KekName {
            class: "web.eu-1".parse().unwrap(),
            purpose: Purpose::Handshake,
            epoch: 7,
            id: KekId([1; 16]),
        };
        assert_eq!(name.label(), "kh-kek:web.eu-1:handshake:7");
        assert_eq!(KekName::parse(&name.label(), name.id), Some(name.clone()));
        for bad in [
            "kh-kek:web.eu-1:handshake:07",
            "kh-kek:web.eu-1:handshake:+7",
            "kh-kek:web.eu-1:handshake:7:8",
            "kh-kek:web.eu-1:7",
            "kh-kek::handshake:7",
            "web.eu-1:handshake:7",
        ] {
            assert_eq!(KekName::parse(bad, name.id), None, "{bad}");
        }
    }

    #[test]
    fn a_made_up_blob_is_as_long_as_a_wrapped_secret() {
        assert_eq!(MADE_UP.len(), 40);
    }
}
