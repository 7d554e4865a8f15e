//! The files that the configuration names: read within bounds, and listed, so that a change is noticed.
//!
//! What is in them is judged by others. Invariant: a file's length is looked at before it is read.

use std::{
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
};

use keyhaven_service::config::{Problems, resolve};
use toml::Spanned;

use super::raw::SiteSection;

/// Reads a file of at most `bytes_max` bytes, or says why not.
pub(super) fn read(
    key: &str,
    at: &Spanned<PathBuf>,
    bytes_max: u64,
    problems: &mut Problems,
) -> Option<Vec<u8>> {
    let path = problems.resolve(at.get_ref());
    let mut bytes = Vec::new();
    let read = File::open(&path).and_then(|file| file.take(bytes_max + 1).read_to_end(&mut bytes));
    match read {
        Ok(len) if len as u64 <= bytes_max => Some(bytes),
        Ok(_) => {
            problems.add(
                at.span(),
                format!("{key} {} has more than {bytes_max} bytes", path.display()),
                "it is not what this key is for",
            );
            None
        }
        Err(error) => {
            problems.add(
                at.span(),
                format!("cannot read {key} {}: {error}", path.display()),
                "correct the path, or the file's permissions",
            );
            None
        }
    }
}

/// Every file of the sites whose change means a reload.
pub(super) fn watched(sites: &[SiteSection], base: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = sites
        .iter()
        .flat_map(|site| {
            let keys = site.key.iter();
            let of_keys = keys.flat_map(|key| [Some(&key.certificate), key.ocsp.as_ref()]);
            of_keys
                .flatten()
                .chain(&site.client_ca)
                .chain(&site.client_crl)
        })
        .map(|path| resolve(base, path.get_ref()))
        .collect();
    files.sort();
    files.dedup();
    files
}
