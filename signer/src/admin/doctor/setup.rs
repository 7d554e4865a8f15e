//! The doctor on a signer's configuration: file, identity, limits, every token, every site, the KMS.
//!
//! The file's own rules are `config`'s; what only a look at the machine and the tokens can tell is added here.
//! Invariant: a token is logged in to once, however many keys are in it.

use std::{collections::HashMap, path::Path};

use keyhaven_service::config::{ConfigError, resolve};
use rustix::process::{Resource, getrlimit};

use super::{
    finding::Findings,
    kms, road, site,
    token::{self, Opened},
};
use crate::{
    admin::{cert, failure::Failure, select::Selected},
    config::Config,
};

/// An identity's key is a file: no verb for keys in tokens renews it.
const RENEW_IDENTITY: &str = "have the private CA issue a new certificate with the same spiffe:// name, replace the file and restart: docs/operations.md, \"To rotate an identity\", has the openssl commands";

/// Examines everything that the file speaks of.
pub(super) fn examine(path: &Path, findings: &mut Findings) {
    let subject = format!("configuration {}", path.display());
    identity_certificate(path, findings);
    let config = match Config::read(path) {
        Ok(config) => config,
        Err(ConfigError::Problems(problems)) => {
            for problem in problems.items() {
                let place = match problem.line {
                    Some(line) => format!("{subject}, line {line}"),
                    None => subject.clone(),
                };
                if problem.warning {
                    findings.warning(&place, &problem.what, &problem.remedy);
                } else {
                    findings.problem(&place, &problem.what, &problem.remedy);
                }
            }
            return;
        }
        Err(error) => {
            let unread = matches!(error, ConfigError::Read { .. });
            let failure = Failure::from(error);
            let remedy = if unread {
                failure.remedy
            } else {
                "compare the file with config/signer.toml, which explains every key".to_owned()
            };
            findings.problem(&subject, failure.what, remedy);
            return;
        }
    };
    findings.good(&subject, "every key is known and in its range");
    // Those about sites' certificates are problems here, and are found again below.
    let judged_below = |warning: &&String| {
        let keys = config.sites.iter().flat_map(|site| &site.keys);
        keys.map(|key| format!(" in {}", key.certificate.display()))
            .any(|place| warning.contains(&place))
    };
    for warning in config.warnings.iter().filter(|w| !judged_below(w)) {
        let (what, remedy) = what_and_remedy(warning);
        findings.warning(&subject, what, remedy);
    }
    findings.good(
        "identity",
        format!("{} with its key and CA", config.credentials.identity()),
    );
    open_files(&config, findings);
    let mut tokens: HashMap<&str, Opened> = HashMap::new();
    for section in &config.tokens {
        if let Some(opened) = token::examine(
            Selected::from_config(section),
            section.module.as_deref(),
            kms::is_for_managed_keys(&config, &section.name),
            findings,
        ) {
            tokens.insert(&section.name, opened);
        }
    }
    for section in &config.sites {
        if let Some(served) = site::examine(section, &tokens, findings) {
            road::examine(&config, section, &served, &tokens, findings);
        }
    }
    if let Some(section) = &config.kms {
        kms::examine(section, &tokens, findings);
    }
}

/// A warning is one line for the log. What to do stands behind `; `, unless the finding itself says to run something.
fn what_and_remedy(warning: &str) -> (&str, String) {
    let (what, remedy) = warning
        .rsplit_once("; ")
        .unwrap_or((warning, "see config/signer.toml"));
    match what.split_once(". Run ") {
        Some((what, command)) => (what, format!("run {}", command.trim_end_matches('.'))),
        None => (what, remedy.to_owned()),
    }
}

/// The end of the signer's own certificate; that it fits its key and CA is checked when the file is read.
fn identity_certificate(path: &Path, findings: &mut Findings) {
    let Some(certificate) = std::fs::read_to_string(path)
        .ok()
        .and_then(|text| text.parse::<toml::Table>().ok())
        .and_then(|file| {
            Some(
                file.get("identity")?
                    .get("certificate")?
                    .as_str()?
                    .to_owned(),
            )
        })
    else {
        return;
    };
    let base = path.parent().unwrap_or(Path::new("."));
    let certificate = resolve(base, Path::new(&certificate));
    let subject = format!("identity certificate {}", certificate.display());
    // A file that cannot be read is reported with its line in the configuration.
    if let Ok(chain) = cert::read_file(&certificate)
        && let Some(leaf) = chain.first()
    {
        token::expiry(&subject, leaf, RENEW_IDENTITY, findings);
    }
}

/// Whether the connections that are allowed can be opened.
fn open_files(config: &Config, findings: &mut Findings) {
    /// Listener, logs, module, token files, and some air.
    const OTHERS: u64 = 128;
    let needed = config.limits.connections_max as u64 + config.threads as u64 + OTHERS;
    match getrlimit(Resource::Nofile).current {
        Some(limit) if limit < needed => findings.warning(
            "open files",
            format!(
                "this session may open {limit} files; connections_max and threads need {needed}"
            ),
            format!("set LimitNOFILE={needed} or more in the unit, or lower connections_max"),
        ),
        _ => findings.good("open files", format!("{needed} are enough, and allowed")),
    }
}
