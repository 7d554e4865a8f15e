//! Input and output of operations: files, or the standard streams.
//!
//! Invariant: an output may be secret, so its file is its owner's alone.

use std::{
    fs::{OpenOptions, Permissions},
    io::{Read as _, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

use keyhaven_wire::kms::INPUT_BYTES_MAX;
use zeroize::Zeroizing;

use crate::admin::failure::Failure;

/// Whether it stands for a standard stream.
pub(super) fn is_standard(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// Reads the whole input.
pub(super) fn read_input(path: &Path) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(INPUT_BYTES_MAX + 1));
    let limit = INPUT_BYTES_MAX as u64 + 1;
    let read = if is_standard(path) {
        std::io::stdin().lock().take(limit).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes))
    };
    read.map_err(|error| Failure::file("read", path, &error))?;
    if bytes.len() > INPUT_BYTES_MAX {
        return Err(Failure::new(
            format!("{} is longer than {INPUT_BYTES_MAX} bytes", path.display()),
            "sign a hash of it under an agreement of your own, or encrypt it with a data key (signer-admin wrap)",
        ));
    }
    Ok(bytes)
}

/// Writes the output to a file that nobody else can read; an older one in its place becomes so, too.
pub(super) fn write_output(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let write = || {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(path)?;
        // The mode above is for new files alone; a pipe or a device keeps its own.
        if file.metadata()?.is_file() {
            file.set_permissions(Permissions::from_mode(0o600))?;
        }
        file.write_all(bytes)
    };
    write().map_err(|error| Failure::file("write", path, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_output_is_its_owners_alone_even_where_an_older_file_was_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        std::fs::write(&path, "something longer").unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        write_output(&path, b"secret").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"secret");
        let mode = path.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn an_input_has_an_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("in");
        std::fs::write(&path, vec![1; INPUT_BYTES_MAX]).unwrap();
        assert_eq!(read_input(&path).unwrap().len(), INPUT_BYTES_MAX);
        std::fs::write(&path, vec![1; INPUT_BYTES_MAX + 1]).unwrap();
        assert!(read_input(&path).is_err());
    }
}
