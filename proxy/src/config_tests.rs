//! The annotated file is a configuration, and every mistake in it is found with its line.

use std::path::{Path, PathBuf};

use super::*;

/// A folder with an identity and this configuration.
struct Folder {
    folder: tempfile::TempDir,
}

impl Folder {
    fn new(text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let pki = folder.path().join("pki");
        std::fs::create_dir(&pki).unwrap();
        let ca_key = rcgen::KeyPair::generate().unwrap();
        let mut ca = rcgen::CertificateParams::default();
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca_certificate = ca.self_signed(&ca_key).unwrap();
        let issuer = rcgen::Issuer::new(ca, ca_key);
        let key = rcgen::KeyPair::generate().unwrap();
        let mut leaf = rcgen::CertificateParams::default();
        leaf.subject_alt_names = vec![rcgen::SanType::URI(
            "spiffe://keyhaven.test/proxy/one".try_into().unwrap(),
        )];
        let leaf = leaf.signed_by(&key, &issuer).unwrap();
        write_private(&pki.join("proxy.key"), &key.serialize_pem());
        std::fs::write(pki.join("proxy.pem"), leaf.pem()).unwrap();
        std::fs::write(pki.join("ca.pem"), ca_certificate.pem()).unwrap();
        std::fs::write(folder.path().join("proxy.toml"), text).unwrap();
        Self { folder }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("proxy.toml")
    }
}

fn write_private(path: &Path, text: &str) {
    use std::os::unix::fs::OpenOptionsExt;
    let file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path);
    std::io::Write::write_all(&mut file.unwrap(), text.as_bytes()).unwrap();
}

fn annotated() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/proxy.toml");
    std::fs::read_to_string(path).unwrap()
}

fn error(text: &str) -> String {
    match Config::read(&Folder::new(text).path()) {
        Ok(_) => panic!("it was accepted"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn the_annotated_file_is_a_configuration_with_its_defaults() {
    let folder = Folder::new(&annotated());
    let (config, _) = Config::read(&folder.path())
        .map_err(|error| error.to_string())
        .unwrap();
    let without_limits: String = {
        let text = annotated();
        let start = text.find("[limits]").unwrap();
        text[..start].to_owned()
    };
    let folder = Folder::new(&without_limits);
    let (defaults, _) = Config::read(&folder.path())
        .map_err(|error| error.to_string())
        .unwrap();
    assert_eq!(
        format!("{:?}", config.limits),
        format!("{:?}", defaults.limits)
    );
    assert_eq!(config.signers.len(), 1);
    let lookup = config.lookup.unwrap();
    assert_eq!((lookup.servers_max, lookup.refresh.as_millis()), (16, 2000));
    assert_eq!(config.proxy_protocol, ProxyProtocol::None);
}

#[test]
fn nothing_is_looked_up_without_its_table_or_when_it_is_off() {
    let lookup = |text: &str| {
        let folder = Folder::new(text);
        let read = Config::read(&folder.path());
        read.map_err(|error| error.to_string()).unwrap().0.lookup
    };
    let text = annotated();
    let start = text.find("[lookup]").unwrap();
    let end = text.find("[limits]").unwrap();
    let without = [&text[..start], &text[end..]].concat();
    assert!(lookup(&without).is_none());
    let short = [&text[..start], "[lookup]\n", &text[end..]].concat();
    assert!(lookup(&short).is_some_and(|lookup| lookup.servers_max == 16));
    assert!(lookup(&text.replace("enabled = true", "enabled = false")).is_none());
}

#[test]
fn each_word_for_the_proxy_protocol_is_known_and_no_other() {
    for (word, expected) in [
        ("none", ProxyProtocol::None),
        ("v2", ProxyProtocol::V2),
        ("v2-tls", ProxyProtocol::V2Tls),
    ] {
        let text = annotated().replace(
            "proxy_protocol = \"none\"",
            &format!("proxy_protocol = \"{word}\""),
        );
        let folder = Folder::new(&text);
        let (config, _) = Config::read(&folder.path())
            .map_err(|error| error.to_string())
            .unwrap();
        assert_eq!(config.proxy_protocol, expected);
    }
    let text = annotated().replace("proxy_protocol = \"none\"", "proxy_protocol = \"v1\"");
    let error = error(&text);
    assert!(error.contains("v2-tls"), "{error}");
}

#[test]
fn every_problem_is_named_with_its_line() {
    let text = annotated()
        .replace("127.0.0.1:8443", "here")
        .replace("127.0.0.1:8080", "127.0.0.1")
        .replace("keyhaven.test/signer/main", "keyhaven.test/proxy/main")
        .replace("records_per_key = 16000000", "records_per_key = 16777216")
        .replace("connections_max = 10000", "connections_max = 0")
        .replace("servers_max = 16", "servers_max = 0")
        .replace("refresh_ms = 2000", "refresh_ms = 99");
    let error = error(&text);
    for (line, text) in text
        .lines()
        .enumerate()
        .map(|(line, text)| (line + 1, text))
    {
        let is_wrong = [
            "\"here\"",
            "\"127.0.0.1\"",
            "/proxy/main\"",
            "= 16777216",
            "_max = 0",
            "_ms = 99",
        ]
        .iter()
        .any(|wrong| text.ends_with(wrong));
        let is_named = error.contains(&format!("proxy.toml:{line}:"));
        assert_eq!(is_named, is_wrong, "{line}: {text}\n{error}");
    }
}

#[test]
fn a_proxy_is_not_its_own_backend() {
    let with = |listen: &str, backend: &str| {
        annotated()
            .replace("127.0.0.1:8443", listen)
            .replace("127.0.0.1:8080", backend)
    };
    for (listen, backend) in [
        ("127.0.0.1:8443", "127.0.0.1:8443"),
        ("127.0.0.1:8443", "localhost:8443"),
        ("0.0.0.0:8443", "127.0.0.1:8443"),
        ("[::]:8443", "[::1]:8443"),
    ] {
        let error = error(&with(listen, backend));
        assert!(error.contains("its own backend"), "{error}");
    }
    for (listen, backend) in [
        ("127.0.0.1:8443", "127.0.0.2:8443"),
        ("0.0.0.0:8443", "192.0.2.1:8443"),
    ] {
        let folder = Folder::new(&with(listen, backend));
        assert!(Config::read(&folder.path()).is_ok(), "{listen} {backend}");
    }
}

#[test]
fn unknown_keys_and_missing_signers_are_refused() {
    assert!(error(&annotated().replace("[limits]", "[limits]\nspeed = 9")).contains("speed"));
    let text = annotated().replace("[[signer]]", "[[signer_old]]");
    assert!(error(&text).contains("signer_old"));
}

#[test]
fn connections_are_no_more_than_the_open_files_are_enough_for() {
    let folder = Folder::new(&annotated());
    let (config, _) = Config::read(&folder.path())
        .map_err(|error| error.to_string())
        .unwrap();
    for (files, fits) in [
        (u64::MAX, 10_000),
        (20_320, 10_000),
        (4096, 1888),
        (1024, 352),
        (10, 1),
    ] {
        let mut limits = config.limits.clone();
        let warning = limits.fit_open_files(files);
        assert_eq!(limits.connections_max, fits);
        assert_eq!(warning.is_some(), fits < 10_000);
        if let Some(warning) = warning {
            assert!(warning.contains("LimitNOFILE=20320"), "{warning}");
        }
    }
}
