//! `cert import | show`, and certificates as people read them.
//!
//! Parses and prints; it does not validate chains, for only a client can. Invariant: names from a certificate are
//! printed without control characters.

use std::{fs::File, io::Read, path::Path};

use base64::{Engine, engine::general_purpose::STANDARD};
use keyhaven_hsm::admin::{CertificateEntry, KeyName};
use serde_json::{Value, json};
use x509_parser::{
    certificate::X509Certificate,
    extensions::{GeneralName, ParsedExtension},
    parse_x509_certificate,
};

use super::{
    args::{CertImportArgs, CertShowArgs},
    failure::Failure,
    key::key_json,
    keyfile,
    report::Report,
    select::Selected,
    text,
};

/// Stores a certificate beside its key.
pub(super) fn import(args: &CertImportArgs) -> Result<Report, Failure> {
    let certificates = read_file(&args.file)?;
    let selected = Selected::new(&args.key.token)?;
    let session = selected.open()?;
    let key = selected.find_key(&session, &args.key.name)?;
    let spki = key.spki.as_deref().unwrap_or_default();
    // Without a chain for this key the first certificate is tried, and refused with the reason.
    let chain = match keyfile::order_chain(spki, &certificates) {
        Some((chain, _)) => chain,
        None => certificates,
    };
    let (leaf, issuers) = chain
        .split_first()
        .ok_or_else(|| no_certificate(&args.file))?;
    session.store_certificates(&key, leaf, issuers)?;
    let json = json!({
        "key": key_json(session.info(), &key),
        "certificate": to_json(leaf),
        "certificates_stored": chain.len(),
    });
    let text = format!(
        "{} certificates stored beside key {}\n{}",
        chain.len(),
        text::clean(&key.to_text()),
        describe(leaf, "  ")
    );
    Ok(Report::new(json, text))
}

/// Shows the certificates of a file or of a token.
pub(super) fn show(args: &CertShowArgs) -> Result<Report, Failure> {
    let certificates = match &args.file {
        Some(path) => read_file(path)?
            .into_iter()
            .map(|der| Shown { beside: None, der })
            .collect(),
        None => of_token(args)?,
    };
    let mut out = String::new();
    for Shown { beside, der } in &certificates {
        out.push_str(&describe(der, ""));
        if let Some(KeyName { label, id }) = beside {
            let part = match id.is_empty() {
                true => "issuer, stored beside key",
                false => "certificate of key",
            };
            out.push_str(&format!("stored as    {part} `{}`\n", text::clean(label)));
        }
        out.push('\n');
    }
    if certificates.is_empty() {
        out.push_str("no certificate\n");
    }
    let list: Vec<Value> = certificates
        .iter()
        .map(|Shown { beside, der }| {
            let mut value = to_json(der);
            if let Some(KeyName { label, id }) = beside {
                value["label"] = json!(label);
                value["part"] = json!(if id.is_empty() { "issuer" } else { "leaf" });
            }
            value
        })
        .collect();
    Ok(Report::new(json!({ "certificates": list }), out.trim_end()))
}

/// A certificate, and the name it has in a token. Issuers' certificates are stored without an id.
struct Shown {
    beside: Option<KeyName>,
    der: Vec<u8>,
}

/// The certificates of one key or of all, those of a key together, each followed by its issuer.
fn of_token(args: &CertShowArgs) -> Result<Vec<Shown>, Failure> {
    let selected = Selected::new(&args.key.token)?;
    let session = selected.open()?;
    let named = args.key.name.label.is_some()
        || args.key.name.id.is_some()
        || selected.uri.object().is_some()
        || selected.uri.id().is_some();
    let label = if named {
        Some(selected.find_key(&session, &args.key.name)?.name.label)
    } else {
        None
    };
    let mut shown: Vec<Shown> = session
        .certificates()?
        .into_iter()
        .filter(|certificate| {
            label
                .as_ref()
                .is_none_or(|label| *label == certificate.name.label)
        })
        .map(|CertificateEntry { name, der }| Shown {
            beside: Some(name),
            der,
        })
        .collect();
    let label = |one: &Shown| one.beside.as_ref().map(|name| name.label.clone());
    let is_issuer = |one: &Shown| one.beside.as_ref().is_some_and(|name| name.id.is_empty());
    shown.sort_by_key(|one| (label(one), is_issuer(one)));
    for of_one_key in shown.chunk_by_mut(|a, b| label(a) == label(b)) {
        order_issuers(of_one_key);
    }
    Ok(shown)
}

/// Behind each certificate the one that issued it, as far as it is there.
fn order_issuers(chain: &mut [Shown]) {
    let subject_of = |der: &[u8]| -> Option<Vec<u8>> {
        let (_, certificate) = parse_x509_certificate(der).ok()?;
        Some(certificate.subject().as_raw().to_vec())
    };
    let issuer_of = |der: &[u8]| -> Option<Vec<u8>> {
        let (_, certificate) = parse_x509_certificate(der).ok()?;
        Some(certificate.issuer().as_raw().to_vec())
    };
    for place in 1..chain.len() {
        let wanted = issuer_of(&chain[place - 1].der);
        let found = chain[place..]
            .iter()
            .position(|one| wanted.is_some() && subject_of(&one.der) == wanted);
        if let Some(offset) = found {
            chain.swap(place, place + offset);
        }
    }
}

/// Reads a certificate file, PEM or DER.
pub(super) fn read_file(path: &Path) -> Result<Vec<Vec<u8>>, Failure> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| {
            file.take(keyfile::FILE_BYTES_MAX as u64 + 1)
                .read_to_end(&mut bytes)
        })
        .map_err(|error| Failure::file("read", path, &error))?;
    if bytes.len() > keyfile::FILE_BYTES_MAX {
        return Err(no_certificate(path));
    }
    keyfile::certificates_of_pem(&bytes).map_err(|_| no_certificate(path))
}

fn no_certificate(path: &Path) -> Failure {
    Failure::new(
        format!("{} holds no certificate that can be read", path.display()),
        "give X.509 certificates in PEM, or one in DER; `openssl x509 -in FILE -text` says whether it is whole",
    )
}

/// Certificates in PEM, in their order.
pub(super) fn to_pem(certificates: &[Vec<u8>]) -> String {
    let mut out = String::new();
    for der in certificates {
        out.push_str("-----BEGIN CERTIFICATE-----\n");
        let text = STANDARD.encode(der);
        // Base64 is ASCII, so every 64 bytes are 64 characters.
        for line in text.as_bytes().chunks(64) {
            out.push_str(&String::from_utf8_lossy(line));
            out.push('\n');
        }
        out.push_str("-----END CERTIFICATE-----\n");
    }
    out
}

/// A certificate for people, a line for each fact.
pub(super) fn describe(der: &[u8], indent: &str) -> String {
    let Ok((_, certificate)) = parse_x509_certificate(der) else {
        return format!("{indent}certificate  cannot be read\n");
    };
    let subject = text::clean(&certificate.subject().to_string());
    let subject = if subject.is_empty() {
        "(empty subject)"
    } else {
        &subject
    };
    let names = names(&certificate);
    let names = if names.is_empty() {
        "none".to_owned()
    } else {
        text::clean(&names.join(", "))
    };
    let lines = [
        ("certificate", subject.to_owned()),
        ("issuer", text::clean(&certificate.issuer().to_string())),
        ("names", names),
        ("not before", date(certificate.validity().not_before)),
        (
            "not after",
            format!(
                "{}{}",
                date(certificate.validity().not_after),
                expiry_note(&certificate)
            ),
        ),
        (
            "public key",
            format!("sha256 {}", text::sha256(certificate.public_key().raw)),
        ),
        ("fingerprint", format!("sha256 {}", text::sha256(der))),
    ];
    lines
        .iter()
        .map(|(name, value)| format!("{indent}{name:<11}  {value}\n"))
        .collect()
}

/// A certificate for scripts.
pub(super) fn to_json(der: &[u8]) -> Value {
    let Ok((_, certificate)) = parse_x509_certificate(der) else {
        return Value::Null;
    };
    json!({
        "subject": certificate.subject().to_string(),
        "issuer": certificate.issuer().to_string(),
        "names": names(&certificate),
        "not_before": certificate.validity().not_before.timestamp(),
        "not_after": certificate.validity().not_after.timestamp(),
        "expired": seconds_left(&certificate) < 0,
        "spki_sha256": text::sha256(certificate.public_key().raw),
        "sha256": text::sha256(der),
    })
}

/// DNS names, addresses and URIs of the certificate.
pub(super) fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let mut found = Vec::new();
    for extension in certificate.extensions() {
        if let ParsedExtension::SubjectAlternativeName(names) = extension.parsed_extension() {
            for name in &names.general_names {
                match name {
                    GeneralName::DNSName(name) | GeneralName::URI(name) => {
                        found.push((*name).to_owned())
                    }
                    GeneralName::IPAddress(bytes) => found.push(address(bytes)),
                    _ => {}
                }
            }
        }
    }
    found
}

/// Seconds until the certificate expires; negative afterwards.
pub(super) fn seconds_left(certificate: &X509Certificate<'_>) -> i64 {
    certificate
        .validity()
        .not_after
        .timestamp()
        .saturating_sub(now())
}

/// Seconds since the certificate became valid; negative before.
pub(super) fn seconds_since_start(certificate: &X509Certificate<'_>) -> i64 {
    now().saturating_sub(certificate.validity().not_before.timestamp())
}

fn now() -> i64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| {
            i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
        })
}

fn expiry_note(certificate: &X509Certificate<'_>) -> String {
    match seconds_left(certificate) {
        left if left < 0 => " (EXPIRED)".to_owned(),
        left => format!(" ({} days left)", left / 86_400),
    }
}

/// A moment as people read it.
pub(super) fn date(time: x509_parser::time::ASN1Time) -> String {
    text::clean(&time.to_string())
}

fn address(bytes: &[u8]) -> String {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        std::net::Ipv4Addr::from(v4).to_string()
    } else if let Ok(v6) = <[u8; 16]>::try_from(bytes) {
        std::net::Ipv6Addr::from(v6).to_string()
    } else {
        text::hex(bytes)
    }
}
