//! The file itself: made for its owner alone, locked by one process, and on the disk under its name.
//!
//! Leaves what is in it to the tables. Invariant: a file that was there is never replaced by an empty one.

use std::{
    fs::{File, OpenOptions, Permissions},
    io,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

use redb::{Database, backends::FileBackend};

use super::{
    fault::{begin, commit, remedy_for},
    tables,
};
use crate::store::StoreError;

/// Whether a file that is missing is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missing {
    /// It is: the first start.
    Make,
    /// It is not: it was there before, and an empty one would be a store without a past.
    Refuse,
}

/// Opens it; the revision that it is at comes with it.
pub(super) fn open(
    path: &Path,
    cache_bytes: usize,
    missing: Missing,
) -> Result<(Database, u64), StoreError> {
    let failed = |remedy: &'static str| {
        move |source: Box<dyn std::error::Error + Send + Sync>| StoreError::Open {
            path: path.to_owned(),
            remedy,
            source,
        }
    };
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(missing == Missing::Make)
        .truncate(false)
        .mode(OWNER_ONLY)
        .open(path)
        .map_err(|error| failed("check the folder and its permissions")(error.into()))?;
    keep_for_owner(&file)
        .map_err(|error| failed("it must belong to kms-central's user")(error.into()))?;
    let file = FileBackend::new(file).map_err(|error| failed(remedy_for(&error))(error.into()))?;
    let database = Database::builder()
        .set_cache_size(cache_bytes)
        .create_with_backend(file)
        .map_err(|error| failed(remedy_for(&error))(error.into()))?;
    let write = database.begin_write().map_err(begin)?;
    let revision = tables::prepare(&write)?;
    write.commit().map_err(commit)?;
    if missing == Missing::Make {
        sync_name(path).map_err(|error| failed("check the folder's disk")(error.into()))?;
    }
    Ok((database, revision))
}

/// A backup that was copied back may have come with the rights that its copier gives.
fn keep_for_owner(file: &File) -> io::Result<()> {
    if file.metadata()?.permissions().mode() & 0o077 == 0 {
        return Ok(());
    }
    file.set_permissions(Permissions::from_mode(OWNER_ONLY))
}

/// A new file outlives a power cut only when its folder is on the disk, too.
fn sync_name(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => File::open(folder)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

const OWNER_ONLY: u32 = 0o600;
