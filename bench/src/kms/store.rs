//! Another store for central than a file of its own: a cluster that somebody else runs.
//!
//! Puts lines in the place of `[store]`'s in central's configuration, and judges nothing: central does that when it
//! starts. Invariant: nothing else of the configuration changes.

use std::{fs, path::Path};

use keyhaven_xtask::{Error, site::Folder};

use super::channel::failed;

/// Takes the lines of a file for `[store]`. Paths in them should be absolute, the prefix one that has nothing yet.
pub(crate) fn put(lines: &Path, folder: &Folder) -> Result<(), Error> {
    let config = folder.kms("kms-central.toml");
    let file = |act, path: &Path| {
        let path = path.to_owned();
        move |source| Error::File { act, path, source }
    };
    let before = fs::read_to_string(&config).map_err(file("read", &config))?;
    let lines = fs::read_to_string(lines).map_err(file("read", lines))?;
    let after = replaced(&before, &lines)
        .ok_or_else(|| failed("kms-central.toml", "it has no [store] with lines behind it"))?;
    fs::write(&config, after).map_err(file("write", &config))
}

fn replaced(config: &str, lines: &str) -> Option<String> {
    let (before, section) = config.split_once("[store]\n")?;
    let (_, rest) = section.split_once("\n[")?;
    Some(format!("{before}[store]\n{}\n[{rest}", lines.trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_store_is_another_one() {
        let config = "listen = 1\n[token]\nuri = 2\n[store]\nkind = \"redb\"\npath = 3\n[admins]\nwrite = []\n[log]\n";
        let after = replaced(config, "kind = \"etcd\"\nprefix = \"/b/\"\n");
        let expected = "listen = 1\n[token]\nuri = 2\n[store]\nkind = \"etcd\"\nprefix = \"/b/\"\n[admins]\nwrite = []\n[log]\n";
        assert_eq!(after.as_deref(), Some(expected));
        assert_eq!(replaced("listen = 1\n", "kind = 2"), None);
    }
}
