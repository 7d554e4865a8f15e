//! Files that are carried by hand: told apart by their kind, written whole, and never over something else.
//!
//! What is in them, and what of it is believed, is `exchange`'s business. Invariant: whoever waits for a file never takes a
//! part of it for the whole.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use serde::{Serialize, de::DeserializeOwned};

use crate::admin::{failure::Failure, text};

/// What kind of file a value is.
pub(super) trait Marked: Serialize + DeserializeOwned {
    /// The text of its `keyhaven` member.
    const MARK: &'static str;
    fn mark(&self) -> &str;
}

/// Reads a file of a kind.
pub(super) fn read<T: Marked>(path: &Path) -> Result<T, Failure> {
    parse(path, &read_bounded(path)?)?.ok_or_else(|| damaged(path, "it ends in the middle"))
}

/// Reads a file that may still be on its way into its place: none while it is not there, or not there whole.
pub(super) fn look_for<T: Marked>(path: &Path) -> Result<Option<T>, Failure> {
    match path.symlink_metadata() {
        Ok(_) => parse(path, &read_bounded(path)?),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Failure::file("look for", path, &error)),
    }
}

/// None: the text is only a beginning.
fn parse<T: Marked>(path: &Path, bytes: &[u8]) -> Result<Option<T>, Failure> {
    match serde_json::from_slice::<T>(bytes) {
        Ok(value) if value.mark() == T::MARK => Ok(Some(value)),
        Ok(_) => Err(damaged(path, &format!("it is no `{}`", T::MARK))),
        Err(error) if error.is_eof() => Ok(None),
        Err(error) => Err(damaged(path, &format!("it is no `{}`: {error}", T::MARK))),
    }
}

/// At most [`FILE_BYTES_MAX`].
pub(super) fn read_bounded(path: &Path) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
        .map_err(|error| Failure::file("read", path, &error))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(damaged(path, "it is larger than 4 MiB"));
    }
    Ok(bytes)
}

/// Writes a file of this kind; one of the same kind is replaced, nothing else is.
pub(super) fn write_replacing<T: Marked>(path: &Path, value: &T) -> Result<(), Failure> {
    check_replaceable::<T>(path)?;
    write_whole(path, &to_json(value), 0o644)
}

/// Whether there is nothing that a file of this kind would destroy.
pub(super) fn check_replaceable<T: Marked>(path: &Path) -> Result<(), Failure> {
    if path.symlink_metadata().is_err() {
        return Ok(());
    }
    match read::<T>(path) {
        Ok(_) => Ok(()),
        Err(_) => Err(Failure::new(
            format!(
                "{} exists and is no `{}`; it was left alone",
                path.display(),
                T::MARK
            ),
            "choose another place",
        )),
    }
}

/// Writes a new file that only its owner reads.
pub(super) fn write_new<T: Marked>(path: &Path, value: &T) -> Result<(), Failure> {
    refuse_existing(path)?;
    write_whole(path, &to_json(value), 0o600)
}

/// Fails when there is something.
pub(super) fn refuse_existing(path: &Path) -> Result<(), Failure> {
    if path.symlink_metadata().is_ok() {
        return Err(Failure::new(
            format!("{} exists already", path.display()),
            "it may be of an earlier ceremony: move it away, or choose another place",
        ));
    }
    Ok(())
}

fn to_json<T: Serialize>(value: &T) -> Vec<u8> {
    // Texts and lists: there is nothing in them that JSON cannot say.
    let mut out = serde_json::to_vec_pretty(value).unwrap_or_default();
    out.push(b'\n');
    out
}

/// Writes a file whole or not at all: whoever waits for it never sees a part.
pub(super) fn write_whole(path: &Path, bytes: &[u8], mode: u32) -> Result<(), Failure> {
    let failed = |error| Failure::file("write", path, &error);
    let name = path.file_name().ok_or_else(|| {
        Failure::usage(
            format!("{} names no file", path.display()),
            "give the path of a file",
        )
    })?;
    let mut beside = std::ffi::OsString::from(".");
    beside.push(name);
    beside.push(format!(".{}", std::process::id()));
    let beside = path.with_file_name(beside);
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&beside)
        .and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        })
        .and_then(|()| std::fs::rename(&beside, path));
    if written.is_err() {
        // What failed is told; that a part of it stays is not worth more words.
        let _ = std::fs::remove_file(&beside);
    }
    written.map_err(failed)
}

/// The file is not what it should be, and nobody need have meant it.
pub(super) fn damaged(path: &Path, why: &str) -> Failure {
    Failure::new(
        format!("{} cannot be used: {}", path.display(), text::clean(why)),
        "carry the file over again, as it was written",
    )
}

const FILE_BYTES_MAX: u64 = 4 << 20;

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Serialize, Deserialize)]
    struct Letter {
        keyhaven: String,
        text: String,
    }

    #[derive(Debug, Serialize, Deserialize)]
    struct Parcel {
        keyhaven: String,
    }

    impl Marked for Letter {
        const MARK: &'static str = "letter 1";
        fn mark(&self) -> &str {
            &self.keyhaven
        }
    }

    impl Marked for Parcel {
        const MARK: &'static str = "parcel 1";
        fn mark(&self) -> &str {
            &self.keyhaven
        }
    }

    fn letter() -> Letter {
        Letter {
            keyhaven: Letter::MARK.to_owned(),
            text: "wie geht es".to_owned(),
        }
    }

    fn parcel() -> Parcel {
        Parcel {
            keyhaven: Parcel::MARK.to_owned(),
        }
    }

    #[test]
    fn files_are_told_apart_and_never_replace_others() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("letter.json");
        write_replacing(&path, &letter()).unwrap();
        write_replacing(&path, &letter()).unwrap();
        assert_eq!(read::<Letter>(&path).unwrap().text, letter().text);
        assert!(read::<Parcel>(&path).is_err());
        assert!(write_replacing(&path, &parcel()).is_err());
        assert!(write_new(&path, &letter()).is_err());
        std::fs::write(&path, "a diary").unwrap();
        assert!(write_replacing(&path, &letter()).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"a diary");
        // Nothing stays beside it.
        assert_eq!(folder.path().read_dir().unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_is_still_being_copied_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("letter.json");
        assert!(look_for::<Letter>(&path).unwrap().is_none());
        let whole = to_json(&letter());
        std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        assert!(look_for::<Letter>(&path).unwrap().is_none());
        std::fs::write(&path, &whole).unwrap();
        assert!(look_for::<Letter>(&path).unwrap().is_some());
        std::fs::write(&path, "no JSON").unwrap();
        assert!(look_for::<Letter>(&path).is_err());
    }
}
