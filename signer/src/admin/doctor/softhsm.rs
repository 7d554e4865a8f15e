//! The doctor on SoftHSM2's own files: its configuration and its token folder.
//!
//! What is in the tokens is `token`'s business. Invariant: files are looked at, and none is made or changed.

use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::finding::Findings;

/// SoftHSM2's own configuration and token folder, which it never complains about in words.
pub(super) fn look(findings: &mut Findings) {
    let (path, named) = match std::env::var_os("SOFTHSM2_CONF") {
        Some(path) => (PathBuf::from(path), true),
        None => (PathBuf::from(SOFTHSM_CONFIGURATION), false),
    };
    let subject = "SoftHSM2 configuration";
    let content = match std::fs::read_to_string(&path) {
        Ok(content) => content,
        Err(_) if !named => return,
        Err(error) => {
            findings.problem(
                subject,
                format!(
                    "$SOFTHSM2_CONF names {}, which cannot be read: {error}",
                    path.display()
                ),
                "correct the variable where the signer is started, or the file's permissions",
            );
            return;
        }
    };
    let folder = content.lines().find_map(|line| {
        let (name, value) = line.split_once('=')?;
        (name.trim() == "directories.tokendir").then(|| PathBuf::from(value.trim()))
    });
    match folder {
        Some(folder) => token_folder(&folder, &path, findings),
        None => findings.problem(
            subject,
            format!("{} has no line directories.tokendir", path.display()),
            "add `directories.tokendir = /var/lib/softhsm/tokens`",
        ),
    }
}

/// The same, when the module or its token could not be had. `module` is the one that was named; SoftHSM2 if none was.
pub(super) fn look_after_failure(module: Option<&Path>, findings: &mut Findings) {
    look(findings);
    let is_softhsm = |path: &Path| path.to_string_lossy().contains("softhsm");
    if module.is_none_or(is_softhsm) && std::env::var_os("SOFTHSM2_CONF").is_none() {
        let home = std::env::var_os("HOME").map(PathBuf::from);
        default_configuration(
            &home.unwrap_or_default(),
            Path::new(SOFTHSM_CONFIGURATION),
            findings,
        );
    }
}

/// Where SoftHSM2 looks when nobody says another place. On Debian root and one group alone may read it.
const SOFTHSM_CONFIGURATION: &str = "/etc/softhsm/softhsm2.conf";

/// Without a configuration SoftHSM2 does not start, and says CKR_GENERAL_ERROR.
fn default_configuration(home: &Path, path: &Path, findings: &mut Findings) {
    // A user's own comes first.
    if home.join(".config/softhsm2/softhsm2.conf").exists() {
        return;
    }
    if let Err(error) = std::fs::File::open(path) {
        findings.problem(
            "SoftHSM2 configuration",
            format!(
                "$SOFTHSM2_CONF is not set, and {} cannot be read: {error}",
                path.display()
            ),
            "write one of your own with a line `directories.tokendir = /FOLDER`, and set SOFTHSM2_CONF to it (README, step 0)",
        );
    }
}

fn token_folder(folder: &Path, configuration: &Path, findings: &mut Findings) {
    let subject = "token folder";
    match folder.metadata() {
        Err(error) => findings.problem(
            subject,
            format!(
                "{} (from {}) cannot be opened: {error}",
                folder.display(),
                configuration.display()
            ),
            "make the folder, owned by the user that runs the signer, with mode 0700",
        ),
        Ok(metadata) if !metadata.is_dir() => findings.problem(
            subject,
            format!("{} is not a folder", folder.display()),
            "name a folder in directories.tokendir",
        ),
        Ok(metadata) if metadata.mode() & 0o007 != 0 => findings.warning(
            subject,
            format!(
                "{} is open to every user (mode {:04o})",
                folder.display(),
                metadata.mode() & 0o7777
            ),
            format!("chmod o-rwx {}", folder.display()),
        ),
        Ok(_) => findings.good(subject, format!("{} is there", folder.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::finding::Severity, *};

    #[test]
    fn a_default_configuration_that_cannot_be_read_is_a_problem_unless_the_user_has_one() {
        let home = tempfile::tempdir().unwrap();
        let nowhere = home.path().join("nowhere");
        let mut findings = Findings::default();
        default_configuration(home.path(), &nowhere, &mut findings);
        assert_eq!(findings.worst(), Some(Severity::Problem));

        let own = home.path().join(".config/softhsm2");
        std::fs::create_dir_all(&own).unwrap();
        std::fs::write(own.join("softhsm2.conf"), "").unwrap();
        let mut findings = Findings::default();
        default_configuration(home.path(), &nowhere, &mut findings);
        assert_eq!(findings.worst(), None);
    }
}
