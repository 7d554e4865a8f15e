//! The annotated files in `config/` are the documentation: they load, so does each key that they only mention, and what is
//! wrong is told with its line.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{fs, process::Command};

use keyhaven_kms_central::config::Raw;

const FILE: &str = include_str!("../../config/kms-central.toml");
const ETCD: &str = include_str!("../../config/kms-central-etcd.toml");

#[test]
fn the_annotated_files_have_the_form_that_is_read() {
    for text in [FILE, ETCD] {
        toml::from_str::<Raw>(text).unwrap();
    }
}

#[test]
fn every_key_that_is_only_mentioned_is_read_too() {
    let mut mentioned = 0;
    let uncommented: String = FILE
        .lines()
        .map(|line| {
            let rest = line.strip_prefix("# ").filter(|rest| is_key(rest));
            mentioned += usize::from(rest.is_some());
            format!("{}\n", rest.unwrap_or(line))
        })
        .collect();
    assert!(mentioned >= 3, "{mentioned}:\n{uncommented}");
    toml::from_str::<Raw>(&uncommented).unwrap();
}

fn is_key(text: &str) -> bool {
    let is_word = |text: &str| {
        text.bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte == b'_')
    };
    text.split_once(" = ").is_some_and(|(key, _)| is_word(key))
}

#[test]
fn an_unknown_key_is_an_error() {
    assert!(toml::from_str::<Raw>(&FILE.replace("queue_max", "queue_mx")).is_err());
}

#[test]
fn every_problem_is_told_at_once_with_its_line_and_code_78() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("kms-central.toml");
    let text = FILE
        .replace("127.0.0.1:7500", "nowhere")
        .replace("kind = \"redb\"", "kind = \"etcd\"")
        .replace("admin/alice", "proxy/alice")
        .replace("queue_max = 1024", "queue_max = 0");
    fs::write(&file, text).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_kms-central"))
        .arg("--config")
        .arg(&file)
        .arg("--check")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(78));
    let said = String::from_utf8_lossy(&output.stderr);
    for part in [
        "kms-central.toml:9: listen = \"nowhere\" is not an address",
        "has no `endpoints`",
        "has no `path`",
        "proxy/alice has not the role `admin`",
        "queue_max = 0 is out of range",
        "pki/central.pem",
    ] {
        assert!(said.contains(part), "{part} is missing:\n{said}");
    }
}
