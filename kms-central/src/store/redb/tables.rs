//! What is in the file: values as they are, values as they were, and what each revision wrote.
//!
//! Works inside a transaction that others begin and commit. Invariant: as far back as changes are known, every value can
//! be read as it was at any revision, so an event never tells of a later one.

use redb::{ReadTransaction, ReadableTable, StorageError, TableDefinition, WriteTransaction};

use super::fault::{storage, table};
use crate::store::{Event, Guard, Key, Page, StoreError, Stored, Txn};

/// A revision and what was written at it.
type Versioned = (u64, &'static [u8]);
/// A key and the revision that replaced what is kept here.
type Replaced = (&'static [u8], u64);

/// Values by key, each behind the revision that wrote it.
const DATA: TableDefinition<'_, &[u8], Versioned> = TableDefinition::new("data");
/// Values that were replaced, as long as the change that replaced them is known.
const PAST: TableDefinition<'_, Replaced, Versioned> = TableDefinition::new("past");
/// What each revision wrote: postcard of the keys.
const CHANGES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("changes");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const REVISION: &str = "revision";
/// The first revision whose changes are still known.
const KNOWN_FROM: &str = "known-from";

/// Makes what tables are missing; the revision that it is at.
pub(super) fn prepare(write: &WriteTransaction) -> Result<u64, StoreError> {
    write.open_table(DATA).map_err(table)?;
    write.open_table(PAST).map_err(table)?;
    write.open_table(CHANGES).map_err(table)?;
    number(&write.open_table(META).map_err(table)?, REVISION, 0)
}

/// Does everything but commit; the new revision, or nothing when a guard does not hold.
pub(super) fn fill(write: &WriteTransaction, txn: &Txn) -> Result<Option<u64>, StoreError> {
    let mut data = write.open_table(DATA).map_err(table)?;
    for (key, guard) in &txn.guards {
        let found = data.get(key.as_slice()).map_err(storage)?;
        let found = found.map(|value| value.value().0);
        let holds = match guard {
            Guard::Absent => found.is_none(),
            Guard::At(revision) => found == Some(*revision),
        };
        if !holds {
            return Ok(None);
        }
    }
    let mut meta = write.open_table(META).map_err(table)?;
    let mut past = write.open_table(PAST).map_err(table)?;
    let revision = number(&meta, REVISION, 0)? + 1;
    for (key, value) in &txn.puts {
        let before = data
            .insert(key.as_slice(), (revision, value.as_slice()))
            .map_err(storage)?;
        if let Some(before) = before {
            past.insert((key.as_slice(), revision), before.value())
                .map_err(storage)?;
        }
    }
    let keys: Vec<&Key> = txn.puts.iter().map(|(key, _)| key).collect();
    let keys = postcard::to_stdvec(&keys).map_err(|_| StoreError::TooLarge)?;
    let mut changes = write.open_table(CHANGES).map_err(table)?;
    changes.insert(revision, keys.as_slice()).map_err(storage)?;
    meta.insert(REVISION, revision).map_err(storage)?;
    drop((data, meta, past, changes));
    if let Some(before) = revision.checked_sub(CHANGES_KEPT - 1) {
        forget(write, before)?;
    }
    Ok(Some(revision))
}

/// Forgets changes before this revision, with the values that they replaced.
pub(super) fn forget(write: &WriteTransaction, before: u64) -> Result<(), StoreError> {
    let mut meta = write.open_table(META).map_err(table)?;
    let mut changes = write.open_table(CHANGES).map_err(table)?;
    let mut past = write.open_table(PAST).map_err(table)?;
    let known_from = number(&meta, KNOWN_FROM, 1)?;
    let before = before.min(number(&meta, REVISION, 0)? + 1);
    for revision in known_from..before {
        if let Some(keys) = changes.remove(revision).map_err(storage)? {
            for key in read_keys(keys.value())? {
                past.remove((key.as_slice(), revision)).map_err(storage)?;
            }
        }
    }
    if before > known_from {
        meta.insert(KNOWN_FROM, before).map_err(storage)?;
    }
    Ok(())
}

/// One value as it is.
pub(super) fn get(read: &ReadTransaction, key: &[u8]) -> Result<Option<Stored>, StoreError> {
    let data = read.open_table(DATA).map_err(table)?;
    let found = data.get(key).map_err(storage)?;
    Ok(found.map(|value| stored(value.value())))
}

/// A page of what is from `from` to before `to`, as it was at `at`.
pub(super) fn page(
    read: &ReadTransaction,
    (from, to): (&[u8], &[u8]),
    at: Option<u64>,
    limit: usize,
) -> Result<Page, StoreError> {
    let data = read.open_table(DATA).map_err(table)?;
    let past = read.open_table(PAST).map_err(table)?;
    let meta = read.open_table(META).map_err(table)?;
    let now = number(&meta, REVISION, 0)?;
    let revision = at.unwrap_or(now);
    if revision > now {
        return Err(StoreError::NotYet { at: revision });
    }
    if revision + 1 < number(&meta, KNOWN_FROM, 1)? {
        return Err(StoreError::Forgotten { at: revision });
    }
    let mut page = Page {
        items: Vec::new(),
        revision,
        more: false,
    };
    for item in data.range(from..to).map_err(storage)? {
        let (key, value) = item.map_err(storage)?;
        let Some(found) = as_of(&past, key.value(), value.value(), revision)? else {
            continue;
        };
        if page.items.len() == limit {
            page.more = true;
            break;
        }
        page.items.push((key.value().to_vec(), found));
    }
    Ok(page)
}

/// What a revision wrote; the first revision that is known when this one was forgotten.
pub(super) fn event(
    read: &ReadTransaction,
    revision: u64,
) -> Result<Result<Event, u64>, StoreError> {
    let meta = read.open_table(META).map_err(table)?;
    let known_from = number(&meta, KNOWN_FROM, 1)?;
    if revision < known_from {
        return Ok(Err(known_from));
    }
    let data = read.open_table(DATA).map_err(table)?;
    let past = read.open_table(PAST).map_err(table)?;
    let changes = read.open_table(CHANGES).map_err(table)?;
    let keys = changes.get(revision).map_err(storage)?;
    let keys = keys.ok_or_else(|| corrupt("a revision is missing from the changes"))?;
    let mut found = Vec::new();
    for key in read_keys(keys.value())? {
        let value = data.get(key.as_slice()).map_err(storage)?;
        let value = value.ok_or_else(|| corrupt("a value is missing that was written"))?;
        let value = as_of(&past, &key, value.value(), revision)?
            .filter(|value| value.modified == revision)
            .ok_or_else(|| corrupt("a value is missing that was replaced"))?;
        found.push((key, value));
    }
    Ok(Ok(Event {
        revision,
        changes: found,
    }))
}

/// A key's value as it was at a revision; nothing when it was written first after that. What the first later change
/// replaced is what stood at the revision.
fn as_of(
    past: &impl ReadableTable<Replaced, Versioned>,
    key: &[u8],
    current: (u64, &[u8]),
    revision: u64,
) -> Result<Option<Stored>, StoreError> {
    if current.0 <= revision {
        return Ok(Some(stored(current)));
    }
    let mut later = past
        .range((key, revision + 1)..=(key, u64::MAX))
        .map_err(storage)?;
    let Some(replaced) = later.next() else {
        return Ok(None);
    };
    let (_, value) = replaced.map_err(storage)?;
    Ok(Some(stored(value.value())).filter(|value| value.modified <= revision))
}

fn number(
    meta: &impl ReadableTable<&'static str, u64>,
    name: &str,
    otherwise: u64,
) -> Result<u64, StoreError> {
    let found: Result<_, StorageError> = meta.get(name);
    let found = found.map_err(storage)?;
    Ok(found.map_or(otherwise, |number| number.value()))
}

fn read_keys(bytes: &[u8]) -> Result<Vec<Key>, StoreError> {
    postcard::from_bytes(bytes).map_err(|error| StoreError::Corrupt {
        what: "a list of changes cannot be read",
        source: Some(error.into()),
    })
}

fn corrupt(what: &'static str) -> StoreError {
    StoreError::Corrupt { what, source: None }
}

fn stored((modified, value): (u64, &[u8])) -> Stored {
    Stored {
        value: value.to_vec(),
        modified,
    }
}

/// Revisions whose changes are kept for watches that resume.
const CHANGES_KEPT: u64 = 100_000;

#[cfg(test)]
mod tests {
    use redb::{Database, ReadableDatabase as _, backends::InMemoryBackend};

    use super::*;

    fn database() -> Database {
        let database = Database::builder().create_with_backend(InMemoryBackend::new());
        let database = database.expect("memory is there");
        let write = database.begin_write().expect("it is ours");
        prepare(&write).expect("it is empty");
        write.commit().expect("memory is there");
        database
    }

    fn put(database: &Database, key: &str, value: &str) -> u64 {
        let write = database.begin_write().expect("it is ours");
        let txn = Txn {
            guards: Vec::new(),
            puts: vec![(key.into(), value.into())],
        };
        let revision = fill(&write, &txn).expect("it can be written");
        write.commit().expect("memory is there");
        revision.expect("nothing is guarded")
    }

    fn rows(database: &Database) -> (usize, usize) {
        let read = database.begin_read().expect("it is ours");
        let changes = read.open_table(CHANGES).expect("it was made");
        let past = read.open_table(PAST).expect("it was made");
        (
            changes.iter().expect("it can be read").count(),
            past.iter().expect("it can be read").count(),
        )
    }

    #[test]
    fn what_is_forgotten_takes_the_values_it_replaced_with_it() {
        let database = database();
        for number in 0..10 {
            put(&database, "a", &number.to_string());
        }
        assert_eq!(rows(&database), (10, 9));
        let write = database.begin_write().expect("it is ours");
        forget(&write, 8).expect("it can be written");
        write.commit().expect("memory is there");
        assert_eq!(rows(&database), (3, 3));
        let read = database.begin_read().expect("it is ours");
        assert_eq!(event(&read, 7).expect("it can be read"), Err(8));
        let told = event(&read, 8).expect("it can be read");
        assert_eq!(told.expect("it is known").changes[0].1.value, b"7");
        // The state between what was forgotten and what is known can still be read.
        let then = page(&read, (b"a", b"b"), Some(7), 1).expect("it is known");
        assert_eq!(then.items[0].1.value, b"6");
        let gone = page(&read, (b"a", b"b"), Some(6), 1);
        assert!(matches!(gone, Err(StoreError::Forgotten { at: 6 })));
    }

    #[test]
    fn forgetting_more_than_there_is_forgets_what_there_is() {
        let database = database();
        let last = put(&database, "a", "1");
        let write = database.begin_write().expect("it is ours");
        forget(&write, 1000).expect("it can be written");
        write.commit().expect("memory is there");
        let next = put(&database, "a", "2");
        let read = database.begin_read().expect("it is ours");
        assert_eq!(event(&read, last).expect("it can be read"), Err(next));
        let told = event(&read, next).expect("it can be read");
        assert_eq!(told.expect("it is known").changes[0].1.value, b"2");
    }
}
