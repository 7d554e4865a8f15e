//! The arrows between the rooms, checked.
//!
//! Reads what `cargo metadata` says and the first line of each source file. It judges no code: it asks who may
//! know whom.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use keyhaven_xtask::{
    Error,
    cargo::{cargo, root},
    command, say,
};

/// Checks every rule; prints what is broken.
pub(crate) fn check() -> Result<(), Error> {
    let rooms = Rooms::read()?;
    let mut broken = rooms.broken();
    let (without_header, long) = judge_sources(&rooms)?;
    broken.extend(without_header);
    for line in &broken {
        say::line(format!("broken: {line}"));
    }
    for line in &long {
        say::line(format!("worth a look: {line}"));
    }
    if broken.is_empty() {
        say::line(format!(
            "{} rooms, every arrow as designed",
            rooms.uses.len()
        ));
        return Ok(());
    }
    Err(Error::Rules(broken.len()))
}

/// Which room depends directly on which package.
#[derive(Debug)]
struct Rooms {
    uses: BTreeMap<String, BTreeSet<String>>,
    /// The same with what only tests and build scripts use.
    uses_anywhere: BTreeMap<String, BTreeSet<String>>,
    folders: Vec<PathBuf>,
}

impl Rooms {
    fn read() -> Result<Rooms, Error> {
        let json =
            command::capture(cargo().args(["metadata", "--format-version", "1", "--no-deps"]))?;
        let unreadable = |why: String| Error::Output {
            program: "cargo metadata".to_owned(),
            why,
        };
        let metadata: serde_json::Value =
            serde_json::from_slice(&json).map_err(|error| unreadable(error.to_string()))?;
        Self::from_metadata(&metadata).ok_or_else(|| unreadable("it names no packages".to_owned()))
    }

    fn from_metadata(metadata: &serde_json::Value) -> Option<Rooms> {
        let mut rooms = Rooms {
            uses: BTreeMap::new(),
            uses_anywhere: BTreeMap::new(),
            folders: Vec::new(),
        };
        for package in metadata["packages"].as_array()? {
            let name = package["name"].as_str()?;
            rooms.folders.push(
                Path::new(package["manifest_path"].as_str()?)
                    .parent()?
                    .to_path_buf(),
            );
            let mut normal = BTreeSet::new();
            let mut all = BTreeSet::new();
            for dependency in package["dependencies"].as_array()? {
                let used = dependency["name"].as_str()?.to_owned();
                if dependency["kind"].is_null() {
                    normal.insert(used.clone());
                }
                all.insert(used);
            }
            rooms.uses.insert(name.to_owned(), normal);
            rooms.uses_anywhere.insert(name.to_owned(), all);
        }
        Some(rooms)
    }

    fn broken(&self) -> Vec<String> {
        let mut broken = Vec::new();
        for (package, allowed) in ONLY {
            for (room, uses) in &self.uses_anywhere {
                if uses.contains(*package) && !allowed.contains(&room.as_str()) {
                    broken.push(format!(
                        "{room} uses {package}: that is for {} alone",
                        allowed.join(", ")
                    ));
                }
            }
        }
        for (room, forbidden) in NEVER {
            let reached = self.reached_from(room);
            for other in forbidden.iter().filter(|other| reached.contains(**other)) {
                broken.push(format!("{room} reaches {other}"));
            }
        }
        for room in TEST_SUPPORT {
            let uses = self.uses_anywhere.get(*room).into_iter().flatten();
            let ours = uses.filter(|used| {
                used.starts_with("keyhaven-") && !TEST_SUPPORT.contains(&used.as_str())
            });
            broken.extend(ours.map(|used| {
                format!("{room} uses {used}: it serves the tests of all rooms and knows none")
            }));
        }
        broken
    }

    /// All rooms that a room is built from.
    fn reached_from<'a>(&'a self, room: &'a str) -> BTreeSet<&'a str> {
        let mut reached = BTreeSet::new();
        let mut open = vec![room];
        while let Some(room) = open.pop() {
            for used in self.uses.get(room).into_iter().flatten() {
                if reached.insert(used.as_str()) {
                    open.push(used);
                }
            }
        }
        reached
    }
}

/// Who alone may use a package, even in tests.
const ONLY: &[(&str, &[&str])] = &[
    ("cryptoki", &["keyhaven-hsm"]),
    ("cryptoki-sys", &["keyhaven-hsm", "keyhaven-pkcs11-shim"]),
    (
        "rustls",
        &[
            "keyhaven-handshake",
            "keyhaven-service",
            "keyhaven-tests",
            "keyhaven-bench",
            "keyhaven-xtask",
        ],
    ),
    (
        "tokio-rustls",
        &[
            "keyhaven-service",
            "keyhaven-tests",
            "keyhaven-bench",
            "keyhaven-xtask",
        ],
    ),
    ("redb", &["keyhaven-kms", "keyhaven-kms-central"]),
    ("etcd-client", &["keyhaven-kms-central"]),
    (
        "keyhaven-kms-central",
        &["keyhaven-tests", "keyhaven-bench"],
    ),
    ("keyhaven-signer", &["keyhaven-tests"]),
    ("keyhaven-proxy", &["keyhaven-tests"]),
];

/// What a room must not reach, by whatever way.
const NEVER: &[(&str, &[&str])] = &[
    (
        "keyhaven-proxy",
        &[
            "keyhaven-hsm",
            "keyhaven-handshake",
            "keyhaven-signer",
            "keyhaven-kms",
            "cryptoki",
        ],
    ),
    (
        "keyhaven-signer",
        &["keyhaven-proxy", "keyhaven-kms-central"],
    ),
    ("keyhaven-kms", &["keyhaven-handshake", "keyhaven-signer"]),
    (
        "keyhaven-kms-central",
        &["keyhaven-handshake", "keyhaven-signer"],
    ),
    (
        "keyhaven-hsm",
        &["keyhaven-wire", "keyhaven-service", "rustls"],
    ),
    ("keyhaven-handshake", &["keyhaven-service"]),
    ("keyhaven-service", &["keyhaven-hsm", "keyhaven-handshake"]),
    (
        "keyhaven-wire",
        &["keyhaven-service", "keyhaven-hsm", "tokio", "rustls"],
    ),
    (
        "keyhaven-types",
        &["keyhaven-wire", "keyhaven-hsm", "tokio", "rustls"],
    ),
];

/// What serves the tests of all rooms, and knows none of them.
const TEST_SUPPORT: &[&str] = &["keyhaven-softhsm-test", "keyhaven-pkcs11-shim"];

/// Source files without a header, and source files that may hold more than one idea.
fn judge_sources(rooms: &Rooms) -> Result<(Vec<String>, Vec<String>), Error> {
    let mut without_header = Vec::new();
    let mut long = Vec::new();
    for folder in &rooms.folders {
        let mut files = Vec::new();
        for part in ["src", "tests", "benches"] {
            rust_files(&folder.join(part), &mut files)?;
        }
        for path in files {
            let text = std::fs::read_to_string(&path).map_err(|source| Error::File {
                act: "read",
                path: path.clone(),
                source,
            })?;
            let name = path.strip_prefix(root()).unwrap_or(&path).display();
            if !text.starts_with("//!") {
                without_header.push(format!("{name} does not begin with what it is for (//!)"));
            }
            let lines = text.lines().count();
            if lines > LINES_MAX {
                long.push(format!(
                    "{name} has {lines} lines; {LINES_MAX} is where a file may hold two ideas"
                ));
            }
        }
    }
    Ok((without_header, long))
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) -> Result<(), Error> {
    if !folder.is_dir() {
        return Ok(());
    }
    let failed = |source| Error::File {
        act: "read",
        path: folder.to_path_buf(),
        source,
    };
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.is_dir() {
            rust_files(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    Ok(())
}

const LINES_MAX: usize = 400;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rooms(packages: serde_json::Value) -> Rooms {
        Rooms::from_metadata(&json!({ "packages": packages })).unwrap()
    }

    fn room(name: &str, uses: &[&str]) -> serde_json::Value {
        let dependencies: Vec<_> = uses
            .iter()
            .map(|used| json!({ "name": used, "kind": null }))
            .collect();
        json!({ "name": name, "manifest_path": "/w/x/Cargo.toml", "dependencies": dependencies })
    }

    #[test]
    fn a_forbidden_arrow_is_seen_through_another_room() {
        let good = rooms(json!([
            room("keyhaven-hsm", &["cryptoki"]),
            room("keyhaven-proxy", &["keyhaven-service"]),
            room("keyhaven-service", &["rustls"]),
        ]));
        assert_eq!(good.broken(), Vec::<String>::new());
        let bad = rooms(json!([
            room("keyhaven-hsm", &["cryptoki"]),
            room("keyhaven-proxy", &["keyhaven-service"]),
            room("keyhaven-service", &["keyhaven-hsm"]),
        ]));
        let broken = bad.broken();
        assert!(
            broken
                .iter()
                .any(|line| line == "keyhaven-proxy reaches keyhaven-hsm"),
            "{broken:?}"
        );
    }

    #[test]
    fn only_the_token_room_names_the_token_library() {
        let bad = rooms(json!([room("keyhaven-signer", &["cryptoki"])]));
        assert_eq!(bad.broken().len(), 1);
    }

    #[test]
    fn this_workspace_keeps_its_arrows() {
        assert_eq!(Rooms::read().unwrap().broken(), Vec::<String>::new());
    }
}
