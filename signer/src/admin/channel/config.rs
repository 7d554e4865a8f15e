//! `client.toml`: who we are, where central and the signers are.
//!
//! Reads and checks. Invariant: what is given out has an identity for each address, and credentials that fit together.

use std::{path::Path, time::Duration};

use keyhaven_service::{
    Credentials, CredentialsFile,
    config::{self, ConfigError, IdentitySection, Problems},
};
use keyhaven_types::{Identity, Role};
use serde::Deserialize;
use toml::Spanned;

use crate::admin::{ask, failure::Failure, text};

/// The file, checked.
pub(in crate::admin) struct Settings {
    pub(super) credentials: Credentials,
    pub(super) centrals: Vec<Endpoint>,
    pub(super) servers: Vec<Endpoint>,
    /// For a connection, and for an answer.
    pub(super) timeout: Duration,
}

/// Somebody to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::admin) struct Endpoint {
    /// `HOST:PORT`
    pub(in crate::admin) address: String,
    /// Who must answer there.
    pub(in crate::admin) identity: Identity,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    identity: IdentitySection,
    #[serde(default)]
    central: Vec<RawEndpoint>,
    #[serde(default)]
    server: Vec<RawEndpoint>,
    #[serde(default = "timeout_default")]
    timeout_ms: Spanned<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEndpoint {
    address: Spanned<String>,
    identity: Spanned<String>,
}

fn timeout_default() -> Spanned<u64> {
    Spanned::new(0..0, 5000)
}

impl Settings {
    /// Reads the file.
    ///
    /// # Errors
    /// With everything that is wrong, each with its line.
    pub(in crate::admin) fn read(path: &Path) -> Result<Self, Failure> {
        let (raw, mut problems) = config::read::<Raw>(path).map_err(failure)?.split();
        let credentials = credentials(&raw.identity, &mut problems);
        let centrals = endpoints(&raw.central, Role::Central, &mut problems);
        let servers = endpoints(&raw.server, Role::Signer, &mut problems);
        if !TIMEOUT_MS.contains(raw.timeout_ms.get_ref()) {
            problems.add(
                raw.timeout_ms.span(),
                format!("timeout_ms is {}", raw.timeout_ms.get_ref()),
                "Give 100 to 600000 milliseconds.",
            );
        }
        for warning in problems.warnings() {
            ask::tell(&format!("warning: {}\n  {}", warning.what, warning.remedy));
        }
        problems.into_result().map_err(failure)?;
        Ok(Self {
            credentials: credentials.ok_or_else(|| {
                Failure::config("the identity cannot be used", "config/client.toml")
            })?,
            centrals,
            servers,
            timeout: Duration::from_millis(*raw.timeout_ms.get_ref()),
        })
    }
}

/// As [`IdentitySection::load`], for either of two roles.
fn credentials(section: &IdentitySection, problems: &mut Problems) -> Option<Credentials> {
    let resolved = |path: &Spanned<std::path::PathBuf>| problems.resolve(path.get_ref());
    let loaded = Credentials::load(
        &resolved(&section.certificate),
        &resolved(&section.key),
        &resolved(&section.ca),
    );
    match loaded {
        Ok(credentials) => {
            let identity = credentials.identity();
            if !matches!(identity.role(), Role::Admin | Role::Client) {
                problems.add(
                    section.certificate.span(),
                    format!("{identity} has neither the role `admin` nor `client`"),
                    "Give a certificate that names spiffe://DOMAIN/admin/NAME or spiffe://DOMAIN/client/NAME.",
                );
                return None;
            }
            Some(credentials)
        }
        Err(error) => {
            let span = match error.file() {
                CredentialsFile::Certificate => section.certificate.span(),
                CredentialsFile::Key => section.key.span(),
                CredentialsFile::Ca => section.ca.span(),
            };
            problems.add(span, text::chain(&error), error.remedy());
            None
        }
    }
}

fn endpoints(raw: &[RawEndpoint], role: Role, problems: &mut Problems) -> Vec<Endpoint> {
    let mut found = Vec::new();
    for one in raw {
        let address = one.address.get_ref();
        let has_port = address
            .rsplit_once(':')
            .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
        if !has_port {
            problems.add(
                one.address.span(),
                format!("`{}` is no address", text::clean(address)),
                "Write HOST:PORT.",
            );
        }
        match one.identity.get_ref().parse::<Identity>() {
            Ok(identity) if identity.role() == role => found.push(Endpoint {
                address: address.clone(),
                identity,
            }),
            Ok(identity) => problems.add(
                one.identity.span(),
                format!("{identity} has not the role `{}`", role.as_str()),
                format!("Give spiffe://DOMAIN/{}/NAME.", role.as_str()),
            ),
            Err(error) => problems.add(
                one.identity.span(),
                error,
                format!("Give spiffe://DOMAIN/{}/NAME.", role.as_str()),
            ),
        }
    }
    found
}

fn failure(error: ConfigError) -> Failure {
    let what = match &error {
        ConfigError::Read { path, source } => format!("cannot read {}: {source}", path.display()),
        error => error.to_string(),
    };
    Failure::config(
        what,
        "config/client.toml explains every key; --client FILE or KEYHAVEN_CLIENT names the file",
    )
}

const TIMEOUT_MS: std::ops::RangeInclusive<u64> = 100..=600_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Failure {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("client.toml");
        std::fs::write(&path, text).unwrap();
        match Settings::read(&path) {
            Ok(_) => panic!("it was taken"),
            Err(failure) => failure,
        }
    }

    #[test]
    fn everything_that_is_wrong_is_told_with_its_line() {
        let failure = read(
            "timeout_ms = 1\n[identity]\ncertificate = \"a\"\nkey = \"b\"\nca = \"c\"\n[[server]]\naddress = \"x\"\n\
             identity = \"spiffe://a/central/b\"\n[[central]]\naddress = \"x:1\"\nidentity = \"b\"\n",
        );
        assert_eq!(failure.code, 78);
        for part in [
            "client.toml:1: timeout_ms is 1",
            "client.toml:3: cannot read the certificate file",
            "client.toml:7: `x` is no address",
            "client.toml:8: spiffe://a/central/b has not the role `signer`",
            "client.toml:11: a SPIFFE id starts with",
        ] {
            assert!(failure.what.contains(part), "{part}: {}", failure.what);
        }
    }

    #[test]
    fn unknown_keys_and_missing_files_are_told() {
        assert!(read("what = 1\n").what.contains("unknown field `what`"));
        let missing = Settings::read(Path::new("/nowhere/client.toml"));
        assert_eq!(missing.err().map(|failure| failure.code), Some(78));
    }
}
