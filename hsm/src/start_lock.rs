//! A lock between processes around C_Initialize and each C_Login.
//!
//! SoftHSM2 processes that start at once disturb each other: C_Login then fails with CKR_USER_PIN_NOT_INITIALIZED
//! for good. The lock only orders starts; it protects no secret. Invariant: it never keeps a process from
//! starting: after a while, or without a place for the file, the start goes on and says so.

use std::{
    fs::File,
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::{
    fs::{FlockOperation, Mode, OFlags},
    io::Errno,
};

/// The held lock; dropping it lets the next process start.
#[derive(Debug)]
pub(crate) struct StartLock {
    _file: File,
}

impl StartLock {
    /// Waits for the lock of this module and its configuration.
    pub(crate) fn take(module: &Path) -> Option<Self> {
        let path = place(module);
        match wait(&path) {
            Ok(lock) => Some(lock),
            Err(errno) => {
                tracing::warn!(lock = %path.display(), error = %std::io::Error::from(errno),
                    "starting without the start lock; other processes that start now may fail to log in");
                None
            }
        }
    }
}

fn wait(path: &Path) -> Result<StartLock, Errno> {
    // Not followed: the folder may be one where others write too.
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?;
    let until = Instant::now() + WAIT_MAX;
    loop {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {
                return Ok(StartLock {
                    _file: File::from(file),
                });
            }
            Err(Errno::WOULDBLOCK) if Instant::now() < until => std::thread::sleep(PAUSE),
            Err(errno) => return Err(errno),
        }
    }
}

/// One file for each user, module and module configuration.
fn place(module: &Path) -> PathBuf {
    let mut hasher = DefaultHasher::new();
    module.hash(&mut hasher);
    for name in CONFIGURATION {
        std::env::var_os(name).hash(&mut hasher);
    }
    let folder = std::env::var_os("XDG_RUNTIME_DIR")
        .map(PathBuf::from)
        .filter(|folder| folder.is_dir())
        .unwrap_or_else(std::env::temp_dir);
    let user = rustix::process::geteuid().as_raw();
    folder.join(format!(
        "keyhaven-start-{user}-{:016x}.lock",
        hasher.finish()
    ))
}

/// Variables that say where a module keeps its tokens.
const CONFIGURATION: [&str; 3] = ["SOFTHSM2_CONF", "KRYOPTIC_CONF", "HOME"];
/// A start takes milliseconds; whoever holds the lock longer hangs.
const WAIT_MAX: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_waits_for_the_first() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let first = wait(&path).unwrap();
        let file = File::open(&path).unwrap();
        let probe = || rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive);
        assert_eq!(probe(), Err(Errno::WOULDBLOCK));
        drop(first);
        assert_eq!(probe(), Ok(()));
    }

    #[test]
    fn a_link_in_its_place_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (target, link) = (folder.path().join("target"), folder.path().join("link"));
        std::fs::write(&target, "").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        assert!(wait(&link).is_err());
    }
}
