//! Finding a vault's keys in a token by what they are called.
//!
//! When to look is `store`'s business. Invariant: a key is only found that was made in the token and never could be
//! read, and looking for a day's pairs costs no more in a token that is full of other keys.

use cryptoki::object::{Attribute, AttributeType, ObjectClass, ObjectHandle};

use super::{
    VaultPurpose,
    keys::Keys,
    store::{KEY_ID_LEN, KeyId, is_old},
};
use crate::{Error, session::OpenSession};

/// A key's part in its pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Wrap,
    Seal,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::Wrap => "wrap",
            Self::Seal => "seal",
        }
    }
}

/// CKA_LABEL.
pub(super) fn label(purpose: VaultPurpose, role: Role, day: u64) -> String {
    format!("{}{} {day}", prefix(purpose), role.name())
}

/// CKA_ID: the pair's and the role, since NSS takes two keys with one CKA_ID for one key.
pub(super) fn key_id(id: KeyId, role: Role) -> Vec<u8> {
    [&id[..], &role.name().as_bytes()[..1]].concat()
}

/// The pairs of a day. Two searches, and one where there is none.
pub(super) fn pairs(
    session: &OpenSession,
    purpose: VaultPurpose,
    day: u64,
) -> Result<Vec<(KeyId, Keys)>, Error> {
    let of_role = |role| {
        let label = label(purpose, role, day).into_bytes();
        find(session, Some(Attribute::Label(label)))
    };
    let wrapping = of_role(Role::Wrap)?;
    if wrapping.is_empty() {
        return Ok(Vec::new());
    }
    let sealing = of_role(Role::Seal)?;
    let pair = |wrap: &Found| {
        let id = *wrap.id.first_chunk::<KEY_ID_LEN>()?;
        let named = |found: &&Found, role| found.id == key_id(id, role);
        let seal = sealing.iter().find(|seal| named(seal, Role::Seal))?;
        let keys = Keys {
            wrap: wrap.handle,
            seal: seal.handle,
        };
        named(&wrap, Role::Wrap).then_some((id, keys))
    };
    Ok(wrapping.iter().filter_map(pair).collect())
}

/// Every key of this purpose that is older than yesterday. One search among all keys of the token.
pub(super) fn older(
    session: &OpenSession,
    purpose: VaultPurpose,
    day: u64,
) -> Result<Vec<ObjectHandle>, Error> {
    let is_old = |found: &Found| {
        read_label(&found.label, purpose).is_some_and(|(_, made)| is_old(made, day))
    };
    let found = find(session, None)?;
    Ok(found
        .iter()
        .filter(|found| is_old(found))
        .map(|found| found.handle)
        .collect())
}

struct Found {
    handle: ObjectHandle,
    label: Vec<u8>,
    id: Vec<u8>,
}

/// The token's secret keys with this label, or all of them, as long as they were made in it and never could be read.
/// CKA_LOCAL is not asked: NSS says it of none.
fn find(session: &OpenSession, label: Option<Attribute>) -> Result<Vec<Found>, Error> {
    let mut template = vec![
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::Token(true),
        Attribute::Sensitive(true),
    ];
    template.extend(label);
    let failed = |source| Error::token("finding a vault's keys", source);
    let objects = session.find_objects(&template).map_err(failed)?;
    let types = [
        AttributeType::Label,
        AttributeType::Id,
        AttributeType::AlwaysSensitive,
        AttributeType::NeverExtractable,
    ];
    let mut found = Vec::new();
    for handle in objects {
        // Another process may have destroyed it meanwhile.
        let Ok(attributes) = session.get_attributes(handle, &types) else {
            continue;
        };
        if let [
            Attribute::Label(label),
            Attribute::Id(id),
            Attribute::AlwaysSensitive(true),
            Attribute::NeverExtractable(true),
        ] = &attributes[..]
        {
            found.push(Found {
                handle,
                label: label.clone(),
                id: id.clone(),
            });
        }
    }
    Ok(found)
}

fn read_label(label: &[u8], purpose: VaultPurpose) -> Option<(Role, u64)> {
    let rest = std::str::from_utf8(label)
        .ok()?
        .strip_prefix(prefix(purpose))?;
    let (role, day) = rest.split_once(' ')?;
    let role = [Role::Wrap, Role::Seal]
        .into_iter()
        .find(|known| known.name() == role)?;
    Some((role, day.parse().ok()?))
}

fn prefix(purpose: VaultPurpose) -> &'static str {
    match purpose {
        VaultPurpose::Ticket => "keyhaven ticket ",
        VaultPurpose::Rekey => "keyhaven rekey ",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_read_for_its_purpose_alone() {
        let read = |label: &str| read_label(label.as_bytes(), VaultPurpose::Ticket);
        assert_eq!(
            read("keyhaven ticket wrap 20780"),
            Some((Role::Wrap, 20780))
        );
        assert_eq!(read("keyhaven ticket seal 1"), Some((Role::Seal, 1)));
        for other in [
            "keyhaven rekey wrap 20780",
            "keyhaven ticket wrap",
            "keyhaven ticket open 20780",
            "keyhaven ticket wrap 20780 ",
            "keyhaven ticket wrap -1",
        ] {
            assert_eq!(read(other), None, "{other}");
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let written = label(VaultPurpose::Rekey, Role::Seal, 7);
        let read = read_label(written.as_bytes(), VaultPurpose::Rekey);
        assert_eq!(read, Some((Role::Seal, 7)));
    }
}
