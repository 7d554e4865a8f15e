//! Where a record stands in the store: `TYPE/…`, so that a prefix is all records of a type and a scan is bounded.

use keyhaven_types::{Identity, KeyId, Name};
use keyhaven_wire::kms::{Record, Scope};

/// A key in the store, below the store's own prefix.
pub type StoreKey = Vec<u8>;

/// The head.
pub const HEAD: &[u8] = b"head";
/// The first key of the log of heads.
pub const HEADS: &[u8] = b"h/";
/// After every key of ours.
pub const END: &[u8] = b"~";

/// A past head.
pub fn past_head(revision: u64) -> StoreKey {
    [HEADS, &revision.to_be_bytes()].concat()
}

/// A class.
pub fn class(name: &Name) -> StoreKey {
    format!("c/{name}").into_bytes()
}

/// A key.
pub fn key(id: KeyId) -> StoreKey {
    format!("k/{id}").into_bytes()
}

/// A key's version.
pub fn version(id: KeyId, version: u32) -> StoreKey {
    format!("v/{id}/{version:08x}").into_bytes()
}

/// A site.
pub fn site(name: &Name) -> StoreKey {
    format!("s/{name}").into_bytes()
}

/// A grant.
pub fn grant(scope: &Scope, identity: &Identity) -> StoreKey {
    match scope {
        Scope::Key(id) => format!("g/{id}/{identity}").into_bytes(),
        Scope::Server => format!("g/server/{identity}").into_bytes(),
    }
}

/// A store key, for people.
pub fn name(key: &[u8]) -> String {
    match key.strip_prefix(HEADS).map(<[u8; 8]>::try_from) {
        Some(Ok(revision)) => format!("h/{}", u64::from_be_bytes(revision)),
        _ => String::from_utf8_lossy(key).into_owned(),
    }
}

/// Where a record belongs; none for what is not kept under a name of its own.
pub fn of(record: &Record) -> Option<StoreKey> {
    Some(match record {
        Record::Head(_) => HEAD.to_vec(),
        Record::Class(record) => class(&record.name),
        Record::Key(record) => key(record.id),
        Record::Version(manifest) => version(manifest.id, manifest.version),
        Record::Site(record) => site(&record.name),
        Record::Grant(record) => grant(&record.scope, &record.identity),
        Record::Delivery(_) => return None,
    })
}

/// The revision that a record carries; none for what has none.
pub fn revision_of(record: &Record) -> Option<u64> {
    Some(match record {
        Record::Head(head) => head.revision,
        Record::Class(record) => record.revision,
        Record::Key(record) => record.revision,
        Record::Version(manifest) => manifest.revision,
        Record::Site(record) => record.revision,
        Record::Grant(record) => record.revision,
        Record::Delivery(_) => return None,
    })
}
