//! The `proxy` command: what it says and with which code it ends.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::{path::Path, process::Command};

use support::Pki;

/// Runs to the end; the exit code, and everything that was said.
fn proxy(arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_proxy"))
        .args(arguments)
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).unwrap())
}

/// The annotated configuration beside an identity that fits it.
fn configuration(folder: &Path, listen: &str) -> String {
    let annotated = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/proxy.toml");
    let text = std::fs::read_to_string(annotated).unwrap();
    let text = text
        .replace("127.0.0.1:8443", listen)
        .replace("pki/proxy", "proxy-one")
        .replace("pki/ca.pem", "ca.pem");
    let path = folder.join("proxy.toml");
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_wrong_command_line_is_64_and_help_is_0() {
    assert_eq!(proxy(&[]).0, Some(64));
    assert_eq!(proxy(&["--config"]).0, Some(64));
    assert_eq!(proxy(&["--fast", "--config", "x"]).0, Some(64));
    let (code, help) = proxy(&["--help"]);
    assert_eq!(code, Some(0));
    assert!(help.contains("--check"), "{help}");
}

#[test]
fn check_is_0_for_a_good_file_and_78_for_a_bad_one() {
    let pki = Pki::new();
    pki.credentials("proxy/one");
    let path = configuration(pki.folder(), "127.0.0.1:0");
    let (code, said) = proxy(&["--check", "--config", &path]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.ends_with("proxy.toml: ok\n"), "{said}");

    let path = configuration(pki.folder(), "nowhere");
    let (code, said) = proxy(&["--check", "--config", &path]);
    assert_eq!(code, Some(78), "{said}");
    assert!(
        said.contains("`nowhere` is no address to listen on"),
        "{said}"
    );
    assert_eq!(proxy(&["--config", "/nonexistent.toml"]).0, Some(78));
}

#[test]
fn an_address_in_use_is_1_and_says_what_to_do() {
    let pki = Pki::new();
    pki.credentials("proxy/one");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let path = configuration(pki.folder(), &address);
    let (code, said) = proxy(&["--config", &path]);
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains(&format!("cannot listen on {address}; check `listen`")),
        "{said}"
    );
    // The first line is for whoever reads the log later.
    let first = said.lines().next().unwrap();
    assert!(first.contains("proxy starts"), "{said}");
    assert!(first.contains(env!("CARGO_PKG_VERSION")), "{said}");
    assert!(first.contains(&path), "{said}");
}

#[test]
fn too_few_open_files_are_a_warning_with_the_remedy() {
    let pki = Pki::new();
    pki.credentials("proxy/one");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let path = configuration(pki.folder(), &taken.local_addr().unwrap().to_string());
    // It warns before it listens, and ends because the address is taken.
    let output = Command::new("sh")
        .args(["-c", "ulimit -n 1024 && exec \"$0\" --config \"$1\""])
        .args([env!("CARGO_BIN_EXE_proxy"), &path])
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8(said).unwrap();
    assert!(said.contains("going on with 352"), "{said}");
}
