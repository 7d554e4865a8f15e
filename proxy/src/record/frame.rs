//! Finds record boundaries in a receive buffer.
//!
//! Judges a record by its header alone, as soon as the header is there, so that nobody waits for bytes that would
//! be refused anyway. Never looks into a fragment.

use super::{HEADER_LEN, PLAINTEXT_MAX, RecordError, content_type};

/// How long a fragment may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// Unprotected: 2^14.
    Plain,
    /// TLS 1.3, protected: 2^14 + 256.
    Tls13,
    /// TLS 1.2, protected: 2^14 + 2048.
    Tls12,
}

impl Bound {
    /// The longest fragment in bytes.
    pub fn fragment_max(self) -> usize {
        match self {
            Self::Plain => PLAINTEXT_MAX,
            Self::Tls13 => PLAINTEXT_MAX + 256,
            Self::Tls12 => PLAINTEXT_MAX + 2048,
        }
    }
}

/// A whole record at the start of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// The outer content type.
    pub content_type: u8,
    /// Length with the header, in bytes.
    pub len: usize,
}

/// The record that `buffer` starts with, or `None` while it is incomplete.
pub fn next_record(buffer: &[u8], bound: Bound) -> Result<Option<Record>, RecordError> {
    let Some(&content_type) = buffer.first() else {
        return Ok(None);
    };
    if !(content_type::CHANGE_CIPHER_SPEC..=content_type::APPLICATION_DATA).contains(&content_type)
    {
        return Err(RecordError::ContentType(content_type));
    }
    if buffer.get(1).is_some_and(|&major| major != 3) {
        return Err(RecordError::Version);
    }
    let Some(&[high, low]) = buffer.get(3..HEADER_LEN) else {
        return Ok(None);
    };
    let fragment = usize::from(u16::from_be_bytes([high, low]));
    if fragment > bound.fragment_max() {
        return Err(RecordError::Overflow);
    }
    let len = HEADER_LEN + fragment;
    Ok((buffer.len() >= len).then_some(Record { content_type, len }))
}

/// A fatal alert as an unprotected record, for a client that has no keys yet.
pub fn plain_alert(description: u8) -> [u8; 7] {
    [content_type::ALERT, 3, 3, 0, 2, 2, description]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_found_at_every_cut() {
        let record = [22, 3, 1, 0, 3, 7, 8, 9, 99];
        for cut in 0..8 {
            assert_eq!(next_record(&record[..cut], Bound::Plain), Ok(None), "{cut}");
        }
        let found = Record {
            content_type: 22,
            len: 8,
        };
        assert_eq!(next_record(&record, Bound::Plain), Ok(Some(found)));
    }

    #[test]
    fn a_header_is_refused_before_its_fragment_arrives() {
        assert_eq!(
            next_record(b"G", Bound::Plain),
            Err(RecordError::ContentType(b'G'))
        );
        assert_eq!(
            next_record(&[22, 2], Bound::Plain),
            Err(RecordError::Version)
        );
        for (bound, longest) in [
            (Bound::Plain, 16384u16),
            (Bound::Tls13, 16640),
            (Bound::Tls12, 18432),
        ] {
            let header = |len: u16| [23, 3, 3, (len >> 8) as u8, len as u8];
            assert_eq!(next_record(&header(longest), bound), Ok(None));
            assert_eq!(
                next_record(&header(longest + 1), bound),
                Err(RecordError::Overflow)
            );
        }
    }
}
