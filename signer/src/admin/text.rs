//! Words and numbers as operators read them: key kinds, digests, URIs, origins.
//!
//! Formats values and decides nothing. Invariant: text from a token or a certificate is printed without control
//! characters, so that it cannot steer a terminal.

use aws_lc_rs::digest;
use keyhaven_hsm::{
    TokenInfo,
    admin::{KeyEntry, KeyFlags, KeyName},
};
use keyhaven_types::KeyAlgorithm;

/// The name of a kind of key, as `--algorithm` takes it.
pub(super) fn algorithm_name(algorithm: KeyAlgorithm) -> String {
    match algorithm {
        KeyAlgorithm::Rsa(bits) => format!("rsa-{bits}"),
        KeyAlgorithm::EcdsaP256 => "ec-p256".to_owned(),
        KeyAlgorithm::EcdsaP384 => "ec-p384".to_owned(),
        KeyAlgorithm::Ed25519 => "ed25519".to_owned(),
    }
}

/// A key's kind, served or not.
pub(super) fn kind_of(key: &KeyEntry) -> String {
    match key.algorithm {
        Some(algorithm) => algorithm_name(algorithm),
        None => format!("{} (not served)", clean(&key.kind)),
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The SHA-256 of some bytes, in hexadecimal.
pub(super) fn sha256(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

/// Reads an id: pairs of hexadecimal digits, with colons between them or, as in a URI, `%` before each.
pub(super) fn parse_id(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text
        .chars()
        .filter(|character| !matches!(character, ':' | '%'))
        .map(|digit| {
            digit
                .to_digit(16)
                .and_then(|digit| u8::try_from(digit).ok())
        })
        .collect::<Option<_>>()?;
    let even = !digits.is_empty() && digits.len().is_multiple_of(2) && digits.len() <= 128;
    even.then(|| {
        digits
            .chunks(2)
            .map(|pair| pair[0] << 4 | pair[1])
            .collect()
    })
}

/// The URI of a token, without any secret's place.
pub(super) fn token_uri(token: &TokenInfo) -> String {
    format!("pkcs11:token={}", percent(token.label.as_bytes()))
}

/// The URI of a key in its token.
pub(super) fn key_uri(token: &TokenInfo, name: &KeyName) -> String {
    let mut uri = format!(
        "{};object={}",
        token_uri(token),
        percent(name.label.as_bytes())
    );
    if !name.id.is_empty() {
        uri.push_str(";id=");
        uri.push_str(&uri_id(&name.id));
    }
    uri + ";type=private"
}

/// The URI of a key within its token, with what names it there; not every token gives keys a label.
pub(super) fn object_uri(name: &KeyName) -> String {
    let mut uri = String::from("pkcs11:");
    if !name.label.is_empty() {
        uri.push_str(&format!("object={};", percent(name.label.as_bytes())));
    }
    if !name.id.is_empty() {
        uri.push_str(&format!("id={};", uri_id(&name.id)));
    }
    uri + "type=private"
}

/// An id as a URI has it.
pub(super) fn uri_id(id: &[u8]) -> String {
    id.iter().map(|byte| format!("%{byte:02X}")).collect()
}

/// Percent-encodes all but unreserved characters (RFC 3986, section 2.3).
pub(super) fn percent(bytes: &[u8]) -> String {
    let mut out = String::new();
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// Where a key comes from, in words.
pub(super) fn origin(flags: &KeyFlags) -> &'static str {
    let yes = Some(true);
    match (flags.local, flags.always_sensitive, flags.never_extractable) {
        (Some(true), always, never) if always == yes && never == yes => {
            "generated in this token and never readable"
        }
        (Some(true), ..) => {
            "generated in this token, but it could be read or wrapped out at some time"
        }
        (Some(false), ..) => "imported: copies may exist outside",
        (None, ..) => "unknown: the token does not say",
    }
}

/// The same as one word, for scripts.
pub(super) fn origin_word(flags: &KeyFlags) -> &'static str {
    match flags.local {
        Some(true) => "generated",
        Some(false) => "imported",
        None => "unknown",
    }
}

/// An error and its causes, each once.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    clean(&text)
}

/// Text without control characters; zeros at its end are padding.
pub(super) fn clean(text: &str) -> String {
    text.trim_end_matches('\0')
        .chars()
        .map(|character| {
            if character.is_control() {
                '\u{fffd}'
            } else {
                character
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_pairs_of_digits() {
        assert_eq!(parse_id("01aF"), Some(vec![0x01, 0xaf]));
        assert_eq!(parse_id("01:af"), Some(vec![0x01, 0xaf]));
        assert_eq!(parse_id("%01%AF"), Some(vec![0x01, 0xaf]));
        assert_eq!(uri_id(&[0x01, 0xaf]), "%01%AF");
        for bad in ["", "1", "0x01", "zz", ":", "%", "é1"] {
            assert_eq!(parse_id(bad), None, "{bad}");
        }
    }

    #[test]
    fn labels_cannot_steer_a_terminal() {
        assert_eq!(clean("a\u{1b}[2Jb"), "a\u{fffd}[2Jb");
        assert_eq!(clean("SW   TPM\0\0"), "SW   TPM");
    }

    #[test]
    fn the_uri_of_a_key_is_read_by_our_own_parser() {
        let token = TokenInfo {
            label: "a b;c".to_owned(),
            ..TokenInfo::default()
        };
        let name = KeyName {
            label: "k?é".to_owned(),
            id: vec![1, 0xff],
        };
        let uri: keyhaven_hsm::Uri = key_uri(&token, &name).parse().unwrap();
        assert_eq!(uri.token(), Some("a b;c"));
        assert_eq!(uri.object(), Some("k?é"));
        assert_eq!(uri.id(), Some(&[1, 0xff][..]));
    }
}
