//! A folder with every file that the annotated configuration names.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use keyhaven_service::config::{ConfigError, Problem};
use keyhaven_signer::config::Config;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer,
    KeyIdMethod, KeyPair, KeyUsagePurpose, SanType, SerialNumber, date_time_ymd,
};

/// The folder, and the configuration that stands in it.
pub(crate) struct Folder {
    dir: tempfile::TempDir,
    text: String,
}

impl Folder {
    /// The annotated configuration with all its files.
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let folder = Self {
            dir,
            text: super::ANNOTATED.to_owned(),
        };
        fs::create_dir(folder.path("pki")).unwrap();
        let ca = folder.authority("pki/ca.pem", "Channel");
        let mut identity = CertificateParams::default();
        let name = "spiffe://keyhaven.test/signer/main".try_into().unwrap();
        identity.subject_alt_names = vec![SanType::URI(name)];
        let key = folder.leaf("pki/signer.pem", &identity, &ca);
        folder.secret("pki/signer.key", key.serialize_pem().as_bytes());
        let site = CertificateParams::new(vec!["demo.keyhaven.test".to_owned()]).unwrap();
        folder.leaf("demo.pem", &site, &ca);
        let clients = folder.authority("clients-ca.pem", "Clients");
        folder.write("clients.crl", list(&clients, 2090));
        folder.secret("tickets.key", &[1; 32]);
        folder.secret("seal.key", &[2; 32]);
        folder
    }

    /// A file's path.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file.
    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.path(name), content).unwrap();
    }

    /// Writes a file that its owner alone can read.
    pub(crate) fn secret(&self, name: &str, content: &[u8]) {
        self.write(name, content);
        self.mode(name, 0o600);
    }

    /// Changes a file's permissions.
    pub(crate) fn mode(&self, name: &str, mode: u32) {
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(mode)).unwrap();
    }

    /// A CA with its certificate in a file.
    pub(crate) fn authority(&self, name: &str, subject: &str) -> Issuer<'static, KeyPair> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, subject);
        let key = KeyPair::generate().unwrap();
        self.write(name, params.self_signed(&key).unwrap().pem());
        Issuer::new(params, key)
    }

    /// A certificate of a new key in a file.
    pub(crate) fn leaf(
        &self,
        name: &str,
        params: &CertificateParams,
        ca: &Issuer<'static, KeyPair>,
    ) -> KeyPair {
        let key = KeyPair::generate().unwrap();
        self.write(name, params.signed_by(&key, ca).unwrap().pem());
        key
    }

    /// Replaces a part of the configuration, which must be there.
    pub(crate) fn with(mut self, from: &str, to: &str) -> Self {
        assert!(self.text.contains(from), "{from} is in the file");
        self.text = self.text.replace(from, to);
        self
    }

    /// Turns on a key that the annotated file only mentions, with a value.
    pub(crate) fn key(self, key: &str, value: &str) -> Self {
        let line = |line: &&str| line.starts_with(&format!("# {key} = "));
        let mentioned = self.text.lines().find(line).unwrap().to_owned();
        self.with(&mentioned, &format!("{key} = {value}"))
    }

    /// Turns on tickets, with keys.
    pub(crate) fn tickets(self, keys: &str) -> Self {
        self.with("# [tickets]", &format!("[tickets]\n{keys}"))
    }

    /// Reads it.
    pub(crate) fn read(&self) -> Result<Config, ConfigError> {
        self.write("signer.toml", &self.text);
        Config::read(&self.path("signer.toml"))
    }

    /// The files that are looked at for changes, of the configuration as it was read last.
    pub(crate) fn watched(&self) -> Vec<PathBuf> {
        let document = keyhaven_service::config::read(&self.path("signer.toml"));
        Config::watched(&document.unwrap())
    }

    /// Reads it; it must be good.
    pub(crate) fn good(&self) -> Config {
        match self.read() {
            Ok(config) => config,
            Err(error) => panic!("{error}"),
        }
    }

    /// Reads it; it must have this one problem, on the line that has `place`.
    pub(crate) fn problem(&self, place: &str, what: &str, remedy: &str) {
        let problems = match self.read() {
            Ok(_) => panic!("no problem was found"),
            Err(ConfigError::Problems(problems)) => problems,
            Err(error) => panic!("{error}"),
        };
        let errors: Vec<&Problem> = problems.items().iter().filter(|p| !p.warning).collect();
        let [only] = errors[..] else {
            panic!("not one problem:\n{problems}");
        };
        assert!(only.what.contains(what), "{what} in:\n{problems}");
        assert!(only.remedy.contains(remedy), "{remedy} in:\n{problems}");
        let line = self.text.lines().position(|line| line.contains(place));
        assert_eq!(only.line, line.map(|line| line + 1), "{place}:\n{problems}");
    }

    /// Reads it; it must be good, and have this warning.
    pub(crate) fn warning(&self, what: &str) -> Config {
        let config = self.good();
        let found = config.warnings.iter().any(|warning| warning.contains(what));
        assert!(found, "{what} in {:?}", config.warnings);
        config
    }
}

/// A CA's empty revocation list (DER) that is current until a year's begin.
pub(crate) fn list(ca: &Issuer<'static, KeyPair>, until: i32) -> Vec<u8> {
    let params = CertificateRevocationListParams {
        this_update: date_time_ymd(2020, 1, 1),
        next_update: date_time_ymd(until, 1, 1),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: Vec::new(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    params.signed_by(ca).unwrap().der().to_vec()
}

/// DER as PEM.
pub(crate) fn pem(label: &str, der: &[u8]) -> String {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let body = STANDARD.encode(der);
    let lines: Vec<&str> = body
        .as_bytes()
        .chunks(64)
        .map(|line| std::str::from_utf8(line).unwrap())
        .collect();
    format!(
        "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
        lines.join("\n")
    )
}

/// A test's own file, for a path that is used as it is.
pub(crate) fn data(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    fs::read(folder.join(name)).unwrap()
}
