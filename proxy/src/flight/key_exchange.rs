//! Collects a TLS 1.2 client's second flight: ClientKeyExchange, ChangeCipherSpec, Finished, with a certificate and
//! its CertificateVerify around the first where it was asked for (RFC 5246, 7.3); or, resumed, the last two alone.
//!
//! Only finds its end, so that it travels in one call; the signer judges every record. Whatever is not the
//! expected order is passed on at once, and gets its alert there. At most [`CONTINUE_BYTES_MAX`] are collected.
//! Behind the ChangeCipherSpec nobody here can see where the Finished ends: each record goes on by itself.

use keyhaven_wire::CONTINUE_BYTES_MAX;

use super::{FlightError, Refused};
use crate::record::{Bound, HEADER_LEN, content_type, next_record};

/// The most records of one flight.
const RECORDS_MAX: usize = 1024;

/// Finds the end of the flight at the start of a buffer that grows. One reader for the whole handshake: what follows
/// when the signer wants more is still behind the same ChangeCipherSpec.
#[derive(Debug, Default)]
pub struct KeyExchangeReader {
    position: usize,
    records: usize,
    after_ccs: bool,
    is_resumed: bool,
}

impl KeyExchangeReader {
    /// Reads the flight of a resumed session: nothing comes before its ChangeCipherSpec.
    pub fn resumed() -> Self {
        Self {
            is_resumed: true,
            ..Self::default()
        }
    }

    /// Looks at the buffer, whose start is the same as in the call before: the length of what goes to the signer, or
    /// `None` while bytes are missing. After a length, the next call starts behind it.
    pub fn read(&mut self, buffer: &[u8]) -> Result<Option<usize>, FlightError> {
        let found = self.find(buffer)?;
        if found.is_some() {
            self.position = 0;
        }
        Ok(found)
    }

    fn find(&mut self, buffer: &[u8]) -> Result<Option<usize>, FlightError> {
        loop {
            let rest = buffer.get(self.position..).unwrap_or_default();
            let bound = if self.after_ccs {
                Bound::Tls12
            } else {
                Bound::Plain
            };
            let record = next_record(rest, bound)?;
            let announced = match rest.first_chunk() {
                Some(&[_, _, _, high, low]) => {
                    HEADER_LEN + usize::from(u16::from_be_bytes([high, low]))
                }
                None => 0,
            };
            if self.position + announced > CONTINUE_BYTES_MAX {
                return Err(Refused::malformed("a key exchange of too many bytes").into());
            }
            let Some(record) = record else {
                return Ok(None);
            };
            if record.len == HEADER_LEN {
                return Err(Refused::unexpected("an empty handshake record").into());
            }
            self.position += record.len;
            self.records += 1;
            if self.records > RECORDS_MAX {
                return Err(Refused::malformed("a key exchange in too many records").into());
            }
            match record.content_type {
                _ if self.after_ccs => return Ok(Some(self.position)),
                content_type::HANDSHAKE if !self.is_resumed => {}
                content_type::CHANGE_CIPHER_SPEC => self.after_ccs = true,
                _ => return Ok(Some(self.position)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keyhaven_types::alert;

    fn record(content_type: u8, len: usize) -> Vec<u8> {
        let mut record = vec![content_type, 3, 3, (len >> 8) as u8, len as u8];
        record.resize(HEADER_LEN + len, 7);
        record
    }

    #[test]
    fn the_flight_ends_with_the_record_after_the_change_at_every_cut() {
        let flight = [
            record(22, 30),
            record(22, 40),
            record(20, 1),
            record(22, 40),
        ]
        .concat();
        let mut reader = KeyExchangeReader::default();
        for cut in 0..flight.len() {
            assert_eq!(reader.read(&flight[..cut]), Ok(None), "{cut}");
        }
        let with_more = [flight.clone(), record(23, 100)].concat();
        assert_eq!(reader.read(&with_more), Ok(Some(flight.len())));
    }

    #[test]
    fn a_finished_in_pieces_and_a_warning_before_it_go_on_record_by_record() {
        let first = [record(22, 30), record(20, 1), record(21, 26)].concat();
        let (second, third) = (record(22, 30), record(22, 34));
        let mut reader = KeyExchangeReader::default();
        assert_eq!(reader.read(&first), Ok(Some(first.len())));
        assert_eq!(reader.read(&second[..20]), Ok(None));
        let both = [second.clone(), third.clone()].concat();
        assert_eq!(reader.read(&both), Ok(Some(second.len())));
        assert_eq!(reader.read(&third), Ok(Some(third.len())));
    }

    #[test]
    fn certificate_and_proof_go_along_in_as_many_records_as_they_take() {
        let flight = [
            record(22, 16_384),
            record(22, 9_000),
            record(22, 66),
            record(22, 110),
            record(20, 1),
            record(22, 40),
        ]
        .concat();
        let mut reader = KeyExchangeReader::default();
        assert_eq!(reader.read(&flight[..flight.len() - 1]), Ok(None));
        assert_eq!(reader.read(&flight), Ok(Some(flight.len())));
    }

    #[test]
    fn a_resumed_flight_is_a_change_and_one_record() {
        let flight = [record(20, 1), record(22, 40)].concat();
        let mut reader = KeyExchangeReader::resumed();
        for cut in 0..flight.len() {
            assert_eq!(reader.read(&flight[..cut]), Ok(None), "{cut}");
        }
        let with_more = [flight.clone(), record(23, 100)].concat();
        assert_eq!(reader.read(&with_more), Ok(Some(flight.len())));
        // A key exchange has no place in it: the signer says so at once.
        let key_exchange = [record(22, 66), flight].concat();
        let first = Ok(Some(record(22, 66).len()));
        assert_eq!(KeyExchangeReader::resumed().read(&key_exchange), first);
    }

    #[test]
    fn anything_else_goes_to_the_signer_at_once() {
        for other in [21, 23] {
            let bytes = [record(22, 30), record(other, 2)].concat();
            let read = KeyExchangeReader::default().read(&bytes);
            assert_eq!(read, Ok(Some(bytes.len())));
        }
    }

    #[test]
    fn too_many_bytes_and_empty_records_are_refused() {
        let alert_of = |bytes: &[u8]| match KeyExchangeReader::default().read(bytes) {
            Err(FlightError::Refused(refused)) => Some(refused.alert),
            _ => None,
        };
        let bytes = [record(22, 16384), record(22, 16384), record(22, 16384)].concat();
        assert_eq!(alert_of(&bytes), Some(alert::DECODE_ERROR));
        assert_eq!(alert_of(&record(22, 0)), Some(alert::UNEXPECTED_MESSAGE));
        assert_eq!(
            alert_of(&record(22, 1).repeat(RECORDS_MAX + 1)),
            Some(alert::DECODE_ERROR)
        );
    }
}
