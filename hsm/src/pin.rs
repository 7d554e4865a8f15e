//! Where a PIN is kept, and the PIN while it is in memory.
//!
//! Whether the PIN is right, only the token says, once; see `token`. Invariant: a PIN is wiped on drop, printed
//! nowhere, and exposed by one function only.

use std::{
    fmt,
    fs::File,
    io::{IsTerminal, Read},
    path::{Path, PathBuf},
};

use rustix::fs::{Mode, OFlags};
use zeroize::Zeroizing;

/// The longest PIN that is read, in bytes.
const PIN_BYTES_MAX: usize = 256;

/// A user PIN or SO PIN.
#[derive(Clone, PartialEq, Eq)]
pub struct Pin(Zeroizing<String>);

impl Pin {
    /// Takes the text over.
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The PIN itself, for C_Login, C_InitToken and C_InitPIN alone.
    pub fn expose_secret(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pin(redacted)")
    }
}

/// Where a PIN is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PinSource {
    /// The first line of a file that only its owner can read.
    File(PathBuf),
    /// A credential that systemd passes in `$CREDENTIALS_DIRECTORY`.
    Credential(String),
    /// Asked on the terminal, without echo.
    Terminal,
}

/// Why there is no PIN.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// The file cannot be read.
    #[error("cannot read the PIN file {}; it must be a regular file, not a link, that this user may read", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Others can read the file.
    #[error("the PIN file {} can be read by others; run `chmod 600 {}`", .path.display(), .path.display())]
    Permissions {
        /// The file.
        path: PathBuf,
    },
    /// The file holds no usable first line.
    #[error("the PIN file {} must hold the PIN on its first line: 1 to {PIN_BYTES_MAX} bytes of UTF-8", .path.display())]
    Content {
        /// The file.
        path: PathBuf,
    },
    /// systemd passed no credentials.
    #[error(
        "credential `{name}` is not there: $CREDENTIALS_DIRECTORY is not set; add LoadCredential={name}:/path to the unit"
    )]
    NoCredentials {
        /// The credential's name.
        name: String,
    },
    /// There is nobody to ask.
    #[error(
        "the PIN is to be asked on a terminal, but there is none; use pin-source=file: or cred: for a service"
    )]
    NoTerminal,
    /// Enter alone was pressed. A token would count it as a wrong try.
    #[error("the PIN that was typed is empty; nothing was sent to the token")]
    Empty,
    /// The terminal gave nothing.
    #[error("cannot read the PIN from the terminal")]
    Terminal(#[source] std::io::Error),
}

impl PinSource {
    /// Fetches the PIN. Relative files are resolved against `base_dir`; `token_label` is for the prompt.
    ///
    /// # Errors
    /// [`PinError`] says what is wrong with the place; of the PIN itself only that it is not empty.
    pub fn read(&self, base_dir: &Path, token_label: &str) -> Result<Pin, PinError> {
        match self {
            Self::File(path) => read_file(&base_dir.join(path)),
            Self::Credential(name) => match std::env::var_os("CREDENTIALS_DIRECTORY") {
                Some(directory) => read_file(&Path::new(&directory).join(name)),
                None => Err(PinError::NoCredentials { name: name.clone() }),
            },
            Self::Terminal => {
                if !std::io::stdin().is_terminal() {
                    return Err(PinError::NoTerminal);
                }
                let typed = rpassword::prompt_password(format!("PIN of token `{token_label}`: "))
                    .map(Pin::new)
                    .map_err(PinError::Terminal)?;
                if typed.expose_secret().is_empty() {
                    return Err(PinError::Empty);
                }
                Ok(typed)
            }
        }
    }
}

fn read_file(path: &Path) -> Result<Pin, PinError> {
    let unreadable = |source: std::io::Error| PinError::Read {
        path: path.to_owned(),
        source,
    };
    // Non-blocking, so that a FIFO in the file's place cannot hold the start up; checked on the open file, so
    // that it cannot be exchanged in between.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = rustix::fs::open(path, flags, Mode::empty())
        .map(File::from)
        .map_err(|errno| unreadable(errno.into()))?;
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(unreadable(std::io::Error::other("not a regular file")));
    }
    if std::os::unix::fs::MetadataExt::mode(&metadata) & 0o077 != 0 {
        return Err(PinError::Permissions {
            path: path.to_owned(),
        });
    }
    // A fixed buffer: a growing one would leave copies of the PIN behind.
    let mut buffer = Zeroizing::new([0u8; PIN_BYTES_MAX + 2]);
    let mut len = 0;
    let mut file = file;
    while len < buffer.len() {
        match file.read(&mut buffer[len..]).map_err(unreadable)? {
            0 => break,
            read => len += read,
        }
    }
    let line = buffer[..len]
        .split(|&b| b == b'\n')
        .next()
        .unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    match std::str::from_utf8(line) {
        Ok(text) if (1..=PIN_BYTES_MAX).contains(&line.len()) => Ok(Pin::new(text.to_owned())),
        _ => Err(PinError::Content {
            path: path.to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn file(content: &[u8], mode: u32) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pin");
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        (dir, path)
    }

    fn read(path: &Path) -> Result<Pin, PinError> {
        PinSource::File(path.to_owned()).read(Path::new("/"), "A")
    }

    #[test]
    fn the_first_line_is_the_pin() {
        for content in [&b"1234"[..], b"1234\n", b"1234\r\nsecond line\n"] {
            let (_dir, path) = file(content, 0o600);
            assert_eq!(read(&path).unwrap().expose_secret(), "1234");
        }
    }

    #[test]
    fn a_relative_file_is_looked_for_beside_the_configuration() {
        let (dir, _path) = file(b"1234", 0o400);
        let pin = PinSource::File("pin".into()).read(dir.path(), "A").unwrap();
        assert_eq!(pin.expose_secret(), "1234");
    }

    #[test]
    fn a_file_that_others_can_read_is_refused_with_the_remedy() {
        let (_dir, path) = file(b"1234", 0o640);
        let error = read(&path).unwrap_err();
        assert!(matches!(error, PinError::Permissions { .. }));
        assert!(error.to_string().contains("chmod 600"));
    }

    #[test]
    fn links_fifos_and_empty_files_are_refused() {
        let (dir, path) = file(b"1234", 0o600);
        let link = dir.path().join("link");
        symlink(&path, &link).unwrap();
        assert!(matches!(read(&link), Err(PinError::Read { .. })));
        assert!(matches!(read(dir.path()), Err(PinError::Read { .. })));
        for content in [&b""[..], b"\n1234", &[0xff, 0xfe], &[b'1'; 257]] {
            let (_dir, path) = file(content, 0o600);
            assert!(matches!(read(&path), Err(PinError::Content { .. })));
        }
    }

    #[test]
    fn debug_shows_nothing_of_the_pin() {
        assert_eq!(format!("{:?}", Pin::new("1234".into())), "Pin(redacted)");
    }
}
