//! Writes down which nonces each key has used, for tests that assert that none is used twice.
//!
//! Compiled only with the feature `nonce-log`, which nothing turns on by itself, and silent unless
//! `KEYHAVEN_NONCE_LOG` names a folder. Never writes a key: eight bytes of its hash stand for it. The nonces that the
//! signer has used under a key before the proxy got it are in it, too.

use std::{
    fmt::Write as _,
    fs::{File, OpenOptions},
    io::Write as _,
    path::Path,
    sync::{Mutex, OnceLock},
};

/// More records than a signer can put beside a key; a number beyond is made up by a test.
pub(super) const SIGNERS_RECORDS_MAX: u64 = 256;

static LOG: OnceLock<Option<Mutex<File>>> = OnceLock::new();

/// Appends one line: the key's fingerprint and the nonce, in hexadecimal.
pub(super) fn note(fingerprint: &[u8; 8], nonce: &[u8; 12]) {
    let Some(log) = LOG.get_or_init(open) else {
        return;
    };
    let mut line = hex(fingerprint);
    line.push(' ');
    line.push_str(&hex(nonce));
    line.push('\n');
    if let Ok(mut file) = log.lock() {
        // A test reads the file; a line that cannot be written shows there as a missing record.
        let _ = file.write_all(line.as_bytes());
    }
}

fn open() -> Option<Mutex<File>> {
    let folder = std::env::var_os("KEYHAVEN_NONCE_LOG")?;
    let path = Path::new(&folder).join(format!("nonces-{}.log", std::process::id()));
    let file = OpenOptions::new().create(true).append(true).open(path);
    file.ok().map(Mutex::new)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
