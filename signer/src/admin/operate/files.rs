//! Input and output of operations: files, or the standard streams.
//!
//! Invariant: an output may be secret, so its file is its owner's alone.

use std::{
    fs::OpenOptions,
    io::{Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
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

/// Writes the output to a file that nobody else can read.
pub(super) fn write_output(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(bytes))
        .map_err(|error| Failure::file("write", path, &error))
}
