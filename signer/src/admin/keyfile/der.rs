//! Tells the structures of keys apart by their first elements, and reads the plainest of them.
//!
//! Strict about lengths, so that a cut file is named as such. Invariant: only definite, minimal lengths within the
//! input are accepted; nothing recurses.

use super::KeyFileError;

/// What a DER file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Pkcs8,
    EncryptedPkcs8,
    Pkcs1,
    Sec1,
    Pkcs12,
    Certificate,
}

/// One element.
#[derive(Clone, Copy)]
pub(super) struct Element<'a> {
    pub(super) tag: u8,
    pub(super) content: &'a [u8],
}

pub(super) const INTEGER: u8 = 0x02;
const OCTET_STRING: u8 = 0x04;
pub(super) const SEQUENCE: u8 = 0x30;

/// Looks at the first elements.
pub(super) fn shape(bytes: &[u8]) -> Result<Shape, KeyFileError> {
    if bytes.first() != Some(&SEQUENCE) {
        return Err(KeyFileError::Unknown);
    }
    if bytes.get(1) == Some(&0x80) {
        return Err(KeyFileError::Structure {
            format: "ASN.1",
            reason: "it is BER with indefinite lengths, not DER",
        });
    }
    let Some((outer, rest)) = element(bytes) else {
        return Err(KeyFileError::Truncated);
    };
    if !rest.is_empty() {
        return Err(KeyFileError::Structure {
            format: "DER",
            reason: "other bytes follow it",
        });
    }
    let Some((first, after)) = element(outer.content) else {
        return Err(KeyFileError::Unknown);
    };
    let second = element(after).map(|(second, _)| second.tag);
    match (first.tag, first.content, second) {
        (INTEGER, [0 | 1], Some(SEQUENCE)) => Ok(Shape::Pkcs8),
        (INTEGER, [3], Some(SEQUENCE)) => Ok(Shape::Pkcs12),
        (INTEGER, [0 | 1], Some(INTEGER)) => Ok(Shape::Pkcs1),
        (INTEGER, [1], Some(OCTET_STRING)) => Ok(Shape::Sec1),
        (SEQUENCE, _, Some(OCTET_STRING)) => Ok(Shape::EncryptedPkcs8),
        (SEQUENCE, _, Some(SEQUENCE)) => Ok(Shape::Certificate),
        _ => Err(KeyFileError::Unknown),
    }
}

/// The first element and what follows it.
pub(super) fn element(bytes: &[u8]) -> Option<(Element<'_>, &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (len, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x83 => {
            let count = usize::from(first & 0x7f);
            let (digits, rest) = rest.split_at_checked(count)?;
            let len = digits
                .iter()
                .fold(0usize, |len, digit| (len << 8) | usize::from(*digit));
            // Not minimal: another encoding of a shorter length.
            if len < 0x80 || digits.first() == Some(&0) {
                return None;
            }
            (len, rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(len)?;
    Some((Element { tag, content }, rest))
}

/// The next element as a non-negative INTEGER, without its leading zero.
pub(super) fn unsigned<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (number, rest) = element(bytes)?;
    *bytes = rest;
    match (number.tag, number.content) {
        (INTEGER, [0, more @ ..]) if !more.is_empty() => (more[0] & 0x80 != 0).then_some(more),
        (INTEGER, [first, ..]) => (first & 0x80 == 0).then_some(number.content),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_must_be_minimal_and_within_the_input() {
        assert!(element(&[0x30, 0x01, 0x00]).is_some());
        assert!(element(&[0x30, 0x02, 0x00]).is_none());
        assert!(element(&[0x30, 0x81, 0x01, 0x00]).is_none());
        assert!(element(&[0x30, 0x84, 0, 0, 0, 1, 0]).is_none());
        assert!(element(&[]).is_none());
    }

    #[test]
    fn negative_and_padded_integers_are_refused() {
        let read = |bytes: &[u8]| {
            let mut rest = bytes;
            unsigned(&mut rest).map(<[u8]>::to_vec)
        };
        assert_eq!(read(&[2, 1, 0]), Some(vec![0]));
        assert_eq!(read(&[2, 2, 0, 0x80]), Some(vec![0x80]));
        assert_eq!(read(&[2, 1, 0x80]), None);
        assert_eq!(read(&[2, 2, 0, 1]), None);
    }
}
