//! `[store]`: a file on this machine, or an etcd cluster.

use std::{path::PathBuf, time::Duration};

use keyhaven_service::config::Problems;
use toml::Spanned;

use super::{in_range, raw};
use crate::store::EtcdConfig;

/// Where state is kept.
#[derive(Clone, Debug)]
pub enum StoreConfig {
    /// One file, for one central.
    Redb {
        /// The file.
        path: PathBuf,
        /// How much of it may be in memory.
        cache_bytes: usize,
    },
    /// A cluster, for several centrals.
    Etcd(EtcdConfig),
}

pub(super) fn validate(
    section: &Spanned<raw::StoreSection>,
    problems: &mut Problems,
) -> Option<StoreConfig> {
    let raw = section.get_ref();
    match raw.kind {
        raw::StoreKind::Redb => redb(section, problems),
        raw::StoreKind::Etcd => etcd(section, problems),
    }
}

fn redb(section: &Spanned<raw::StoreSection>, problems: &mut Problems) -> Option<StoreConfig> {
    let raw = section.get_ref();
    let is_foreign = !raw.endpoints.is_empty()
        || raw.ca.is_some()
        || raw.certificate.is_some()
        || raw.key.is_some()
        || raw.prefix.is_some()
        || raw.timeout_ms.is_some();
    if is_foreign {
        problems.add(
            section.span(),
            "a store of kind \"redb\" has only `path` and `cache_mb`",
            "leave the others out, or set kind = \"etcd\"",
        );
    }
    let cache_mb = raw.cache_mb.as_ref().map_or(CACHE_MB, |cache| {
        in_range(cache, "cache_mb", 1, 65_536, problems)
    });
    let Some(path) = &raw.path else {
        problems.add(
            section.span(),
            "the store has no `path`",
            "name the file, for example path = \"/var/lib/keyhaven/kms.redb\"",
        );
        return None;
    };
    Some(StoreConfig::Redb {
        path: problems.resolve(path.get_ref()),
        cache_bytes: cache_mb * 1024 * 1024,
    })
}

fn etcd(section: &Spanned<raw::StoreSection>, problems: &mut Problems) -> Option<StoreConfig> {
    let raw = section.get_ref();
    if raw.path.is_some() || raw.cache_mb.is_some() {
        problems.add(
            section.span(),
            "a store of kind \"etcd\" has no `path` and no `cache_mb`",
            "leave them out, or set kind = \"redb\"",
        );
    }
    if raw.endpoints.is_empty() {
        problems.add(
            section.span(),
            "the store has no `endpoints`",
            "name the etcd nodes, for example endpoints = [\"https://10.0.0.1:2379\"]",
        );
    }
    for endpoint in &raw.endpoints {
        if !endpoint.get_ref().starts_with("https://") {
            problems.add(
                endpoint.span(),
                format!("`{}` is not encrypted", endpoint.get_ref()),
                "write https://HOST:PORT, and give the nodes certificates",
            );
        }
    }
    let timeout_ms = raw.timeout_ms.as_ref().map_or(TIMEOUT_MS, |timeout| {
        in_range(timeout, "timeout_ms", 100, 600_000, problems)
    });
    let prefix = raw
        .prefix
        .as_ref()
        .map_or(PREFIX, |prefix| prefix.get_ref().as_str());
    if !prefix.starts_with('/') || !prefix.ends_with('/') {
        problems.add(
            raw.prefix.as_ref().map(Spanned::span),
            format!("the prefix `{prefix}` must begin and end with `/`"),
            "write prefix = \"/kms/\"",
        );
    }
    let mut file = |name: &str, path: &Option<Spanned<PathBuf>>| {
        let Some(path) = path else {
            problems.add(
                section.span(),
                format!("the store has no `{name}`"),
                "etcd is reached by mutual TLS: give `ca`, `certificate` and `key`",
            );
            return None;
        };
        let resolved = problems.resolve(path.get_ref());
        if !resolved.is_file() {
            problems.add(
                path.span(),
                format!("there is no file {}", resolved.display()),
                "correct the path",
            );
        }
        Some(resolved)
    };
    let ca = file("ca", &raw.ca);
    let certificate = file("certificate", &raw.certificate);
    let key = file("key", &raw.key);
    Some(StoreConfig::Etcd(EtcdConfig {
        endpoints: raw
            .endpoints
            .iter()
            .map(|endpoint| endpoint.get_ref().clone())
            .collect(),
        ca: ca?,
        certificate: certificate?,
        key: key?,
        prefix: prefix.to_owned(),
        timeout: Duration::from_millis(timeout_ms),
    }))
}

const CACHE_MB: usize = 64;
const PREFIX: &str = "/kms/";
const TIMEOUT_MS: u64 = 5000;
