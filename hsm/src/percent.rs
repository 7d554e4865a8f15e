//! Percent-encoding as PKCS#11 URIs have it (RFC 3986, section 2.1; RFC 7512, section 2.3).
//!
//! Which attribute a value belongs to is the business of `uri`. Invariant: what is encoded here decodes to the same.

use std::fmt;

/// The bytes that a value stands for; nothing when it has a broken encoding or a character that must be encoded.
pub(crate) fn decode(value: &str) -> Option<Vec<u8>> {
    let mut bytes = value.bytes();
    let mut out = Vec::with_capacity(value.len());
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let high = bytes.next().and_then(hex_digit)?;
                let low = bytes.next().and_then(hex_digit)?;
                out.push(high << 4 | low);
            }
            // RFC 7512 wants more encoded than people do: a space or a `"` is let through, controls are not.
            0..=0x1f | 0x7f | b'#' => return None,
            other => out.push(other),
        }
    }
    Some(out)
}

/// Encodes all that is not unreserved, or, for ids, every byte, as other tools print them.
pub(crate) fn encode(f: &mut fmt::Formatter<'_>, bytes: &[u8], every: bool) -> fmt::Result {
    for &byte in bytes {
        let plain = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
        if plain && !every {
            write!(f, "{}", char::from(byte))?;
        } else {
            write!(f, "%{byte:02X}")?;
        }
    }
    Ok(())
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte)
        .to_digit(16)
        .and_then(|digit| u8::try_from(digit).ok())
}
