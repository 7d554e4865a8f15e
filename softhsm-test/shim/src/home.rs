//! Where this copy of the module is, and which module it stands before.
//!
//! Leaves loading to `state`. The line beside the copy decides alone: no variable does, because all copies in a
//! process have the same environment.

use std::ffi::{CStr, OsStr, OsString, c_char, c_int, c_void};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::{fs, io};

/// What one copy of the module works with.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Home {
    /// The folder of its files.
    pub(crate) dir: PathBuf,
    /// The real module.
    pub(crate) module: PathBuf,
}

impl Home {
    pub(crate) fn find() -> io::Result<Home> {
        Home::beside(&own_file().unwrap_or_default())
    }

    fn beside(file: &Path) -> io::Result<Home> {
        let dir = file.parent().unwrap_or(Path::new("/"));
        let mut line = fs::read(dir.join("shim.conf"))?;
        while line.last().is_some_and(u8::is_ascii_whitespace) {
            line.pop();
        }
        Ok(Home {
            dir: dir.to_path_buf(),
            module: OsString::from_vec(line).into(),
        })
    }
}

/// The file that this code was loaded from.
fn own_file() -> Option<PathBuf> {
    let mut found = DlInfo {
        file: std::ptr::null(),
        base: std::ptr::null(),
        symbol: std::ptr::null(),
        address: std::ptr::null(),
    };
    // SAFETY: the address is this function's own, and the record is ours and may be written.
    let known = unsafe { dladdr(own_file as *const c_void, &mut found) };
    if known == 0 || found.file.is_null() {
        return None;
    }
    // SAFETY: after success it is a string of the loader, which lives as long as this code is loaded.
    let file = unsafe { CStr::from_ptr(found.file) };
    Some(PathBuf::from(OsStr::from_bytes(file.to_bytes())))
}

/// `Dl_info` of `dladdr(3)`.
#[repr(C)]
struct DlInfo {
    file: *const c_char,
    base: *const c_void,
    symbol: *const c_char,
    address: *const c_void,
}

unsafe extern "C" {
    fn dladdr(address: *const c_void, found: *mut DlInfo) -> c_int;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_its_own_file_and_reads_the_line_beside_it() {
        let own = own_file().unwrap();
        assert_eq!(
            own.canonicalize().unwrap(),
            std::env::current_exe().unwrap().canonicalize().unwrap()
        );
        let dir = std::env::temp_dir().join(format!("keyhaven-shim-home-{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        assert!(Home::beside(&dir.join("shim.so")).is_err());
        fs::write(dir.join("shim.conf"), "/a path/module.so\n").unwrap();
        let home = Home::beside(&dir.join("shim.so")).unwrap();
        fs::remove_dir_all(&dir).unwrap();
        assert_eq!(home.module, Path::new("/a path/module.so"));
        assert_eq!(home.dir, dir);
    }
}
