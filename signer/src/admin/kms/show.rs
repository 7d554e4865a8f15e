//! Records of central as scripts and people see them.
//!
//! Formats and decides nothing. Invariant: every hash and id is in lower-case hexadecimal, every blob in base64.

use base64::{Engine, engine::general_purpose::STANDARD};
use keyhaven_types::Name;
use keyhaven_wire::kms::{
    ClassEpoch, ClassRecord, Grant, KeyRecord, Manifest, Public, Scope, SiteRecord,
};
use serde_json::{Value, json};

use crate::admin::text;

pub(super) fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// A DER structure as PEM (RFC 7468).
pub(super) fn pem(label: &str, der: &[u8]) -> String {
    let mut out = format!("-----BEGIN {label}-----\n");
    let text = STANDARD.encode(der);
    // Base64 is ASCII, so every 64 bytes are 64 characters.
    for line in text.as_bytes().chunks(64) {
        out.push_str(&String::from_utf8_lossy(line));
        out.push('\n');
    }
    out.push_str(&format!("-----END {label}-----\n"));
    out
}

/// A fingerprint as people compare it: in groups of four digits.
pub(super) fn groups(digest: &[u8]) -> String {
    let digits = text::hex(digest);
    let groups: Vec<String> = digits
        .as_bytes()
        .chunks(4)
        .map(|group| String::from_utf8_lossy(group).into_owned())
        .collect();
    groups.join(" ")
}

pub(super) fn join<T: ToString>(items: &[T]) -> String {
    let texts: Vec<String> = items.iter().map(ToString::to_string).collect();
    if texts.is_empty() {
        "-".to_owned()
    } else {
        texts.join(", ")
    }
}

pub(super) fn key_json(key: &KeyRecord) -> Value {
    json!({
        "id": key.id,
        "name": key.name,
        "kind": key.kind,
        "purpose": key.purpose,
        "class": key.class,
        "server_names": key.server_names,
        "current": key.current,
        "versions": key.versions,
        "revision": key.revision,
    })
}

pub(super) fn version_json(version: &Manifest) -> Value {
    let public = match &version.public {
        Public::Spki(spki) => {
            json!({"spki": base64(spki), "spki_sha256": text::sha256(spki)})
        }
        Public::Kcv(kcv) => json!({"kcv": text::hex(kcv)}),
    };
    json!({
        "version": version.version,
        "state": version.state,
        "public": public,
        "operations": version.operations,
        "class": version.class,
        "epoch": version.epoch,
        "kek": version.kek,
        "provenance": version.provenance,
        "certificates": version.chain != [0; 32],
        "made_ms": version.made_ms,
        "revision": version.revision,
    })
}

pub(super) fn class_json(class: &ClassRecord) -> Value {
    json!({
        "name": class.name,
        "regions": class.regions,
        "hardware_min": class.hardware_min,
        "bound_s": class.bound_s,
        "bound_before": class.bound_before.map(|(bound_s, until_ms)| json!({"bound_s": bound_s, "until_ms": until_ms})),
        "generated_only": class.generated_only,
        "replication": class.replication,
        "epochs": class.epochs.iter().map(epoch_json).collect::<Vec<_>>(),
        "revision": class.revision,
    })
}

fn epoch_json(epoch: &ClassEpoch) -> Value {
    json!({
        "purpose": epoch.purpose,
        "epoch": epoch.epoch,
        "kek": epoch.kek,
        "current": epoch.current,
    })
}

pub(super) fn site_json(site: &SiteRecord) -> Value {
    let holds: Vec<Value> = site
        .holds
        .iter()
        .map(|held| {
            json!({
                "class": held.class,
                "purpose": held.purpose,
                "epoch": held.epoch,
                "kek": held.kek,
            })
        })
        .collect();
    json!({
        "name": site.name,
        "identity": site.identity.as_str(),
        "address": site.address,
        "region": site.region,
        "hardware": site.hardware,
        "holds": holds,
        "evicted": site.evicted,
        "revision": site.revision,
    })
}

pub(super) fn grant_json(grant: &Grant, name: Option<&Name>) -> Value {
    let key = match grant.scope {
        Scope::Key(id) => json!({"id": id, "name": name}),
        Scope::Server => Value::Null,
    };
    json!({
        "identity": grant.identity.as_str(),
        "key": key,
        "operations": grant.operations,
        "revision": grant.revision,
    })
}

/// A time in the largest unit that gives a small number: `850 ms`, `12 s`, `5 min`, `3 h`, `9 d`.
pub(super) fn span(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..120_000 => format!("{} s", ms / 1_000),
        120_000..7_200_000 => format!("{} min", ms / 60_000),
        7_200_000..172_800_000 => format!("{} h", ms / 3_600_000),
        _ => format!("{} d", ms / 86_400_000),
    }
}

/// A bound as people wrote it.
pub(super) fn bound(seconds: u32) -> String {
    for (unit, name) in [(86_400, "d"), (3_600, "h"), (60, "m")] {
        if seconds.is_multiple_of(unit) {
            return format!("{}{name}", seconds / unit);
        }
    }
    format!("{seconds}s")
}

/// A date and time of day, UTC, from milliseconds since 1970.
pub(super) fn date(ms: u64) -> String {
    i64::try_from(ms / 1000)
        .ok()
        .and_then(|seconds| x509_parser::time::ASN1Time::from_timestamp(seconds).ok())
        .map_or_else(|| "unknown".to_owned(), crate::admin::cert::date)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_come_in_groups_of_four() {
        assert_eq!(groups(&[0x3f, 0x2a, 0x91, 0xc0, 0x01]), "3f2a 91c0 01");
    }

    #[test]
    fn times_and_bounds_read_well() {
        assert_eq!(bound(30), "30s");
        assert_eq!(bound(3600), "1h");
        assert_eq!(bound(5400), "90m");
        assert_eq!(bound(604_800), "7d");
        assert_eq!(span(999), "999 ms");
        assert_eq!(span(119_999), "119 s");
        assert_eq!(span(7_200_000), "2 h");
    }
}
