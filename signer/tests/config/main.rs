//! The annotated `config/signer.toml` is the documentation: it loads, and so does each key it only mentions.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

use std::{fs, path::Path, process::Command};

mod folder;
mod kms;
mod problems;

use keyhaven_signer::config::Raw;

const ANNOTATED: &str = include_str!("../../../config/signer.toml");

#[test]
fn the_annotated_file_has_the_form_that_is_read() {
    toml::from_str::<Raw>(ANNOTATED).unwrap();
}

#[test]
fn every_key_that_is_only_mentioned_is_read_too() {
    let mut mentioned = 0;
    let uncommented: String = ANNOTATED
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(rest) if is_key_or_table(rest) => {
                mentioned += 1;
                format!("{rest}\n")
            }
            _ => format!("{line}\n"),
        })
        .collect();
    assert!(
        mentioned >= 20,
        "only {mentioned} lines are commented out:\n{uncommented}"
    );
    toml::from_str::<Raw>(&uncommented).unwrap();
}

fn is_key_or_table(text: &str) -> bool {
    let is_word = |text: &str| {
        text.bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
    };
    let inside = |text: &str, open, close| {
        let rest = text.strip_prefix(open)?.strip_suffix(close)?;
        Some(rest.split('.').all(is_word))
    };
    inside(text, "[[", "]]").or_else(|| inside(text, "[", "]")) == Some(true)
        || text.split_once(" = ").is_some_and(|(key, _)| is_word(key))
}

#[test]
fn an_unknown_key_is_an_error() {
    let with_typo = ANNOTATED.replace("queue_max", "queue_mx");
    assert!(toml::from_str::<Raw>(&with_typo).is_err());
}

/// Runs `signer --config signer.toml --check` in the folder and gives its exit code and what it said.
fn check(folder: &Path, text: &str) -> (Option<i32>, String) {
    fs::write(folder.join("signer.toml"), text).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_signer"))
        .args(["--config", "signer.toml", "--check"])
        .current_dir(folder)
        .output()
        .unwrap();
    (
        output.status.code(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

#[test]
fn check_says_every_problem_with_its_line_and_the_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let text = ANNOTATED
        .replace("listen = \"127.0.0.1:7443\"", "listen = \"localhost\"")
        .replace("handshakes_max = 256", "handshakes_max = 0")
        .replace(
            "connection_lifetime_s = 86400",
            "connection_lifetime_s = 100000",
        )
        .replace(
            "\"spiffe://keyhaven.test/proxy/edge-1\"",
            "\"spiffe://keyhaven.test/admin/a\"",
        );
    let (code, said) = check(folder.path(), &text);
    assert_eq!(code, Some(78), "{said}");
    for (needle, remedy) in [
        ("listen = \"localhost\"", "IP:PORT"),
        ("handshakes_max = 0", "choose 1 to 1000000"),
        ("connection_lifetime_s = 100000", "choose 1 to 86400"),
        ("role admin", "role proxy"),
        ("demo.pem", "PEM chain"),
        ("pki/", ""),
    ] {
        assert!(
            said.contains(needle) && said.contains(remedy),
            "{needle} / {remedy} in:\n{said}"
        );
    }
    let line = 1 + text
        .lines()
        .position(|line| line.starts_with("listen"))
        .unwrap();
    assert!(
        said.contains(&format!("signer.toml:{line}")),
        "{line} in:\n{said}"
    );
}

#[test]
fn a_pin_in_the_uri_is_refused_and_not_repeated() {
    let folder = tempfile::tempdir().unwrap();
    let (code, said) = check(
        folder.path(),
        &ANNOTATED.replace("pin-source=file:pin", "pin-value=937461"),
    );
    assert_eq!(code, Some(78));
    assert!(
        said.contains("pin-value") && !said.contains("937461"),
        "{said}"
    );
}

#[test]
fn usage_has_its_own_exit_code() {
    let output = Command::new(env!("CARGO_BIN_EXE_signer"))
        .arg("--nonsense")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(64));
}

#[test]
fn the_working_directory_is_a_folder_for_the_replica() {
    let folder = tempfile::tempdir().unwrap();
    for (replica, refused) in [("replica.redb", false), ("absent/replica.redb", true)] {
        let section = format!(
            "[kms]\nsite = \"fra\"\ntoken = \"main\"\ncentral_key = \"central.pem\"\nreplica = \"{replica}\"\n"
        );
        let (code, said) = check(folder.path(), &ANNOTATED.replace("# [kms]\n", &section));
        assert_eq!(code, Some(78), "{said}");
        assert_eq!(
            said.contains("no folder for the replica"),
            refused,
            "{said}"
        );
    }
}
