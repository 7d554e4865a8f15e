//! Whether files changed: by what the file system says of them, without reading them.
//!
//! Invariant: a file that is replaced, rewritten, renamed into place, removed or made is seen as changed.

use std::{
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

/// Files as they were.
#[derive(Debug, Default)]
pub(super) struct Watch(Vec<(PathBuf, Option<Stamp>)>);

/// Device, inode, length, and the times of the last change of content and of state, in nanoseconds.
type Stamp = (u64, u64, u64, (i64, i64), (i64, i64));

impl Watch {
    /// Looks at files.
    pub(super) fn of(files: &[PathBuf]) -> Self {
        let stamped = files.iter().map(|path| (path.clone(), stamp(path)));
        Self(stamped.collect())
    }

    /// Whether one of them is not as it was.
    pub(super) fn has_changed(&self) -> bool {
        self.0.iter().any(|(path, was)| stamp(path) != *was)
    }
}

/// None: it is not there, or cannot be looked at.
fn stamp(path: &Path) -> Option<Stamp> {
    let data = std::fs::metadata(path).ok()?;
    Some((
        data.dev(),
        data.ino(),
        data.len(),
        (data.mtime(), data.mtime_nsec()),
        (data.ctime(), data.ctime_nsec()),
    ))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn every_kind_of_change_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.pem");
        let watch = || Watch::of(std::slice::from_ref(&path));
        let absent = watch();
        assert!(!absent.has_changed());
        fs::write(&path, "one").unwrap();
        assert!(absent.has_changed(), "made");
        let before = watch();
        assert!(!before.has_changed());
        fs::write(folder.path().join("new"), "two").unwrap();
        fs::rename(folder.path().join("new"), &path).unwrap();
        assert!(
            before.has_changed(),
            "renamed into place, with the same length"
        );
        let before = watch();
        fs::write(&path, "longer").unwrap();
        assert!(before.has_changed(), "rewritten");
        let before = watch();
        fs::remove_file(&path).unwrap();
        assert!(before.has_changed(), "removed");
    }

    #[test]
    fn a_link_is_followed() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["1", "2"] {
            fs::write(folder.path().join(name), name).unwrap();
        }
        let link = folder.path().join("live");
        std::os::unix::fs::symlink("1", &link).unwrap();
        let watch = Watch::of(std::slice::from_ref(&link));
        fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink("2", &link).unwrap();
        assert!(watch.has_changed());
    }
}
