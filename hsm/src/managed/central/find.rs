//! Central's own keys in the token: what they are called, and that each is what the ceremony has made.
//!
//! Nobody but the officer can make a trusted key, so keys are looked for by name among what is trusted and private, and
//! compared with the template that made them. SoftHSM2 copies no locked key; where a module does, the copy is its
//! equal, and is not chosen from. Invariant: no key is used whose attributes, templates included, differ from those.

use cryptoki::object::{Attribute, AttributeType, ObjectClass, ObjectHandle};
use cryptoki_sys::CK_MECHANISM_TYPE;
use keyhaven_types::{KekId, KeyKind, Purpose};

use crate::{
    Error,
    managed::{
        KekInfo, part,
        template::{self, SETTLED, pool_label, root_label},
    },
    quirks::{Quirks, Ways},
    raw::{Item, entries},
    session::OpenSession,
};

/// How every label of ours begins.
pub(crate) const PREFIX: &str = "keyhaven-";
/// The label of the pair that signs records.
pub(crate) const SIGNING_LABEL: &str = "keyhaven-central";

/// The private key that signs records, and its public part (DER SubjectPublicKeyInfo).
pub(crate) fn signing(session: &OpenSession) -> Result<Option<(ObjectHandle, Vec<u8>)>, Error> {
    let named = |class| {
        [
            Attribute::Class(class),
            Attribute::Token(true),
            Attribute::Label(SIGNING_LABEL.as_bytes().to_vec()),
        ]
    };
    let private = search(session, &named(ObjectClass::PRIVATE_KEY))?;
    let public = search(session, &named(ObjectClass::PUBLIC_KEY))?;
    match (&private[..], &public[..]) {
        ([], []) => Ok(None),
        (&[private], &[public]) => {
            let spki = part::read_pair(session, public, KeyKind::EcP256)?;
            part::prove(session, private, Purpose::Sign, &spki)?;
            Ok(Some((private, spki)))
        }
        _ => Err(Error::UnsupportedKey {
            key: SIGNING_LABEL.to_owned(),
            reason: format!(
                "there are {} private and {} public ones, and one of each must be",
                private.len(),
                public.len()
            ),
        }),
    }
}

/// The root key of a purpose.
pub(crate) fn root(
    session: &OpenSession,
    quirks: &Quirks,
    purpose: Purpose,
) -> Result<Option<ObjectHandle>, Error> {
    let found = search(session, &trusted(&root_label(purpose)))?;
    let key = match found[..] {
        [] => return Ok(None),
        [only] => only,
        _ => return Err(several(root_label(purpose))),
    };
    let made = template::root_kek(quirks, purpose, kwp(quirks));
    check(session, key, &root_label(purpose), &made)?;
    Ok(Some(key))
}

/// The keys for classes, by id.
pub(crate) fn pool(
    session: &OpenSession,
    quirks: &Quirks,
) -> Result<Vec<(KekInfo, ObjectHandle)>, Error> {
    let mut pool: Vec<(KekInfo, ObjectHandle)> = Vec::new();
    for &purpose in Purpose::ALL {
        let label = pool_label(purpose);
        for key in search(session, &trusted(&label))? {
            let id = id(session, key, &label)?;
            check(
                session,
                key,
                &label,
                &template::class_kek(purpose, kwp(quirks), id),
            )?;
            if pool.iter().any(|(known, _)| known.id == id) {
                return Err(several(id.to_string()));
            }
            let label = label.clone();
            pool.push((KekInfo { id, purpose, label }, key));
        }
    }
    Ok(pool)
}

/// Which mechanism is the key wrapping of RFC 5649 here. The ceremony allows its keys this one alone.
pub(crate) fn kwp(quirks: &Quirks) -> CK_MECHANISM_TYPE {
    Ways::first_of(quirks).wrap.mechanism()
}

/// An object's label, for messages.
pub(crate) fn label(session: &OpenSession, object: ObjectHandle) -> Option<String> {
    match session
        .get_attributes(object, &[AttributeType::Label])
        .ok()?
        .pop()?
    {
        Attribute::Label(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
        _ => None,
    }
}

/// Compares a key with the template that made it, and with what the user's copy has made of that.
pub(crate) fn check(
    session: &OpenSession,
    key: ObjectHandle,
    name: &str,
    made: &[Item],
) -> Result<(), Error> {
    let differs = |what: &str| Error::UnsupportedKey {
        key: name.to_owned(),
        reason: format!("its {what} differ from what the ceremony makes; it may not be used"),
    };
    let failed = |source| Error::token("reading a key's attributes", source);
    let mut wanted: Vec<Attribute> = SETTLED.into();
    for item in made {
        match item {
            Item::Plain(Attribute::Token(_) | Attribute::Private(_)) => {}
            Item::Plain(attribute) => wanted.push(attribute.clone()),
            Item::Allowed(mechanisms) => {
                let found = session
                    .bytes(key, AttributeType::AllowedMechanisms)
                    .map_err(failed)?;
                let wanted = mechanisms.iter().flat_map(|one| one.to_ne_bytes());
                if !found.iter().copied().eq(wanted) {
                    return Err(differs("allowed mechanisms"));
                }
            }
            Item::Template(kind, inner) => {
                let raw = session.raw().map_err(failed)?;
                let mut found = raw.template_of(session, key, *kind).map_err(failed)?;
                let mut wanted = entries(inner);
                found.sort_unstable();
                wanted.sort_unstable();
                if found != wanted {
                    return Err(differs("templates"));
                }
            }
        }
    }
    for attribute in wanted {
        let kind = attribute.attribute_type();
        if session.get_attributes(key, &[kind]).map_err(failed)? != [attribute] {
            return Err(differs(&format!("attributes ({kind})")));
        }
    }
    Ok(())
}

fn several(key: String) -> Error {
    Error::UnsupportedKey {
        key,
        reason: "there is more than one by this name".to_owned(),
    }
}

fn trusted(label: &str) -> [Attribute; 5] {
    [
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Trusted(true),
        Attribute::Label(label.as_bytes().to_vec()),
    ]
}

fn id(session: &OpenSession, key: ObjectHandle, label: &str) -> Result<KekId, Error> {
    let found = session
        .get_attributes(key, &[AttributeType::Id])
        .map_err(|source| Error::token("reading a key's id", source))?;
    let id = match &found[..] {
        [Attribute::Id(bytes)] => bytes.as_slice().try_into().ok().map(KekId),
        _ => None,
    };
    id.ok_or_else(|| Error::UnsupportedKey {
        key: label.to_owned(),
        reason: "its CKA_ID is not of 16 bytes".to_owned(),
    })
}

fn search(session: &OpenSession, template: &[Attribute]) -> Result<Vec<ObjectHandle>, Error> {
    session
        .find_objects(template)
        .map_err(|source| Error::token("finding central's keys", source))
}
